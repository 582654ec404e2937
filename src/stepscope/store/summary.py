"""One column of a very long run in a hundredth of its size: chunks of consecutive values, by extremes and mean.

Parts are taken in one by one, in any order. Parts of which some hold the same layer and step, because the run was
continued from before its end, cannot be summed up each by itself: they are left to whoever asks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepscope.store.buckets import NOTHING, Buckets, Rows, Scale, chunked, joined, merged, regrouped, select

__all__ = ["CHUNK", "Span", "Summary", "repeated", "span_of"]

CHUNK = 32  # consecutive values of a layer
Identity = tuple[int, ...]


class Span(NamedTuple):
    """The layers of some rows, with the first and the last step of each."""

    layer: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def span_of(rows: Rows) -> Span:
    """Where the rows lie."""
    if not len(rows.layer):
        return Span(rows.layer, rows.step, rows.step)
    starts = np.flatnonzero(np.r_[True, rows.layer[1:] != rows.layer[:-1]])
    ends = np.r_[starts[1:], len(rows.layer)] - 1
    return Span(rows.layer[starts], rows.step[starts], rows.step[ends])


def repeated(spans: Iterable[Span], layers: int) -> list[bool]:
    """Which of several sets of rows, in the order of writing, may share a pair of layer and step with another one."""
    spans = list(spans)
    found = [False] * len(spans)
    reach = np.full(layers, np.iinfo(np.int64).min)
    for place, span in enumerate(spans):
        found[place] |= bool((span.first <= reach[span.layer]).any())
        reach[span.layer] = np.maximum(reach[span.layer], span.last)
    reach[:] = np.iinfo(np.int64).max
    for place, span in reversed(list(enumerate(spans))):
        found[place] |= bool((span.last >= reach[span.layer]).any())
        reach[span.layer] = np.minimum(reach[span.layer], span.first)
    return found


class Summary:
    """The chunks of the parts that were taken in.

    They lie in a few runs, each in order of layer and step; a new part starts one, and neighbours of like size are put
    together, so that taking in all parts costs little more than sorting them once.
    """

    def __init__(self) -> None:
        self.spans: dict[Identity, Span] = {}
        self.held: set[Identity] = set()
        self.repeated: set[Identity] = set()
        self._runs: list[Buckets] = []
        self._settled: list[Identity] = []

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        pieces = [*self._runs, *self.spans.values()]
        return sum(array.nbytes for piece in pieces for array in piece)

    def take(self, identity: Identity, rows: Rows) -> None:
        """Take in a part."""
        self.spans[identity] = span_of(rows)
        if identity in self.repeated:
            return
        self.held.add(identity)
        self._runs.append(merged([chunked(rows, CHUNK)]))
        while len(self._runs) > 1 and len(self._runs[-2].layer) <= 2 * len(self._runs[-1].layer):
            self._runs[-2:] = [merged(self._runs[-2:])]

    def settle(self, order: Iterable[Identity], layers: int) -> bool:
        """Know which parts repeat others.  False if some of them were held: everything is then to be taken in again."""
        there = [identity for identity in order if identity in self.spans]
        if there == self._settled:
            return True
        self._settled = there
        flags = repeated((self.spans[identity] for identity in there), layers)
        self.repeated = {identity for identity, is_repeated in zip(there, flags, strict=True) if is_repeated}
        if not self.repeated & self.held:
            return True
        self._runs, self.held = [], set()
        return False  # what repeats is known now, so the next time ends well

    def buckets(self, wanted: NDArray[np.bool_], scale: Scale) -> Buckets:
        """What falls into each bucket, of the wanted layers; a chunk goes where the mean of its steps lies."""
        return joined([NOTHING, *(_regrouped(run, wanted, scale) for run in self._runs)])


def _regrouped(run: Buckets, wanted: NDArray[np.bool_], scale: Scale) -> Buckets:
    if not wanted.all():
        edges = np.searchsorted(run.layer, np.flatnonzero(wanted)[:, None] + np.array([0, 1]))
        run = select(run, np.concatenate([np.arange(start, stop) for start, stop in edges] or [np.zeros(0, int)]))
    if len(run.step) and (run.step.min() < scale.first or run.step.max() > scale.last):
        run = select(run, (run.step >= scale.first) & (run.step <= scale.last))
    return regrouped(run, scale)
