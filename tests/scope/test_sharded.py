"""Sharded parameters in two processes that talk over gloo, against the same training in one."""

import contextlib
import datetime
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from tests.distributed import in_processes
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
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


def in_fsdp(rank: int, name: str, watched: bool, **options: Any) -> tuple[list[dict[str, Any]], list[bytes], int]:
    """Rows, the bits of the weights, and the hooks that are left."""
    model = net()
    fully_shard(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    scope = Scope(optimizer, model, instruments="all", **options)
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
    with Scope(optimizer, model, instruments="all", every=every) as scope:
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


# Columns that are counts over counts, or quantiles, which come from counts; what differs is a count that differs.
COUNTS = re.compile(r"lr|step|.*_(q10|median|q90|share|flips|agreement|period)|.*_per_lr|.*\[.*\]")
NO_COUNTS = ("update_abs_mean_per_lr", "update_abs_mean_per_lr_without_decay", "update_norm")


def same(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """To 1e-6: sums of float32 terms in another order. Counts are the same ones."""
    rows = {(row["step"], row["layer"]): row for row in ours}
    assert rows.keys() == {(row["step"], row["layer"]) for row in theirs}
    for expected in theirs:
        row = rows[expected["step"], expected["layer"]]
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, str):
                continue
            exact = COUNTS.fullmatch(name) and name not in NO_COUNTS
            wanted = pytest.approx(value, rel=0 if exact else 1e-6, abs=0, nan_ok=True)
            assert row[name] == wanted, (name, expected["layer"], expected["step"])


# --- in two processes -------------------------------------------------------------------------------------------------


def calls() -> list[int]:
    """Sizes of the all-reduces from now on."""
    sizes: list[int] = []
    inner = torch.distributed.all_reduce

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.numel())
        return inner(tensor, *args, **kwargs)

    torch.distributed.all_reduce = counting
    return sizes


def norms(model: nn.Module) -> list[float]:
    return [float(p.grad.full_tensor().double().norm()) for p in model.parameters()]


def accumulated(rank: int) -> tuple[list[dict[str, Any]], list[list[float]], list[int]]:
    """Two micro-batches a step, gradients summed over processes at the second one only."""
    model = net()
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sizes, expected = calls(), []
    with Scope(optimizer, model, every=2) as scope:
        for t in range(3):
            optimizer.zero_grad()
            for i in range(2):
                model.set_requires_gradient_sync(i == 1)
                x = torch.randn(2, 12, generator=torch.Generator().manual_seed(4 * t + 2 * i + rank))
                (model(x).square().mean() / 2).backward()
            optimizer.step()
            expected.append(norms(model))
    return scope.rows, expected, sizes


def clipped_and_scaled(rank: int) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Loss scaling that the fused kernel undoes, an overflow at the second step; clipping without scaling."""
    model = net()
    fully_shard(model)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(rank))
    model(x).square().mean().backward()
    expected = [norms(model)]  # of step 1, without any scaling
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with Scope(optimizer, model) as scope:
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(factor * model(x).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.125)
        optimizer.step()
    return scope.rows, [*expected, norms(model)]


def one_fails(rank: int) -> tuple[list[int], list[str]]:
    """The second process cannot measure the second step: nobody waits, and nobody takes a part for the whole."""
    model = net()
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caught() as messages, Scope(optimizer, model, alarms=False) as scope:
        for t in (1, 2, 3):
            if rank == 1 and t == 2:
                scope._observers[0]._shadow.update = lambda _: 1 / 0
            train(model, optimizer, slice(4), steps=1)
            if rank == 1 and t == 2:
                del scope._observers[0]._shadow.update
    return sorted({row["step"] for row in scope.rows if row["layer"]}), messages


def one_is_absent(rank: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Attached in the first process only, or with another schedule: said, and nobody waits for long."""
    sharded.PATIENCE = datetime.timedelta(seconds=0.5)
    model, whole = net(), nn.Parameter(torch.ones(3))
    fully_shard(model)
    optimizer = torch.optim.SGD([*model.parameters(), whole], lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        (model(torch.ones(2, 12)).mean() + whole.sum()).backward()
        optimizer.step()

    with caught() as messages:
        scope = Scope(optimizer, model)
        if rank == 0:
            with scope:
                step()
        else:
            step()
            next(sharded._met)
        sharded.PATIENCE = datetime.timedelta(seconds=20)
        with Scope(optimizer, model, every=1 + rank):
            step()
    return scope.rows, messages


def one_leaves(rank: int) -> tuple[list[int], list[int], list[str]]:
    """The second process detaches after two of five steps: steps of sharded and of whole parameters, and messages."""
    model, whole = net(), nn.Parameter(torch.ones(3))
    fully_shard(model)
    optimizer = torch.optim.SGD([*model.parameters(), whole], lr=0.1)
    with caught() as messages, Scope(optimizer, model, alarms=False) as scope:
        for t in range(5):
            if rank == 1 and t == 2:
                scope.detach()
            optimizer.zero_grad()
            (model(torch.ones(2, 12)).mean() + whole.sum()).backward()
            optimizer.step()
    steps = {name: [row["step"] for row in scope.rows if row["layer"] == name] for name in ("scale", "parameter.9")}
    return steps["scale"], steps["parameter.9"], messages


@contextlib.contextmanager
def caught() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("stepscope").addHandler(handler)
    yield messages
    logging.getLogger("stepscope").removeHandler(handler)


def in_ddp(rank: int) -> tuple[list[dict[str, Any]], list[float], int, list[dict[str, Any]]]:
    """The gradient in force is the mean over processes; the second one writes and measures nothing unless told to."""
    model = nn.parallel.DistributedDataParallel(net())
    optimizer = OPTIMIZERS["torch-sgd"](model.parameters())
    other = OPTIMIZERS["torch-sgd"](nn.Linear(2, 2).parameters())
    with (
        Scope(optimizer, model, instruments="all", every=2) as scope,
        Scope(other, writes=True) as own,
    ):
        train(model, optimizer, slice(4 * rank, 4 * rank + 4))
        scope.note(loss=1.0)
        kept = len(scope._observers[0]._shadow.averages())
        other.step()
    return scope.rows, [float(p.grad.norm()) for p in model.parameters()], kept, own.rows


def scenarios(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {"ddp": in_ddp(rank)}
    for name in OPTIMIZERS:
        found[name] = in_fsdp(rank, name, True, every=2), in_fsdp(rank, name, False)
    found["scaled"] = clipped_and_scaled(rank)
    found["fails"] = one_fails(rank)
    found["leaves"] = one_leaves(rank)
    found["absent"] = one_is_absent(rank)
    found["accumulated"] = accumulated(rank)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = in_processes(scenarios, tmp_path_factory.mktemp("two"))
    return first, second


Two = tuple[dict[str, Any], dict[str, Any]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sharded_numbers_are_those_of_one_process(name: str, two: Two):
    ((rows, bits, hooks), (_, plain, _)), ((none, _, _), _) = two[0][name], two[1][name]
    same(rows, alone(name, 2))
    assert none == []  # rank 0 writes
    assert bits == plain  # and nothing is disturbed
    assert hooks == 0


def recorded(rows: Sequence[dict[str, Any]], step: int) -> list[float]:
    return [row["grad_norm"] for row in rows if row["step"] == step and row["layer"]]


def test_accumulated_gradients_are_seen_once_and_a_recorded_step_costs_one_all_reduce(two: Two):
    (rows, expected, sizes), (none, _, other) = two[0]["accumulated"], two[1]["accumulated"]
    for t in (1, 2):
        assert recorded(rows, t) == pytest.approx(expected[t - 1], rel=1e-6)
    assert none == []
    assert len(sizes) == len(other) == 2  # steps 1 and 2


def test_scaled_gradients_are_seen_unscaled_and_clipped_ones_clipped(two: Two):
    rows, (first, last) = two[0]["scaled"]
    assert {row["step"] for row in rows if row["layer"]} == {1, 3, 4}
    assert [row["step"] for row in rows if row.get("skipped")] == [2]
    assert recorded(rows, 1) == pytest.approx(first, rel=1e-5)  # a scale of 2^8 rounds nothing, the order of sums may
    assert recorded(rows, 4) == pytest.approx(last, rel=1e-6)
    assert math.hypot(*recorded(rows, 4)) == pytest.approx(0.125, rel=1e-4)


def test_a_process_that_fails_is_not_waited_for_and_its_step_is_not_recorded(two: Two):
    (steps, messages), (_, others) = two[0]["fails"], two[1]["fails"]
    assert steps == [1, 3]
    assert len(messages) == len(others) == 1
    assert "PeerFailed" in messages[0]
    assert "ZeroDivisionError" in others[0]


def test_a_scope_in_one_process_only_or_of_another_schedule_measures_what_is_whole(two: Two):
    (rows, messages), (_, others) = two[0]["absent"], two[1]["absent"]
    assert {row["layer"] for row in rows} == {"", "parameter.9"}
    assert [text.split(":")[0] for text in messages] == ["sharded parameters are not measured"] * 2
    assert "not every process of ranks [0, 1] has attached a Scope" in messages[0]
    assert "differ: every=1, beta=0.9, 0 steps seen, columns grad_abs_mean," in messages[1]
    assert "; every=2, beta=0.9, 0 steps seen, columns" in messages[1]
    assert others == [messages[1]]


def test_a_process_that_detaches_is_not_waited_for(two: Two):
    (sharded_steps, whole_steps, messages), (_, _, others) = two[0]["leaves"], two[1]["leaves"]
    assert sharded_steps == [1, 2]
    assert whole_steps == [1, 2, 3, 4, 5]
    assert [text.split(":")[0] for text in messages] == ["sharded parameters are no longer measured"]
    assert others == []


def test_parameters_that_are_flattened_are_refused():
    """The older FullyShardedDataParallel, which cannot be set up without an accelerator."""
    inside = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(inside)
    model = nn.ModuleList([nn.Linear(2, 2), inside])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="fully_shard instead"):
        Scope(optimizer, model).attach()
    assert not optimizer._optimizer_step_pre_hooks


def test_data_parallel_training_is_recorded_once_with_the_gradients_in_force(two: Two):
    (rows, norms, kept, own), (none, others, idle, mine) = two[0]["ddp"], two[1]["ddp"]
    same([row for row in rows if "loss" not in row], alone("torch-sgd", 2))
    assert norms == others
    assert (none, idle, kept) == ([], 0, 9)
    assert own == mine == [{"step": 1, "layer": "", "lr": 0.1}]


# --- in four, on a grid -----------------------------------------------------------------------------------------------


PLACEMENTS = {
    "replicas of shards": (Replicate(), Shard(0)),
    "both": (Shard(0), Shard(1)),
    "rows of rows": (Shard(0), Shard(0)),
    "columns": (Replicate(), Shard(1)),
    "copies": (Replicate(), Replicate()),
    "few rows": (Shard(0), Replicate()),
}
SHAPES = {"few rows": (1, 7), "rows of rows": (7, 9), "both": (5, 300)}


def tensors(name: str) -> list[Tensor]:
    """Weights and three gradients."""
    generator = torch.Generator().manual_seed(len(name))
    return [torch.randn(SHAPES.get(name, (301, 300)), generator=generator) for _ in range(4)]


def on_a_grid(rank: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, 2))
    found: dict[str, Any] = {}
    for make in ("torch-adam", "msgd"):
        params = {name: nn.Parameter(distribute_tensor(tensors(name)[0], mesh, p)) for name, p in PLACEMENTS.items()}
        optimizer = OPTIMIZERS[make](list(params.items()))
        with Scope(optimizer) as scope:
            for t in (1, 2, 3):
                for name, p in params.items():
                    p.grad = distribute_tensor(tensors(name)[t], mesh, p.placements)
                optimizer.step()
        found[make] = scope.rows
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    for name in ("replicas of shards", "rows of rows", "few rows"):
        p = params[name]
        shape, offset = compute_local_shape_and_global_offset(p.shape, mesh, p.placements)
        assert p.to_local().shape == shape
        if p.to_local().numel():
            assert extent(p) == (offset[0] * p.shape[1], p.numel(), False)
    return found


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(on_a_grid, tmp_path_factory.mktemp("four"), world=4)


@pytest.mark.parametrize("make", ["torch-adam", "msgd"])
def test_copies_count_once_and_shards_of_any_dimension_add_up(make: str, four: list[dict[str, Any]]):
    params = {name: nn.Parameter(tensors(name)[0].clone()) for name in PLACEMENTS}
    optimizer = OPTIMIZERS[make](list(params.items()))
    with Scope(optimizer) as scope:
        for t in (1, 2, 3):
            for name, p in params.items():
                p.grad = tensors(name)[t].clone()
            optimizer.step()
    rows = scope.rows
    ours = [row for row in four[0][make] if row["layer"] != "columns"]
    same(ours, [row for row in rows if row["layer"] != "columns"])
    # Columns of a large tensor are sampled by the blocks of each part: as many, but others. What is measured everywhere
    # is the same; a mean over 45,000 of 90,000 numbers of spread 1 is within 4 standard errors of 1/sqrt(45,000).
    for row, expected in zip(
        (row for row in four[0][make] if row["layer"] == "columns"),
        (row for row in rows if row["layer"] == "columns"),
        strict=True,
    ):
        for name in ("grad_norm", "weight_norm", "update_norm", "nonfinite_share"):
            assert row[name] == pytest.approx(expected[name], rel=1e-6)
        assert row["grad_abs_mean"] == pytest.approx(expected["grad_abs_mean"], abs=4 / 45_000**0.5)
    assert all(result[make] == [] for result in four[1:])
