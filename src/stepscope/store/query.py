"""A run as a screen asks for it: any column of any layers over any range of steps, reduced to as many buckets as fit.

A ``Query`` keeps what it has read, because a dashboard asks again and again: sealed parts never change, and of the live
segment only what was appended is read. What it keeps is bounded. A damaged part costs its rows and is reported, nothing
else; the writer is never waited for.
"""

import contextlib
import functools
import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepscope.errors import DamagedData, UserError, unknown_name
from stepscope.store import format as layout
from stepscope.store.buckets import NO_ROWS, NOTHING, Buckets, Rows, Scale, bucketed, joined, last_written, select
from stepscope.store.cache import Cache
from stepscope.store.segments import ATTEMPTS
from stepscope.store.sources import Growing, Keys, Sealed, Source
from stepscope.store.summary import CHUNK, Summary, repeated, span_of

__all__ = ["Matrix", "Query", "Series"]

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

ROWS_KEPT = 256 << 20  # bytes a run
SUMMARIES_KEPT = 3  # columns of a run, each up to some 170 MB for 10^8 values
FEW_ROWS = 3_000_000  # are read value by value: 50 ms of work once they are decoded
MANY_ROWS = 10_000_000  # never are for one picture: they would not fit into what is kept


def _again(method: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """A question that is asked again where a part was put together with others before it could be read."""

    @functools.wraps(method)
    def asking(*arguments: Arguments.args, **options: Arguments.kwargs) -> T:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                return method(*arguments, **options)
        return method(*arguments, **options)

    return asking


class Series(NamedTuple):
    """The scale of the steps (None before there is one), the buckets of each layer, and the share that was read."""

    scale: Scale | None
    layers: Mapping[str, Buckets]
    read: float = 1.0


class Matrix(NamedTuple):
    """The scale of the steps (None before there is one), values by [layer, bucket], and the share that was read."""

    scale: Scale | None
    values: NDArray[np.float64]
    read: float = 1.0


class Query:
    """Answers questions about one run folder.  May be used from several threads, which then take turns.

    Raises: UserError if ``folder`` is no run or a newer version's; DamagedData if run.json cannot be understood.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        layout.read_info(self.folder)
        self.problems: dict[str, str] = {}
        """What could not be read: file name -> why, one line."""
        self._guard = threading.RLock()
        self._numbers: dict[str, int] = {}
        self._sources: dict[int, Source] = {}
        self._rows = Cache(ROWS_KEPT)
        self._summaries: OrderedDict[str, Summary] = OrderedDict()

    # What there is ----------------------------------------------------------------------------------------------------

    def columns(self) -> list[str]:
        """The columns, in order of first appearance."""
        with self._guard:
            return _columns(self._refreshed())

    @_again
    def layers(self, patience: float | None = None) -> list[str]:
        """The layers that have rows, as ``Run.layers`` orders them; "" first where the run as a whole has some.

        patience: seconds after which those found so far are the answer; None looks at all rows.
        """
        with self._guard:
            return self._ordered(self._refreshed(), None if patience is None else time.monotonic() + patience)

    def forget(self) -> None:
        """Let go of all values that were kept."""
        with self._guard:
            self._rows = Cache(ROWS_KEPT)
            self._summaries.clear()

    def extent(self) -> tuple[int, int] | None:
        """The first and the last recorded step; None before there is one."""
        with self._guard:
            return _extent(self._refreshed())

    def _ordered(self, sources: Sequence[Source], deadline: float | None = None) -> list[str]:
        for source in _spread_out([source for source in sources if not source.is_numbered]):
            with self._reporting(source):
                source.number(self._numbers)
            if deadline is not None and time.monotonic() > deadline:
                break
        listed = [name for name in self._listed() if name in self._numbers]
        rest = sorted(self._numbers.keys() - {"", *listed})
        return [""] * ("" in self._numbers) + listed + rest

    def _listed(self) -> list[str]:
        """The tensors that run.json names."""
        tensors = layout.read_info(self.folder).get("tensors", ())
        return list(dict.fromkeys(str(tensor["name"]) for tensor in tensors if "name" in tensor))

    # Values -----------------------------------------------------------------------------------------------------------

    @_again
    def series(
        self,
        column: str,
        layers: Sequence[str] | None = None,
        first: int | None = None,
        last: int | None = None,
        buckets: int = 1000,
        patience: float | None = None,
    ) -> Series:
        """By layer, what falls into each of ``buckets`` equal parts of the steps from ``first`` to ``last``.

        layers: all, in their order, unless given; those without a value are left out.  first, last: the run's own where
        not given, both included.  patience: seconds of reading after which the answer is what was found so far, and
        asking again goes on from there; None waits for all.

        Where there are more than about three million values, a bucket's edge may be off by half of ``CHUNK`` recorded
        steps; no value is lost or counted twice.
        Raises: UserError for a column or a layer that the run does not have, and for an empty range.
        """
        with self._guard:
            sources = self._refreshed()
            names = self._ordered(sources) if layers is None else list(dict.fromkeys(layers))
            scale, whole, read = self._reduced(sources, column, names, (first, last), buckets, patience)
            by_number = {
                int(whole.layer[a]): select(whole, slice(a, b)) for a, b in itertools.pairwise(_edges(whole.layer))
            }
            found = {name: by_number[n] for name in names if (n := self._numbers.get(name, -1)) in by_number}
            return Series(scale, found, read)

    @_again
    def matrix(
        self,
        column: str,
        layers: Sequence[str],
        first: int | None = None,
        last: int | None = None,
        buckets: int = 400,
        patience: float | None = None,
        value: str = "mean",
    ) -> Matrix:
        """Like ``series``, with "mean", "low", "high" or "end" of each bucket in a rectangle.

        NaN where there is none, and where the value itself is not finite.
        """
        with self._guard:
            scale, whole, read = self._reduced(self._refreshed(), column, layers, (first, last), buckets, patience)
            filled = np.full((len(layers), scale.size if scale else 0), np.nan)
            rows: dict[int, list[int]] = {}
            for row, name in enumerate(layers):
                rows.setdefault(self._numbers.get(name, -1), []).append(row)
            values = getattr(whole, value)
            for a, b in itertools.pairwise(_edges(whole.layer)):
                for row in rows.get(int(whole.layer[a]), ()):
                    filled[row, whole.place[a:b]] = values[a:b]
            return Matrix(scale, filled, read)

    def _reduced(
        self,
        sources: Sequence[Source],
        column: str,
        layers: Sequence[str],
        bounds: tuple[int | None, int | None],
        buckets: int,
        patience: float | None,
    ) -> tuple[Scale | None, Buckets, float]:
        if buckets < 1:
            raise ValueError(f"buckets must be at least 1, got {buckets}")
        extent = _extent(sources)
        if extent is None:
            return None, NOTHING, 1.0
        first, last = (own if given is None else given for given, own in zip(bounds, extent, strict=True))
        if last < first:
            raise UserError(f"the range of steps ends before it begins: {first} to {last}.")
        if column not in (known := _columns(sources)):
            raise unknown_name("column", column, known)
        scale = Scale(first, last, min(buckets, last - first + 1))
        concerned = [s for s in sources if column in s.names and s.span and s.span[0] <= last and s.span[1] >= first]
        deadline = None if patience is None else time.monotonic() + patience
        if self._is_coarse(concerned, scale):
            summary, concerned, read = self._summed_up(column, sources, concerned, deadline)
            wanted = self._wanted(layers, sources)
            pieces = [summary.buckets(wanted, scale)]
        else:
            pieces = []
            concerned, read = self._read(concerned, column, deadline)
            wanted = self._wanted(layers, sources)
        return scale, joined([NOTHING, *pieces, *self._by_value(concerned, column, wanted, scale)]), read

    def _is_coarse(self, sources: Sequence[Source], scale: Scale) -> bool:
        """Whether summaries do for this picture: there is too much to read, and a bucket holds some of their chunks."""
        rows = sum(source.rows for source in sources)
        if rows <= FEW_ROWS:
            return False
        steps = rows / max(len(self._numbers), len(self._listed()), 1)
        return rows > MANY_ROWS or steps / CHUNK > scale.size

    def _wanted(self, layers: Sequence[str], sources: Sequence[Source]) -> NDArray[np.bool_]:
        """By number of the layer, whether it was asked for."""
        if unknown := set(layers) - self._numbers.keys() - {"", *self._listed()}:
            self._ordered(sources)
            if unknown := unknown - self._numbers.keys():
                raise unknown_name("layer", min(unknown), self._numbers.keys() - {""})
        wanted = np.zeros(len(self._numbers), bool)
        wanted[[self._numbers[name] for name in layers if name in self._numbers]] = True
        return wanted

    def _read(self, sources: Sequence[Source], column: str, deadline: float | None) -> tuple[list[Source], float]:
        """Those that were read before the deadline, at least one that was not before, and their share."""
        there, fresh = set(), 0
        for source in _spread_out(sources):
            is_new = (source.identity, column) not in self._rows
            if not is_new or deadline is None or not fresh or time.monotonic() < deadline:
                self._values(source, column)
                there.add(source.identity)
                fresh += is_new
        return [s for s in sources if s.identity in there], len(there) / max(len(sources), 1)

    def _by_value(
        self, sources: Sequence[Source], column: str, wanted: NDArray[np.bool_], scale: Scale
    ) -> Iterator[Buckets]:
        rows = [_inside(self._values(source, column), wanted, scale) for source in sources]
        flags = repeated(map(span_of, rows), len(self._numbers))
        yield from (bucketed(piece, scale) for piece, is_repeated in zip(rows, flags, strict=True) if not is_repeated)
        if again := [piece for piece, is_repeated in zip(rows, flags, strict=True) if is_repeated]:
            yield bucketed(last_written(again), scale)

    def _summed_up(
        self, column: str, sources: Sequence[Source], concerned: Sequence[Source], deadline: float | None
    ) -> tuple[Summary, list[Source], float]:
        """The summary of the column, the sources that are to be read by value besides, and the share that was read."""
        summary = self._summaries.setdefault(column, Summary())
        self._summaries.move_to_end(column)
        while len(self._summaries) > SUMMARIES_KEPT:
            self._summaries.popitem(last=False)
        sealed = {
            source.identity: source for source in sources if isinstance(source, Sealed) and column in source.names
        }
        if not summary.spans.keys() <= sealed.keys():  # parts were replaced
            summary = self._summaries[column] = Summary()
        while True:
            todo = [s for s in concerned if s.identity in sealed and s.identity not in summary.held | summary.repeated]
            for source in _spread_out(todo):
                summary.take(source.identity, self._values(source, column))
                if deadline is not None and time.monotonic() > deadline:
                    break
            if summary.settle(sealed, len(self._numbers)):
                break
        missing = [s for s in concerned if s.identity in sealed and s.identity not in summary.held | summary.repeated]
        rest = [s for s in concerned if s.identity not in sealed or s.identity in summary.repeated]
        return summary, rest, 1 - len(missing) / max(len(concerned), 1)

    # What has been read -----------------------------------------------------------------------------------------------

    def _keys(self, source: Source) -> Keys:
        def read() -> Keys:
            with self._reporting(source):
                return source.keys(self._numbers)
            return NO_ROWS.layer, NO_ROWS.step

        keys: Keys = self._rows.get((source.identity, layout.KEYS), read)
        return keys

    def _values(self, source: Source, column: str) -> Rows:
        keys = self._keys(source)

        def read() -> Rows:
            with self._reporting(source):
                return source.written(keys, column)
            return NO_ROWS

        rows: Rows = self._rows.get((source.identity, column), read, besides=keys)
        return rows

    def _refreshed(self) -> list[Source]:
        """The segments in the order of writing, as they are on the disk now."""
        for _ in range(ATTEMPTS):
            live = layout.live_files(self.folder)
            parts = layout.part_files(self.folder)
            sealed = {number for part in parts for number in range(part.first, part.last + 1)}
            try:
                found = {part.first: self._sealed(part.first, part.path) for part in parts}
                found |= {n: self._growing(n, path) for n, path in live.items() if n not in sealed}
            except FileNotFoundError:
                continue  # sealed, or put together with others, in this moment
            self._sources = dict(sorted(found.items()))
            return list(self._sources.values())
        raise UserError(f"{self.folder} changes faster than it can be read. Is something else deleting files there?")

    def _sealed(self, first: int, path: Path) -> Source:
        known, inode = self._sources.get(first), path.stat().st_ino
        if isinstance(known, Sealed) and known.path == path and known.identity == (first, inode):
            return known
        sealed = Sealed(path, first, inode)
        with self._reporting(sealed):
            sealed.open()
        return sealed

    def _growing(self, number: int, path: Path) -> Source:
        known, inode = self._sources.get(number), path.stat().st_ino
        is_known = isinstance(known, Growing) and known.inode == inode
        growing = known if is_known and isinstance(known, Growing) else Growing(path, number, inode)
        growing.read()
        return growing

    @contextlib.contextmanager
    def _reporting(self, source: Source) -> Iterator[None]:
        """A part that cannot be read has no rows, and is named in ``problems``."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (DamagedData, pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or ["unknown reason"])[0]
            self.problems[source.path.name] = f"{source.path.name} cannot be read: {reason}"
            source.give_up()


def _columns(sources: Sequence[Source]) -> list[str]:
    return list(dict.fromkeys(name for source in sources for name in source.names))


def _edges(layer: NDArray[np.int32]) -> list[int]:
    """Where each layer begins, and where the last one ends."""
    if not len(layer):
        return [0]
    edges: list[int] = np.flatnonzero(np.r_[True, layer[1:] != layer[:-1], True]).tolist()
    return edges


def _extent(sources: Sequence[Source]) -> tuple[int, int] | None:
    spans = [source.span for source in sources if source.span is not None]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def _spread_out(sources: Sequence[Source]) -> list[Source]:
    """Every second one, then those halfway between, and so on: the picture is whole early and then gets finer."""
    bits = max(len(sources) - 1, 1).bit_length()
    order = sorted(range(len(sources)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [sources[i] for i in order]


def _inside(rows: Rows, wanted: NDArray[np.bool_], scale: Scale) -> Rows:
    """The rows of the wanted layers and steps."""
    inside = None if wanted.all() else wanted[rows.layer]
    if len(rows.step) and (rows.step.min() < scale.first or rows.step.max() > scale.last):
        steps = (rows.step >= scale.first) & (rows.step <= scale.last)
        inside = steps if inside is None else inside & steps
    return rows if inside is None else Rows._make(array[inside] for array in rows)
