"""Rules as one compiled pass over all CPU tensors: every element of theta, g and state is read and written once.

The rule's graph is the one that the simulation engine compiles. What depends on hyper-parameters and step scalars alone
is computed on the host in float64, as the eager backend does, and rounded to the tensors' format once. A step is one
parallel region, however many tensors there are. Addresses are read anew at every step: a state that was loaded, a
weight that was replaced and a gradient that is new are where they are now.
"""

import ctypes
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import machine
from stepscope.graph.expression import prepared
from stepscope.graph.streams import CHUNK, Kernel, counts_width
from stepscope.optim.backends.passes import (
    MEAN_KEPT,
    STORAGE,
    Described,
    Layout,
    looking,
    number_type,
    state_dtype,
    stepping,
    unfit,
)
from stepscope.rules import Rule
from stepscope.rules.statistics import BINS, HISTOGRAMS, SAMPLE_BLOCK, Numbers, period

__all__ = [
    "FORMATS",
    "MEAN_KEPT",
    "Batch",
    "Counted",
    "Layout",
    "Program",
    "are_counters",
    "available",
    "count_up",
    "launch",
    "measuring",
    "named",
    "obstacle",
    "program",
    "state_dtype",
]

available = machine.available

_has_half = cache(machine.has_half)
FORMATS = frozenset(STORAGE)


# --- which tensors ----------------------------------------------------------------------------------------------------


def obstacle(theta: Tensor, g: Tensor, state: Iterable[Any]) -> str | None:
    """Why these CPU tensors cannot be stepped by a kernel, or None."""
    if not available():
        return "llvmlite cannot be loaded"
    if theta.dtype is torch.float16 and not _has_half():
        return "float16 on a processor that cannot convert it"
    return unfit(theta, g, state)


# --- programs ---------------------------------------------------------------------------------------------------------


def _where(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


# Host numbers are Python floats: the same arithmetic as in the eager backend.
_HOST: Any = SimpleNamespace(sqrt=lambda x: x**0.5, abs=abs, where=_where, min=min, max=max)


class Program:
    """A kernel, the terms it sums up, in order, and the dtype of the numbers that all elements share."""

    def __init__(self, kernel: Any, terms: tuple[str, ...], dtype: Any) -> None:
        """kernel: of any backend; its `host` are the graphs of these numbers."""
        self.kernel, self.terms, self.dtype = kernel, terms, dtype
        self._numbers = prepared(kernel.host, _HOST)

    def shared(self, inputs: Mapping[str, float]) -> NDArray[Any]:
        """The numbers that all elements share, from hyper.*, scalars.* and number.* by name."""
        return np.array([float(v) for v in self._numbers(inputs)] or [0.0], self.dtype)


def _compiled(what: Described) -> Program:
    kernel = Kernel(what.precision, what.streams, what.graphs, BINS)
    return Program(kernel, what.terms, number_type(what.precision))


@cache
def program(rule: Rule, dtype: torch.dtype, averaged: bool, measured: Layout | None) -> Program:
    """The kernel of a rule in a dtype, as in `passes.stepping`."""
    return _compiled(stepping(rule, dtype, averaged, measured))


@cache
def measuring(storage: torch.dtype, averages: torch.dtype, raw: bool) -> Program:
    """The kernel that measures a step that is over, as in `passes.looking`."""
    return _compiled(looking(storage, averages, raw))


def named(numbers: Numbers) -> dict[str, float]:
    """The statistics' numbers as `Program.shared` takes them."""
    return {f"number.{name}": value for name, value in numbers._asdict().items()}


# --- batches ----------------------------------------------------------------------------------------------------------


class Batch:
    """Tensors that one program steps together: streams[s][i] is stream s of tensor i, the first ones theta and g.

    All are known to have no `obstacle`. Tensors of no elements are not in a batch.
    """

    chunk = CHUNK

    def __init__(self, streams: Sequence[Sequence[Tensor]]) -> None:
        self.sizes = [p.numel() * (2 if p.is_complex() else 1) for p in streams[0]]
        self.elements = sum(self.sizes)
        self.table = np.empty((len(self.sizes), 1 + len(streams)), np.int64)
        for s, column in enumerate(streams):
            self.table[:, 1 + s] = list(map(Tensor.data_ptr, column))
        self.chunks, self.starts = chunked(self.sizes, self.chunk)
        self._results: tuple[NDArray[np.float64], NDArray[np.int32]] | None = None

    def move_gradients(self, addresses: Sequence[int]) -> None:
        """The gradients lie here now, all else is as it was."""
        self.table[:, 2] = addresses

    def results(self, terms: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Memory for what the chunks add up, the same at each step: fresh pages would cost more than the sums."""
        if self._results is None or self._results[0].shape[1] != terms:
            shape = (len(self.chunks), len(HISTOGRAMS), counts_width(BINS)) if terms else (0, 0, 0)
            self._results = np.empty((len(self.chunks), terms)), np.empty(shape, np.int32)
        return self._results


def chunked(sizes: Sequence[int], chunk: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of chunks that cover the tensors, all of at least one element, and each tensor's first row."""
    size = np.array(sizes, np.int64)
    numbers = -(-size // chunk)
    starts = np.cumsum(numbers) - numbers
    owner = np.repeat(np.arange(len(sizes)), numbers)
    first = (np.arange(len(owner)) - starts[owner]) * chunk
    last = np.minimum(first + chunk, size[owner])
    periods = np.array([period(n) for n in sizes], np.int64)[owner]
    return np.ascontiguousarray(np.stack([owner, first, last, periods, first // SAMPLE_BLOCK], 1)), starts


class Counted(NamedTuple):
    """What a launch measured: sums[tensor, term] in the program's order, counts[tensor, histogram, bin].

    The next launch over the same batch may write to the same memory.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int32]


_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def launch(program: Program, batch: Batch, numbers: Sequence[NDArray[Any]]) -> Counted | None:
    """Run the program over the batch; numbers: the `shared` ones of each tensor."""
    table, chunks = batch.table, batch.chunks
    table[:, 0] = _addresses(numbers)
    counter = ctypes.c_int64(0)
    sums, counts = batch.results(len(program.terms))
    addresses = [x.ctypes.data for x in (sums, counts)] if program.terms else [0, 0]
    arguments = (
        table.ctypes.data,
        table.shape[1],
        chunks.ctypes.data,
        len(chunks),
        ctypes.addressof(counter),
        *addresses,
    )
    threads = min(torch.get_num_threads(), len(chunks), 1 + batch.elements // (CHUNK // 2))
    if threads <= 1:
        program.kernel.run(*arguments)
    else:
        helpers = _pools.setdefault(threads, ThreadPoolExecutor(threads, thread_name_prefix="stepscope"))
        futures = [helpers.submit(program.kernel.run, *arguments) for _ in range(threads - 1)]
        program.kernel.run(*arguments)
        for future in futures:
            if not future.cancel():  # one that has not begun has nothing left to do
                future.result()
    if not program.terms:
        return None
    if len(batch.starts) < len(chunks):
        sums = np.add.reduceat(sums, batch.starts, axis=0)
        counts = np.add.reduceat(counts, batch.starts, axis=0)
    return Counted(sums, counts[:, :, :BINS])


def _addresses(numbers: Sequence[NDArray[Any]]) -> list[int] | int:
    if all(map(operator.is_, numbers, numbers[1:])):
        return int(numbers[0].ctypes.data)
    return [array.ctypes.data for array in numbers]


# --- counters of steps ------------------------------------------------------------------------------------------------

_COUNT = """
define void @count(ptr %addresses, ptr %reached, i64 %number) {
entry:
  %any = icmp ugt i64 %number, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %from = getelementptr ptr, ptr %addresses, i64 %i
  %p = load ptr, ptr %from, align 8
  %t = load float, ptr %p, align 4
  %u = fadd float %t, 1.0
  store float %u, ptr %p, align 4
  %to = getelementptr i64, ptr %reached, i64 %i
  %whole = fptosi float %u to i64
  store i64 %whole, ptr %to, align 8
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %number
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@cache
def _counter() -> tuple[Any, Callable[..., None]]:
    engine, address = machine.code(_COUNT, "count")
    return engine, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)


def are_counters(steps: Sequence[Tensor]) -> bool:
    """Whether these are the float32 CPU tensors that `count_up` can count up together."""
    return available() and all(type(t) is Tensor and t.is_cpu and t.dtype is torch.float32 for t in steps)


def count_up(addresses: NDArray[np.int64]) -> list[int]:
    """Add 1 to every counter, in place.  Returns what they have reached."""
    reached = np.empty(len(addresses), np.int64)
    _counter()[1](addresses.ctypes.data, reached.ctypes.data, len(addresses))
    return reached.tolist()
