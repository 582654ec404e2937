"""Rules as one Triton launch over all tensors of a GPU: every element of theta, g and state is read and written once.

As in the CPU backend, whose batches these are, what depends on hyper-parameters and step scalars alone is computed on
the host in float64 and rounded once, and addresses are read anew at every step. They and the numbers travel from pinned
memory behind the work that is already queued: nothing waits for the device, and nothing is compiled again because a
number changed. What was measured is fetched when it is first looked at.

Under a CUDA graph (capturable) the numbers are computed on the device. The tables of addresses that a graph has seen
are never changed nor freed, because it reads them whenever it is replayed.
"""

import contextlib
import hashlib
import importlib
import itertools
import linecache
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import triton
from stepscope.graph.expression import evaluate
from stepscope.graph.streams import Measured, Stream
from stepscope.optim.backends import cpu, eager
from stepscope.rules import METHODS, Rule
from stepscope.rules.statistics import Selection

__all__ = [
    "OPTIONS",
    "Batch",
    "Counted",
    "Kernel",
    "available",
    "device_numbers",
    "launch",
    "measuring",
    "obstacle",
    "program",
    "unusable",
]

OPTIONS: Mapping[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
"""Of every launch: no product is fused with a sum, so that every operation rounds as the graph says."""

_OLDEST = 7, 0  # compute capability that Triton supports

# --- which tensors ----------------------------------------------------------------------------------------------------


@cache
def available() -> bool:
    """Whether Triton can be imported."""
    try:
        importlib.import_module("triton")  # a gigabyte, which comes with PyTorch's CUDA builds only
    except ImportError:
        return False
    return True


def obstacle(theta: Tensor, g: Tensor, state: Iterable[Any]) -> str | None:
    """Why these tensors of a GPU cannot be stepped by a kernel, or None."""
    return unusable(theta.device) or cpu.unfit(theta, g, state)


@cache
def unusable(device: torch.device) -> str | None:
    """Why nothing can be compiled for this device, or None: a step of one element is tried."""
    if not available():
        return "Triton cannot be imported"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        return "a GPU that Triton does not support"
    try:
        one = program(METHODS["sgd"], torch.float32, False, None)
        tensors = [[torch.zeros(1, device=device)] for _ in ("theta", "g")]
        launch(one, Batch(tensors), [one.shared({"hyper.lr": 0.1})])
    except Exception as error:  # whatever a compiler, a linker or a driver may raise
        return f"Triton cannot compile here ({type(error).__name__}: {str(error).strip()[:200]})"
    return None


# --- programs ---------------------------------------------------------------------------------------------------------


class Kernel:
    """The compiled functions of a pass, and the graphs of the shared numbers in order."""

    def __init__(
        self, precision: str, streams: Sequence[Stream], measured: Measured | None = None, bins: Sequence[int] = ()
    ) -> None:
        """As of `streams.Kernel`."""
        self.starts = (0, *itertools.accumulate(bins))
        text, self.host = triton.printed(precision, streams, measured, self.starts)
        found = _load(text)
        self.step: Any = found["step"]
        self.combine: Any = found.get("combine")


def _load(text: str) -> dict[str, Any]:
    """The functions of a module of Triton source.

    Triton reads a function's source again, through `inspect`. It finds it in Python's own cache of source lines, as
    doctest's and the interactive shell's is found: without a file there is no folder that may be read-only, full,
    shared with another version or deleted while a process runs. An entry without a time is not checked against a disk.
    """
    name = f"<stepscope {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    return module


def program(
    rule: Rule, dtype: torch.dtype, averaged: bool, measured: cpu.Layout | None, chosen: Selection | None = None
) -> cpu.Program:
    """As `cpu.program`."""
    return cpu.program(rule, dtype, averaged, measured, chosen, Kernel)


def measuring(storage: torch.dtype, averages: torch.dtype, raw: bool, chosen: Selection) -> cpu.Program:
    """As `cpu.measuring`."""
    return cpu.measuring(storage, averages, raw, chosen, Kernel)


# --- batches ----------------------------------------------------------------------------------------------------------


class Batch(cpu.Batch):
    """Tensors of one device that one program steps together. It keeps the tables that are on the device."""

    chunk = triton.CHUNK

    def __init__(self, streams: Sequence[Sequence[Tensor]], extents: Sequence[tuple[int, int]] | None = None) -> None:
        """extents: as in `cpu.Frame`; but blocks begin with each part, and so does the sample."""
        super().__init__(streams, None if extents is None else [(0, whole) for _, whole in extents])
        self.device = streams[0][0].device
        self._uneven = any(size % 16 for size in self.sizes)
        self._chunks: Tensor | None = None
        self._starts: Tensor | None = None
        self._sent: tuple[NDArray[np.int64], Tensor] | None = None
        self._spare: Tensor | None = None

    @property
    def aligned(self) -> bool:
        """Whether every tensor is made of whole vectors of 16 bytes."""
        return not self._uneven and not (self.table[:, 1:] % 16).any()

    def tables(self, *, captured: bool) -> tuple[Tensor, Tensor]:
        """The addresses and the chunks; what has not changed is not sent again.

        captured: a CUDA graph may follow, whose gradients will lie elsewhere. While it is recorded no pinned memory can
        be had, so that room for one more table is taken before.
        """
        if self._chunks is None:
            self._chunks = _send(self.chunks, self.device)
        if self._sent is None or not np.array_equal(self._sent[0], self.table):
            table = self.table.copy()
            self._sent = table, _send(table, self.device, self._spare)
        if self.device.type == "cuda" and captured:
            if eager.is_capturing(self.device):
                self._spare = None
            elif self._spare is None:
                self._spare = torch.empty(self.table.shape, dtype=torch.int64, pin_memory=True)
        eager.hold(self.device, self._chunks, *self._sent)
        return self._sent[1], self._chunks

    def ends(self) -> Tensor:
        """The first chunk of each tensor, and the number of chunks."""
        if self._starts is None:
            self._starts = _send(np.append(self.starts, len(self.chunks)), self.device)
        return self._starts


def _send(array: NDArray[Any], device: torch.device, spare: Tensor | None = None) -> Tensor:
    """A copy of an array on the device, in the order of its stream; the host does not wait.

    spare: pinned memory of its shape, for a CUDA graph that is being recorded.
    """
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host.clone()
    pinned = spare.copy_(host) if spare is not None and eager.is_capturing(device) else host.pin_memory()
    eager.hold(device, pinned)  # PyTorch itself reuses it no sooner than after the copy
    return pinned.to(device, non_blocking=True)


class Counted:
    """What a launch measured, on the device until it is looked at: sums and counts as in `cpu.Counted`."""

    def __init__(self, memory: Tensor, tensors: int, terms: int, width: int) -> None:
        """memory: bytes, first the sums, then the counts, so many a tensor."""
        self._memory, self._tensors, self._terms, self._width = memory, tensors, terms, width

    @cached_property
    def _fetched(self) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._memory.cpu().numpy()  # waits for the device, once
        return found

    @property
    def sums(self) -> NDArray[np.float64]:
        """sums[tensor, term] in the program's order."""
        return self._fetched[: 8 * self._tensors * self._terms].view(np.float64).reshape(self._tensors, self._terms)

    @property
    def counts(self) -> NDArray[np.int32]:
        """counts[tensor, ...] of all histograms, each from its place in the program's `starts` on."""
        counts = self._fetched[8 * self._tensors * self._terms :].view(np.int32)
        return counts.reshape(self._tensors, self._width)


def launch(program: cpu.Program, batch: Batch, numbers: Sequence[NDArray[Any]] | Tensor) -> Counted | None:
    """Run the program over the batch.

    numbers: the `shared` ones of each tensor, or a tensor of them on the device, a row a tensor.
    Raises: RuntimeError if a CUDA graph is being captured and would keep numbers of this step for ever.
    """
    device = batch.device
    if isinstance(numbers, Tensor):
        rows: Any = np.arange(len(batch.sizes))
        shared_ones = numbers
    elif eager.is_capturing(device):
        raise RuntimeError(
            "a CUDA graph would repeat the numbers of this one step: construct the optimizer with capturable=True, "
            "and observe no step that is being captured"
        )
    else:
        rows, distinct = _distinct(numbers)
        shared_ones = _send(distinct, device)
    batch.table[:, 0] = rows
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        table, chunks = batch.tables(captured=isinstance(numbers, Tensor))
        grid, tensors, terms = (len(batch.chunks),), len(batch.sizes), len(program.chosen.terms)
        if not terms:
            program.kernel.step[grid](table, chunks, shared_ones, ALIGNED=batch.aligned, **OPTIONS)
            return None
        size = 8 * tensors * terms
        counted = program.starts[-1]
        memory = torch.zeros(size + 4 * tensors * counted, dtype=torch.uint8, device=device)
        sums, counts = memory[:size].view(torch.float64), memory[size:].view(torch.int32)
        parts = torch.empty(len(batch.chunks), terms, dtype=torch.float64, device=device)
        program.kernel.step[grid](table, chunks, shared_ones, parts, counts, ALIGNED=batch.aligned, **OPTIONS)
        width = 1 << (terms - 1).bit_length()
        program.kernel.combine[tensors,](parts, batch.ends(), sums, TERMS=terms, WIDTH=width, **OPTIONS)
    return Counted(memory, tensors, terms, counted)


def _distinct(numbers: Sequence[NDArray[Any]]) -> tuple[list[int] | int, NDArray[Any]]:
    """Each tensor's row in a table of numbers, and the table. Tensors with the same numbers share an array."""
    if all(map(operator.is_, numbers, numbers[1:])):
        return 0, numbers[0].reshape(1, -1)
    places: dict[int, int] = {}
    rows = [places.setdefault(id(array), len(places)) for array in numbers]
    by_id = {id(array): array for array in numbers}
    return rows, np.stack([by_id[i] for i in places])


# --- numbers on the device --------------------------------------------------------------------------------------------


def _where(condition: Tensor, a: Any, b: Any) -> Tensor:
    a, b = (x if isinstance(x, Tensor) else torch.full_like(condition, x, dtype=torch.float64) for x in (a, b))
    return torch.where(condition, a, b)


_DEVICE: Any = SimpleNamespace(**{**vars(eager.TORCH), "where": _where})


def device_numbers(
    program: cpu.Program,
    rule: Rule,
    hyper: Mapping[str, Any],
    steps: Sequence[Tensor],
    device: torch.device,
    count: int,
) -> Tensor:
    """The shared numbers of `count` tensors whose steps are counted on their device, a row a tensor.

    hyper: floats, or tensors of one element.  steps: 0-dim tensors, none where nothing is counted.
    """
    t = torch.stack(list(steps)).double() if steps else torch.ones(count, dtype=torch.float64, device=device)

    def column(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(t.device, torch.float64, non_blocking=True).reshape(-1).expand(len(t))
        return torch.full_like(t, float(value))

    inputs = {f"hyper.{name}": column(value) for name, value in hyper.items()}
    if rule.scalars:
        scalars = eager.device_scalars(rule, hyper, t)
        inputs |= {f"scalars.{name}": value for name, value in scalars.items()}
    values = evaluate(program.kernel.host, inputs, _DEVICE) or [torch.zeros_like(t)]
    kind = torch.float64 if program.dtype is np.float64 else torch.float32
    return torch.stack([value.to(kind) for value in values], 1)
