"""Long series for a screen: what one pixel stands for, as exact extremes and mean of the values that fall on it.

A series is a set of rows (layer, step, value); layers are numbered. Buckets divide a range of steps evenly. A value
that is not finite is counted in `broken` and enters nothing else.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NOTHING",
    "NO_ROWS",
    "Buckets",
    "Rows",
    "Scale",
    "bucketed",
    "chunked",
    "joined",
    "last_written",
    "merged",
    "regrouped",
    "select",
]

Ints = NDArray[Any]
Floats = NDArray[np.float64]


class Rows(NamedTuple):
    """Values, those of a layer side by side and in order of step, no pair of layer and step twice."""

    layer: Ints
    step: Ints
    value: Floats


class Scale(NamedTuple):
    """Steps `first` to `last`, both included, in `size` buckets of equal width."""

    first: int
    last: int
    size: int

    def place(self, step: Any) -> Ints:
        """The bucket of each step in the range, from 0."""
        width = (self.last - self.first + 1) / self.size
        place: Ints = np.minimum(((step - self.first) / width).astype(np.int32), self.size - 1)
        return place


class Buckets(NamedTuple):
    """Buckets that hold something; those of a layer side by side and in order of step.

    place: bucket, or a running number for chunks.  step: mean of the steps in it.  finite: how many finite values.
    low, high, total: their least, largest and sum, NaN, NaN and 0 for none.  end: the value at its last step.
    """

    layer: Ints
    place: Ints
    step: Floats
    finite: Ints
    broken: Ints
    low: Floats
    high: Floats
    total: Floats
    end: Floats

    @property
    def mean(self) -> Floats:
        """Mean of the finite values, NaN for none."""
        with np.errstate(invalid="ignore"):
            return self.total / self.finite


_KINDS = (np.int32, np.int32, float, np.int32, np.int32, float, float, float, float)
NO_ROWS = Rows(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))
NOTHING = Buckets(*(np.zeros(0, kind) for kind in _KINDS))


def select(buckets: Buckets, index: Any) -> Buckets:
    """Those at an index: a slice, a mask or places."""
    return Buckets._make(array[index] for array in buckets)


def last_written(pieces: Sequence[Rows]) -> Rows:
    """One set of rows from several, given in the order of writing: of equal pairs the last one counts.

    Rows within a piece may come in any order, and repeat; later ones count.
    """
    layer, step, value = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.lexsort((step, layer))  # stable: equal pairs stay in the order of writing
    layer, step, value = layer[order], step[order], value[order]
    keep = np.ones(len(layer), bool)
    keep[:-1] = (layer[1:] != layer[:-1]) | (step[1:] != step[:-1])
    return Rows(layer[keep], step[keep], value[keep])


def bucketed(rows: Rows, scale: Scale) -> Buckets:
    """Rows, all within the scale, by bucket."""
    return _grouped(rows, scale.place(rows.step))


def chunked(rows: Rows, length: int) -> Buckets:
    """Rows in groups of about `length` consecutive ones of a layer, evenly divided."""
    if not len(rows.layer):
        return NOTHING
    starts = np.flatnonzero(np.r_[True, rows.layer[1:] != rows.layer[:-1]])
    sizes = np.diff(np.r_[starts, len(rows.layer)])
    inside = np.arange(len(rows.layer)) - np.repeat(starts, sizes)
    chunks = np.maximum(1, np.rint(sizes / length)).astype(np.int64)
    return _grouped(rows, (inside * np.repeat(chunks, sizes) // np.repeat(sizes, sizes)).astype(np.int32))


def _grouped(rows: Rows, place: Ints) -> Buckets:
    """Rows by layer and place, which must not fall within a layer."""
    starts = _starts(rows.layer, place)
    if not len(starts):
        return NOTHING
    sizes = np.diff(np.r_[starts, len(place)]).astype(np.int32)
    finite = np.isfinite(rows.value)
    value, total = rows.value, rows.value
    broken = np.zeros_like(sizes)
    if not finite.all():
        value, total = np.where(finite, value, np.nan), np.where(finite, value, 0.0)
        broken = sizes - np.add.reduceat(finite, starts, dtype=np.int32)
    return Buckets(
        rows.layer[starts],
        place[starts],
        np.add.reduceat(rows.step, starts) / sizes,
        sizes - broken,
        broken,
        np.fmin.reduceat(value, starts),
        np.fmax.reduceat(value, starts),
        np.add.reduceat(total, starts),
        rows.value[starts + sizes - 1],
    )


def merged(pieces: Sequence[Buckets]) -> Buckets:
    """All buckets of several sets, none put together, by number of the layer and step."""
    whole = Buckets._make(np.concatenate(column) for column in zip(*pieces, strict=True))
    return select(whole, np.lexsort((whole.step, whole.layer)))


def regrouped(buckets: Buckets, scale: Scale) -> Buckets:
    """Buckets, ordered by layer and step, put together where their mean steps fall into one bucket of the scale."""
    return _together(buckets._replace(place=scale.place(buckets.step)))


def joined(pieces: Sequence[Buckets]) -> Buckets:
    """Buckets of several sets of rows that share none, put together where layer and place agree."""
    whole = Buckets._make(np.concatenate(column) for column in zip(*pieces, strict=True))
    return _together(select(whole, np.lexsort((whole.step, whole.place, whole.layer))))


def _together(whole: Buckets) -> Buckets:
    starts = _starts(whole.layer, whole.place)
    if len(starts) == len(whole.layer):
        return whole
    values = whole.finite + whole.broken
    ends = np.r_[starts[1:], len(whole.layer)] - 1
    return Buckets(
        whole.layer[starts],
        whole.place[starts],
        np.add.reduceat(whole.step * values, starts) / np.add.reduceat(values, starts),
        np.add.reduceat(whole.finite, starts),
        np.add.reduceat(whole.broken, starts),
        np.fmin.reduceat(whole.low, starts),
        np.fmax.reduceat(whole.high, starts),
        np.add.reduceat(whole.total, starts),
        whole.end[ends],
    )


def _starts(layer: Ints, place: Ints) -> Ints:
    if not len(layer):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.r_[True, (layer[1:] != layer[:-1]) | (place[1:] != place[:-1])])
