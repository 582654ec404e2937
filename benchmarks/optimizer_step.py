"""One optimizer step against torch's own classes, other libraries' and what memory allows. float32, all cores.

floor: the seven memory streams of Adam and M-SVAG (read theta, g and two states, write theta and the states) with one
multiply-add each, by the same kernel machinery. Rows with a dissection reduce every statistic of the scope each step.
share: bytes that must move a second, as a share of the best rate that any row of the 25 million reaches.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._timing import side_by_side
from stepscope import optim
from stepscope.optim.backends import cpu
from stepscope.optim.sums import Request
from stepscope.rules import Rule

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

BYTES = {  # a float32 parameter's: g and theta are read, theta written, each state read and written
    "SGD": 12, "SSD": 12, "MSGD": 20, "MSSD": 20, "RMSProp": 20, "AdaGrad": 20, "SVAG": 28, "MSVAG": 28, "Adam": 28,
}  # fmt: skip


def resnet50() -> Iterator[tuple[int, ...]]:
    """Shapes of ResNet-50's 161 tensors, 25.6 million in all."""
    yield from [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for blocks, middle in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            yield from [(middle, width, 1, 1), (middle,), (middle,), (middle, middle, 3, 3), (middle,), (middle,)]
            yield from [(4 * middle, middle, 1, 1), (4 * middle,), (4 * middle,)]
            if block == 0:
                yield from [(4 * middle, width, 1, 1), (4 * middle,), (4 * middle,)]
            width = 4 * middle
    yield from [(1000, width), (1000,)]


def gpt2() -> Iterator[tuple[int, ...]]:
    """Shapes of GPT-2 small's 148 tensors, 124 million in all."""
    d = 768
    yield from [(50257, d), (1024, d)]
    for _ in range(12):
        yield from [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    yield from [(d,), (d,)]


LISTS: dict[str, tuple[list[tuple[int, ...]], int]] = {  # shapes, rounds
    "25 million in one tensor": ([(25_000_000,)], 15),
    "ResNet-50, 161 tensors": (list(resnet50()), 15),
    "1000 tensors of 1000": ([(1000,)] * 1000, 60),
    "GPT-2 small, 148 tensors": (list(gpt2()), 7),
}


def _floor_update(k: Any, g: Any, theta: Any, state: Any, hyper: Any, scalars: Any) -> Any:
    a, b = (k.fma(1e-3, g, state[name]) for name in ("a", "b"))
    return k.fma(1e-3, g, theta), {"a": a, "b": b}


FLOOR = Rule("floor", "", (), ("a", "b"), {}, _floor_update, lambda *_: None)  # type: ignore[arg-type]


def floor(parameters: Sequence[nn.Parameter]) -> Callable[[], object]:
    """The seven streams, with nothing to look at and little to compute."""
    grads = [p.grad for p in parameters]
    assert all(g is not None for g in grads)
    states = [[torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2)]
    streams: list[Any] = [[p.detach() for p in parameters], grads, *states]
    program = cpu.program(FLOOR, torch.float32, False, None)
    batch, numbers = cpu.Batch(streams), [np.zeros(1, np.float32)] * len(grads)
    return lambda: (cpu.launch(program, batch, numbers), streams)[0]


def dissected(make: Make) -> Callable[[list[nn.Parameter]], Callable[[], object]]:
    """A step that measures itself."""

    def stepper(parameters: list[nn.Parameter]) -> Callable[[], object]:
        optimizer = make(parameters)
        averages: dict[Tensor, Any] = {}

        def step() -> None:
            optimizer.request_sums(Request(measure=True, averages=averages))  # type: ignore[attr-defined]
            optimizer.step()

        return step

    return stepper


def plain(make: Make) -> Callable[[list[nn.Parameter]], Callable[[], object]]:
    """A step."""
    return lambda parameters: make(parameters).step


def peers() -> dict[str, Make]:
    """Other people's optimizers, as far as they are installed."""
    found: dict[str, Make] = {
        "torch.optim.Adam(foreach)": lambda p: torch.optim.Adam(p, foreach=True),
        "torch.optim.Adam(single)": lambda p: torch.optim.Adam(p, foreach=False),
    }
    try:
        import pytorch_optimizer
    except ImportError:
        return found
    return found | {
        "pytorch_optimizer.MSVAG": pytorch_optimizer.MSVAG,
        "pytorch_optimizer.AdamW": pytorch_optimizer.AdamW,
    }


REFERENCE = "torch.optim.Adam(fused)"


def measure() -> list[dict[str, Any]]:
    """A row for each list and way to step it."""
    torch.set_num_threads(os.cpu_count() or 1)
    rows: list[dict[str, Any]] = []
    for label, (shapes, rounds) in LISTS.items():
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        few = sum(map(math.prod, shapes)) > 50_000_000  # where state for all of them takes too much memory
        ways: dict[str, Callable[[list[nn.Parameter]], Callable[[], object]]] = {
            REFERENCE: plain(lambda p: torch.optim.Adam(p, fused=True)),
            "floor": floor,
        }
        for name in ("Adam", "MSVAG", "SVAG"):
            ways[f"stepscope {name}"] = plain(getattr(optim, name))
            if not (few and name == "SVAG"):
                ways[f"stepscope {name}, dissected"] = dissected(getattr(optim, name))
        for name in () if few else ("SGD", "SSD", "MSGD", "MSSD", "RMSProp", "AdaGrad"):
            ways[f"stepscope {name}"] = plain(getattr(optim, name))
        if not few:
            ways |= {name: plain(make) for name, make in peers().items()}
        steps = {name: way(parameters) for name, way in ways.items()}
        found = side_by_side(steps, REFERENCE, rounds=rounds)
        rows += [_row(row, label, sum(map(math.prod, shapes))) for row in found]
    best = max(row["bytes a second"] for row in rows if row["list"] == next(iter(LISTS)))
    for row in rows:
        row["share"] = row["bytes a second"] / best
    return rows


def _row(row: dict[str, Any], label: str, elements: int) -> dict[str, Any]:
    method = row["what"].removeprefix("stepscope ").removesuffix(", dissected")
    moved = BYTES.get(method, 28) * elements
    return row | {"what": f"{label}: {row['what']}", "list": label, "bytes a second": moved / row["seconds"]}
