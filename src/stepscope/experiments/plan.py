"""What a dissection is going to do: its settings, checked; and from them every trial, given the results so far."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from stepscope import __version__
from stepscope.errors import UserError, unknown_name
from stepscope.experiments.arms import STANDARD, anchor, chosen, takes_beta
from stepscope.experiments.trial import Trial
from stepscope.experiments.tuning import MAX_BUDGET, Select, Tried, best, check_grid, judge, propose
from stepscope.problems import Data, Problem
from stepscope.rules import Point

__all__ = ["Arm", "Plan", "Profile", "Results", "is_tuning", "make_plan"]

Profile = Literal["demo", "paper"]

SEEDS: Final = {"demo": 3, "paper": 10}
TUNING_SEED: Final = 1000  # evaluation seeds stay below
RECORDED_STEPS: Final = 200

Results = Mapping[str, Mapping[str, Any]]  # trial id -> result.json


@dataclass(frozen=True)
class Arm:
    """One method as far as its results reach.

    tried: step size -> how it did.  lr: the chosen step size, None while tuning or if none is stable.
    done: its trials that have a result.  wanted: those to run now.
    """

    method: str
    tried: Mapping[float, Tried]
    lr: float | None
    done: Sequence[Trial]
    wanted: Sequence[Trial]

    @property
    def hopeless(self) -> bool:
        """Tuning is over and no step size is stable."""
        return self.lr is None and not self.wanted

    @property
    def replications(self) -> list[Trial]:
        """The finished runs at the chosen step size."""
        return [trial for trial in self.done if not is_tuning(trial)]


@dataclass(frozen=True)
class Plan:
    """A dissection's settings, checked. Its trials follow from them and from results, in whatever order these come.

    train_examples: those trained on.  grid: method -> its step sizes, for the methods that are not searched.
    methods: of `optim.METHODS`, or points of the grid as `rules.Point` writes them.
    """

    problem: Problem
    fingerprint: str
    methods: tuple[str, ...]
    train_examples: int
    validation_examples: int
    test_examples: int
    seeds: tuple[int, ...]
    steps: int
    budget: int
    select: Select
    profile: Profile
    beta: float
    record_every: int
    grid: Mapping[str, tuple[float, ...]]

    @property
    def total(self) -> int:
        """Trials in all: tuning and replications."""
        return sum(self.tuning_trials(method) + len(self.seeds) for method in self.methods)

    @property
    def higher_is_better(self) -> bool:
        """Of the metric; True without one, as nothing asks."""
        return self.problem.metric is None or self.problem.metric.higher_is_better

    @property
    def command(self) -> list[str]:
        """The command line that repeats this dissection; for a problem without a file, its name stands in."""
        words = ["stepscope", "dissect", self.problem.spec or self.problem.name, "--seeds", str(len(self.seeds))]
        words += ["--steps", str(self.steps), "--budget", str(self.budget), "--select", self.select]
        words += ["--profile", self.profile, "--beta", f"{self.beta:g}", "--record-every", str(self.record_every)]
        if self.methods != STANDARD:
            words += ["--methods", ",".join(self.methods)]
        for method, values in self.grid.items():
            words += ["--grid", f"{method}={','.join(f'{value!r}' for value in values)}"]
        return words

    def settings(self) -> dict[str, Any]:
        """All that results depend on, as it stands in dissect.json: a folder belongs to exactly these."""
        protocol = self.problem.protocol
        methods = {} if self.methods == STANDARD else {"methods": list(self.methods)}
        return methods | {
            "problem": self.problem.name,
            "problem fingerprint": self.fingerprint,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "batch_size": protocol.batch_size,
            "evaluate_every": protocol.evaluate_every,
            "validation_examples": self.validation_examples,
            "budget": self.budget,
            "select": self.select,
            "profile": self.profile,
            "beta": self.beta,
            "grid": {method: list(values) for method, values in self.grid.items()},
            "record_every": self.record_every,
            "stepscope version": __version__,
            "torch version": torch.__version__,
        }

    @property
    def digest(self) -> str:
        """6 hex digits of a hash over the settings."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:6]

    def tuning_trials(self, method: str) -> int:
        """How many trials choose the method's step size: the budget, unless step sizes were given."""
        if method not in self.grid:
            return self.budget
        given = len(self.grid[method])
        return given if given > 1 else 0

    def arm(self, method: str, results: Results) -> Arm:
        """What the results say about a method, and which of its trials to run now."""
        done: list[Trial] = []
        tried: dict[float, Tried] = {}
        while step_sizes := self._step_sizes(method, tried):
            trials = {lr: self.tuning(method, lr) for lr in step_sizes}
            for value, trial in trials.items():
                if trial.id in results:
                    result = results[trial.id]
                    tried[value] = judge(result["evaluations"], result["status"], self.select, self.higher_is_better)
                    done.append(trial)
            if wanted := [trial for trial in trials.values() if trial.id not in results]:
                return Arm(method, tried, None, done, wanted)
        lr = self._choose(method, tried)
        runs = [] if lr is None else [self.replication(method, lr, seed) for seed in self.seeds]
        done += [trial for trial in runs if trial.id in results]
        return Arm(method, tried, lr, done, [trial for trial in runs if trial.id not in results])

    def tuning(self, method: str, lr: float) -> Trial:
        """A trial of the search. It sees no test examples unless step sizes are chosen by them."""
        parts = ("train", "validation" if self.select == "validation" else "test")
        return self._trial(method, lr, TUNING_SEED, parts, record_every=0)

    def replication(self, method: str, lr: float, seed: int) -> Trial:
        """The run that is reported; the first seed's is recorded."""
        parts = ("train", "validation", "test") if self.validation_examples else ("train", "test")
        return self._trial(method, lr, seed, parts, self.record_every if seed == self.seeds[0] else 0)

    def _step_sizes(self, method: str, tried: Mapping[float, Tried]) -> list[float]:
        """What to try next; nothing when the search is over, or when there is no choice."""
        if method in self.grid:
            given = self.grid[method]
            return [lr for lr in given if lr not in tried] if len(given) > 1 else []
        lr = propose(tried, anchor(method), self.budget)
        return [] if lr is None else [lr]

    def _choose(self, method: str, tried: Mapping[float, Tried]) -> float | None:
        if not tried:
            return self.grid[method][0]
        return best(tried) if any(outcome.stable for outcome in tried.values()) else None

    def _trial(self, method: str, lr: float, seed: int, parts: tuple[str, ...], record_every: int) -> Trial:
        return Trial(
            problem=self.fingerprint,
            method=method,
            lr=lr,
            beta=self.beta if takes_beta(method) else None,
            seed=seed,
            steps=self.steps,
            batch_size=self.problem.protocol.batch_size,
            evaluate_every=self.problem.protocol.evaluate_every,
            held_out=self.validation_examples,
            parts=parts,
            record_every=record_every,
        )


def is_tuning(trial: Trial) -> bool:
    """Whether a trial belongs to the search for a step size; the others are reported."""
    return trial.seed >= TUNING_SEED


def make_plan(
    problem: Problem,
    data: Data,
    fingerprint: str,
    *,
    seeds: int | None,
    steps: int | None,
    budget: int,
    select: Select,
    profile: Profile,
    beta: float,
    grid: Mapping[str, Sequence[float]] | None,
    record_every: int | None,
    points: Sequence[str | Point] | None = None,
) -> Plan:
    """Check the settings and fill in what was not given.  Raises: UserError, one line, for the first wrong one."""
    if profile not in SEEDS:
        raise unknown_name("profile", profile, SEEDS)
    if select not in ("validation", "paper"):
        raise unknown_name("way to select step sizes", select, ("validation", "paper"))
    seeds = _whole("seeds", SEEDS[profile] if seeds is None else seeds, 1, TUNING_SEED)
    steps = _whole("steps", problem.protocol.steps if steps is None else steps, 1)
    every = math.ceil(steps / RECORDED_STEPS) if record_every is None else record_every
    if not (isinstance(beta, int | float) and 0 <= beta < 1):
        raise UserError(f"beta must lie in [0, 1), got {beta!r}.")
    held_out = problem.protocol.validation_examples(len(data.train)) if select == "validation" else 0
    if select == "validation" and not held_out:
        raise UserError(
            f"problem {problem.name!r} holds out no validation examples: raise validation_share in its Protocol, "
            "or choose step sizes by test results (select 'paper')."
        )
    methods = STANDARD if points is None else chosen(points)
    checked = {}
    for method, values in (grid or {}).items():
        if method not in methods:
            raise unknown_name("method in the grid", method, methods)
        checked[method] = check_grid(method, values)
    return Plan(
        problem=problem,
        fingerprint=fingerprint,
        methods=methods,
        train_examples=len(data.train) - held_out,
        validation_examples=held_out,
        test_examples=len(data.test),
        seeds=tuple(range(seeds)),
        steps=steps,
        budget=_whole("budget", budget, 1, MAX_BUDGET),
        select=select,
        profile=profile,
        beta=float(beta),
        record_every=_whole("record_every", every, 1),
        grid=checked,
    )


def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high):
        return value
    upto = "" if high is None else f" and at most {high}"
    raise UserError(f"{name} must be a whole number of at least {low}{upto}, got {value!r}.")
