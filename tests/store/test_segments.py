import math
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.errors import DamagedData
from stepscope.store.segments import (
    Segment,
    clean,
    is_column,
    merge,
    read_header,
    read_live,
    read_part,
    schema,
    seal,
    to_batch,
)

COLUMNS = ("x", "y")


def write(path, batches, columns=COLUMNS):
    """A live segment of the given batches of rows; returns the file's size after each."""
    segment = Segment(path, columns)
    sizes = []
    for rows in batches:
        segment.append(to_batch(rows, columns).serialize(), len(rows))
        sizes.append(path.stat().st_size)
    segment.close()
    return sizes


def some_batches():
    row = iter(range(100))
    return [[(next(row), f"layer {n}", {"x": n, "y": math.nan}) for n in range(size)] for size in (3, 1, 4)]


def keys(table):
    return [] if table is None else list(zip(table["step"].to_pylist(), table["layer"].to_pylist(), strict=True))


def test_a_segment_cut_at_any_byte_gives_the_complete_batches_before(tmp_path):
    """Exactly those: the sizes after each append are the independent witness of where a batch ends."""
    path = tmp_path / "1.arrow"
    batches = [[(1, "a", {"x": 1.0}), (1, "b", {})], [(2, "a", {"x": 2.0})], [(3, "b", {"x": 3.0})]]
    sizes = write(path, batches, ["x"])
    for size in reversed(range(sizes[-1] + 1)):
        os.truncate(path, size)
        whole = [rows for rows, end in zip(batches, sizes, strict=True) if end <= size]
        assert keys(read_live(path)) == [(step, layer) for rows in whole for step, layer, _ in rows], size


def test_rubbish_behind_the_tear_is_ignored(tmp_path):
    """A disk that loses power may leave zeros, or anything, where the tail was."""
    path = tmp_path / "a.arrow"
    batches = some_batches()
    sizes = write(path, batches)
    data = path.read_bytes()
    expected = [(step, layer) for rows in batches[:2] for step, layer, _ in rows]
    dice = random.Random(0)
    tails = [bytes(500), b"\xff" * 500, *(dice.randbytes(500) for _ in range(50))]
    tails += [data[sizes[1] :][:n] + dice.randbytes(100) for n in (4, 8, 12, 50, 200)]
    for tail in tails:
        path.write_bytes(data[: sizes[1]] + tail)
        assert keys(read_live(path))[: len(expected)] == expected


def test_an_empty_segment_leaves_no_file(tmp_path):
    Segment(tmp_path / "a.arrow", COLUMNS).close()
    assert not list(tmp_path.iterdir())


def test_any_arrow_tool_reads_a_live_segment(tmp_path):
    write(tmp_path / "a.arrow", some_batches())
    assert pa.ipc.open_stream(tmp_path / "a.arrow").read_all().num_rows == 8


def test_sealing_sorts_and_keeps_every_bit(tmp_path):
    live, part = tmp_path / "1.arrow", tmp_path / "1.parquet"
    values = [0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1]
    write(live, [[(step, layer, {"x": values[step]}) for layer in "ba"] for step in range(len(values))])
    seal(live, part)
    assert not live.exists()
    table = read_part(part)
    assert keys(table) == [(step, layer) for layer in "ab" for step in range(len(values))]
    assert table["x"].to_numpy().tobytes() == np.array(values * 2).tobytes()
    assert table["y"].null_count == len(table)
    assert table.schema.equals(schema(COLUMNS))


def test_sealing_can_be_cut_short_anywhere_and_repeated(tmp_path):
    live, part = tmp_path / "1.arrow", tmp_path / "1.parquet"
    write(live, some_batches())
    data = live.read_bytes()
    seal(live, part)
    sealed = part.read_bytes()
    live.write_bytes(data)  # as if killed between the part's appearance and the segment's removal
    seal(live, part)
    assert not live.exists()
    assert part.read_bytes() == sealed
    assert [path.name for path in tmp_path.iterdir()] == ["1.parquet"]


def test_a_segment_torn_before_its_first_batch_is_removed(tmp_path):
    live = tmp_path / "1.arrow"
    live.write_bytes(b"\xff\xff\xff")
    seal(live, tmp_path / "1.parquet")
    assert not list(tmp_path.iterdir())


def test_a_part_takes_little_space(tmp_path):
    """Statistics come from float32, so 29 of 52 mantissa bits are zero: at most 4 bytes a value of pure noise remain,
    keys and headers aside. Dictionary encoding, pyarrow's default, needs more than 8."""
    noise = np.random.default_rng(0).lognormal(size=20_000).astype(np.float32).astype(float)
    rows = [(step, f"layer {step % 50}", {"x": value}) for step, value in enumerate(noise)]
    write(tmp_path / "1.arrow", [rows])
    seal(tmp_path / "1.arrow", tmp_path / "1.parquet")
    column = pq.ParquetFile(tmp_path / "1.parquet").metadata.row_group(0).column(2)
    assert column.path_in_schema == "x"
    assert column.total_compressed_size < 4 * len(noise)


def test_a_damaged_part_names_the_file_and_what_to_do(tmp_path):
    path = tmp_path / "1.parquet"
    path.write_bytes(b"PAR1 no, it is not")
    for read in (read_part, read_header):
        with pytest.raises(DamagedData, match=r"1\.parquet cannot be read .*Restore it, or move it away"):
            read(path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "2.parquet")


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    write(folder / "1.arrow", some_batches())
    seal(folder / "1.arrow", folder / "1.parquet")
    assert read_part(folder / "1.parquet").column_names == ["step", "layer", "x", "y"]


def test_a_name_with_a_dot_is_not_read_for_its_first_word(tmp_path):
    segment = Segment(tmp_path / "1.arrow", ("a", "a.b"))
    segment.append(to_batch([(1, "", {"a": 1.0, "a.b": 2.0})], ("a", "a.b")).serialize(), 1)
    segment.close()
    assert read_live(tmp_path / "1.arrow", ["a"]).column_names == ["step", "layer", "a"]
    seal(tmp_path / "1.arrow", tmp_path / "1.parquet")
    for name in ("a", "a.b"):
        assert read_part(tmp_path / "1.parquet", [name]).column_names == ["step", "layer", name]
        assert read_header(tmp_path / "1.parquet", [name]).column_names == ["step", "layer", name]


NAMES = st.sampled_from(["x", "y", "z"])
ROW = st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "ä", "b"]), st.dictionaries(NAMES, st.floats()))
ROWS = st.lists(ROW, max_size=30)


@given(st.lists(ROWS, max_size=4))
def test_merging_is_a_dictionary_that_is_updated_and_sorted(batches):
    expected = {}
    for step, layer, values in (row for rows in batches for row in rows):
        expected.setdefault((layer, step), {}).update(values)
    tables = []
    for rows in batches:
        columns = sorted({name for _, _, values in rows for name in values})
        tables.append(pa.Table.from_batches([to_batch(rows, columns)], schema=schema(columns)))
    table = merge([schema(["x", "y", "z"]).empty_table(), *tables])
    found = {(row.pop("layer"), row.pop("step")): row for row in table.to_pylist()}
    assert list(found) == sorted(expected)
    for key, values in expected.items():
        assert str({name: values.get(name) for name in "xyz"}) == str(found[key])  # str: NaN is not equal to itself


def test_numbers_of_every_kind_are_taken():
    rows = [(np.int64(1), "a", {"x": 1, "y": np.float32(0.5)}), (2, "b", {"x": True, "y": None})]
    table = pa.Table.from_batches([to_batch(rows, COLUMNS)])
    assert table["x"].to_pylist() == [1.0, 1.0]
    assert table["y"].to_pylist() == [0.5, None]


class Scalar:
    """Like a tensor of one element: no number for pyarrow, but it can become one."""

    def __float__(self):
        return 2.5


class Many:
    def __float__(self):
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


def test_what_is_no_number_costs_only_itself():
    rows = [
        (1, "a", {"x": Scalar(), "y": 10**30, "z": 1.0}),
        (2, "a", {"x": Many(), "y": 1.0}),
        (3, "a", {"x": "much", "y": 10**400}),
        (2**70, "a", {"x": 1.0}),
        (4, None, {"x": 1.0}),
        (5, "\udcff", {"x": 1.0}),
    ]
    kept, problem = clean(rows, COLUMNS)
    assert kept == [(1, "a", {"x": 2.5, "y": 1e30}), (2, "a", {"y": 1.0}), (3, "a", {})]
    assert problem == "x is no number but a Many"
    assert clean(rows[3:4], COLUMNS)[1] == "step and layer of a row must be a 64-bit integer and text, got int and str"
    for row in rows:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            to_batch([row], COLUMNS)
    to_batch(kept, COLUMNS)
    assert clean(kept, COLUMNS) == (kept, "")


def test_names_of_columns():
    assert is_column("update/|w|, größer 1")
    for name in ("", "step", "layer", "a\nb", "\udcff", 3, None, ("a",)):
        assert not is_column(name)
