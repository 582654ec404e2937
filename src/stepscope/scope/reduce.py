"""From tensors to sums: each statistic's sum and each histogram's counts, one row of float64 numbers a tensor.

Small tensors with equal numbers are measured together and large ones in pieces, so that a step costs few operations and
its temporaries stay in a core's cache. A piece is summed in its own dtype, pieces are added up in float64 in their
order: how many share an operation, and how many threads work on it, changes no bit. All rows of a device come to the
host in one transfer.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import TORCH
from stepscope.rules.statistics import BINS, Step, statistics
from stepscope.scope.moments import Numbers, flat, real_dtype

__all__ = ["Observed", "Sums", "reduce"]

Sums = Mapping[str, NDArray[np.float64]]

CPU_PIECE = 1 << 14  # elements: the 30 temporaries of 64 kB fit into a core's cache and come from malloc's heap
DEVICE_PIECE = 1 << 21  # elsewhere the number of operations counts
# The eager namespace's sign keeps nan, at ten times the price. Here a nan shows in the sums that are no signs.
K: Any = SimpleNamespace(**{**vars(TORCH), "sign": torch.sign})
NAMES = tuple(statistics(NUMPY, Step(*[1.0] * len(Step._fields))).sums)
HISTOGRAMS = ("spread_histogram", "update_histogram")  # in the order of the statistics' positions
WIDTH = len(HISTOGRAMS) * BINS


class Observed(NamedTuple):
    """One tensor at one step: gradient, the two averages as they are kept, weights before and after the step."""

    g: Tensor
    mean: Tensor
    second: Tensor
    before: Tensor
    after: Tensor
    numbers: Numbers


class _Piece(NamedTuple):
    """Elements start to stop of a tensor, by its number."""

    tensor: int
    start: int
    stop: int


def reduce(tensors: Sequence[Observed]) -> Sums:
    """Sums by name: arrays with one entry a tensor, histograms with one row a tensor. Call it without gradients.

    Besides the sums of `statistics`: n, the coordinates measured; broken, those with a number that is not finite,
    which are left out of everything else; lr, eps.
    """
    rows = _rows(tensors, finite_only=False)
    if broken := np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        rows[broken] = _rows([tensors[i] for i in broken], finite_only=True)
    sums = dict(zip(NAMES, rows.T, strict=False))
    for i, name in enumerate(HISTOGRAMS):
        sums[name] = rows[:, len(NAMES) + i * BINS :][:, :BINS]
    sums["n"] = sums["update_histogram"].sum(-1)  # every coordinate has an update
    sums["broken"] = np.array([o.after.numel() * (2 if o.after.is_complex() else 1) for o in tensors]) - sums["n"]
    sums["lr"] = np.array([o.numbers.lr for o in tensors])
    sums["eps"] = np.array([o.numbers.eps for o in tensors])
    return sums


def _rows(tensors: Sequence[Observed], *, finite_only: bool) -> NDArray[np.float64]:
    """One row a tensor: its sums in the order of NAMES, then its histograms."""
    kinds: dict[torch.device, dict[tuple[torch.dtype, Numbers], dict[int, list[Tensor]]]] = {}
    for i, o in enumerate(tensors):
        device = o.after.device
        alike = kinds.setdefault(device, {}).setdefault((real_dtype(o.after), o.numbers), {})
        alike[i] = [flat(x, device) for x in (o.g, o.mean, o.second, o.before, o.after)]
    rows = np.zeros((len(tensors), len(NAMES) + WIDTH))
    for device, by_kind in kinds.items():
        counts = torch.zeros(len(tensors) * WIDTH, device=device, dtype=torch.int64)
        sums: list[Tensor] = []
        owners: list[int] = []
        for (dtype, numbers), fields in by_kind.items():
            for pieces in _blocks(fields, device, together=not finite_only):
                step = _step([_join(fields, pieces, field, dtype) for field in range(5)], numbers)
                sums += _measure(_finite(step) if finite_only else step, pieces, counts)
                owners += [piece.tensor for piece in pieces]
        wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        packed = torch.cat([torch.stack(sums).to(wide).view(-1), counts.to(wide)]).cpu().numpy()
        found, counted = np.split(packed, [len(sums) * len(NAMES)])
        np.add.at(rows[:, : len(NAMES)], owners, found.reshape(-1, len(NAMES)))
        rows[:, len(NAMES) :] += counted.reshape(-1, WIDTH)
    return rows


def _blocks(fields: Mapping[int, Sequence[Tensor]], device: torch.device, *, together: bool) -> Iterator[list[_Piece]]:
    """The tensors cut into pieces; `together`: as many at a time as keep all threads busy, else one by one."""
    limit = largest = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    if device.type == "cpu" and (threads := torch.get_num_threads()) > 1:
        limit *= 2 * threads  # torch gives a thread no less than 2^15
    block: list[_Piece] = []
    size = 0
    for i, (g, *_) in fields.items():
        for start in range(0, g.numel(), largest):
            piece = _Piece(i, start, min(start + largest, g.numel()))
            if block and (not together or size + piece.stop - start > limit):
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


def _step(columns: Sequence[Tensor], numbers: Numbers) -> Step:
    g, m, second, before, after = columns
    if numbers.raw:
        m, second = m / numbers.mean_correction, second / numbers.second_correction
        variance = second - m * m
    else:
        variance, second = second, second + m * m
    update = after - before
    return Step(
        g=-g if numbers.flip else g,
        m=m,
        variance=variance,
        second=second,
        theta=before,
        update=update,
        undecayed=update + numbers.decay * before if numbers.decay else update,
        per_lr=1 / numbers.lr if numbers.lr else 0.0,
        eps=numbers.eps,
        correction=numbers.correction,
        odds=numbers.odds,
    )


def _finite(step: Step) -> Step:
    """The coordinates without infinities and NaN."""
    tensors = [x for x in step if isinstance(x, Tensor)]
    finite = torch.stack(tensors).isfinite().all(0)
    return Step(*(x[finite] if isinstance(x, Tensor) else x for x in step))


def _measure(step: Step, pieces: Sequence[_Piece], counts: Tensor) -> list[Tensor]:
    """The sums of each piece; the places of its coordinates are counted in its tensor's part of `counts`."""
    found = statistics(K, step)
    terms = torch.stack(list(found.sums.values()))
    # A nan has no bin; its tensor is measured again without it.
    bins = torch.nan_to_num(torch.stack(list(found.positions.values())), nan=0.0).long()
    bins += BINS * torch.arange(len(HISTOGRAMS), device=bins.device).unsqueeze(1)
    if len(pieces) == 1:  # of any size: _finite may have shortened it
        bins += WIDTH * pieces[0].tensor
        sums = [terms.sum(1)]
    else:
        sizes = [stop - start for _, start, stop in pieces]
        starts = torch.tensor([WIDTH * piece.tensor for piece in pieces], device="cpu")
        bins += starts.repeat_interleave(torch.tensor(sizes, device="cpu")).to(bins.device)
        sums = [part.sum(1) for part in torch.split(terms, sizes, 1)]
    counts.scatter_add_(0, bins.view(-1), bins.new_ones(()).expand(bins.numel()))
    return sums
