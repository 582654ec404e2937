"""Trials of small problems trained as one program (`stepscope.experiments.together`) against one by one.

Steps in turns, one thread, no evaluations, M-SVAG. The rows are where the runner's limits come from: it trains six
to sixteen trials together whose models have at most 6,000 parameters each.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks._timing import side_by_side
from stepscope import problems
from stepscope.experiments import together
from stepscope.experiments.trial import Training, Trial
from stepscope.problems import Data, Problem, Protocol, Split

ROUNDS, MANY = 12, 1_000_000
COUNTS = (2, 4, 8, 16)


def _perceptron(hidden: int) -> Problem:
    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    return dataclasses.replace(problems.load("digits"), model=model, spec="")


class _Distance(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.theta - x


def _quadratic(size: int) -> Problem:
    data = Data(*(Split(torch.randn(n, size), torch.zeros(n)) for n in (100, 10)))
    return Problem(
        "quadratic", lambda: data, lambda seed: _Distance(size), lambda out, _: 0.5 * out.square().sum(1).mean(),
        Protocol(10, MANY, MANY), metric=None,
    )  # fmt: skip


CASES: dict[str, Callable[[], Problem]] = {
    "a quadratic of 30": lambda: _quadratic(30),
    "a quadratic of 3000": lambda: _quadratic(3000),
    "64-16-10 (1,210)": lambda: _perceptron(16),
    "64-64-10 (4,810)": lambda: _perceptron(64),
    "64-256-10 (19,210)": lambda: _perceptron(256),
    "64-1024-10 (76,810)": lambda: _perceptron(1024),
    "digits, conv (13,706)": lambda: problems.load("digits"),
}


def _steps(problem: Problem, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """One step of each trial, by itself and together."""
    size = problem.protocol.batch_size
    trials = [Trial("bench", "msvag", 0.01, 0.9, seed, MANY, size, MANY, 0, ()) for seed in range(count)]
    alone = [Training(trial, problem).steps() for trial in trials]
    whole = together.Together(trials, problem).steps()

    def separately() -> None:
        for one in alone:
            next(one)

    return separately, lambda: next(whole)


def measure() -> list[dict[str, Any]]:
    """Rows: seconds of a step of all trials together, its ratio to the same steps one by one, and the inverse."""
    torch.set_num_threads(1)
    together.SMALL = MANY  # measured is beyond the limit, too
    rows = []
    for name, make in CASES.items():
        for count in COUNTS:
            arms = dict(zip(("separately", "together"), _steps(make(), count), strict=True))
            for row in side_by_side(arms, "separately", rounds=ROUNDS):
                what = f"{name}, {count} trials: {row['what']}"
                rows.append(row | {"what": what, "times_as_fast": 1 / row["ratio"], "to": "separately"})
    return rows
