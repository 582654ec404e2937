"""Rows to Arrow: the record batches that segments and parts are made of, and the merge that makes one table of many."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepscope.store.format import KEYS

__all__ = [
    "LAYER",
    "Block",
    "Row",
    "clean",
    "grouped",
    "is_column",
    "merge",
    "rounded",
    "schema",
    "table_of",
    "to_table",
]

Row = tuple[int, str, Mapping[str, Any]]
LAYER = pa.dictionary(pa.int32(), pa.string())
"""The type of the column layer within the store: names are few and rows are many."""
_EXACT = 53  # significant bits of a float64


class Block(NamedTuple):
    """Rows as arrays: a step, a layer and [row, column] values each; one step may stand for all rows.

    Or the same layers at several steps: [step, row, column].
    """

    step: int | NDArray[np.int64]
    layers: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]


def schema(columns: Iterable[str]) -> pa.Schema:
    """The schema of all rows: the two keys, then float64 columns in which null stands for "not written"."""
    return pa.schema([("step", pa.int64()), ("layer", LAYER), *((name, pa.float64()) for name in columns)])


def is_column(name: object) -> bool:
    """Whether a column may have this name: printable text, and none of the keys' names."""
    return isinstance(name, str) and name not in ("", *KEYS) and name.isprintable()


def to_table(rows: Sequence[Row], columns: Collection[str]) -> pa.Table:
    """``rows`` in their order; names outside ``columns`` are left out.

    Raises: ValueError, TypeError or OverflowError if a step is no integer, a layer no text or a value no float
    (see ``clean``).
    """
    values = pa.array([row[2] for row in rows], pa.struct([(name, pa.float64()) for name in columns]))
    steps = pa.array([row[0] for row in rows], pa.int64())
    layers = pa.array([row[1] for row in rows], pa.string())
    if steps.null_count or layers.null_count:
        raise ValueError("a row needs a step and a layer")
    return pa.Table.from_arrays([steps, _encoded(layers), *values.flatten()], schema=schema(columns))


def _encoded(layers: pa.Array) -> pa.Array:
    return layers.dictionary_encode() if len(layers) else layers.cast(LAYER)


def table_of(blocks: Sequence[Block]) -> pa.Table:
    """Blocks of the same layers and columns as rows, one block after the other.  Raises: as ``to_table``."""
    layers, columns = blocks[0].layers, blocks[0].columns
    steps = np.concatenate([_steps(block) for block in blocks])
    encoded = _encoded(pa.array(layers, pa.string()))
    values = np.concatenate([block.values.reshape(-1, len(columns)) for block in blocks]).T.copy()
    codes = np.tile(encoded.indices.to_numpy(), len(steps) // max(len(layers), 1)).astype(np.int32)
    layer = pa.DictionaryArray.from_arrays(codes, encoded.dictionary)
    return pa.Table.from_arrays([pa.array(steps), layer, *map(pa.array, values)], schema=schema(columns))


def _steps(block: Block) -> NDArray[np.int64]:
    """The step of each row."""
    steps = np.asarray(block.step, np.int64)
    rows = len(block.layers)
    return np.repeat(steps, rows) if block.values.ndim == 3 else np.broadcast_to(steps, rows)


def grouped(items: Sequence[Row | Block]) -> Iterator[tuple[list[Block], list[Row]]]:
    """What was written, in groups that become one table each: blocks of one kind, or rows; later ones count.

    Rows and blocks that alternate, as do those of layers and those of the run as a whole, are put together where the
    order cannot matter.
    """
    blocks: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Block]] = {}
    rows: list[Row] = []
    for item in items:
        if isinstance(item, Block):
            blocks.setdefault((item.layers, item.columns), []).append(item)
        else:
            rows.append(item)
    named = [layer for layers, _ in blocks for layer in set(layers)]
    if len(named) == len(set(named)) and set(named).isdisjoint(layer for _, layer, _ in rows):
        yield from ((group, []) for group in blocks.values())
        if rows:
            yield [], rows
    else:
        yield from (([item], []) if isinstance(item, Block) else ([], [item]) for item in items)


def clean(rows: Sequence[Row], columns: Collection[str]) -> tuple[list[Row], str]:
    """The rows, value by value, that ``to_table`` takes, and a word on the first thing that had to be left out."""
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
            to_table([row], ())
        except Exception:  # likewise
            kinds = f"{type(step).__name__} and {type(layer).__name__}"
            problem = problem or f"step and layer of a row must be a 64-bit integer and text, got {kinds}"
        else:
            kept.append(row)
    return kept, problem


def rounded(table: pa.Table, bits: int) -> pa.Table:
    """The table with the values of layers rounded to ``bits`` significant bits (to nearest, ties to even).

    The relative error is at most 2**-bits. Those of the run as a whole (layer ""), zeros, infinities and NaN keep
    every bit, and so does a value that rounding would make infinite. Unlike in float32, nothing under- or overflows.
    """
    if bits >= _EXACT or not len(table):
        return table
    layer = table["layer"].combine_chunks()
    whole = np.array([name == "" for name in layer.dictionary.to_pylist()])[layer.indices.to_numpy()]
    columns = [_rounded(column.combine_chunks(), bits, whole) for column in table.columns[len(KEYS) :]]
    return pa.Table.from_arrays([*table.columns[: len(KEYS)], *columns], schema=table.schema)


def _rounded(column: pa.Array, bits: int, exact: NDArray[np.bool_]) -> pa.Array:
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    values = column.fill_null(0.0).to_numpy() if column.null_count else column.to_numpy()
    drop = _EXACT - bits
    pattern = values.view(np.uint64)
    odd = (pattern >> np.uint64(drop)) & np.uint64(1)
    pattern = (pattern + np.uint64(2 ** (drop - 1) - 1) + odd) & ~np.uint64(2**drop - 1)
    near = pattern.view(np.float64)
    return pa.array(np.where(exact | ~np.isfinite(values) | ~np.isfinite(near), values, near), mask=missing)


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """One table, sorted by layer and step, one row for each pair: of several values written, the last one counts.

    ``tables`` come in the order of writing. Pairs repeat where a run was continued from a checkpoint, or where the
    values of one step were written in several calls. Columns are united; null stands for "not written".
    """
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
    if not len(table):
        return table
    layers, steps = _ranks(table), table["step"].to_numpy()
    if not _is_sorted(layers, steps):
        order = np.lexsort((steps, layers))  # stable: equal pairs stay in the order of writing
        layers, steps = layers[order], steps[order]
        # Column by column, so that only one of them is there twice at a time.
        taken = pa.array(order)
        table = pa.table([column.take(taken) for column in table.columns], schema=table.schema)
    starts = np.flatnonzero(np.r_[True, (layers[1:] != layers[:-1]) | (steps[1:] != steps[:-1])])
    if len(starts) == len(table):
        return table
    merged = [table[name].take(pa.array(starts)) for name in KEYS]
    for column in table.columns[len(KEYS) :]:
        written = np.where(column.is_valid().to_numpy(), np.arange(len(table)), -1)
        last = np.maximum.reduceat(written, starts)
        merged.append(column.take(pa.array(last, mask=last < 0)))
    return pa.table(merged, schema=table.schema)


def _ranks(table: pa.Table) -> NDArray[np.int64]:
    """Each row's layer as its place among the layers in order of name."""
    layer = table["layer"].combine_chunks()
    _, rank = np.unique(np.array(layer.dictionary.to_pylist(), dtype=object), return_inverse=True)
    ranks: NDArray[np.int64] = rank[layer.indices.to_numpy()]
    return ranks


def _is_sorted(layers: NDArray[np.int64], steps: NDArray[np.int64]) -> bool:
    """Whether every row has a larger pair than the one before, or the same."""
    same = layers[1:] == layers[:-1]
    return bool(((layers[1:] > layers[:-1]) | (same & (steps[1:] >= steps[:-1]))).all())
