"""How a dissection stands, at any moment, against what the dissection itself says in the end."""

import json
import os
import shutil

import pytest
from tests.experiments.conftest import Here

from stepscope.errors import DamagedData
from stepscope.experiments import plan
from stepscope.experiments.shard import Shard
from stepscope.experiments.standing import TUNING_SEED, standing
from stepscope.store.lock import FolderLock


def same_numbers(ours, theirs):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours == pytest.approx(theirs, rel=1e-12)  # the same sums, in whatever order the seeds come


def test_a_finished_dissection_stands_as_its_results_say(small):
    done = small()
    now = standing(done.folder)
    assert (now.status, now.working, now.seconds_left) == ("finished", 0, None)
    assert now.done == now.total == 5 * (3 + 2)
    assert [arm.method for arm in now.arms] == [arm["method"] for arm in done.results["arms"]]
    for ours, theirs in zip(now.arms, done.results["arms"], strict=True):
        assert ours.best == theirs["lr"]
        assert ours.at_edge == (theirs["lr_at_edge"] is not None)
        assert [vars(point) for point in ours.points] == theirs["tuning"]
        assert [run.seed for run in ours.replications] == [run["seed"] for run in theirs["runs"]]
        for run, one in zip(ours.replications, theirs["runs"], strict=True):
            assert (run.trial, run.recorded) == (one["trial"], one["recorded"])
            assert run.train_loss == [point["train_loss"] for point in one["evaluations"]]
    assert len(now.effects) == len(done.results["effects"])
    for effect, theirs in zip(now.effects, done.results["effects"], strict=True):
        assert (effect.cell, effect.outcome, effect.effect) == (
            theirs["adam_cell"],
            theirs["outcome"],
            theirs["effect"],
        )
        assert (effect.verdict, effect.seeds) == (theirs["verdict"], theirs["seeds"])
        for name in ("estimate", "low", "high"):
            same_numbers(getattr(effect, name), theirs[name])


def test_it_can_be_watched_from_the_first_trial_to_the_last(small, tmp_path):
    seen = []

    class Watched(Here):
        def wait(self):
            found = super().wait()
            seen.append(standing(tmp_path / "out"))
            return found

    done = small(executor=Watched())
    assert [now.done for now in seen] == list(range(1, 26))
    assert {now.total for now in seen} == {25}
    assert {now.status for now in seen} == {"running"}
    points = [sum(len(arm.points) for arm in now.arms) for now in seen]
    assert points == sorted(points)
    assert (points[0], points[-1]) == (1, 15)
    # An effect appears with the first seed that all four have finished, and is then about that one seed.
    begun = [now for now in seen if now.effects]
    assert 0 < len(begun) < len(seen)
    assert begun[0].effects[0].seeds == 1
    assert begun[-1].effects[0].estimate == pytest.approx(done.results["effects"][0]["estimate"], rel=1e-12)


def test_methods_of_ones_own_are_compared_with_the_first(small):
    done = small(points=["sgd", "msgd", "signum"])
    found = standing(done.folder)
    assert [arm.method for arm in found.arms] == ["sgd", "msgd", "signum"]
    ours = {(line.effect, line.outcome): line for line in found.effects}
    theirs = {(pair["method"], pair["outcome"]): pair for pair in done.results["comparisons"]}
    assert ours.keys() == theirs.keys()
    for key, line in ours.items():
        assert (line.cell, line.verdict) == ("sgd", theirs[key]["verdict"])
        same_numbers(line.estimate, theirs[key]["estimate"])


def test_the_time_left_is_what_the_trials_took(small):
    """20 trials of 2 s to go, two at work, one of them half done: (40 - 1) / 2."""
    folder = small().folder
    (folder / "results.json").unlink()
    trials = sorted((folder / "trials").iterdir())
    for trial in trials[:20]:
        shutil.rmtree(trial)
    for trial in trials[20:]:
        (trial / "timing.json").write_text('{"seconds": 2}')
    lock = FolderLock(folder / "lock")
    try:
        begun = [folder / "trials" / f".{name}.{os.getpid()}" for name in ("a", "b")]
        for attempt in begun:
            attempt.mkdir()
        now = max(attempt.stat().st_ctime for attempt in begun)
        found = standing(folder, now)
        assert (found.done, found.total, found.working, found.status) == (5, 25, 2, "running")
        assert found.seconds_left == pytest.approx(20.0, abs=0.5)  # the folders are at most half a second apart
        assert standing(folder, now + 1).seconds_left == pytest.approx(19.0, abs=0.5)
        assert standing(folder, now + 100).seconds_left == pytest.approx(18.0)  # no trial is more than done
    finally:
        lock.release()
    assert (standing(folder).status, standing(folder).seconds_left) == ("interrupted", None)
    part = FolderLock(folder / Shard(1, 2).lock)
    assert standing(folder).status == "running"  # a part of it is enough
    part.release()


def test_what_is_damaged_is_named_and_the_rest_shown(small):
    folder = small().folder
    trial = min((folder / "trials").iterdir())
    (trial / "result.json").write_text("{")
    found = standing(folder)
    assert found.done == 24
    assert found.problems[0].startswith(f"{trial.name}/result.json cannot be read")
    (folder / "dissect.json").write_text("nothing")
    with pytest.raises(DamagedData, match=r"dissect\.json cannot be read"):
        standing(folder)


def test_a_given_grid_is_counted_as_the_plan_counts_it(small, tmp_path):
    totals = []

    class Watched(Here):
        def wait(self):
            totals.append(standing(tmp_path / "out").total)
            return super().wait()

    grid = {"msgd": [0.1, 0.3], "adam": [0.01]}
    done = small(executor=Watched(), grid=grid)
    settings = json.loads((done.folder / "dissect.json").read_text())
    assert settings["grid"] == grid
    assert set(totals) == {3 * 3 + 2 + 0 + 5 * 2}


def test_trials_of_the_search_are_told_apart_as_the_plan_does():
    assert TUNING_SEED == plan.TUNING_SEED
