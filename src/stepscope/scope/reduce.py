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

CPU_PIECE = 1 << 15  # elements; torch gives each thread that many
DEVICE_PIECE = 1 << 21  # elsewhere the number of operations counts
# The eager namespace's sign keeps nan, at ten times the price. Here a nan shows in the sums that are no signs.
K: Any = SimpleNamespace(**{**vars(TORCH), "sign": torch.sign})
NAMES = tuple(statistics(NUMPY, Step(*[1.0] * len(Step._fields))).sums)
HISTOGRAMS = ("spread_histogram", "update_histogram")  # in the order of the statistics' positions


class Observed(NamedTuple):
    """One tensor at one step: gradient, the two averages as they are kept, weights before and after the step."""

    g: Tensor
    mean: Tensor
    second: Tensor
    before: Tensor
    after: Tensor
    numbers: Numbers


class _Piece(NamedTuple):
    """Elements start to stop of the tensor whose sums are in this row."""

    row: int
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
    sums["broken"] = np.array([flat(o.after).numel() for o in tensors]) - sums["n"]
    sums["lr"] = np.array([o.numbers.lr for o in tensors])
    sums["eps"] = np.array([o.numbers.eps for o in tensors])
    return sums


def _rows(tensors: Sequence[Observed], *, finite_only: bool) -> NDArray[np.float64]:
    """One row a tensor: its sums in the order of NAMES, then its histograms."""
    kinds: dict[torch.device, dict[tuple[torch.dtype, Numbers], list[int]]] = {}
    for i, o in enumerate(tensors):
        kinds.setdefault(o.after.device, {}).setdefault((real_dtype(o.after), o.numbers), []).append(i)
    rows = np.empty((len(tensors), len(NAMES) + len(HISTOGRAMS) * BINS))
    for device, by_kind in kinds.items():
        order = [i for members in by_kind.values() for i in members]
        columns = [[flat(x).to(device) for x in tensors[i][:5]] for i in order]
        sums: list[list[Tensor]] = [[] for _ in order]
        counts = torch.zeros((len(order), len(HISTOGRAMS) * BINS), device=device, dtype=torch.int64)
        first = 0
        for (dtype, numbers), members in by_kind.items():
            sizes = {row: columns[row][0].numel() for row in range(first, first + len(members))}
            first += len(members)
            for pieces in _blocks(sizes, device, together=not finite_only):
                step = _step([_join(columns, pieces, field, dtype) for field in range(5)], numbers)
                _add(_finite(step) if finite_only else step, pieces, sums, counts)
        wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        total = torch.stack([torch.stack(pieces).to(wide).sum(0) for pieces in sums])
        rows[order] = torch.cat([total, counts.to(wide)], dim=1).cpu().numpy()
    return rows


def _blocks(sizes: Mapping[int, int], device: torch.device, *, together: bool) -> Iterator[list[_Piece]]:
    """Pieces of tensors, given their sizes by row; `together`: as many as keep all threads busy, else one by one."""
    largest = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    limit = largest * torch.get_num_threads() if device.type == "cpu" else largest
    block: list[_Piece] = []
    size = 0
    for row, total in sizes.items():
        for start in range(0, total, largest):
            piece = _Piece(row, start, min(start + largest, total))
            if block and (not together or size + piece.stop - start > limit):
                yield block
                block, size = [], 0
            block.append(piece)
            size += piece.stop - start
    if block:
        yield block


def _join(columns: Sequence[Sequence[Tensor]], pieces: Sequence[_Piece], field: int, dtype: torch.dtype) -> Tensor:
    """One field of all pieces, end to end."""
    parts = [columns[p.row][field][p.start : p.stop] for p in pieces]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(dtype)


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


def _add(step: Step, pieces: Sequence[_Piece], sums: Sequence[list[Tensor]], counts: Tensor) -> None:
    """Add the sums of each piece to the list in its row, and its histograms to its row of `counts`."""
    found = statistics(K, step)
    terms = torch.stack(list(found.sums.values()))
    # A nan has no bin; its tensor is measured again without it.
    bins = torch.nan_to_num(torch.stack(list(found.positions.values())), nan=0.0).long()
    bins += BINS * torch.arange(len(HISTOGRAMS), device=bins.device).unsqueeze(1)
    # A single piece may have any size: _finite shortens it.
    sizes = [terms.shape[1]] if len(pieces) == 1 else [p.stop - p.start for p in pieces]
    for piece, its_terms, its_bins in zip(
        pieces, torch.split(terms, sizes, 1), torch.split(bins, sizes, 1), strict=True
    ):
        sums[piece.row].append(its_terms.sum(1))
        its_bins.add_(piece.row * counts.shape[1])
    counts.view(-1).scatter_add_(0, bins.view(-1), bins.new_ones(()).expand(bins.numel()))
