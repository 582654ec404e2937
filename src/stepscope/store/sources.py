"""The two kinds of segments as a query reads them: sealed parts by column, the live one as far as it has grown."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepscope.store.buckets import NO_ROWS, Rows, last_written
from stepscope.store.format import KEYS
from stepscope.store.live import Live
from stepscope.store.parts import Part

__all__ = ["Growing", "Keys", "Sealed", "Source"]

Keys = tuple[NDArray[np.int32], NDArray[np.int64]]  # of each row: the number of its layer, and its step
Numbers = dict[str, int]  # the number of each layer of a run; a source adds those it meets


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

    def number(self, numbers: Numbers) -> None:
        """Enter the layers into the run's numbers."""
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

    def __init__(self, path: Path, first: int, inode: int) -> None:
        super().__init__(path)
        self._identity = first, inode
        self._part: Part | None = None

    @property
    def identity(self) -> tuple[int, ...]:
        """Number of its first segment, and inode: another file in its place has another one."""
        return self._identity

    def open(self) -> None:
        """Read the footer."""
        self._part = Part(self.path)
        self.names, self.span, self.rows = self._part.names, self._part.steps, self._part.rows

    def number(self, numbers: Numbers) -> None:
        """Enter the layers, which the footer names, into the run's numbers."""
        if self._part is not None:
            for name in self._part.layers:
                numbers.setdefault(name, len(numbers))
        self.is_numbered = True

    def keys(self, numbers: Numbers) -> Keys:
        """Layer and step of every row."""
        self.number(numbers)
        if self._part is None or not self.rows:
            return NO_ROWS.layer, NO_ROWS.step
        layers = self._part.layers
        own = np.array([numbers[name] for name in layers], np.int32)
        return np.repeat(own, list(layers.values())), self._part.column("step").to_numpy()

    def written(self, keys: Keys, column: str) -> Rows:
        """The rows in which the column was written."""
        if self._part is None or not self.rows:
            return NO_ROWS
        return _written(keys, self._part.column(column))


class Growing(Source):
    """A live segment, of which only what was appended is read."""

    def __init__(self, path: Path, number: int, inode: int) -> None:
        super().__init__(path)
        self.inode = inode
        self._number = number
        self._live = Live(path)
        self._table: pa.Table | None = None

    @property
    def identity(self) -> tuple[int, ...]:
        """Number, inode, and how much of it was read."""
        return self._number, self.inode, self.rows

    def read(self) -> None:
        """Take in the rows that are complete by now; what is torn at the end is left for later."""
        self._live.refresh()
        table = self._live.table
        if table is None or len(table) == self.rows:
            return
        self._table = table
        steps = table["step"].to_numpy()
        self.span = int(steps.min()), int(steps.max())
        self.names = tuple(name for name in table.column_names if name not in KEYS)
        self.rows = len(table)
        self.is_numbered = False

    def number(self, numbers: Numbers) -> None:
        """Enter the layers into the run's numbers."""
        self.keys(numbers)

    def keys(self, numbers: Numbers) -> Keys:
        """Layer and step of every row."""
        self.is_numbered = True
        if self._table is None:
            return NO_ROWS.layer, NO_ROWS.step
        return _numbered(self._table["layer"], numbers), self._table["step"].to_numpy()

    def written(self, keys: Keys, column: str) -> Rows:
        """The rows in which the column was written."""
        if self._table is None:
            return NO_ROWS
        return last_written([_written(keys, self._table[column])])


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
