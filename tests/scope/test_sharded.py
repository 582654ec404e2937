"""Sharded parameters in two processes that talk over gloo, against the same training in one."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed import in_processes
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.optim.optimizer import Optimizer

from stepscope import Scope, UserError, optim
from stepscope.optim.shards import extent
from stepscope.scope import sharded

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "torch-adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "torch-adam-fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "torch-sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam-eager": lambda p: optim.Adam(p, lr=0.01, fused=False),
    "msgd": lambda p: optim.MSGD(p, lr=0.1),
    "msvag": lambda p: optim.MSVAG(p, lr=0.1),
}


class Net(nn.Module):
    """Shards of 17 and 16 rows, of a few hundred and of 150,000 numbers, an empty one, and one that is sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(12, 33)
        self.norm = nn.LayerNorm(33)
        self.wide = nn.Linear(33, 2999)
        self.pull = nn.Linear(2999, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.pull(torch.relu(self.wide(self.norm(torch.relu(self.narrow(x))))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def train(model: nn.Module, optimizer: Optimizer, part: slice, *, steps: int = 3) -> None:
    """A batch of eight, of which this process sees its part; the mean over all is descended on."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x, y = torch.randn(8, 12, generator=generator), torch.randn(8, 1, generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[part]), y[part]).backward()
        optimizer.step()


def whole(model: nn.Module) -> list[Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def in_fsdp(rank: int, name: str, every: int, watched: bool) -> tuple[list[dict[str, Any]], list[bytes], int]:
    model = net()
    fully_shard(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    scope = Scope(optimizer, model, every=every)
    if watched:
        scope.attach()
    train(model, optimizer, slice(4 * rank, 4 * rank + 4))
    scope.detach()
    hooks = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    return scope.rows, [p.detach().numpy().tobytes() for p in whole(model)], hooks


def alone(name: str, every: int) -> list[dict[str, Any]]:
    """The same in one process, with the gradients that two would have: the mean of two halves' means."""
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    with Scope(optimizer, model, every=every) as scope:
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            x, y = torch.randn(8, 12, generator=generator), torch.randn(8, 1, generator=generator)
            optimizer.zero_grad()
            halves = []
            for part in (slice(0, 4), slice(4, 8)):
                loss = nn.functional.mse_loss(model(x[part]), y[part])
                halves.append(torch.autograd.grad(loss, list(model.parameters())))
            for p, one, other in zip(model.parameters(), *halves, strict=True):
                p.grad = (one + other) / 2
            optimizer.step()
    return scope.rows


COUNTS = ("share", "sign_agreement")  # of columns that are counts over counts


def same(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """To 1e-6: sums of float32 terms in another order. Counts and quantiles, which come from counts, are exact."""
    rows = {(row["step"], row["layer"]): row for row in ours}
    assert rows.keys() == {(row["step"], row["layer"]) for row in theirs}
    for expected in theirs:
        row = rows[expected["step"], expected["layer"]]
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            exact = isinstance(value, str) or any(word in name for word in (*COUNTS, "median", "_q", "lr", "step"))
            exact = exact and "mean" not in name
            wanted = value if exact else pytest.approx(value, rel=1e-6, nan_ok=True)
            if isinstance(value, float) and math.isnan(value):
                assert math.isnan(row[name]), name
            else:
                assert row[name] == wanted, (name, expected["layer"], expected["step"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sharded_numbers_are_those_of_one_process(name: str, tmp_path: Path):
    (first, bits, hooks), (second, _, _) = in_processes(in_fsdp, tmp_path / "on", name, 2, True)
    (none, plain, _), _ = in_processes(in_fsdp, tmp_path / "off", name, 2, False)
    same(first, alone(name, 2))
    assert second == none == []  # rank 0 writes
    assert bits == plain  # and nothing is disturbed
    assert hooks == 0
