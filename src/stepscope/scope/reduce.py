"""From tensors to sums: each statistic's sum and each histogram's counts, one row of float64 numbers a tensor.

CPU tensors are measured in one compiled pass, others with torch's operations: small tensors with equal numbers together
and large ones in pieces, so that a step costs few operations and its temporaries stay in a core's cache. A piece is
summed in its own dtype, pieces are added up in float64 in their order: how many share an operation, and how many
threads work on it, changes no bit. All rows of a device come to the host in one transfer.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.optim.backends import cpu
from stepscope.optim.backends.eager import TORCH
from stepscope.optim.moments import Numbers, flat, real_dtype
from stepscope.optim.shards import Extent, size
from stepscope.optim.sums import Measured
from stepscope.rules.statistics import EVERYWHERE, PLAIN, SAMPLE_BLOCK, Selection, Step, bins_of, period, statistics

__all__ = ["Observed", "Packed", "Reducer", "Sums", "named", "reduce"]

Sums = Mapping[str, NDArray[np.float64]]

CPU_PIECE = 1 << 14  # elements: the 30 temporaries of 64 kB fit into a core's cache and come from malloc's heap
DEVICE_PIECE = 1 << 21  # elsewhere the number of operations counts
FRAMES = 8  # kept: a run has few sets of tensors with a gradient


class Observed(NamedTuple):
    """One tensor at one step: gradient, the two averages as they are kept, weights before and after the step.

    extent: of what it is a part, where it is one.
    """

    g: Tensor
    mean: Tensor
    second: Tensor
    before: Tensor
    after: Tensor
    numbers: Numbers
    extent: Extent | None = None


class Packed(NamedTuple):
    """What a step measured, a row a tensor: sums[row, term], counts[row, ...] of all histograms end to end.

    further: other additive sums, by name.
    """

    sums: NDArray[np.float64]
    counts: NDArray[Any]
    numbers: list[Numbers]
    numel: list[int]
    further: Mapping[str, NDArray[np.float64]] = MappingProxyType({})


def named(parts: Sequence[Packed], chosen: Selection) -> Sums:
    """Sums by name: arrays with one entry a tensor, histograms with one row a tensor; several steps end to end.

    Besides the chosen ones: numel, the coordinates there are, and of each tensor's `moments.Numbers` lr, eps,
    correction, odds, clip, decay, coupled, t, and beta1, beta2 where the optimizer keeps raw averages, else NaN.
    """
    sums = np.concatenate([part.sums for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    numbers = [n for part in parts for n in part.numbers]
    found = dict(zip(chosen.terms, sums.T, strict=True))
    for name, (start, stop) in zip(chosen.histograms, itertools.pairwise(_starts(chosen)), strict=True):
        found[name] = counts[:, start:stop]
    found["numel"] = np.array([n for part in parts for n in part.numel], float)
    for name in _NUMBERS:
        found[name] = np.array([getattr(n, name) for n in numbers], float)
    for i, name in enumerate(("beta1", "beta2")):
        found[name] = np.array([n.betas[i] if n.raw else math.nan for n in numbers])
    for name in parts[0].further:
        found[name] = np.concatenate([part.further[name] for part in parts])
    return found


_NUMBERS = ("lr", "eps", "correction", "odds", "clip", "decay", "coupled", "t")


@cache
def _starts(chosen: Selection) -> tuple[int, ...]:
    """Where each histogram begins in a row of counts, and where the last one ends."""
    return (0, *itertools.accumulate(map(bins_of, chosen.histograms)))


def reduce(tensors: Sequence[Observed], fused: Sequence[Measured] = (), chosen: Selection = PLAIN) -> Sums:
    """The sums of one step by name; see `Reducer` and `named`."""
    return named([Reducer(chosen).reduce(tensors, fused)], chosen)


class Reducer:
    """Measures the chosen sums and histograms of step after step."""

    def __init__(self, chosen: Selection = PLAIN) -> None:
        self.chosen = chosen
        self._frames: dict[Any, cpu.Frame] = {}

    def reduce(self, tensors: Sequence[Observed], fused: Sequence[Measured] = ()) -> Packed:
        """What a step was made of. Call it without gradients.

        tensors: measured here.  fused: measured by the step itself; their rows come after these.
        """
        terms, width = len(self.chosen.terms), _starts(self.chosen)[-1]
        sums, counts = np.zeros((len(tensors), terms)), np.zeros((len(tensors), width), np.int32)
        fit = [_fit(o) if o.after.numel() else None for o in tensors]  # a shard may be empty
        for kind, measure in ((True, self._compiled), (False, self._eager)):
            chosen = [i for i, fits in enumerate(fit) if fits is kind]
            if len(chosen) == len(tensors) > 0:
                sums, counts = measure(tensors)
            elif chosen:
                sums[chosen], counts[chosen] = measure([tensors[i] for i in chosen])
        numbers = [o.numbers for o in tensors]
        numel = [size(o.after) for o in tensors]
        for part in fused:
            assert part.chosen == self.chosen
            sums = np.concatenate([sums, part.counted.sums])
            counts = np.concatenate([counts, self._closed(part.counted.counts, part.starts)])
            numbers += part.numbers
            numel += list(map(size, part.tensors))
        return Packed(sums, counts, numbers, numel)

    def packed(
        self, program: cpu.Program, counted: cpu.Counted, numbers: list[Numbers], sizes: Sequence[int]
    ) -> Packed:
        """What a launch of the program counted, in memory of its own."""
        return Packed(counted.sums.copy(), self._closed(counted.counts, program.starts), numbers, list(sizes))

    def _closed(self, counts: NDArray[Any], starts: Sequence[int]) -> NDArray[np.int32]:
        """A copy of a kernel's counts without the gaps between the histograms."""
        parts = [counts[:, a : a + bins_of(name)] for a, name in zip(starts, self.chosen.histograms, strict=False)]
        return np.concatenate(parts, 1, dtype=np.int32) if parts else counts.astype(np.int32)

    # --- one compiled pass --------------------------------------------------------------------------------------------

    def _compiled(self, tensors: Sequence[Observed]) -> tuple[Any, Any]:
        """Sums and counts, a row a tensor."""
        alike: dict[cpu.Program, list[int]] = {}
        for i, o in enumerate(tensors):
            program = cpu.measuring(o.after.dtype, o.mean.dtype, o.numbers.raw, self.chosen)
            alike.setdefault(program, []).append(i)
        if len(alike) == 1:
            (program,) = alike
            return self._launched(program, tensors)
        shape = len(tensors), len(self.chosen.terms)
        sums, counts = np.zeros(shape), np.zeros((len(tensors), _starts(self.chosen)[-1]), np.int32)
        for program, places in alike.items():
            sums[places], counts[places] = self._launched(program, [tensors[i] for i in places])
        return sums, counts

    def _launched(self, program: cpu.Program, tensors: Sequence[Observed]) -> tuple[Any, Any]:
        sizes, extents = tuple(size(o.after) for o in tensors), tuple(_extent(o)[:2] for o in tensors)
        frame = self._frames.get((program, sizes, extents))
        if frame is None:
            if len(self._frames) >= FRAMES:
                self._frames.clear()
            frame = self._frames[program, sizes, extents] = cpu.Frame(sizes, len(Step._fields), extents)
        columns = [[_dense(x) for x in o[:5]] for o in tensors]  # kept until the kernel has run
        frame.table[:, 1:] = [[x.data_ptr() for x in column] for column in columns]
        shared = {n: program.shared(cpu.named(n.shared())) for n in {o.numbers for o in tensors}}
        counted = cpu.launch(program, frame, [shared[o.numbers] for o in tensors])
        assert counted is not None
        return counted.sums.copy(), self._closed(counted.counts, program.starts)

    # --- torch's operations -------------------------------------------------------------------------------------------

    def _eager(self, tensors: Sequence[Observed]) -> tuple[Any, Any]:
        """Sums and counts, a row a tensor."""
        sums = np.zeros((len(tensors), len(self.chosen.terms)))
        counts = np.zeros((len(tensors), _starts(self.chosen)[-1]))
        for sampled in (False, True):
            kinds: dict[torch.device, dict[tuple[torch.dtype, Numbers], dict[int, list[Tensor]]]] = {}
            for i, o in enumerate(tensors):
                columns, part = _columns(o), _extent(o)
                every = period(part.whole)
                if not sampled and every == 1:
                    continue  # what is measured everywhere comes with the sample
                fields = [_sample(x, every, part.start) for x in columns] if sampled else columns
                kinds.setdefault(o.after.device, {}).setdefault((real_dtype(o.after), o.numbers), {})[i] = fields
            for device, by_kind in kinds.items():
                found, counted = _measured(len(tensors), device, by_kind, self.chosen)
                if sampled:
                    whole = np.array([period(_extent(o).whole) == 1 for o in tensors])
                    sums[:, EVERYWHERE:] += found[:, EVERYWHERE:]
                    sums[whole, :EVERYWHERE] += found[whole, :EVERYWHERE]
                    counts += counted
                else:
                    sums[:, :EVERYWHERE] += found[:, :EVERYWHERE]
        return sums, counts


def _extent(o: Observed) -> Extent:
    return o.extent or Extent(0, size(o.after))


def _columns(o: Observed) -> list[Tensor]:
    return [flat(x, o.after.device) for x in o[:5]]


def _dense(x: Tensor) -> Tensor:
    """The same tensor if its memory is what `flat` would be a view of, else that."""
    simple = x.layout is torch.strided and x.is_contiguous() and not x.is_neg()
    return x if simple and not x.is_complex() else flat(x, x.device)


def _fit(o: Observed) -> bool:
    """Whether a kernel can measure this tensor: on the CPU, in formats it knows."""
    g, mean, second, before, after = o[:5]
    return (
        after.dtype in cpu.FORMATS
        and mean.dtype in cpu.FORMATS
        and g.dtype == before.dtype == after.dtype
        and mean.dtype == second.dtype
        and g.is_cpu
        and mean.is_cpu
        and second.is_cpu
        and before.is_cpu
        and after.is_cpu
        and not any(hasattr(t, "_local_tensor") for t in o[:5])
        and cpu.available()
    )


# --- torch's operations -----------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Elements start to stop of a tensor, by its number."""

    tensor: int
    start: int
    stop: int


def _sample(x: Tensor, every: int, start: int = 0) -> Tensor:
    """Every how manyth block of a flat tensor that begins at `start`, end to end."""
    if every == 1:
        return x
    parts = []
    first, head = divmod(start, SAMPLE_BLOCK)
    if head:  # the rest of a block that began elsewhere
        head = min(SAMPLE_BLOCK - head, x.numel())
        parts += [x[:head]] if first % every == 0 else []
        first += 1
    whole = (x.numel() - head) // SAMPLE_BLOCK
    end = head + whole * SAMPLE_BLOCK
    parts.append(x[head:end].view(whole, SAMPLE_BLOCK)[-first % every :: every].reshape(-1))
    if (first + whole) % every == 0:
        parts.append(x[end:])
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _measured(
    rows: int,
    device: torch.device,
    by_kind: Mapping[tuple[torch.dtype, Numbers], Mapping[int, Sequence[Tensor]]],
    chosen: Selection,
) -> tuple[Any, Any]:
    """All sums and counts of the tensors of a device, which come to the host in one transfer."""
    terms, width = len(chosen.terms), _starts(chosen)[-1]
    counts = torch.zeros(rows * width, device=device, dtype=torch.int64)
    sums: list[Tensor] = []
    owners: list[int] = []
    for (dtype, numbers), fields in by_kind.items():
        for pieces in _blocks(fields, device):
            step = Step(*[_join(fields, pieces, field, dtype) for field in range(5)])
            sums += _measure(step, numbers, pieces, counts, chosen)
            owners += [piece.tensor for piece in pieces]
    wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    packed = torch.cat([torch.stack(sums).to(wide).view(-1), counts.to(wide)]).cpu().numpy()
    found, counted = np.split(packed, [len(sums) * terms])
    added = np.zeros((rows, terms))
    np.add.at(added, owners, found.reshape(-1, terms))
    return added, counted.reshape(rows, width)


def _blocks(fields: Mapping[int, Sequence[Tensor]], device: torch.device) -> Iterator[list[_Piece]]:
    """The tensors cut into pieces, as many at a time as keep all threads busy."""
    limit = largest = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    if device.type == "cpu" and (threads := torch.get_num_threads()) > 1:
        limit *= 2 * threads  # torch gives a thread no less than 2^15
    block: list[_Piece] = []
    size = 0
    for i, (g, *_) in fields.items():
        for start in range(0, g.numel(), largest):
            piece = _Piece(i, start, min(start + largest, g.numel()))
            if block and size + piece.stop - start > limit:
                yield block
                block, size = [], 0
            block.append(piece)
            size += piece.stop - start
    if block:
        yield block


def _join(fields: Mapping[int, Sequence[Tensor]], pieces: Sequence[_Piece], field: int, dtype: torch.dtype) -> Tensor:
    """One field of all pieces, end to end."""
    if len(pieces) == 1:
        return fields[pieces[0].tensor][field][pieces[0].start : pieces[0].stop].to(dtype)
    return torch.cat([fields[i][field][start:stop] for i, start, stop in pieces]).to(dtype)


def _measure(step: Step, numbers: Numbers, pieces: Sequence[_Piece], counts: Tensor, chosen: Selection) -> list[Tensor]:
    """The sums of each piece; the places of its coordinates are counted in its tensor's part of `counts`."""
    inside = torch.ones_like(step.g)
    found = statistics(TORCH, step, numbers.shared(), raw=numbers.raw, inside=inside, chosen=chosen)
    terms = torch.stack(list(found.sums.values()))
    sizes = [stop - start for _, start, stop in pieces]
    if chosen.histograms:
        bins = torch.stack(list(found.bins.values())).long()
        starts = _starts(chosen)
        bins += torch.tensor(starts[:-1], device="cpu").to(bins.device).unsqueeze(1)
        firsts = torch.tensor([starts[-1] * piece.tensor for piece in pieces], device="cpu")
        bins += firsts.repeat_interleave(torch.tensor(sizes, device="cpu")).to(bins.device)
        counts.scatter_add_(0, bins.view(-1), bins.new_ones(()).expand(bins.numel()))
    return [part.sum(1) for part in torch.split(terms, sizes, 1)]
