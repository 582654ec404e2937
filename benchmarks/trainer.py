"""Training P1 (`fashion-mnist`) as `stepscope dissect` does it, against a loop written by hand.

The loop is the least one can write: shuffled batches, forward, backward, torch's fused Adam, and nothing else. Images
are noise, so that nothing has to be fetched; a step takes the same time. One thread, no evaluations, a few steps a time
in turns. Goals: with the scope off at least 0.97 of the loop's steps a second, with every step dissected 0.93.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._timing import side_by_side
from stepscope import problems
from stepscope.experiments.trial import Training, Trial
from stepscope.problems import Data, Split

STEPS, ROUNDS = 5, 12
EXAMPLES, BATCH = 4096, 64
GOALS = {"the trainer": 0.97, "the trainer, every step dissected": 0.93}


def _noise() -> Data:
    def split(count: int) -> Split:
        return Split(torch.rand(count, 1, 28, 28), torch.randint(10, (count,)))

    return Data(split(EXAMPLES), split(64))


def _by_hand(make: Callable[[Any], torch.optim.Optimizer]) -> Callable[[], object]:
    data, net = _noise().train, problems.load("fashion-mnist").model(0)
    optimizer = make(net.parameters())

    def batches() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(EXAMPLES)
            for start in range(0, EXAMPLES, BATCH):
                yield order[start : start + BATCH]

    order = batches()

    def train() -> None:
        for _ in range(STEPS):
            index = next(order)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data.inputs[index]), data.targets[index]).backward()
            optimizer.step()

    return train


def _trainer(method: str, run: Path | None) -> Callable[[], object]:
    problem = dataclasses.replace(problems.load("fashion-mnist"), data=_noise)
    many = 1_000_000
    beta = None if method == "adam" else 0.9
    trial = Trial("noise", method, 1e-3, beta, 0, many, BATCH, many, 0, (), record_every=0 if run is None else 1)
    training = Training(trial, problem, run)
    steps = training.steps()
    recording = training.recording()
    recording.__enter__()  # until the process ends: its folder is a temporary one

    def train() -> None:
        for _ in range(STEPS):
            next(steps)

    return train


def measure() -> list[dict[str, Any]]:
    """Rows: seconds of five steps, their ratio to the loop's, and its inverse, steps a second against the loop's."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    loops: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "adam": lambda params: torch.optim.Adam(params, lr=1e-3, fused=True),
        "msgd": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, dampening=0.9, fused=True),
    }
    for method, make in loops.items():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            arms = {
                "by hand": _by_hand(make),
                "the trainer": _trainer(method, None),
                "the trainer, every step dissected": _trainer(method, Path(folder, "run")),
            }
            for row in side_by_side(arms, "by hand", rounds=ROUNDS):
                speed = {"relative_speed": 1 / row["ratio"], "goal": GOALS.get(row["what"])}
                rows.append(row | speed | {"what": f"{method}, five steps: {row['what']}", "to": f"{method} by hand"})
    return rows
