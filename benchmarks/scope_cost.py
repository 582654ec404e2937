"""A training step with the scope against the same step without it: one thread, batch 128, three nets.

With torch.optim.Adam, recorded at every step and at every tenth; with our Adam, which measures its steps itself, beside
the same Adam without a scope; and what a step costs that is not recorded.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from benchmarks._timing import side_by_side
from stepscope import Scope, optim

Net = tuple[nn.Module, tuple[int, ...]]
Make = Callable[[Any], Optimizer]


def _cnn() -> Net:
    """A small convolutional net of 33 thousand parameters."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 35), nn.ReLU(), nn.Linear(35, 10)),
    )
    return net, (128, 1, 28, 28)


def _mlp() -> Net:
    """A perceptron of 235 thousand parameters."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)), (128, 784)


def _large() -> Net:
    """DeepOBS's fmnist_2c2d, of 3.27 million parameters."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    )
    return net, (128, 1, 28, 28)


NETS: dict[str, tuple[Callable[[], Net], int, int]] = {  # with steps a time and rounds
    "CNN of 33,000": (_cnn, 10, 20),
    "MLP of 235,000": (_mlp, 10, 80),
    "CNN of 3,270,000": (_large, 10, 6),
}


def _theirs(params: Any) -> Optimizer:
    return torch.optim.Adam(params)


def _ours(params: Any) -> Optimizer:
    return optim.Adam(params)


NEVER = 10**9
ARMS: dict[str, dict[str, tuple[Make, int | None]]] = {  # and every how manyth step is recorded
    "torch's Adam": {
        "no scope": (_theirs, None),
        "no step recorded": (_theirs, NEVER),
        "every 10": (_theirs, 10),
        "every 1": (_theirs, 1),
    },
    "our Adam": {"no scope": (_ours, None), "every 10": (_ours, 10), "every 1": (_ours, 1)},
}


def measure() -> list[dict[str, Any]]:
    """Rows for each net and optimizer, ten steps a time, so that "every 10" holds one recorded step."""
    torch.set_num_threads(1)
    rows = []
    for label, (build, steps, rounds) in NETS.items():
        for optimizer, arms in ARMS.items():
            with tempfile.TemporaryDirectory() as folder:
                scopes: list[Scope] = []
                trainers = {
                    name: _trainer(build, make, steps, Path(folder) / name, every, scopes)
                    for name, (make, every) in arms.items()
                }
                rows += [
                    row | {"what": f"{label}, {optimizer}, ten steps: {row['what']}"}
                    for row in side_by_side(trainers, "no scope", rounds=rounds)
                ]
                for scope in scopes:
                    scope.detach()
    return rows + [
        _unrecorded(label, build, make) for label, (build, _, _) in NETS.items() for make in (_theirs, _ours)
    ]


HOOKED = 2000


def _unrecorded(label: str, build: Callable[[], Net], make: Make) -> dict[str, Any]:
    """What the scope does around a step that is not recorded, by itself: the difference of two trainings is too small.

    Every hook of the optimizer's step is called, as the step calls them; the step itself is left out.
    """
    net, shape = build()
    optimizer = make(net.parameters())
    net(torch.randn(2, *shape[1:])).sum().backward()
    optimizer.step()
    times = []
    with Scope(optimizer, net, every=NEVER):
        optimizer.step()
        before = [*optimizer._optimizer_step_pre_hooks.values()]
        after = [*optimizer._optimizer_step_post_hooks.values()]
        for _ in range(HOOKED):
            start = time.perf_counter()
            for hook in (*before, *after):
                hook(optimizer, (), {})
            times.append(time.perf_counter() - start)
    whose = next(name for name, arms in ARMS.items() if arms["no scope"][0] is make)
    return {"what": f"{label}, {whose}: around a step that is not recorded", "seconds": statistics.median(times)}


def _trainer(
    build: Callable[[], Net], make: Make, steps: int, folder: Path, every: int | None, scopes: list[Scope]
) -> Callable[[], object]:
    torch.manual_seed(0)
    net, shape = build()
    inputs, targets = torch.randn(shape), torch.randint(10, (shape[0],))
    optimizer = make(net.parameters())
    if every is not None:
        scopes.append(Scope(optimizer, net, run=folder, every=every).attach())

    def train() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()

    return train
