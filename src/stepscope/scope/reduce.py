"""From tensors to sums: each statistic's sum and each histogram's counts, one row of float64 numbers a tensor.

CPU tensors are measured in one compiled pass, others with torch's operations: small tensors with equal numbers together
and large ones in pieces, so that a step costs few operations and its temporaries stay in a core's cache. A piece is
summed in its own dtype, pieces are added up in float64 in their order: how many share an operation, and how many
threads work on it, changes no bit. All rows of a device come to the host in one transfer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends import cpu
from stepscope.optim.backends.eager import TORCH
from stepscope.optim.moments import Numbers, flat, real_dtype
from stepscope.optim.sums import Measured
from stepscope.rules.statistics import BINS, EVERYWHERE, HISTOGRAMS, SAMPLE_BLOCK, Step, period, statistics
from stepscope.rules.statistics import Numbers as Shared

__all__ = ["Observed", "Sums", "reduce"]

Sums = Mapping[str, NDArray[np.float64]]

CPU_PIECE = 1 << 14  # elements: the 30 temporaries of 64 kB fit into a core's cache and come from malloc's heap
DEVICE_PIECE = 1 << 21  # elsewhere the number of operations counts
NAMES = tuple(statistics(NUMPY, Step(*[1.0] * len(Step._fields)), Shared(), raw=True).sums)
WIDTH = len(HISTOGRAMS) * BINS


class Observed(NamedTuple):
    """One tensor at one step: gradient, the two averages as they are kept, weights before and after the step."""

    g: Tensor
    mean: Tensor
    second: Tensor
    before: Tensor
    after: Tensor
    numbers: Numbers


def reduce(tensors: Sequence[Observed], fused: Sequence[Measured] = ()) -> Sums:
    """Sums by name: arrays with one entry a tensor, histograms with one row a tensor. Call it without gradients.

    tensors: measured here.  fused: measured by the step itself; their entries come after these.
    Besides the sums of `statistics`: numel, the coordinates there are; lr, eps, correction, odds.
    """
    sums, counts = np.zeros((len(tensors), len(NAMES))), np.zeros((len(tensors), WIDTH))
    compiled = [i for i, o in enumerate(tensors) if _fit(o)]
    for chosen, measure in (
        (compiled, _compiled),
        ([i for i in range(len(tensors)) if i not in set(compiled)], _eager),
    ):
        if chosen:
            sums[chosen], counts[chosen] = measure([tensors[i] for i in chosen])
    numbers = [o.numbers for o in tensors]
    numel = [_size(o.after) for o in tensors]
    for part in fused:
        order = [part.terms.index(name) for name in NAMES]
        sums = np.concatenate([sums, part.counted.sums[:, order]])
        counts = np.concatenate([counts, part.counted.counts.reshape(-1, WIDTH)])
        numbers += part.numbers
        numel += list(map(_size, part.tensors))
    found = dict(zip(NAMES, sums.T, strict=True))
    for i, name in enumerate(HISTOGRAMS):
        found[name] = counts[:, i * BINS :][:, :BINS]
    found["numel"] = np.array(numel, float)
    for name in ("lr", "eps", "correction", "odds"):
        found[name] = np.array([getattr(n, name) for n in numbers])
    return found


def _size(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)


def _columns(o: Observed) -> list[Tensor]:
    return [flat(x, o.after.device) for x in (o.g, o.mean, o.second, o.before, o.after)]


# --- one compiled pass ------------------------------------------------------------------------------------------------


def _fit(o: Observed) -> bool:
    """Whether a kernel can measure this tensor: on the CPU, in formats it knows."""
    kinds = {t.dtype for t in (o.g, o.before, o.after)}, {t.dtype for t in (o.mean, o.second)}
    return (
        cpu.available()
        and all(len(kind) == 1 and kind <= cpu.FORMATS for kind in kinds)
        and all(t.device.type == "cpu" and not hasattr(t, "_local_tensor") for t in o[:5])
    )


def _compiled(tensors: Sequence[Observed]) -> tuple[Any, Any]:
    """Sums and counts, a row a tensor."""
    sums, counts = np.zeros((len(tensors), len(NAMES))), np.zeros((len(tensors), WIDTH))
    alike: dict[cpu.Program, list[int]] = {}
    for i, o in enumerate(tensors):
        alike.setdefault(cpu.measuring(o.after.dtype, o.mean.dtype, o.numbers.raw), []).append(i)
    for program, chosen in alike.items():
        streams = list(zip(*[_columns(tensors[i]) for i in chosen], strict=True))
        shared = {n: program.shared(cpu.named(n.shared())) for n in {tensors[i].numbers for i in chosen}}
        counted = cpu.launch(program, cpu.Batch(streams), [shared[tensors[i].numbers] for i in chosen])
        assert counted is not None
        sums[chosen] = counted.sums[:, [program.terms.index(name) for name in NAMES]]
        counts[chosen] = counted.counts.reshape(-1, WIDTH)
    return sums, counts


# --- torch's operations -----------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Elements start to stop of a tensor, by its number."""

    tensor: int
    start: int
    stop: int


def _eager(tensors: Sequence[Observed]) -> tuple[Any, Any]:
    """Sums and counts, a row a tensor."""
    sums, counts = np.zeros((len(tensors), len(NAMES))), np.zeros((len(tensors), WIDTH))
    for sampled in (False, True):
        kinds: dict[torch.device, dict[tuple[torch.dtype, Numbers], dict[int, list[Tensor]]]] = {}
        for i, o in enumerate(tensors):
            columns, every = _columns(o), period(_size(o.after))
            if not sampled and every == 1:
                continue  # what is measured everywhere comes with the sample
            fields = [_sample(x, every) for x in columns] if sampled else columns
            kinds.setdefault(o.after.device, {}).setdefault((real_dtype(o.after), o.numbers), {})[i] = fields
        for device, by_kind in kinds.items():
            found, counted = _measured(len(tensors), device, by_kind)
            if sampled:
                whole = np.array([period(_size(o.after)) == 1 for o in tensors])
                sums[:, EVERYWHERE:] += found[:, EVERYWHERE:]
                sums[whole, :EVERYWHERE] += found[whole, :EVERYWHERE]
                counts += counted
            else:
                sums[:, :EVERYWHERE] += found[:, :EVERYWHERE]
    return sums, counts


def _sample(x: Tensor, every: int) -> Tensor:
    """Every how manyth block of a flat tensor, end to end."""
    if every == 1:
        return x
    whole = x.numel() // SAMPLE_BLOCK
    blocks = x[: whole * SAMPLE_BLOCK].view(whole, SAMPLE_BLOCK)[::every].reshape(-1)
    return torch.cat([blocks, x[whole * SAMPLE_BLOCK :]]) if whole % every == 0 else blocks


def _measured(
    rows: int, device: torch.device, by_kind: Mapping[tuple[torch.dtype, Numbers], Mapping[int, Sequence[Tensor]]]
) -> tuple[Any, Any]:
    """All sums and counts of the tensors of a device, which come to the host in one transfer."""
    counts = torch.zeros(rows * WIDTH, device=device, dtype=torch.int64)
    sums: list[Tensor] = []
    owners: list[int] = []
    for (dtype, numbers), fields in by_kind.items():
        for pieces in _blocks(fields, device):
            step = Step(*[_join(fields, pieces, field, dtype) for field in range(5)])
            sums += _measure(step, numbers, pieces, counts)
            owners += [piece.tensor for piece in pieces]
    wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    packed = torch.cat([torch.stack(sums).to(wide).view(-1), counts.to(wide)]).cpu().numpy()
    found, counted = np.split(packed, [len(sums) * len(NAMES)])
    added = np.zeros((rows, len(NAMES)))
    np.add.at(added, owners, found.reshape(-1, len(NAMES)))
    return added, counted.reshape(-1, WIDTH)


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


def _measure(step: Step, numbers: Numbers, pieces: Sequence[_Piece], counts: Tensor) -> list[Tensor]:
    """The sums of each piece; the places of its coordinates are counted in its tensor's part of `counts`."""
    found = statistics(TORCH, step, numbers.shared(), raw=numbers.raw, inside=torch.ones_like(step.g))
    terms = torch.stack(list(found.sums.values()))
    bins = torch.stack(list(found.bins.values())).long()
    bins += BINS * torch.arange(len(HISTOGRAMS), device=bins.device).unsqueeze(1)
    sizes = [stop - start for _, start, stop in pieces]
    starts = torch.tensor([WIDTH * piece.tensor for piece in pieces], device="cpu")
    bins += starts.repeat_interleave(torch.tensor(sizes, device="cpu")).to(bins.device)
    counts.scatter_add_(0, bins.view(-1), bins.new_ones(()).expand(bins.numel()))
    return [part.sum(1) for part in torch.split(terms, sizes, 1)]
