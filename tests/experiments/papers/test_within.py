"""The variance within the mini-batch against moving averages: the tests' answers on made-up curves, and a short run."""

import dataclasses

import pytest

from stepscope.experiments.claims.claim import Verdict
from stepscope.experiments.papers import within
from stepscope.experiments.papers.experiment import Extent
from stepscope.experiments.papers.reproduce import read, reproduce


def made(ratio: float) -> dict:
    """Three seeds; within the batch the loss is so many times as large, give or take 2 %."""
    arms = []
    for moving, batch in within.PAIRS:
        for method, factor in ((moving, 1.0), (batch, ratio)):
            runs = [
                {"seed": seed, "status": "ok", "step": [0, 100], "train_loss": [2.0, factor * noise],
                 "test_metric": [0.1, 0.9]}
                for seed, noise in enumerate((0.3, 0.302, 0.298) if method == moving else (0.301, 0.299, 0.3))
            ]  # fmt: skip
            arms.append({"method": method, "label": method, "lr": 0.3, "tuning": [], "runs": runs})
    return {"experiment": within.ID, "profile": "paper", "extent": "", "seeds": 3, "steps": 100, "arms": arms}


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, Verdict.HOLDS), (1.5, Verdict.FAILS)])
def test_equal_losses_are_similar_and_half_as_much_again_is_not(ratio, expected):
    assert {one.verdict for one in read(made(ratio)).findings.values()} == {expected}


def test_all_four_arms_are_trained_drawn_and_judged(built_in, here, tmp_path, monkeypatch):
    monkeypatch.setattr(within, "PROBLEM", built_in("problem"))
    grid = dict.fromkeys(within.METHODS, (0.1,))
    extent = Extent(6, 2, 3, 12, within.METHODS, grid=grid, note="A fraction of it: 6 steps")
    experiment = dataclasses.replace(within.EXPERIMENTS[within.ID], profiles={"small": extent, "paper": extent})
    monkeypatch.setattr("stepscope.experiments.papers.reproduce.EXPERIMENTS", {within.ID: experiment})
    monkeypatch.setattr(within, "EXPERIMENTS", {within.ID: experiment})
    done = reproduce(within.ID, "small", tmp_path / "out", executor=here)
    assert [arm["method"] for arm in done.stored["arms"]] == list(within.METHODS)
    assert all(len(arm["runs"]) == 2 for arm in done.stored["arms"])
    assert len(done.figure.panels[0].series) == 8  # a band and a line for each
    assert {one.verdict for one in done.findings.values()} == {Verdict.INDICATES}
