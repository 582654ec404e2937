"""Attempts that are killed, at any moment, and gone on with; and what a finished trial leaves behind."""

import errno
import json
import pickle
from contextlib import closing
from pathlib import Path

import pytest

from stepscope import problems, store
from stepscope.errors import UserError
from stepscope.experiments import attempt as module
from stepscope.experiments.attempt import run_trial
from stepscope.experiments.executor import Finished, Processes, Task
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.trial import Trial, train

TINY = Path(__file__).parent / "tiny.py"


def make(**changes) -> Trial:
    defaults = {"problem": "fingerprint", "method": "adam_one_beta", "lr": 0.05, "beta": 0.9, "seed": 3, "steps": 12}
    more = {"batch_size": 8, "evaluate_every": 5, "held_out": 10, "parts": ("train", "validation", "test")}
    return Trial(**(defaults | more | changes))


def table(run: Path) -> list[str]:
    """All that was recorded, digit by digit; as text, so that NaN equals NaN."""
    found = store.Run(run)
    return sorted(map(repr, found.table(*sorted(found.names)).to_pylist()))


# Kills its process once at each of the named moments, the marker files being there afterwards.
KILL = """
import os, pathlib, pickle, signal
from stepscope.experiments import attempt, trial as training

folder = pathlib.Path({folder!r})

def die(moment):
    if moment in {moments!r} and not (folder / moment).exists():
        (folder / moment).touch()
        os.kill(os.getpid(), signal.SIGKILL)

def backward(*args):
    backward.steps += 1
    die(f"in step {{backward.steps}} of an attempt")
    return plain_backward(*args)

def write(state, place):
    if state["step"] == 4:
        die("before checkpoint 4")
        place.with_name(f".{{place.name}}.0-0.tmp").write_bytes(b"half a checkpoint")
        die("in checkpoint 4")
    plain_save(state, place)
    if state["step"] == 4:
        die("after checkpoint 4")

def rename(self, target):
    die("before the rename")
    return plain_rename(self, target)

backward.steps = 0
plain_backward, training._backward = training._backward, backward
plain_save, attempt.save = attempt.save, write
plain_rename, pathlib.Path.rename = pathlib.Path.rename, rename
attempt.run_trial(*pickle.loads({args!r}))
"""


@pytest.mark.parametrize(
    ("moments", "changes"),
    [
        (("in step 7 of an attempt", "before the rename"), {}),
        (("before checkpoint 4", "after checkpoint 4"), {"method": "msgd"}),
        (("in checkpoint 4", "in step 3 of an attempt"), {"method": "msvag"}),
    ],
)
def test_a_killed_trial_goes_on_to_the_same_bits(tmp_path, moments, changes):
    """The model has dropout and batch normalisation, and M-SGD's averages of squares are kept by the scope alone."""
    trial = make(record_every=2, **changes)
    args = pickle.dumps((trial, Parcel(spec=f"{TINY}:dropout"), tmp_path, 0.0))
    code = KILL.format(folder=str(tmp_path), moments=moments, args=args)
    with closing(Processes(1, preload=("stepscope.experiments.attempt",))) as executor:
        executor.submit(Task("a", exec, (code, {})))
        assert executor.wait() == [Finished("a")]
    assert all((tmp_path / moment).exists() for moment in moments)
    whole = train(trial, problems.load(f"{TINY}:dropout"), tmp_path / "whole")
    assert json.loads((tmp_path / trial.id / "result.json").read_text()) == json.loads(json.dumps(whole))
    assert table(tmp_path / trial.id / "run") == table(tmp_path / "whole")
    left = sorted(child.name for child in (tmp_path / trial.id).iterdir())
    assert left == ["result.json", "run", "timing.json"]
    assert not list(tmp_path.glob(".*"))


def test_an_attempt_starts_from_its_checkpoint_and_not_from_the_beginning(tmp_path, monkeypatch):
    trial, parcel, steps = make(), Parcel(spec=f"{TINY}:problem"), []
    plain = module.Training.steps

    def until_eight(self):
        for step in plain(self):
            steps.append(step)
            yield step
            if len(steps) == 8:
                raise InterruptedError

    monkeypatch.setattr(module.Training, "steps", until_eight)
    with pytest.raises(InterruptedError):
        run_trial(trial, parcel, tmp_path, 0.0)
    run_trial(trial, parcel, tmp_path, 0.0)
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert (tmp_path / trial.id / "result.json").exists()


def test_a_damaged_checkpoint_costs_what_it_held(tmp_path):
    trial = make()
    (tmp_path / f".{trial.id}").mkdir()
    (tmp_path / f".{trial.id}" / "checkpoint.pt").write_bytes(b"PK\3\4 not what it was")
    run_trial(trial, Parcel(spec=f"{TINY}:problem"), tmp_path)
    assert "cannot be read" in (tmp_path / trial.id / "log.txt").read_text()
    result = json.loads((tmp_path / trial.id / "result.json").read_text())
    assert result == json.loads(json.dumps(train(trial, problems.load(f"{TINY}:problem"))))


def test_two_attempts_of_one_trial_do_not_mix(tmp_path):
    """The second waits for the first, and then there is nothing to do."""
    tries = tmp_path / "tries"
    code = f"""
import pathlib, time
from stepscope.experiments import attempt, trial
from stepscope.experiments.shipping import Parcel
plain = trial.Training.steps
def slow(self):
    open({str(tries)!r}, "a").write("x\\n")
    for step in plain(self):
        time.sleep(0.05)
        yield step
attempt.Training.steps = slow
attempt.run_trial({make()!r}, Parcel(spec={f"{TINY}:problem"!r}), pathlib.Path({str(tmp_path)!r}))
"""
    with closing(Processes(2, preload=("stepscope.experiments.attempt",))) as executor:
        for key in "ab":
            executor.submit(Task(key, exec, (f"from stepscope.experiments.trial import Trial\n{code}", {})))
        done = executor.wait()
        while len(done) < 2:
            done += executor.wait()
    assert {one.error for one in done} == {None}
    assert tries.read_text() == "x\n"


def test_a_finished_trial_appears_whole(tmp_path):
    trial = make(record_every=2)
    run_trial(trial, Parcel(spec=f"{TINY}:problem"), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == trial.id
    assert sorted(child.name for child in folder.iterdir()) == ["result.json", "run", "timing.json"]
    result = json.loads((folder / "result.json").read_text())
    assert result == json.loads(json.dumps(train(trial, problems.load(f"{TINY}:problem"), tmp_path / "again")))
    assert json.loads((folder / "timing.json").read_text())["seconds"] > 0


def test_what_a_problem_prints_is_kept(tmp_path, capfd):
    trial = make(lr=0.01)
    run_trial(trial, Parcel(spec=f"{TINY}:fragile"), tmp_path)
    assert "forward" in (tmp_path / trial.id / "log.txt").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_stops_with_one_line_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", refuse)
    with pytest.raises(UserError, match="is full: free some space and run the same again"):
        run_trial(make(), Parcel(spec=f"{TINY}:problem"), tmp_path)
    assert list(tmp_path.iterdir()) == []
