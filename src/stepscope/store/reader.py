"""Reading a run, finished or growing, without ever being in its writer's way."""

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from stepscope.errors import unknown_name
from stepscope.store import format as layout
from stepscope.store import lock, views
from stepscope.store.buckets import Buckets
from stepscope.store.parts import Part, Steps, within
from stepscope.store.query import Query
from stepscope.store.rows import merge, schema
from stepscope.store.segments import Segments, Source

if TYPE_CHECKING:
    import pandas
    import polars
    import xarray

__all__ = ["Run"]

Chosen = Steps | slice | Sequence[int]
Status = Literal["running", "finished", "failed", "interrupted"]


class Run:
    """A recorded run.  Every property and every table shows what is on the disk at that moment.

    Raises: UserError if ``folder`` is no run or a newer version's; DamagedData, here or later, for a file that
    cannot be understood.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        layout.read_info(self.folder)
        self._segments = Segments(self.folder)
        self._query: Query | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def info(self) -> dict[str, Any]:
        """What run.json holds: schema, created (UTC, ISO), status, config, tensors, provenance."""
        return layout.read_info(self.folder)

    @property
    def status(self) -> Status:
        """running (a living process records), finished or failed (as it was closed), or interrupted (neither)."""
        alive = lock.is_held(self.folder / layout.LOCK)  # before run.json: it is written before the lock is released
        status: Status | None = self.info.get("status")
        return status or ("running" if alive else "interrupted")

    @property
    def names(self) -> list[str]:
        """The columns, in order of first appearance."""
        return self._segments.read(lambda sources: _columns(map(_names, sources)))

    @property
    def layers(self) -> list[str]:
        """The layers that have rows: those of ``info["tensors"]`` in that order, then others, sorted.

        The layer "" (values of the run as a whole) is not listed; ``table`` has its rows.
        """
        there = self._segments.read(_layers)
        listed = [name for name in dict.fromkeys(_listed(self.info)) if name in there]
        return listed + sorted(there - {"", *listed})

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each layer has on the disk, "" included; a step written twice may count twice."""
        return dict(self._segments.read(_counts))

    @property
    def steps(self) -> tuple[int, int] | None:
        """The first and the last recorded step; None before there is one."""
        spans = self._segments.read(lambda sources: [span for source in sources if (span := _span(source))])
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    @property
    def thinned(self) -> list[tuple[int, int, int]]:
        """Stretches of steps that were thinned out to keep within ``max_bytes``: first, last, and n of 1 in n kept."""
        sources = self._segments.read(lambda sources: [part for part in sources if isinstance(part, Part)])
        return [(first, last, n) for part in sources for first, last, n in part.thinned]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What ``RunWriter.event`` noted, oldest first: dicts with at least kind and time."""
        return layout.read_events(self.folder)

    def table(
        self,
        *names: str,
        layers: Sequence[str] | str | None = None,
        steps: Chosen = (None, None),
    ) -> pa.Table:
        """Columns step (int64), layer (string) and the named ones (float64; without names all), by layer and step.

        A row is one step of one layer. Rows in which none of the named columns was written are left out; where some
        were, the others are NaN. Before the first flush of a run the table is empty. Only what is asked for is read.
        layers: only these; "" is the run as a whole.
        steps: a tuple of the first and the last one wanted, both included, None for no bound; a slice, which ends
        before its stop; or a list or array of steps.
        Raises: UserError for a name or layer that the run does not have.
        """
        asked = list(dict.fromkeys(names))
        chosen = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
        span = _bounds(steps)

        def read(sources: Sequence[Source]) -> tuple[list[str], list[pa.Table]]:
            found = _columns(map(_names, sources))
            if sources and (missing := [name for name in asked if name not in found]):
                raise unknown_name("column", missing[0], found)
            if sources and chosen is not None:
                known = {"", *_listed(self.info), *_layers(sources)}
                if missing := [name for name in chosen if name not in known]:
                    raise unknown_name("layer", missing[0], known - {""})
            return found, [_rows(source, asked or None, chosen, span) for source in sources]

        layout.read_info(self.folder)
        found, tables = self._segments.read(read)
        if asked:
            tables = [_with_values(table) for table in tables]
        columns = asked or found
        table = merge([schema(columns).empty_table(), *tables])
        filled = [table[name].fill_null(np.nan) for name in columns]
        keys = [table["step"], table["layer"].cast(pa.string())]
        return pa.table([*keys, *filled], names=[*layout.KEYS, *columns])

    def downsample(
        self,
        name: str,
        layers: Sequence[str] | str | None = None,
        steps: Chosen = (None, None),
        buckets: int = 1000,
    ) -> dict[str, Buckets]:
        """By layer, a column over equal stretches of steps: least value, mean and largest of each, for a picture.

        layers, steps: as ``table``, "" included where it has values.  A layer's ``Buckets`` hold arrays over those
        buckets in which it has values: step (the mean), low, mean, high, finite and broken (how many values are, and
        how many are not, finite). Beyond about three million values, a bucket's edge may be off by a few recorded
        steps; no value is lost or counted twice.
        Raises: UserError for a name or layer that the run does not have.
        """
        if self._query is None:
            self._query = Query(self.folder)
        chosen = [layers] if isinstance(layers, str) else layers
        span = _bounds(steps)
        if isinstance(span, np.ndarray):
            raise ValueError("downsampling wants a range of steps, not a list")
        first, last = span
        return dict(self._query.series(name, chosen, first, last, buckets).layers)

    def pandas(
        self,
        *names: str,
        layers: Sequence[str] | str | None = None,
        steps: Chosen = (None, None),
    ) -> "pandas.DataFrame":
        """As ``table``, as a pandas frame with the index (layer, step).  Raises: UserError too if pandas is missing."""
        return views.to_pandas(self.table(*names, layers=layers, steps=steps))

    def polars(
        self,
        *names: str,
        layers: Sequence[str] | str | None = None,
        steps: Chosen = (None, None),
    ) -> "polars.DataFrame":
        """As ``table``, as a polars frame.  Raises: UserError too if polars is missing."""
        return views.to_polars(self.table(*names, layers=layers, steps=steps))

    def xarray(
        self,
        *names: str,
        layers: Sequence[str] | str | None = None,
        steps: Chosen = (None, None),
    ) -> "xarray.Dataset":
        """As ``table``, as an xarray data set: a variable [layer, step] for each column, NaN where nothing was written.

        A column of the run as a whole has the dimension step only. Layers come in the order of the model; attributes
        say the unit, formula and estimator of a column where the run knows them.
        Raises: UserError too if xarray is missing.
        """
        return views.to_xarray(self.table(*names, layers=layers, steps=steps), self.layers, self.info)


def _names(source: Source) -> Sequence[str]:
    if isinstance(source, Part):
        return source.names
    return [name for table in source.tables for name in table.column_names if name not in layout.KEYS]


def _columns(found: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _counts(sources: Iterable[Source]) -> Counter[str]:
    found: Counter[str] = Counter()
    for source in sources:
        if isinstance(source, Part):
            found.update(source.layers)
        else:
            for table in source.tables:
                found.update({pair["values"]: pair["counts"] for pair in table["layer"].value_counts().to_pylist()})
    return found


def _layers(sources: Iterable[Source]) -> set[str]:
    return set(_counts(sources))


def _span(source: Source) -> tuple[int, int] | None:
    if isinstance(source, Part):
        return source.steps
    steps = [table["step"].to_numpy() for table in source.tables if len(table)]
    return (int(min(map(np.min, steps))), int(max(map(np.max, steps)))) if steps else None


def _bounds(steps: Chosen) -> Steps:
    if isinstance(steps, slice):
        if steps.step not in (None, 1):
            raise ValueError(f"steps must be consecutive, got {steps}")
        return steps.start, None if steps.stop is None else steps.stop - 1
    return steps if isinstance(steps, tuple) and len(steps) == 2 else np.asarray(steps, np.int64)


def _rows(source: Source, columns: list[str] | None, layers: Collection[str] | None, steps: Steps) -> pa.Table:
    if isinstance(source, Part):
        return source.read(columns, layers, steps)
    table = source.table
    if table is None:
        return schema([]).empty_table()
    if columns is not None:
        table = table.select([name for name in table.column_names if name in {*layout.KEYS, *columns}])
    return within(table, layers, steps)


def _listed(info: Mapping[str, Any]) -> list[str]:
    """Names of the parameter tensors that run.json lists."""
    return [str(tensor["name"]) for tensor in info.get("tensors", ()) if "name" in tensor]


def _with_values(table: pa.Table) -> pa.Table:
    """Without the rows that have no value at all."""
    written = np.zeros(len(table), bool)
    for name in table.column_names[len(layout.KEYS) :]:
        if not table[name].null_count:
            return table
        written |= table[name].is_valid().to_numpy()
    return table.filter(pa.array(written))
