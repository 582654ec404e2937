"""Sealed parts: Parquet files sorted by layer and step, whose footers tell where each layer's rows are.

So a question about few layers, steps or columns reads little else. Every page has a checksum: what a disk damaged is an
error and never a wrong number.
"""

import contextlib
import itertools
import json
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepscope.errors import DamagedData
from stepscope.store.files import replacing
from stepscope.store.format import KEYS
from stepscope.store.live import read_live
from stepscope.store.rows import LAYER, merge, schema

__all__ = ["Part", "Steps", "readable", "seal", "within", "write_part"]

Steps = tuple[int | None, int | None] | NDArray[np.int64]
"""The first and the last step that are wanted, both included, None for no bound; or, in an array, each of them."""

GROUP = 1 << 16  # rows: half a millisecond to decode a column of
GROUP_VALUES = 1 << 22  # of a row group: 32 MiB in memory
_NOTE = b"stepscope"
_SIGNED = b"SSF2"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)  # what a damaged file makes pyarrow raise


class Source(Protocol):
    """Where rows of a new part come from.  names: columns.  layers: rows by layer."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def layers(self) -> Mapping[str, int]: ...

    def read(self, columns: Collection[str] | None, layers: Collection[str]) -> pa.Table:
        """The keys and those of these columns that are there (None: all), of these layers, in the order of writing."""


def write_part(
    path: Path,
    rows: pa.Table | Sequence[Source],
    thinned: Sequence[Sequence[int]] = (),
    without: NDArray[np.int64] | None = None,
) -> None:
    """Write rows, from several sources in the order of writing, as a part, in one piece.

    Some layers at a time are read, merged and written, so that it takes the memory of these and not of all.
    thinned: stretches of steps, each (first, last, n), of which 1 in n recorded steps were kept.
    without: steps to leave out.  Raises: OSError.
    """
    sources = [_Unsorted(rows)] if isinstance(rows, pa.Table) else rows
    values = list(dict.fromkeys(name for source in sources for name in source.names))
    names = schema(values)
    batches = list(_batches(sources, len(values)))
    counts: dict[str, int] = {}
    steps: list[int] = []
    for batch in batches:
        keys = _merged(sources, (), batch, without)
        layer, step = keys["layer"].combine_chunks(), keys["step"].to_numpy()
        found = np.bincount(layer.indices.to_numpy(), minlength=len(layer.dictionary))
        counts |= {name: n for name, n in zip(layer.dictionary.to_pylist(), found.tolist(), strict=True) if n}
        steps += [int(step.min()), int(step.max())] if len(step) else []
    note = {
        "layers": [[name, counts[name]] for name in sorted(counts)],
        "steps": [min(steps), max(steps)] if steps else None,
        "thinned": [list(map(int, stretch)) for stretch in thinned],
    }
    names = names.with_metadata({_NOTE: json.dumps(note).encode()})
    with (
        replacing(path) as file,
        # Dictionaries make noisy floats larger and three times slower to write; byte streams make them smaller.
        pq.ParquetWriter(
            file,
            names,
            compression="zstd",
            compression_level=3,
            use_dictionary=["layer"],
            use_byte_stream_split=values,
            column_encoding={"step": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        ) as writer,
    ):
        for batch in batches:
            table = _merged(sources, values, batch, without)
            absent = [name for name in values if name not in table.column_names]
            for name in absent:
                table = table.append_column(name, pa.nulls(len(table), pa.float64()))
            writer.write_table(table.select(names.names).cast(names), row_group_size=_group(len(values)))
        writer.close()
        _sign_footer(file)


def _group(columns: int) -> int:
    """Rows of a row group."""
    return max(1, min(GROUP, GROUP_VALUES // max(columns, 1)))


def _batches(sources: Sequence[Source], columns: int) -> Iterator[list[str]]:
    """All layers in order of name, as many at a time as have the rows of one row group."""
    rows: dict[str, int] = {}
    for source in sources:
        for name, count in source.layers.items():
            rows[name] = rows.get(name, 0) + count
    batch: list[str] = []
    size = 0
    for name in sorted(rows):
        if batch and size + rows[name] > _group(columns):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += rows[name]
    if batch:
        yield batch


def _merged(
    sources: Sequence[Source],
    columns: Collection[str],
    layers: Collection[str],
    without: NDArray[np.int64] | None,
) -> pa.Table:
    table = merge([source.read(columns, layers) for source in sources])
    if without is None:
        return table
    return table.filter(pa.array(~np.isin(table["step"].to_numpy(), without)))


class _Unsorted:
    """Rows in the order of writing as a source."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.unify_dictionaries().combine_chunks()
        self.names = tuple(name for name in table.column_names if name not in KEYS)
        layer = self._table["layer"].combine_chunks() if len(table) else pa.array([], LAYER)
        codes = layer.indices.to_numpy()
        present = np.bincount(codes, minlength=len(layer.dictionary))
        self._order = np.argsort(codes, kind="stable")
        ends = np.cumsum(present)
        self._spans = {
            name: (int(end - n), int(end))
            for name, n, end in zip(layer.dictionary.to_pylist(), present, ends, strict=True)
            if n
        }
        self.layers = {name: stop - start for name, (start, stop) in self._spans.items()}

    def read(self, columns: Collection[str] | None, layers: Collection[str]) -> pa.Table:
        """Rows of these layers, one layer after the other."""
        there = [self._order[slice(*self._spans[name])] for name in layers if name in self._spans]
        wanted = [name for name in self.names if columns is None or name in columns]
        return self._table.select([*KEYS, *wanted]).take(pa.array(np.concatenate([np.zeros(0, np.int64), *there])))


class Part:
    """A part and what its footer says.

    names: columns.  layers: rows by layer, in the order of the file.  steps: first and last, None without rows.
    thinned: as ``write_part``.  size: bytes on the disk.  spans: where they are known, first and last step by layer.
    Raises: FileNotFoundError; DamagedData for a file that cannot be understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _understanding(path), pq.ParquetFile(path) as file:
            _check_footer(path)
            self._footer = file.metadata
            arrow = file.schema_arrow
            self.names: tuple[str, ...] = tuple(name for name in arrow.names if name not in KEYS)
            self.rows: int = file.metadata.num_rows
            self.size = path.stat().st_size
            note = (arrow.metadata or {}).get(_NOTE)
            found = json.loads(note) if note else _looked_up(file)
        self.layers: dict[str, int] = dict(found["layers"])
        self.steps: tuple[int, int] | None = tuple(found["steps"]) if found["steps"] else None
        self.thinned: list[list[int]] = found["thinned"]

    def read(
        self,
        columns: Collection[str] | None = None,
        layers: Collection[str] | None = None,
        steps: Steps = (None, None),
    ) -> pa.Table:
        """The keys and those of ``columns`` that are there (None: all), of the given layers and steps.

        Raises: FileNotFoundError; DamagedData.
        """
        names = [name for name in self.names if columns is None or name in columns]
        wanted = self._wanted(layers, steps)
        if not wanted:
            return _with_layers(pa.schema(self._fields(names)).empty_table(), [])
        pieces = []
        # Not pq.read_table: it takes a folder named "lr=0.1" on the way for a column.
        with (
            _understanding(self.path),
            pq.ParquetFile(self.path, metadata=self._footer, page_checksum_verification=True) as file,
        ):
            for start, stop in _joined([(start, stop) for _, start, stop in wanted]):
                groups = self._groups(start, stop)
                table = file.read_row_groups([number for number, _ in groups], columns=["step", *names])
                table = table.select(["step", *names])  # asked for "a", pyarrow also reads "a.b"
                pieces.append(table.slice(start - groups[0][1], stop - start))
        table = pa.concat_tables(pieces)
        return within(_with_layers(table, [(name, stop - start) for name, start, stop in wanted]), None, steps)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows, the step or one of ``names``; on one thread, because others train on this machine.

        Raises: FileNotFoundError; DamagedData.
        """
        with (
            _understanding(self.path),
            pq.ParquetFile(self.path, metadata=self._footer, page_checksum_verification=True) as file,
        ):
            return file.read([name], use_threads=False)[name]

    def _fields(self, names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
        return [("step", pa.int64()), *((name, pa.float64()) for name in names)]

    def _wanted(self, layers: Collection[str] | None, steps: Steps) -> list[tuple[str, int, int]]:
        """Each wanted layer with its first row and the row after its last."""
        if self.steps is None or not _touches(self.steps, steps):
            return []
        ends = itertools.accumulate(self.layers.values())
        return [
            (name, end - rows, end)
            for (name, rows), end in zip(self.layers.items(), ends, strict=True)
            if layers is None or name in layers
        ]

    def _groups(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The row groups that hold rows ``start`` to ``stop``, each with its first row."""
        found = []
        first = 0
        for number in range(self._footer.num_row_groups):
            last = first + self._footer.row_group(number).num_rows
            if first < stop and last > start:
                found.append((number, first))
            first = last
        return found


def within(table: pa.Table, layers: Collection[str] | None, steps: Steps) -> pa.Table:
    """The rows of these layers (None: all) and steps."""
    if layers is not None:
        table = table.filter(pc.is_in(table["layer"], pa.array(list(layers), pa.string())))
    if isinstance(steps, np.ndarray):
        return table.filter(pa.array(np.isin(table["step"].to_numpy(), steps)))
    first, last = steps
    if first is not None or last is not None:
        there = table["step"].to_numpy()
        low = np.iinfo(np.int64).min if first is None else first
        high = np.iinfo(np.int64).max if last is None else last
        table = table.filter(pa.array((there >= low) & (there <= high)))
    return table


def seal(live: Path, part: Path) -> None:
    """Turn a live segment into a part; the live file goes once the part is safely there.

    Raises: OSError; the live segment is then as it was.
    """
    if not part.exists() and (table := read_live(live)) is not None:
        write_part(part, table)
    live.unlink()


def readable(path: Path) -> pa.Table | None:
    """What is left of a damaged part: the row groups that can still be read; None if there is none."""
    pieces = []
    with contextlib.suppress(*_UNREADABLE):
        _check_footer(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.metadata.num_row_groups):
                with contextlib.suppress(*_UNREADABLE):
                    table = file.read_row_group(number)
                    pieces.append(table.set_column(1, "layer", table["layer"].cast(pa.string()).dictionary_encode()))
    return merge(pieces) if pieces else None


def _sign_footer(file: BinaryIO) -> None:
    """Put the footer's checksum before it: pages have theirs from Parquet, the footer has none.

    Readers find the footer from the end of the file and pages by their offsets, so nobody else looks there.
    """
    footer, tail, start = _footer(file)
    file.seek(start)
    file.write(_SIGNED + struct.pack("<I", zlib.crc32(footer)) + footer + tail)


def _check_footer(path: Path) -> None:
    """Raises: ValueError for a footer that is not as it was written; version 1 left it unsigned."""
    with path.open("rb") as file:
        footer, _, start = _footer(file)
        file.seek(max(start - 8, 0))
        signature = file.read(8)
    if signature[:4] == _SIGNED and signature != _SIGNED + struct.pack("<I", zlib.crc32(footer)):
        raise ValueError("its footer is damaged")


def _footer(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """The footer of a Parquet file, the eight bytes behind it (its length and a mark), and where it starts."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 8, 0))
    tail = file.read(8)
    start = end - 8 - int.from_bytes(tail[:4], "little")
    if start < 0:
        raise ValueError("its footer is damaged")
    file.seek(start)
    return file.read(end - 8 - start), tail, start


def _touches(there: tuple[int, int], steps: Steps) -> bool:
    if isinstance(steps, np.ndarray):
        return bool(((steps >= there[0]) & (steps <= there[1])).any())
    first, last = steps
    return (first is None or there[1] >= first) and (last is None or there[0] <= last)


def _joined(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans of rows with those that follow each other closely read in one go: decoding is by row group anyway."""
    start, stop = spans[0]
    for low, high in spans[1:]:
        if low > stop:
            yield start, stop
            start = low
        stop = high
    yield start, stop


def _with_layers(table: pa.Table, runs: Sequence[tuple[str, int]]) -> pa.Table:
    codes = np.repeat(np.arange(len(runs), dtype=np.int32), [rows for _, rows in runs])
    layer = pa.DictionaryArray.from_arrays(codes, pa.array([name for name, _ in runs], pa.string()))
    return table.add_column(1, pa.field("layer", LAYER), layer)


def _looked_up(file: pq.ParquetFile) -> Mapping[str, Any]:
    """What version 1 did not note, from the rows themselves, which it sorted too."""
    table = file.read(list(KEYS))
    encoded = table["layer"].combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()  # in order of first appearance
    counts: NDArray[np.int64] = np.bincount(encoded.indices.to_numpy(), minlength=len(names))
    steps = table["step"].to_numpy()
    return {
        "layers": dict(zip(names, counts.tolist(), strict=True)),
        "steps": (int(steps.min()), int(steps.max())) if len(steps) else None,
        "thinned": [],
    }


@contextlib.contextmanager
def _understanding(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise DamagedData(
            f"{path} cannot be read ({reason}). `stepscope repair {path.parent.parent}` keeps what can be."
        ) from error
