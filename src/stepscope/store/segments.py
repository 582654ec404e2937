"""Rows to Arrow and back: record batches, live segments, sealed parts, and the merge that makes a table of them."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stepscope.errors import DamagedData
from stepscope.store.files import replacing
from stepscope.store.format import KEYS

__all__ = [
    "Row",
    "Segment",
    "clean",
    "is_column",
    "merge",
    "read_header",
    "read_live",
    "read_part",
    "schema",
    "seal",
    "to_batch",
]

_TYPES = {"step": pa.int64(), "layer": pa.string()}
Row = tuple[int, str, Mapping[str, Any]]


def schema(columns: Collection[str]) -> pa.Schema:
    """The schema of a segment: the two keys, then float64 columns in which null stands for "not written"."""
    return pa.schema([*_TYPES.items(), *((name, pa.float64()) for name in columns)])


def is_column(name: object) -> bool:
    """Whether a column may have this name: printable text, and none of the keys' names."""
    return isinstance(name, str) and name not in ("", *KEYS) and name.isprintable()


def to_batch(rows: Sequence[Row], columns: Collection[str]) -> pa.RecordBatch:
    """One record batch of ``rows``; names outside ``columns`` are left out.

    Raises: ValueError, TypeError or OverflowError if a step is no integer, a layer no text or a value no float
    (see ``clean``).
    """
    values = pa.array([row[2] for row in rows], pa.struct([(name, pa.float64()) for name in columns]))
    steps = pa.array([row[0] for row in rows], _TYPES["step"])
    layers = pa.array([row[1] for row in rows], _TYPES["layer"])
    if steps.null_count or layers.null_count:
        raise ValueError("a row needs a step and a layer")
    return pa.RecordBatch.from_arrays([steps, layers, *values.flatten()], schema=schema(columns))


def clean(rows: Sequence[Row], columns: Collection[str]) -> tuple[list[Row], str]:
    """The rows, value by value, that ``to_batch`` takes, and a word on the first thing that had to be left out."""
    kept: list[Row] = []
    problem = ""
    for step, layer, values in rows:
        numbers: dict[str, float | None] = {}
        for name in values.keys() & columns:
            try:
                numbers[name] = None if values[name] is None else float(values[name])
            except Exception:  # whatever a foreign object's __float__ may raise
                kind = type(values[name]).__name__
                problem = problem or f"{name} is no number but a {kind}"
        try:
            row = int(step), layer, numbers
            to_batch([row], ())
        except Exception:  # likewise
            kinds = f"{type(step).__name__} and {type(layer).__name__}"
            problem = problem or f"step and layer of a row must be a 64-bit integer and text, got {kinds}"
        else:
            kept.append(row)
    return kept, problem


class Segment:
    """A live segment open for writing: an Arrow IPC stream that is complete after every ``append``.

    The file is opened unbuffered and each record batch handed to the system in one piece, so that a killed process
    leaves at most one torn batch, at the very end.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns
        self.rows = self.bytes = self.batches = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, message: pa.Buffer, rows: int) -> None:
        """Write a serialized record batch of ``rows`` rows.  After an OSError the segment takes no more."""
        if not self.batches:
            self._write_all(schema(self.columns).serialize())
        self._write_all(message)
        self.rows += rows
        self.bytes += message.size
        self.batches += 1

    def _write_all(self, data: pa.Buffer) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        """Let go of the file; an empty segment leaves none."""
        os.close(self._file)
        if not self.batches:
            self.path.unlink(missing_ok=True)


def read_live(path: Path, columns: Collection[str] | None = None) -> pa.Table | None:
    """The complete record batches of a live segment, in the order of writing; None before the first is there.

    Of its columns, where ``columns`` are given, the keys and those.

    A torn tail - of a writer that was killed, or that is just writing - ends the table and is no error.
    """
    data = path.read_bytes()
    batches = []
    try:
        with pa.ipc.open_stream(data) as stream:
            batches.extend(stream)  # keeps those before the one that raises
    except (pa.ArrowInvalid, OSError):  # OSError: pyarrow's word for a message that ends too early
        pass
    return _select(pa.Table.from_batches(batches), columns) if batches else None


def read_part(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """A sealed part; of its columns, where ``columns`` are given, the keys and those.

    Raises: FileNotFoundError; DamagedData for a file that cannot be understood.
    """
    # Not pq.read_table: it takes a folder named "lr=0.1" on the way for a column.
    with _understanding(path), pq.ParquetFile(path) as file:
        return _select(file.read(None if columns is None else [*KEYS, *columns]), columns)


def read_header(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """Like ``read_part``, without the rows."""
    with _understanding(path):
        return _select(pq.read_schema(path).empty_table(), columns)


def _select(table: pa.Table, columns: Collection[str] | None) -> pa.Table:
    wanted = table.column_names if columns is None else {*KEYS, *columns}
    return table.select([name for name in table.column_names if name in wanted])


@contextlib.contextmanager
def _understanding(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise DamagedData(
            f"{path} cannot be read ({reason}). Restore it, or move it away to read the rest of the run."
        ) from error


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """One table, sorted by layer and step, one row for each pair: of several values written, the last one counts.

    ``tables`` come in the order of writing. Pairs repeat where a run was continued from a checkpoint, or where the
    values of one step were written in several calls. Columns are united; null stands for "not written".
    """
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if not len(table):
        return table
    layer = table["layer"].combine_chunks().dictionary_encode()
    _, rank = np.unique(np.array(layer.dictionary.to_pylist(), dtype=object), return_inverse=True)
    layers, steps = rank[layer.indices.to_numpy()], table["step"].to_numpy()
    order = np.lexsort((steps, layers))  # stable: equal pairs stay in the order of writing
    table = table.take(pa.array(order))
    layers, steps = layers[order], steps[order]
    starts = np.flatnonzero(np.r_[True, (layers[1:] != layers[:-1]) | (steps[1:] != steps[:-1])])
    if len(starts) == len(table):
        return table
    merged = [table[name].take(pa.array(starts)) for name in KEYS]
    for column in table.columns[len(KEYS) :]:
        written = np.where(column.is_valid().to_numpy(), np.arange(len(table)), -1)
        last = np.maximum.reduceat(written, starts)
        merged.append(column.take(pa.array(last, mask=last < 0)))
    return pa.table(merged, names=table.column_names)


def seal(live: Path, part: Path) -> None:
    """Turn a live segment into a sorted, compressed part; the live file goes once the part is safely there.

    Raises: OSError; the live segment is then as it was.
    """
    if not part.exists() and (table := read_live(live)) is not None:
        table = merge([table])
        with replacing(part) as file:
            # Dictionaries make noisy floats larger and three times slower to write; byte streams make them smaller.
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=3,
                use_dictionary=["layer"],
                use_byte_stream_split=[name for name in table.column_names if name not in KEYS],
            )
    live.unlink()
