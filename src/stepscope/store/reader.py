"""Reading a run, finished or growing, without ever being in its writer's way."""

import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepscope.errors import UserError, unknown_name
from stepscope.store import format as layout
from stepscope.store import lock
from stepscope.store.segments import merge, read_header, read_live, read_part, schema

__all__ = ["Run"]

Status = Literal["running", "finished", "failed", "interrupted"]
_Read = Callable[[Path, Collection[str] | None], pa.Table]
ATTEMPTS = 100  # each one is lost only to a segment sealed in the milliseconds between listing and reading


class Run:
    """A recorded run.  Every property and every table shows what is on the disk at that moment.

    Raises: UserError if ``folder`` is no run or a newer version's; DamagedData, here or later, for a file that
    cannot be understood.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        layout.read_info(self.folder)

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
        return _columns(map(_names, self._tables(None, read_header)))

    @property
    def layers(self) -> list[str]:
        """The layers that have rows: those of ``info["tensors"]`` in that order, then others, sorted.

        The layer "" (values of the run as a whole) is not listed; ``table`` has its rows.
        """
        there = _layers(self._tables([]))
        listed = [name for name in _listed(self.info) if name in there]
        return listed + sorted(there - {"", *listed})

    @property
    def events(self) -> list[dict[str, Any]]:
        """What ``RunWriter.event`` noted, oldest first: dicts with at least kind and time."""
        try:
            lines = (self.folder / layout.EVENTS).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # torn by a kill, or being written just now
            if isinstance(event, dict):
                events.append(event)
        return events

    def table(self, *names: str, layers: Sequence[str] | str | None = None) -> pa.Table:
        """Columns step (int64), layer (string) and the named ones (float64; without names all), by layer and step.

        A row is one step of one layer. Rows in which none of the named columns was written are left out; where some
        were, the others are NaN. layers: only these; "" is the run as a whole. Before the first flush of a run the
        table is empty.
        Raises: UserError for a name or layer that the run does not have.
        """
        info = self.info
        asked = list(dict.fromkeys(names))
        tables = self._tables(asked or None)
        found = _columns(_names(table) for table in tables)
        if tables and (missing := [name for name in asked if name not in found]):
            raise unknown_name("column", missing[0], self.names)
        if layers is not None:
            layers = [layers] if isinstance(layers, str) else list(layers)
            known = {"", *_listed(info), *_layers(tables)}
            if tables and (missing := [name for name in layers if name not in known]):
                raise unknown_name("layer", missing[0], known - {""})
            tables = [table.filter(pc.is_in(table["layer"], pa.array(layers, pa.string()))) for table in tables]
        if asked:
            tables = [_with_values(table) for table in tables]
        columns = asked or found
        table = merge([schema(columns).empty_table(), *tables])
        filled = [table[name].fill_null(np.nan) for name in columns]
        return pa.table([*(table[key] for key in layout.KEYS), *filled], names=[*layout.KEYS, *columns])

    def _tables(self, columns: Collection[str] | None, read_sealed: _Read = read_part) -> list[pa.Table]:
        """The rows of every segment, in the order of writing; of the columns, where some are given, only those.

        A writer may be sealing meanwhile. Live segments are listed before parts, so none is missed; one that is gone
        when its turn comes has become a part, and we look again.
        """
        for _ in range(ATTEMPTS):
            live = layout.segments(self.folder / layout.LIVE, ".arrow")
            parts = layout.segments(self.folder / layout.PARTS, ".parquet")
            tables = []
            try:
                for number in sorted(live.keys() | parts.keys()):
                    sealed = number in parts
                    tables.append(read_sealed(parts[number], columns) if sealed else read_live(live[number], columns))
            except FileNotFoundError:
                continue
            return [table for table in tables if table is not None]
        raise UserError(f"{self.folder} changes faster than it can be read. Is something else deleting files there?")


def _names(table: pa.Table) -> list[str]:
    names: list[str] = table.column_names
    return names[len(layout.KEYS) :]


def _columns(found: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _layers(tables: Iterable[pa.Table]) -> set[str]:
    return {layer for table in tables for layer in table["layer"].unique().to_pylist()}


def _listed(info: Mapping[str, Any]) -> list[str]:
    """Names of the parameter tensors that run.json lists."""
    return [str(tensor["name"]) for tensor in info.get("tensors", ()) if "name" in tensor]


def _with_values(table: pa.Table) -> pa.Table:
    """Without the rows that have no value at all."""
    written = np.zeros(len(table), bool)
    for name in _names(table):
        written |= table[name].is_valid().to_numpy()
    return table.filter(pa.array(written))
