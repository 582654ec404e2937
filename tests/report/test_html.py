"""The page as a whole: its numbers are the input's, it is one valid file, and it survives what results may lack."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.report.pages import Page, read
from tests.report.sample import make_results

from stepscope import report, store
from stepscope.errors import UserError
from stepscope.report.html import MAX_BYTES

SMALL = {"steps": 40, "layers": ("conv.weight", "conv.bias", "fc.weight")}


def written(tmp_path: Path, results: dict[str, object]) -> Page:
    return read(report.write(results, tmp_path / "report.html"))


def test_every_headline_number_is_in_the_page(page: Path, results):
    found = {float(value) for value in read(page).values}

    def shown(value: float) -> bool:
        return any(math.isclose(value, other, rel_tol=1e-12) for other in found)

    for arm in results["arms"]:
        assert shown(arm["lr"])
        for column in ("train_loss", "test_metric"):
            assert shown(np.mean([run["evaluations"][-1][column] for run in arm["runs"]]))
    for effect in results["effects"]:
        assert shown(effect["estimate"])
        assert shown(effect["p_holm"])


def test_every_word_of_the_verdict_is_in_the_page(page: Path, results):
    words = read(page).text
    verdict = results["verdict"]
    for sentence in [
        *verdict["sentences"],
        verdict["adam_cells"],
        results["command"],
        results["problem"]["description"],
    ]:
        assert " ".join(sentence.split()) in words
    # Each clause of the headline is a sentence of its own.
    assert verdict["headline"].replace("; ", ". ") in words
    for effect in results["effects"]:
        assert effect["sentence"] in words


def test_the_page_is_one_small_file_that_loads_nothing(page: Path):
    assert page.stat().st_size < MAX_BYTES
    found = read(page)
    assert found.scripts == 0
    assert all(load.startswith("data:") for load in found.loads)
    assert not re.search(r"@import|url\((?!#)|https?://", page.read_text("utf-8"))


def test_ids_are_unique_and_references_resolve(page: Path):
    found = read(page)
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)


def test_the_same_results_give_the_same_bytes_in_another_process(tmp_path: Path):
    results = make_results(seeds=2, **SMALL)
    here = report.write(results, tmp_path / "here.html")
    (tmp_path / "results.json").write_text(json.dumps(results))
    code = "import sys; from stepscope import report; report.write(sys.argv[1], sys.argv[2])"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, tmp_path, tmp_path / "there.html"], check=True, env=environment)
    assert here.read_bytes() == (tmp_path / "there.html").read_bytes()


def test_nothing_in_the_results_becomes_markup(tmp_path: Path):
    evil = "<script>alert('x')</script>\"'&lt;</style>$x^2$ {{ 7191 * 7193 }}"
    results = make_results(seeds=2, steps=40, layers=(evil, "fc.weight"))
    results["problem"] |= {"name": evil, "description": evil, "metric": evil}
    results["settings"]["select_reason"] = evil
    results["command"] = evil
    results["verdict"] = {"headline": evil, "sentences": [evil], "adam_cells": evil}
    results["environment"] = {evil: evil}
    for arm in results["arms"]:
        arm["label"] = evil
    for effect in results["effects"]:
        effect |= {"sentence": evil, "verdict": evil}
    found = written(tmp_path, results)
    assert found.scripts == 0
    assert str(7191 * 7193) not in found.text


def test_a_problem_without_a_metric(tmp_path: Path):
    results = make_results(metric=False, **SMALL)
    results["verdict"] = {}
    words = written(tmp_path, results).text
    assert "test loss" in words
    assert "accuracy" not in words


def test_one_seed(tmp_path: Path):
    words = written(tmp_path, make_results(seeds=1, **SMALL)).text
    assert "One seed: there is no interval and no test" in words
    assert "cannot tell" in words
    assert "±" not in words.partition("Final values")[0]


def test_a_method_without_a_stable_step_size(tmp_path: Path):
    results = make_results(**SMALL)
    adam = results["arms"][3]
    adam |= {
        "lr": None,
        "runs": [],
        "tuning": [trial | {"status": "diverged", "score": None} for trial in adam["tuning"]],
    }
    del results["dissection"]["adam"]
    for effect in results["effects"]:
        if effect["adam_cell"] == "adam":
            effect |= {
                "estimate": None,
                "low": None,
                "high": None,
                "p": None,
                "p_holm": None,
                "seeds": 0,
                "per_seed": [],
            }
            effect["verdict"] = "cannot tell"
    words = written(tmp_path, results).text
    assert "Adam: no step size was stable, so there is no run." in words
    assert "none was stable" in words
    assert "No recorded steps: this arm has no finished run" in words


def test_no_method_has_a_run(tmp_path: Path):
    results = make_results(**SMALL)
    for arm in results["arms"]:
        arm |= {"lr": None, "runs": [], "tuning": []}
    results |= {"dissection": {}, "effects": [], "verdict": {}, "environment": {}}
    assert "No steps were recorded." in written(tmp_path, results).text


def test_seeds_that_diverged_are_said(tmp_path: Path):
    results = make_results(**SMALL)
    results["arms"][0]["runs"][2] |= {"status": "diverged", "evaluations": []}
    words = written(tmp_path, results).text
    assert "M-SGD: 2 of 3 runs finished." in words
    assert "2 of 3 seeds" in words


def test_a_step_size_at_the_edge_is_said(tmp_path: Path):
    results = make_results(**SMALL)
    results["arms"][1]["lr_at_edge"] = "upper"
    words = written(tmp_path, results).text
    assert "M-SSD: the chosen step size is the largest one tried." in words


def test_given_step_sizes_are_said(tmp_path: Path):
    results = make_results(**SMALL)
    results["arms"][1]["tuning"] = [trial for trial in results["arms"][1]["tuning"] if trial["lr"] == 0.001]
    assert "fixed, not searched" in written(tmp_path, results).text


def test_holes_everywhere(tmp_path: Path):
    """Every number of every series and evaluation missing, one after the other kind."""
    results = make_results(**SMALL)
    for arm in results["arms"]:
        for run in arm["runs"]:
            run["evaluations"] = [
                dict.fromkeys(point, math.nan) | {"step": point["step"]} for point in run["evaluations"]
            ]
    for dissection in results["dissection"].values():
        for columns in dissection["series"].values():
            for name in columns:
                columns[name] = [None] * len(columns[name])
    written(tmp_path, results)


def test_a_large_model_still_fits(tmp_path: Path):
    """120 tensors; the file is small, and says what it left out."""
    layers = tuple(f"transformer.h.{n}.attn.c_attn.{kind}" for n in range(60) for kind in ("weight", "bias"))
    results = make_results(seeds=2, steps=200, layers=layers)
    path = report.write(results, tmp_path / "report.html")
    assert path.stat().st_size < MAX_BYTES
    assert "of 60 weight tensors, evenly chosen" in read(path).text


def test_a_recorded_run(tmp_path: Path):
    rng = np.random.default_rng(0)
    tensors = [{"name": "fc.weight", "shape": [10, 4]}, {"name": "scale", "shape": [10]}]
    with store.RunWriter(tmp_path / "run", config={"optimizer": "Adam", "lr": 1e-3}, tensors=tensors) as run:
        for step in range(1, 50):
            run.write(step, "", {"loss": 2.0 / step, "lr": 1e-3})
            for tensor in tensors:
                spread = 1 + rng.random()
                values = {
                    "spread_median": spread,
                    "update_abs_median_per_lr": (1 + spread**2) ** -0.5,
                    "momentum_abs_mean": 0.1,
                    "factor_adam": 0.5,
                    "sign_agreement": 0.7,
                }
                run.write(step, str(tensor["name"]), values)
    path = report.write(store.Run(tmp_path / "run"), tmp_path / "run.html")
    found = read(path)
    assert "status finished" in found.text
    assert "median over the steps: fc.weight ×1.00." in found.text
    assert {"fc.weight", "scale", "loss, log scale"} <= {word.strip() for word in found.words}
    assert report.write(tmp_path / "run", tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_an_empty_run(tmp_path: Path):
    store.RunWriter(tmp_path / "run").close()
    found = read(report.write(tmp_path / "run", tmp_path / "new" / "folder" / "run.html"))
    assert "No recorded steps" in found.text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report to"):
        report.write(make_results(seeds=1, steps=5, layers=("w",)), tmp_path / "file" / "report.html")


def test_an_interrupted_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        report.write(make_results(seeds=1, steps=5, layers=("w",)), path)
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
