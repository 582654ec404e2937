"""A training step with the scope against the same step without it, one thread, batch 128, torch.optim.Adam."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._timing import side_by_side
from stepscope import Scope


def _cnn() -> tuple[nn.Module, tuple[int, ...]]:
    """A small convolutional net of 33 thousand parameters."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 35),
        nn.ReLU(),
        nn.Linear(35, 10),
    )
    return net, (128, 1, 28, 28)


def _mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """A perceptron of 235 thousand parameters."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)), (128, 784)


def measure() -> list[dict[str, Any]]:
    """Rows for two nets: without a scope, recorded at every tenth step, at every step."""
    torch.set_num_threads(1)
    rows = []
    for label, build in (("CNN of 33,000", _cnn), ("MLP of 235,000", _mlp)):
        with tempfile.TemporaryDirectory() as folder:
            scopes: list[Scope] = []
            steps = {"no scope": _trainer(build)}
            for every in (10, 1):
                steps[f"every {every}"] = _trainer(build, Path(folder) / str(every), every, scopes)
            # Ten steps at a time, so that "every 10" holds one recorded step.
            tens = {name: _repeat(step, 10) for name, step in steps.items()}
            rows += [
                row | {"what": f"{label}, ten steps: {row['what']}"}
                for row in side_by_side(tens, "no scope", rounds=40)
            ]
            for scope in scopes:
                scope.detach()
    return rows


def _repeat(step: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            step()

    return repeated


def _trainer(
    build: Callable[[], tuple[nn.Module, tuple[int, ...]]],
    folder: Path | None = None,
    every: int = 1,
    scopes: list[Scope] | None = None,
) -> Callable[[], object]:
    torch.manual_seed(0)
    net, shape = build()
    inputs, targets = torch.randn(shape), torch.randint(10, (shape[0],))
    optimizer = torch.optim.Adam(net.parameters())
    if folder is not None and scopes is not None:
        scope = Scope(optimizer, net, run=folder, every=every)
        scope.attach()
        scopes.append(scope)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    return step
