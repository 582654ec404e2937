"""results.json: its schema, and its numbers computed once more from the runs it holds."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from stepscope import store
from stepscope.experiments.results import recording

EVALUATION = {"step"} | {f"{part}_{what}" for part in ("train", "test", "validation") for what in ("loss", "metric")}


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """One small dissection for all tests of this file."""
    from stepscope.experiments import dissect

    tiny = request.path.parent / "tiny.py"
    return dissect(
        f"{tiny}:problem", seeds=3, budget=3, steps=10, out=tmp_path_factory.mktemp("shared") / "out", jobs=2
    )


def test_the_schema_is_kept(shared):
    results = shared.results
    assert list(results) == [
        "schema", "problem", "settings", "arms", "effects", "verdict", "dissection", "environment", "command",
    ]  # fmt: skip
    assert results["schema"] == "stepscope.dissection/1"
    assert results["problem"] == {
        "name": "tiny",
        "description": "two clouds",
        "parameters": 6,
        "train_examples": 50,
        "validation_examples": 10,
        "test_examples": 30,
        "steps": 10,
        "batch_size": 8,
        "evaluate_every": 5,
        "metric": "accuracy",
        "higher_is_better": True,
        "metric_is_share": True,
    }
    reason = results["settings"].pop("select_reason")
    assert "the test examples played no part" in reason
    assert results["settings"] == {
        "select": "validation",
        "seeds": [0, 1, 2],
        "tuning_seeds": [1000],
        "budget": 3,
        "beta": 0.9,
        "profile": "demo",
        "loss_evaluation_examples": 30,
    }
    results["settings"]["select_reason"] = reason
    assert [arm["method"] for arm in results["arms"]] == ["msgd", "mssd", "msvag", "adam", "adam_one_beta"]
    assert [(arm["sign"], arm["variance_adaptation"], arm["role"]) for arm in results["arms"]] == [
        (False, False, "cell"),
        (True, False, "cell"),
        (False, True, "cell"),
        (True, True, "cell"),
        (True, True, "matched"),
    ]
    for arm in results["arms"]:
        assert set(arm) == {
            "method", "label", "formula", "sign", "variance_adaptation", "role", "lr", "lr_at_edge", "tuning", "runs",
        }  # fmt: skip
        assert [trial["lr"] for trial in arm["tuning"]] == sorted(trial["lr"] for trial in arm["tuning"])
        assert {key for trial in arm["tuning"] for key in trial} == {"lr", "status", "score", "train_loss"}
        assert [run["seed"] for run in arm["runs"]] == [0, 1, 2]
        assert [run["recorded"] for run in arm["runs"]] == [True, False, False]
        for run in arm["runs"]:
            assert [evaluation["step"] for evaluation in run["evaluations"]] == [0, 5, 10]
            assert all(set(evaluation) == EVALUATION for evaluation in run["evaluations"])
            assert (shared.folder / "trials" / run["trial"] / "result.json").is_file()
            assert (shared.folder / "trials" / run["trial"] / "run").is_dir() == run["recorded"]
    assert [(effect["adam_cell"], effect["outcome"], effect["effect"]) for effect in results["effects"]] == [
        (cell, outcome, effect)
        for cell in ("adam", "adam_one_beta")
        for outcome in ("train_loss", "test_metric")
        for effect in ("sign", "variance_adaptation", "interaction")
    ]
    assert set(results["verdict"]) == {"headline", "sentences", "adam_cells"}
    assert len(results["verdict"]["sentences"]) == 6
    assert results["command"].startswith("stepscope dissect ")


def test_it_is_what_the_file_says(shared):
    assert json.loads((shared.folder / "results.json").read_text()) == shared.results


def finals(results, column):
    return {arm["method"]: np.array([run["evaluations"][-1][column] for run in arm["runs"]]) for arm in results["arms"]}


@pytest.mark.parametrize("cell", ["adam", "adam_one_beta"])
@pytest.mark.parametrize(("outcome", "scale"), [("train_loss", "ratio"), ("test_metric", "difference")])
def test_effects_follow_from_the_runs(shared, cell, outcome, scale):
    """Once more with numpy and scipy; both sum a handful of numbers near one: a few 1e-15."""
    to = np.log if scale == "ratio" else np.asarray
    back = math.exp if scale == "ratio" else float
    final = {method: to(values) for method, values in finals(shared.results, outcome).items()}
    sign = (final[cell] + final["mssd"] - final["msvag"] - final["msgd"]) / 2
    (effect,) = (
        effect
        for effect in shared.results["effects"]
        if (effect["adam_cell"], effect["outcome"], effect["effect"]) == (cell, outcome, "sign")
    )
    assert effect["scale"] == scale
    assert effect["seeds"] == 3
    assert effect["estimate"] == pytest.approx(back(sign.mean()), rel=1e-12, abs=1e-15)
    if np.ptp(sign):
        test = stats.ttest_1samp(sign, 0)
        low, high = test.confidence_interval()
        assert (effect["low"], effect["high"]) == pytest.approx((back(low), back(high)), rel=1e-9)
        assert effect["p"] == pytest.approx(test.pvalue, rel=1e-9)
        assert effect["p"] <= effect["p_holm"] <= min(1.0, 3 * effect["p"])


def test_the_dissection_holds_every_recorded_layer_and_step(shared):
    for arm in shared.results["arms"]:
        recorded = shared.results["dissection"][arm["method"]]
        assert recorded["layers"] == ["weight", "bias"] == list(recorded["series"])
        assert recorded["steps"] == list(range(1, 11))
        run = store.Run(shared.folder / "trials" / arm["runs"][0]["trial"] / "run")
        stored = run.table("spread_median", layers=["weight"])["spread_median"].to_pylist()
        assert recorded["series"]["weight"]["spread_median"] == pytest.approx(stored, rel=5e-6)


def test_a_problem_without_a_metric_is_judged_by_its_test_loss(small):
    results = small("regression").results
    assert results["problem"]["metric"] is None
    assert {effect["outcome"] for effect in results["effects"]} == {"train_loss", "test_loss"}
    assert "final test loss" in results["verdict"]["sentences"][3]
    assert results["arms"][0]["runs"][0]["evaluations"][0]["test_metric"] is None


def test_a_metric_that_should_be_low_is_understood(small):
    results = small("error", seeds=3, steps=12).results
    assert results["problem"]["higher_is_better"] is False
    for effect in results["effects"]:
        if effect["outcome"] == "test_metric" and effect["verdict"] in ("helps", "hurts"):
            assert (effect["estimate"] < 0) == (effect["verdict"] == "helps")


def test_selection_by_test_results_is_said(small):
    results = small(select="paper").results
    assert results["problem"]["validation_examples"] == 0
    assert results["problem"]["train_examples"] == 60
    assert "as in Balles and Hennig (2018)" in results["settings"]["select_reason"]
    assert results["arms"][0]["runs"][0]["evaluations"][0]["validation_loss"] is None


def test_a_long_recording_is_thinned_and_rounded(tmp_path):
    with store.RunWriter(tmp_path / "run", tensors=[{"name": "w"}, {"name": "b"}]) as run:
        for step in range(1, 1001):
            run.write(step, "w", {"lr": 0.1, "grad_norm": math.pi * step})
            run.write(step, "b", {"grad_norm": math.nan if step == 1 else 1.0, "empty": math.nan})
            run.write(step, "", {"loss": 1.0})
    found = recording(store.Run(tmp_path / "run"))
    assert len(found["steps"]) == 200
    assert (found["steps"][0], found["steps"][-1]) == (1, 1000)
    assert found["layers"] == ["w", "b"]
    assert found["series"]["w"]["grad_norm"][:1] == [3.14159]
    assert found["series"]["b"]["grad_norm"][:2] == [None, 1.0]
    assert set(found["series"]["b"]) == {"grad_norm"}
    assert np.ptp(np.diff(found["steps"])) <= 1
