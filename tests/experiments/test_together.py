"""Trials that are trained as one against the same trials trained by themselves."""

import dataclasses
import json
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from stepscope import problems
from stepscope.experiments import dissect, together
from stepscope.experiments.attempt import run_trial
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.together import Together, Unfit, bundles, run_together
from stepscope.experiments.trial import Training, Trial, train
from stepscope.problems import Data, Split

PARTS = ("train", "test")


def trials(method: str = "msvag", seeds=range(3), rates=(0.03, 0.1), **changes) -> list[Trial]:
    beta = None if method in ("adam", "sgd") else 0.9
    plain = Trial("mark", method, 0.1, beta, 0, 12, 8, 5, 0, PARTS)
    return [dataclasses.replace(plain, lr=lr, seed=seed, **changes) for lr in rates for seed in seeds]


def in_float64(problem: problems.Problem) -> problems.Problem:
    whole = problem.data()
    data = Data(*(Split(part.inputs.double(), part.targets) for part in (whole.train, whole.test)))
    return dataclasses.replace(problem, data=lambda: data, model=lambda seed: problem.model(seed).double(), spec="")


def agree(ours: dict, theirs: dict, rel: float) -> None:
    """Two evaluations: the same parts of them, and these within the tolerance."""
    assert [name for name, value in ours.items() if value is None] == [n for n, v in theirs.items() if v is None]
    numbers = {name: value for name, value in theirs.items() if value is not None}
    assert {name: ours[name] for name in numbers} == pytest.approx(numbers, rel=rel)


def all_the_way(planned, problem) -> Together:
    whole = Together(planned, problem)
    for _ in whole.steps():
        pass
    return whole


@pytest.mark.parametrize("method", ["msgd", "mssd", "msvag", "adam", "adam_one_beta", "sgd", "sign_m:erf_rho"])
def test_every_trial_ends_where_it_ends_by_itself(tiny, method):
    """In float64, where the sums of a matrix product in another order differ by some 1e-16: 12 steps of at most 1 / lr
    amplification leave less than 1e-12 (measured 4e-16). A sign step of a gradient of pure rounding would be an
    exception; these problems have none."""
    problem = in_float64(problems.load(tiny("problem")))
    planned = trials(method)
    whole = all_the_way(planned, problem)
    for training, trial in zip(whole.trainings, planned, strict=True):
        alone, found = train(trial, problem), training.result()
        assert found["config"] == alone["config"]
        assert (found["status"], found["steps"]) == ("ok", 12)
        assert [row["step"] for row in found["evaluations"]] == [0, 5, 10, 12]
        for ours, theirs in zip(found["evaluations"], alone["evaluations"], strict=True):
            agree(ours, theirs, 1e-12)


def test_a_schedule_and_convolutions_too(tiny):
    """As above, with grouped convolutions: measured 3e-15."""
    problem = in_float64(problems.load(tiny("pictures")))

    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)).double()

    protocol = dataclasses.replace(problem.protocol, schedule=problems.Decrease(0.1, after=(0.5,)))
    problem = dataclasses.replace(problem, model=model, protocol=protocol)
    planned = trials("adam", rates=(0.01, 0.02))
    for training, trial in zip(all_the_way(planned, problem).trainings, planned, strict=True):
        agree(training.result()["evaluations"][-1], train(trial, problem)["evaluations"][-1], 1e-11)


def test_one_that_diverges_leaves_the_others_alone(tiny):
    problem = problems.load(tiny("regression"))
    planned = trials("sgd", seeds=range(2), rates=(0.1, 1e30))
    found = [training.result() for training in all_the_way(planned, problem).trainings]
    alone = [train(trial, problem) for trial in planned]
    assert [one["status"] for one in found] == [one["status"] for one in alone] == ["ok", "ok", "diverged", "diverged"]
    assert [one["steps"] for one in found] == [one["steps"] for one in alone]
    agree(found[0]["evaluations"][-1], alone[0]["evaluations"][-1], 1e-5)  # float32, 12 steps


@pytest.mark.parametrize("method", ["adam", "msvag"])
def test_a_state_goes_on_to_the_same_bits_and_is_one_of_each_trial(tiny, method):
    problem = problems.load(tiny("problem"))
    planned = trials(method)
    whole, first, second = (Together(planned, problem) for _ in range(3))
    results = [training.result() for training in all_the_way(planned, problem).trainings]
    for step in first.steps():
        if step == 7:
            break
    states = pickle.loads(pickle.dumps(first.states()))
    second.load(states)
    for _ in second.steps():
        pass
    assert [training.result() for training in second.trainings] == results
    assert all(value.untyped_storage().nbytes() <= 16 for value in states[0]["model"].values())  # not the whole stack

    alone = Training(planned[0], problem)  # and by itself, within float32's rounding
    alone.load(states[0])
    for _ in alone.steps():
        pass
    agree(alone.result()["evaluations"][-1], results[0]["evaluations"][-1], 1e-5)
    del whole


def _with_noise(seed: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))


class Tilted(nn.Linear):
    """Scaled by a number that depends on the seed and is no parameter."""

    def __init__(self, seed: int) -> None:
        super().__init__(2, 2)
        self.scale = 1.0 + seed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


class Late(nn.Linear):
    """With a parameter that has no gradient."""

    def __init__(self, seed: int) -> None:
        super().__init__(2, 2)
        self.unused = nn.Parameter(torch.zeros(2))


def _normalised(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("model", [_with_noise, Tilted, Late, _normalised])
def test_what_would_not_be_the_same_is_not_trained_together(tiny, model):
    problem = dataclasses.replace(problems.load(tiny("problem")), model=model, spec="")
    with pytest.raises(Unfit):
        all_the_way(trials(), problem)


def test_what_goes_together_follows_from_the_plan(tiny):
    problem = problems.load(tiny("problem"))
    nine = trials(seeds=range(9), rates=(0.1,))
    assert [len(group) for group in bundles(nine, problem)] == [9]
    twenty = trials(seeds=range(10))
    assert [len(group) for group in bundles(twenty, problem)] == [10, 10]
    assert bundles(nine[::-1], problem) == bundles(nine, problem)
    assert [len(group) for group in bundles(nine[:5], problem)] == [1] * 5
    assert [len(group) for group in bundles([*nine, *trials("adam", rates=(0.1,))], problem)] == [9, 1, 1, 1]
    recorded = trials(seeds=range(9), rates=(0.1,), record_every=1)
    assert {len(group) for group in bundles(recorded, problem)} == {1}
    large = dataclasses.replace(problem, model=lambda seed: nn.Linear(2, 20_000), spec="")
    assert {len(group) for group in bundles(nine, large)} == {1}
    assert {len(group) for group in bundles(nine, problems.load(tiny("dropout")))} == {1}


def test_they_appear_as_trials_and_what_is_unfit_is_trained_alone(tiny, tmp_path):
    planned = trials()
    (tmp_path / "some").mkdir()
    run_together(planned, Parcel(spec=tiny("problem")), tmp_path / "some")
    assert sorted(place.name for place in (tmp_path / "some").iterdir()) == sorted(trial.id for trial in planned)
    (tmp_path / "others").mkdir()
    (tmp_path / "alone").mkdir()
    run_together(planned, Parcel(spec=tiny("dropout")), tmp_path / "others")
    assert "trained one by one" in (tmp_path / "others" / planned[0].id / "log.txt").read_text()
    for trial in planned:
        run_trial(trial, Parcel(spec=tiny("dropout")), tmp_path / "alone")
        files = [tmp_path / name / trial.id / "result.json" for name in ("others", "alone")]
        assert files[0].read_bytes() == files[1].read_bytes()


KILLED = """
import os, pathlib, pickle, signal
from stepscope.experiments import together
folder = pathlib.Path({folder!r})
plain = together.save

def save(state, place):
    plain(state, place)
    if state["states"][0]["step"] == 7 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

together.save = save
together.run_together(*pickle.loads({args!r}))
"""


def test_killed_they_go_on_to_the_same_bits(tiny, tmp_path):
    planned, parcel = trials(), Parcel(spec=tiny("problem"))
    for name in ("plain", "killed"):
        (tmp_path / name).mkdir()
    run_together(planned, parcel, tmp_path / "plain")
    args = pickle.dumps((planned, parcel, tmp_path / "killed", 0.0))
    code = KILLED.format(folder=str(tmp_path), args=args)
    first = subprocess.run([sys.executable, "-c", code], timeout=300, check=False)
    assert first.returncode == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("[!.]*"))
    second = subprocess.run([sys.executable, "-c", code], timeout=300, check=False)
    assert second.returncode == 0
    for trial in planned:
        files = [tmp_path / name / trial.id / "result.json" for name in ("plain", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sweep_trains_seeds_together_under_the_ids_of_separate_trials(tiny, here, tmp_path, monkeypatch):
    options = {"seeds": 8, "steps": 6, "grid": {m: [0.1] for m in ("msgd", "msvag")}, "points": ["msgd", "msvag"]}
    found = dissect(tiny("problem"), out=tmp_path / "together", executor=here, **options)
    assert len(here.ran) == 4  # for each method seven seeds as one, and the recorded one
    monkeypatch.setattr(together, "LEAST", 100)
    here.ran = []
    alone = dissect(tiny("problem"), out=tmp_path / "alone", executor=here, **options)
    assert len(here.ran) == 16
    for ours, theirs in zip(found.results["arms"], alone.results["arms"], strict=True):
        assert [run["trial"] for run in ours["runs"]] == [run["trial"] for run in theirs["runs"]]
        for one, other in zip(ours["runs"], theirs["runs"], strict=True):
            agree(one["evaluations"][-1], other["evaluations"][-1], 1e-5)


def test_one_that_fails_fails_alone(tiny, here, tmp_path):
    """Fragile raises when its weights get large: with a step size of 1000, and not with 0.1."""
    options = {"seeds": 1, "steps": 6, "points": ["msgd", "mssd"]}
    grid = {m: [0.01, 0.02, 0.03, 0.04, 0.05, 1000.0] for m in ("msgd", "mssd")}
    found = dissect(tiny("fragile"), out=tmp_path / "out", executor=here, grid=grid, **options)
    for arm in found.results["arms"]:
        assert [one["status"] for one in arm["tuning"]] == ["ok"] * 5 + ["failed"]
    failed = [json.loads(file.read_text()) for file in (tmp_path / "out" / "trials").glob("*/result.json")]
    assert {one["config"]["lr"] for one in failed if one["status"] == "failed"} == {1000.0}
