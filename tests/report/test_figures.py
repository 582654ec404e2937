"""Pictures of extreme data: drawn, valid, and honest about what they leave out."""

import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.report.sample import make_results

from stepscope.report import figures, panel, summary
from stepscope.report.summary import LOSS, Arm, Curve, Effect

ACCURACY = summary.measure({"problem": {"metric": "accuracy"}, "arms": []})


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with panel.drawing():
        yield


@pytest.fixture(scope="module")
def arms() -> list[Arm]:
    return summary.arms(make_results(steps=60))


def words(document: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(str(document)).iter("text")]


def count(document: str, colour: str) -> int:
    return str(document).count(f"stroke:var(--{colour})")


def effect(**changes: object) -> Effect:
    base = Effect("adam", "train_loss", "sign", True, 0.42, 0.31, 0.58, 0.001, 0.003, 10, "helps", "")
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_loss_curve_with_zeros_on_its_log_axis(arms: list[Arm]):
    steps = np.arange(4)
    curve = Curve(arms[0], steps, np.array([1.0, 0.1, 0.0, 0.01]), np.array([0.0, 0.2, 0.0, 0.0]))
    assert "nan" not in figures.curve_panel("c", [curve], LOSS, log=True).lower()
    nothing = Curve(arms[0], steps, np.zeros(4), np.zeros(4))
    assert "no value above 0" in words(figures.curve_panel("c", [nothing], LOSS, log=True))


def test_a_curve_of_one_evaluation(arms: list[Arm]):
    curve = Curve(arms[0], np.array([0]), np.array([0.5]), np.array([0.0]))
    assert "test accuracy, %" in words(figures.curve_panel("c", [curve], ACCURACY, log=False))


def test_an_interval_shows_its_numbers():
    shown = words(figures.forest_panel("f", [effect()], LOSS, {"adam": "Adam"}))
    assert "×0.42 [0.31, 0.58]" in shown
    assert {"taking the sign", "Adam", "← better", "worse →"} <= set(shown)


def test_points_are_shown_as_points():
    row = effect(outcome="test_metric", ratio=False, estimate=0.0042, low=-0.001, high=0.012)
    shown = words(figures.forest_panel("f", [row], ACCURACY, {"adam": "Adam"}))
    assert "+0.42 [−0.10, +1.20]" in shown
    assert {"← worse", "better →"} <= set(shown)


def test_an_interval_that_leaves_the_picture_ends_in_an_arrow():
    """Two seeds can give 10^300; the picture stays within 20 times the largest estimate."""
    ordinary = figures.forest_panel("f", [effect()], LOSS, {"adam": "Adam"})
    far = figures.forest_panel("f", [effect(low=1e-300, high=1e300)], LOSS, {"adam": "Adam"})
    assert far.count("<use") == ordinary.count("<use") + 2
    labels = [word for word in words(far) if re.fullmatch(r"[\d.,]+", word)]
    assert all(0.01 <= float(label.replace(",", "")) <= 20 for label in labels)


@pytest.mark.parametrize("ratio", [True, False])
def test_effects_without_intervals_or_estimates(ratio: bool):
    rows = [
        effect(ratio=ratio, low=None, high=None),
        effect(ratio=ratio, estimate=None, low=None, high=None, effect="interaction"),
        effect(ratio=ratio, estimate=0.0 if not ratio else 1.0, low=0.0 if not ratio else 1.0, high=1.0),
    ]
    assert "not known" in words(figures.forest_panel("f", rows, LOSS, {"adam": "Adam"}))


def test_no_interval_anywhere_still_has_an_axis():
    """All differences zero: the range around them is empty."""
    row = effect(ratio=False, estimate=0.0, low=0.0, high=0.0)
    figures.forest_panel("f", [row], LOSS, {"adam": "Adam"})


def test_tuning_rings_the_chosen_one_and_marks_the_rest(arms: list[Arm]):
    document = figures.tuning_panel("t", arms[0], ACCURACY, (50, 100))
    fine = figures.tuning_panel("t", replace(arms[0], lr=None), ACCURACY, (50, 100))
    assert document.count("<use") == fine.count("<use") + 1


def test_tuning_where_everything_diverged(arms: list[Arm]):
    trials = [{"lr": lr, "status": "diverged", "score": None} for lr in (0.1, 1.0, 10.0)]
    document = figures.tuning_panel("t", replace(arms[0], lr=None, tuning=trials), ACCURACY, None)
    assert count(document, "plain") == 0
    assert {"0.1", "1", "10"} <= set(words(document))


def test_a_loss_that_was_maximised_negated_is_shown_as_a_loss(arms: list[Arm]):
    trials = [{"lr": 0.1, "status": "ok", "score": -0.5}, {"lr": 1.0, "status": "ok", "score": -0.25}]
    shown = words(figures.tuning_panel("t", replace(arms[0], tuning=trials), summary.loss("test"), (0.2, 0.6)))
    assert {"0.2", "0.4", "0.6"} <= set(shown)
    assert not any("−" in word for word in shown)


@pytest.mark.parametrize("values", [[1.0, 0.01, 0.001], [1.0, 0.0, -1.0], [np.nan, 1.0, 1.0], [np.nan] * 3])
def test_a_run_value_of_any_kind(values: list[float]):
    document = figures.run_panel("r", "loss", np.array([1, 2, 3]), np.array(values))
    assert any("log" in word for word in words(document)) == (values[-1] == 0.001)
