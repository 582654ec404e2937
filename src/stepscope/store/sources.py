"""The two kinds of segments as a query reads them: sealed parts by column, the live one as far as it has grown."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepscope.store.buckets import NO_ROWS, Rows, last_written
from stepscope.store.format import KEYS

__all__ = ["Growing", "Keys", "Sealed", "Source"]

Keys = tuple[NDArray[np.int32], NDArray[np.int64]]  # of each row: the number of its layer, and its step
Numbers = dict[str, int]  # the number of each layer of a run; a source adds those it meets
Statistics = Mapping[str, Any]


class Source:
    """A segment.  names: its columns.  span: its first and last step, None without rows.  rows: how many.

    is_numbered: whether its layers have been entered into the run's numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: tuple[str, ...] = ()
        self.span: tuple[int, int] | None = None
        self.rows = 0
        self.is_numbered = False

    @property
    def identity(self) -> tuple[int, ...]:
        """Another one whenever the rows may be others."""
        raise NotImplementedError

    def keys(self, numbers: Numbers) -> Keys:
        """Layer and step of every row."""
        raise NotImplementedError

    def written(self, keys: Keys, column: str) -> Rows:
        """The rows in which the column was written, each pair of layer and step once."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Have no rows: they cannot be read."""
        self.names, self.span, self.rows, self.is_numbered = (), None, 0, True


class Sealed(Source):
    """A part, whose rows are in order and never change."""

    def __init__(self, path: Path, number: int, inode: int) -> None:
        super().__init__(path)
        self._identity = number, inode

    @property
    def identity(self) -> tuple[int, ...]:
        """Number and inode: another file in its place has another one."""
        return self._identity

    def open(self) -> None:
        """Read the footer."""
        with pq.ParquetFile(self.path) as file:
            names = file.schema_arrow.names
            self.names = tuple(name for name in names if name not in KEYS)
            self.rows = file.metadata.num_rows
            place = names.index("step")
            groups = range(file.metadata.num_row_groups)
            found = [file.metadata.row_group(i).column(place).statistics for i in groups]
            if self.rows and all(stats is not None and stats.has_min_max for stats in found):
                self.span = min(stats.min for stats in found), max(stats.max for stats in found)
            elif self.rows:
                step = file.read(["step"])["step"].to_numpy()
                self.span = int(step.min()), int(step.max())

    def keys(self, numbers: Numbers) -> Keys:
        """Layer and step of every row."""
        with pq.ParquetFile(self.path, read_dictionary=["layer"]) as file:
            table = file.read(list(KEYS), use_threads=False).combine_chunks()  # others train on this machine
        self.is_numbered = True
        return _numbered(table["layer"], numbers), table["step"].to_numpy()

    def written(self, keys: Keys, column: str) -> Rows:
        """The rows in which the column was written."""
        if not self.rows:
            return NO_ROWS
        with pq.ParquetFile(self.path) as file:
            return _written(keys, file.read([column], use_threads=False)[column])


class Growing(Source):
    """A live segment, of which only what was appended is read."""

    def __init__(self, path: Path, number: int, inode: int) -> None:
        super().__init__(path)
        self.inode = inode
        self._number = number
        self._offset = 0
        self._schema: pa.Schema | None = None
        self._batches: list[pa.RecordBatch] = []

    @property
    def identity(self) -> tuple[int, ...]:
        """Number, inode, and how much of it was read."""
        return self._number, self.inode, self._offset

    def read(self) -> None:
        """Take in the record batches that are complete by now; a torn one at the end is left for later."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        stream, start = pa.BufferReader(data), self._offset
        with contextlib.suppress(pa.ArrowInvalid, OSError, EOFError):
            while stream.tell() < len(data):
                message = pa.ipc.read_message(stream)
                if self._schema is None:
                    self._schema = pa.ipc.read_schema(message)
                    self.names = tuple(name for name in self._schema.names if name not in KEYS)
                else:
                    self._take(pa.ipc.read_record_batch(message, self._schema))
                self._offset = start + stream.tell()

    def _take(self, batch: pa.RecordBatch) -> None:
        if not len(batch):
            return
        steps = batch.column("step").to_numpy()
        first, last = int(steps.min()), int(steps.max())
        self.span = (first, last) if self.span is None else (min(first, self.span[0]), max(last, self.span[1]))
        self._batches.append(batch)
        self.rows += len(batch)
        self.is_numbered = False

    def keys(self, numbers: Numbers) -> Keys:
        """Layer and step of every row."""
        self.is_numbered = True
        if not self.rows:
            return NO_ROWS.layer, NO_ROWS.step
        layer = self._whole.column("layer").dictionary_encode()
        return _numbered(pa.chunked_array([layer]), numbers), self._whole.column("step").to_numpy()

    def written(self, keys: Keys, column: str) -> Rows:
        """The rows in which the column was written."""
        if not self.rows:
            return NO_ROWS
        return last_written([_written(keys, pa.chunked_array([self._whole.column(column)]))])

    @property
    def _whole(self) -> pa.RecordBatch:
        """All rows in one batch: many small ones would cost every query."""
        if len(self._batches) > 1:
            self._batches = pa.Table.from_batches(self._batches).combine_chunks().to_batches()
        return self._batches[0]


def _numbered(column: pa.ChunkedArray, numbers: Numbers) -> NDArray[np.int32]:
    """Each row's layer as its number; unknown layers get the next ones."""
    found = [np.zeros(0, np.int32)]
    for chunk in column.chunks:
        names = chunk.dictionary.to_pylist()
        own = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
        found.append(own[chunk.indices.to_numpy()])
    return np.concatenate(found)


def _written(keys: Keys, column: pa.ChunkedArray) -> Rows:
    layer, step = keys
    if not column.null_count:
        return Rows(layer, step, column.to_numpy())
    there = column.is_valid().to_numpy()
    return Rows(layer[there], step[there], column.drop_null().to_numpy())
