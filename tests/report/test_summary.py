"""The numbers behind the page, against plain arithmetic."""

import math

import numpy as np
import pytest
from tests.report.sample import make_results

from stepscope.report import summary
from stepscope.report.summary import Summary

ACCURACY = summary.measure({"problem": {"metric": "accuracy"}, "arms": []})


def arm(results, method):
    return next(arm for arm in summary.arms(results) if arm.method == method)


def last(results, method, column):
    found = next(arm for arm in results["arms"] if arm["method"] == method)
    return np.array([run["evaluations"][-1][column] for run in found["runs"]])


def test_final_values_are_mean_and_deviation_over_seeds(results):
    values = last(results, "adam", "train_loss")
    final = arm(results, "adam").final("train_loss")
    assert math.isclose(final.mean, values.mean(), rel_tol=1e-12)
    assert math.isclose(final.deviation, values.std(ddof=1), rel_tol=1e-12)
    assert (final.n, final.total) == (3, 3)


def test_runs_that_did_not_finish_do_not_count():
    results = make_results(steps=60)
    results["arms"][0]["runs"][1]["status"] = "diverged"
    final = arm(results, "msgd").final("train_loss")
    assert (final.n, final.total) == (2, 3)
    assert math.isclose(final.mean, last(results, "msgd", "train_loss")[[0, 2]].mean(), rel_tol=1e-12)
    (curve,) = summary.curves([arm(results, "msgd")], "train_loss")
    assert math.isclose(curve.mean[-1], final.mean, rel_tol=1e-12)


def test_the_main_effect_on_the_loss_is_its_two_arrows_averaged(results):
    """Logarithms are linear: sqrt(arrow x arrow) is the effect that the contrasts give, up to rounding."""
    arrows = summary.arrows(summary.arms(results), ACCURACY)
    effects = {(e.effect, e.outcome): e for e in summary.effects(results) if e.adam_cell == "adam"}
    for effect, pair in {
        "sign": ("sign/plain", "sign/adapted"),
        "variance_adaptation": ("variance/plain", "variance/sign"),
    }.items():
        one, other = (arrows[place] for place in pair)
        assert math.isclose(math.sqrt(one.ratio * other.ratio), effects[effect, "train_loss"].estimate, rel_tol=1e-12)
        assert math.isclose(
            (one.difference + other.difference) / 2, effects[effect, "test_metric"].estimate, rel_tol=1e-9
        )


def test_arrows_compare_within_seeds():
    results = make_results(steps=60)
    results["arms"][0]["runs"][0]["status"] = "diverged"
    before, after = (last(results, method, "train_loss")[1:] for method in ("msgd", "mssd"))
    arrow = summary.arrows(summary.arms(results), ACCURACY)["sign/plain"]
    assert arrow.seeds == 2
    assert math.isclose(arrow.ratio, math.exp(np.log(after / before).mean()), rel_tol=1e-12)


def test_a_loss_of_zero_has_no_ratio():
    results = make_results(steps=60)
    results["arms"][0]["runs"][0]["evaluations"][-1]["train_loss"] = 0.0
    assert summary.arrows(summary.arms(results), ACCURACY)["sign/plain"].ratio is None


def test_curves_keep_the_steps_that_all_seeds_have():
    results = make_results(steps=60)
    runs = results["arms"][0]["runs"]
    del runs[0]["evaluations"][3]
    runs[1]["evaluations"][5]["train_loss"] = None
    missing = {results["arms"][1]["runs"][0]["evaluations"][n]["step"] for n in (3, 5)}
    (curve,) = summary.curves([arm(results, "msgd")], "train_loss")
    every = {point["step"] for point in results["arms"][1]["runs"][0]["evaluations"]}
    assert set(curve.steps.tolist()) == every - missing


def test_one_seed_has_no_deviation():
    results = make_results(seeds=1, steps=60)
    assert arm(results, "adam").final("train_loss").deviation is None
    (curve,) = summary.curves([arm(results, "adam")], "train_loss")
    assert not curve.deviation.any()


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ({"metric": "accuracy", "higher_is_better": True}, "97.30 ±\N{NO-BREAK SPACE}0.20\N{NO-BREAK SPACE}%"),
        ({"metric": "perplexity", "higher_is_better": False}, "0.9730 ±\N{NO-BREAK SPACE}0.0020"),
        ({"metric": None}, "0.9730 ±\N{NO-BREAK SPACE}0.0020"),
    ],
)
def test_an_outcome_is_shown_in_its_unit(problem, expected):
    assert summary.measure({"problem": problem, "arms": []}).show(Summary(0.973, 0.002, 3, 3)) == expected


def test_without_a_metric_the_test_loss_is_the_quality():
    measure = summary.measure({"problem": {"metric": None}, "arms": []})
    assert (measure.column, measure.name, measure.higher_is_better) == ("test_loss", "test loss", False)


@pytest.mark.parametrize(("is_share", "expected"), [(True, "+1.00\N{NO-BREAK SPACE}points"), (False, "+0.0100")])
def test_a_metric_that_is_a_share_is_spoken_of_in_points(is_share, expected):
    """As the sentences of the verdict do: the problem says so, not the values or the name."""
    results = make_results(steps=40, seeds=2)
    results["problem"] |= {"metric": "F1", "metric_is_share": is_share}
    measure = summary.measure(results)
    assert measure.value(0.5) == "0.500"
    assert measure.difference(0.01) == expected
