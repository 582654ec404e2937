"""Rules as one compiled pass over all CPU tensors: every element of theta, g and state is read and written once.

The rule's graph is the one that the simulation engine compiles. What depends on hyper-parameters and step scalars alone
is computed on the host in float64, as the eager backend does, and rounded to the tensors' format once. A step is one
parallel region, however many tensors there are. Addresses are read anew at every step: a state that was loaded, a
weight that was replaced and a gradient that is new are where they are now.
"""
# Long because which tensors fit, what their programs are and how these are launched is one contract with `dispatch`.

import ctypes
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import machine
from stepscope.graph.expression import SYMBOLS, as_symbol, prepared, symbol, trace
from stepscope.graph.streams import CHUNK, Kernel, Measured, Stream
from stepscope.optim.backends import team
from stepscope.rules import Rule
from stepscope.rules.averages import welford
from stepscope.rules.statistics import (
    EVERYWHERE,
    NONE,
    SAMPLE_BLOCK,
    Numbers,
    Selection,
    Step,
    bins_of,
    period,
    statistics,
)

__all__ = [
    "FORMATS",
    "Batch",
    "Counted",
    "Frame",
    "Layout",
    "Program",
    "are_counters",
    "available",
    "count_up",
    "launch",
    "lets_go",
    "measuring",
    "named",
    "obstacle",
    "program",
    "state_dtype",
    "unfit",
    "unusable",
]

available = machine.available

_STORAGE = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "float32",
    torch.complex128: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_has_half = cache(machine.has_half)
FORMATS = frozenset(_STORAGE)
_PLAIN = (Tensor, torch.nn.Parameter)
_BRIEF = 1 << 21  # elements; a step of no more is over before Python would let another thread have its turn
MEAN_KEPT = "kept.m", "kept.S"  # streams of averages that are kept beside a rule


# --- which tensors ----------------------------------------------------------------------------------------------------


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state of a parameter of this dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def obstacle(theta: Tensor, g: Tensor, state: Iterable[Any]) -> str | None:
    """Why these CPU tensors cannot be stepped by a kernel, or None."""
    if reason := unusable(theta.device):
        return reason
    if theta.dtype is torch.float16 and not _has_half():
        return "float16 on a processor that cannot convert it"
    return unfit(theta, g, state)


def unusable(device: torch.device) -> str | None:
    """Why nothing can be compiled for this device, or None."""
    return None if available() else "llvmlite cannot be loaded"


def unfit(theta: Tensor, g: Tensor, state: Iterable[Any]) -> str | None:
    """Why no kernel steps these tensors, or None: plain, dense, on one device, laid out alike."""
    if theta.dtype not in _STORAGE:
        return f"dtype {theta.dtype}"
    tensors = (theta, g, *state)
    for test, name in _UNFIT.items():
        if any(map(test, tensors)):
            return name
    if any(t.device != theta.device for t in tensors):
        return "tensors on other devices"
    wide = state_dtype(theta.dtype)
    alike = g.dtype == theta.dtype and all(t.dtype == wide for t in tensors[2:])
    if not alike or any(t.shape != theta.shape for t in tensors):
        return "a gradient or state of another shape or dtype"
    if all(map(Tensor.is_contiguous, tensors)):
        return None
    alike = _is_dense(theta.shape, theta.stride()) and all(t.stride() == theta.stride() for t in tensors)
    return None if alike else "strided tensors"


_UNFIT: Mapping[Callable[[Any], bool], str] = {
    lambda t: type(t) not in _PLAIN: "tensors of other classes",
    lambda t: t.layout is not torch.strided: "tensors that are not dense",
    lambda t: t.is_neg() or t.is_conj(): "lazily negated or conjugated tensors",
}


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill a piece of memory, each its own place: any order of dimensions, no gaps."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


# --- programs ---------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """The streams of the two averages; raw: of g and g^2 from 0 on, else a bias-corrected mean and v - m^2."""

    mean: str
    second: str
    raw: bool


def _where(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


# Host numbers are Python floats: the same arithmetic as in the eager backend.
_HOST: Any = SimpleNamespace(sqrt=lambda x: x**0.5, abs=abs, where=_where, min=min, max=max)


_NOTHING = Selection((), ())


class Program:
    """A kernel, what it sums up and counts, and the dtype of the numbers that all elements share.

    starts: where each histogram begins in the counts, and where the last one ends.
    """

    def __init__(self, kernel: Any, dtype: Any, chosen: Selection = _NOTHING) -> None:
        """kernel: of any backend; its `host` are the graphs of these numbers."""
        self.kernel, self.chosen, self.dtype = kernel, chosen, dtype
        self.measures, self.starts = bool(chosen.terms), kernel.starts
        self._numbers = prepared(kernel.host, _HOST)

    @cached_property
    def call(self) -> team.Call:
        """The kernel's function, where it is one for processors."""
        return team.Call(self.kernel.address)

    def shared(self, inputs: Mapping[str, float]) -> NDArray[Any]:
        """The numbers that all elements share, from hyper.*, scalars.* and number.* by name."""
        return np.array([float(v) for v in self._numbers(inputs)] or [0.0], self.dtype)


_NUMBER = {"float32": np.float32, "float64": np.float64}


def _program(
    kernel: Any, wide: str, streams: Sequence[Stream], step: Step, raw: bool, chosen: Selection, decays: bool = True
) -> Program:
    """A program that measures this step.  decays: there may be weight decay in it."""
    numbers = Numbers(*(symbol(f"number.{name}") for name in Numbers._fields))
    if not decays:
        numbers = numbers._replace(decay=NONE, coupled=NONE)
    careful = statistics(SYMBOLS, step, numbers, raw=raw, inside=symbol("inside"), chosen=chosen)
    trusting = statistics(SYMBOLS, step, numbers, raw=raw, trusting=True, chosen=chosen)
    graphs = [[as_symbol(x) for part in found[:2] for x in part.values()] for found in (careful, trusting)]
    count = len(chosen.terms)
    measured = Measured(EVERYWHERE, graphs[0][:count], graphs[0][count:], careful.gaps, graphs[1])
    return Program(kernel(wide, streams, measured, list(map(bins_of, chosen.histograms))), _NUMBER[wide], chosen)


@cache
def program(
    rule: Rule,
    dtype: torch.dtype,
    averaged: bool,
    measured: Layout | None,
    chosen: Selection | None = None,
    kernel: Any = Kernel,
) -> Program:
    """The kernel of a rule in a dtype; `kernel` makes it.

    averaged: streams MEAN_KEPT hold averages of g that are kept beside the rule.
    measured: the streams of the two averages from which the chosen sums are measured; None measures nothing.
    """
    storage = _STORAGE[dtype]
    wide = "float64" if storage == "float64" else "float32"
    g = symbol("g")
    traced = trace(rule)
    streams = [Stream("theta", storage, traced.theta), Stream("g", storage)]
    streams += [Stream(f"state.{name}", wide, root) for name, root in traced.state.items()]
    if averaged:
        kept = welford(SYMBOLS, g, symbol(MEAN_KEPT[0]), symbol(MEAN_KEPT[1]), symbol("number.weight"))
        streams += [Stream(name, wide, root) for name, root in zip(MEAN_KEPT, kept, strict=True)]
    if measured is None or chosen is None:
        return Program(kernel(wide, streams), _NUMBER[wide])
    mean, second = symbol(f"new.{measured.mean}"), symbol(f"new.{measured.second}")
    step = Step(g, mean, second, symbol("theta"), symbol("new.theta"))
    decays = any(h.name == "weight_decay" for h in rule.hyper)
    return _program(kernel, wide, streams, step, measured.raw, chosen, decays)


@cache
def measuring(
    storage: torch.dtype, averages: torch.dtype, raw: bool, chosen: Selection, kernel: Any = Kernel
) -> Program:
    """The kernel that measures a step that is over: streams g, mean, second, before, after.

    storage: dtype of the gradient and the weights.  averages: of the two averages.
    """
    stored, kept = _STORAGE[storage], _STORAGE[averages]
    wide = "float64" if "float64" in (stored, kept) else "float32"
    streams = [Stream(name, kept if name in ("mean", "second") else stored) for name in Step._fields]
    return _program(kernel, wide, streams, Step(*map(symbol, Step._fields)), raw, chosen)


def named(numbers: Numbers) -> dict[str, float]:
    """The statistics' numbers as `Program.shared` takes them."""
    return {f"number.{name}": value for name, value in numbers._asdict().items()}


# --- batches ----------------------------------------------------------------------------------------------------------


class Frame:
    """Where tensors of these sizes are cut, room for the addresses of so many streams of each, and for the results."""

    chunk = CHUNK

    def __init__(self, sizes: Sequence[int], streams: int, extents: Sequence[tuple[int, int]] | None = None) -> None:
        """extents: first number and size of the whole of what each tensor is a part of; else it is the whole."""
        self.sizes = sizes
        self.elements = sum(sizes)
        self.table = np.empty((len(sizes), 1 + streams), np.int64)
        self.chunks, self.starts = chunked(sizes, extents or [(0, n) for n in sizes], self.chunk)
        self._results: tuple[NDArray[np.float64], NDArray[np.uint16]] | None = None

    def results(self, program: Program) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
        """Memory for what the chunks add up, the same at each step: fresh pages would cost more than the sums."""
        widths = len(program.chosen.terms), program.starts[-1]
        if self._results is None or tuple(x.shape[1] for x in self._results) != widths:
            rows = len(self.chunks)
            self._results = np.empty((rows, widths[0])), np.empty((rows, widths[1]), np.uint16)
        return self._results


class Batch(Frame):
    """Tensors that one program steps together: streams[s][i] is stream s of tensor i, the first ones theta and g.

    All are known to have no `obstacle`. Tensors of no elements are not in a batch.
    """

    def __init__(self, streams: Sequence[Sequence[Tensor]], extents: Sequence[tuple[int, int]] | None = None) -> None:
        """extents: as in `Frame`."""
        super().__init__([p.numel() * (2 if p.is_complex() else 1) for p in streams[0]], len(streams), extents)
        for s, column in enumerate(streams):
            self.table[:, 1 + s] = list(map(Tensor.data_ptr, column))

    def move_gradients(self, addresses: NDArray[np.int64]) -> None:
        """The gradients lie here now, all else is as it was."""
        self.table[:, 2] = addresses


def chunked(
    sizes: Sequence[int], extents: Sequence[tuple[int, int]], chunk: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of chunks that cover the tensors, all of at least one element, and each tensor's first row.

    extents: see `Frame`. Blocks are those of the whole tensor, so the first chunk ends where one of them does.
    """
    size, start = np.array(sizes, np.int64), np.array([start for start, _ in extents], np.int64)
    head = np.where(start % SAMPLE_BLOCK > 0, np.minimum(-start % SAMPLE_BLOCK, size), 0)
    numbers = (head > 0) + -(-(size - head) // chunk)
    starts = np.cumsum(numbers) - numbers
    owner = np.repeat(np.arange(len(sizes)), numbers)
    place = np.arange(len(owner)) - starts[owner]  # within its tensor
    heads, headed = head[owner], head[owner] > 0
    first = np.where(headed & (place == 0), 0, heads + (place - headed) * chunk)
    last = np.where(headed & (place == 0), heads, np.minimum(first + chunk, size[owner]))
    periods = np.array([period(whole) for _, whole in extents], np.int64)[owner]
    return np.ascontiguousarray(
        np.stack([owner, first, last, periods, (start[owner] + first) // SAMPLE_BLOCK], 1)
    ), starts


class Counted(NamedTuple):
    """What a launch measured: sums[tensor, term] in the program's order, and counts[tensor, ...] of all its histograms,
    each from its place in the program's `starts` on.

    The next launch over the same batch may write to the same memory.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int32] | NDArray[np.uint16]


def lets_go(batch: Frame) -> bool:
    """Whether a launch over the batch lets go of Python's lock, so that other threads go on meanwhile."""
    return batch.elements > _BRIEF or not team.at_hand()


def launch(program: Program, batch: Frame, numbers: Sequence[NDArray[Any]]) -> Counted | None:
    """Run the program over the batch; numbers: the `shared` ones of each tensor.

    Whoever calls sees to it that the memory stays if the launch `lets_go`.
    """
    table, chunks = batch.table, batch.chunks
    table[:, 0] = _addresses(numbers)
    counter = ctypes.c_int64(0)
    sums, counts = batch.results(program)
    addresses = [x.ctypes.data for x in (sums, counts)] if program.measures else [0, 0]
    fields = table.ctypes.data, table.shape[1], chunks.ctypes.data, len(chunks), ctypes.addressof(counter), *addresses
    arguments = (ctypes.c_int64 * len(fields))(*fields)
    threads = min(torch.get_num_threads(), len(chunks), 1 + batch.elements // (CHUNK // 2))
    program.call(arguments, threads, letting_go=lets_go(batch))
    if not program.measures:
        return None
    if len(batch.starts) == len(chunks):
        return Counted(sums, counts)
    return Counted(np.add.reduceat(sums, batch.starts, axis=0), _gathered(counts, chunks, len(batch.starts)))


def _addresses(numbers: Sequence[NDArray[Any]]) -> list[int] | int:
    if all(map(operator.is_, numbers, numbers[1:])):
        return int(numbers[0].ctypes.data)
    return [array.ctypes.data for array in numbers]


# --- small loops over addresses ---------------------------------------------------------------------------------------

_LOOPS = """
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

define void @gather(ptr %rows, ptr %owners, i64 %number, i64 %width, ptr %totals) {
entry:
  br label %row
row:
  %r = phi i64 [ 0, %entry ], [ %rnext, %over ]
  %live = icmp ult i64 %r, %number
  br i1 %live, label %begin, label %done
begin:
  %whose = getelementptr i64, ptr %owners, i64 %r
  %owner = load i64, ptr %whose, align 8
  %fromrow = mul i64 %r, %width
  %torow = mul i64 %owner, %width
  %from = getelementptr i16, ptr %rows, i64 %fromrow
  %to = getelementptr i32, ptr %totals, i64 %torow
  br label %part
part:
  %j = phi i64 [ 0, %begin ], [ %jnext, %part ]
  %a = getelementptr i16, ptr %from, i64 %j
  %b = getelementptr i32, ptr %to, i64 %j
  %short = load <16 x i16>, ptr %a, align 2
  %x = zext <16 x i16> %short to <16 x i32>
  %y = load <16 x i32>, ptr %b, align 4
  %z = add <16 x i32> %x, %y
  store <16 x i32> %z, ptr %b, align 4
  %jnext = add i64 %j, 16
  %more = icmp ult i64 %jnext, %width
  br i1 %more, label %part, label %over
over:
  %rnext = add i64 %r, 1
  br label %row
done:
  ret void
}
"""


@cache
def _loop(name: str) -> Callable[..., None]:
    engine, address = machine.code(_LOOPS, name)
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    types = {"count": (pointer, pointer, whole), "gather": (pointer, pointer, whole, whole, pointer)}[name]
    run = ctypes.CFUNCTYPE(None, *types)(address)
    run.engine = engine  # type: ignore[attr-defined]  # which owns the code
    return run


def _gathered(counts: NDArray[np.uint16], chunks: NDArray[np.int64], tensors: int) -> NDArray[np.int32]:
    """Counts of chunks added up to those of their tensors. (NumPy's reduceat takes fifty times as long.)"""
    totals = np.zeros((tensors, counts.shape[1]), np.int32)
    if not totals.size:
        return totals
    owners = np.ascontiguousarray(chunks[:, 0])
    _loop("gather")(counts.ctypes.data, owners.ctypes.data, len(counts), counts.shape[1], totals.ctypes.data)
    return totals


def are_counters(steps: Sequence[Tensor]) -> bool:
    """Whether these are the float32 CPU tensors that `count_up` can count up together."""
    return available() and all(type(t) is Tensor and t.is_cpu and t.dtype is torch.float32 for t in steps)


def count_up(addresses: NDArray[np.int64]) -> list[int]:
    """Add 1 to every counter, in place.  Returns what they have reached."""
    reached = np.empty(len(addresses), np.int64)
    _loop("count")(addresses.ctypes.data, reached.ctypes.data, len(addresses))
    return reached.tolist()
