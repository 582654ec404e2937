import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.errors import DamagedData
from stepscope.store import parts
from stepscope.store.live import Segment, framed
from stepscope.store.parts import Part, readable, seal, within, write_part
from stepscope.store.rows import merge, rounded, schema, to_table

COLUMNS = ("x", "y")


def write_live(path, batches, columns=COLUMNS):
    segment = Segment(path)
    for rows in batches:
        segment.append(framed(to_table(rows, columns)), len(rows))
    segment.close()


def some_batches():
    row = iter(range(100))
    return [[(next(row), f"layer {n}", {"x": n, "y": math.nan}) for n in range(size)] for size in (3, 1, 4)]


def keys(table):
    return list(zip(table["step"].to_pylist(), table["layer"].to_pylist(), strict=True))


def test_sealing_sorts_and_keeps_every_bit(tmp_path):
    live, path = tmp_path / "1.rows", tmp_path / "1.parquet"
    values = [0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1]
    write_live(live, [[(step, layer, {"x": values[step]}) for layer in "ba"] for step in range(len(values))])
    seal(live, path)
    assert not live.exists()
    table = Part(path).read()
    assert keys(table) == [(step, layer) for layer in "ab" for step in range(len(values))]
    assert table["x"].to_numpy().tobytes() == np.array(values * 2).tobytes()
    assert table["y"].null_count == len(table)
    assert table.schema.equals(schema(COLUMNS))


def test_sealing_can_be_cut_short_anywhere_and_repeated(tmp_path):
    live, path = tmp_path / "1.rows", tmp_path / "1.parquet"
    write_live(live, some_batches())
    data = live.read_bytes()
    seal(live, path)
    sealed = path.read_bytes()
    live.write_bytes(data)  # as if killed between the part's appearance and the segment's removal
    seal(live, path)
    assert not live.exists()
    assert path.read_bytes() == sealed
    assert [path.name for path in tmp_path.iterdir()] == ["1.parquet"]


def test_a_segment_torn_before_its_first_frame_is_removed(tmp_path):
    live = tmp_path / "1.rows"
    live.write_bytes(b"SSR2\xff\xff")
    seal(live, tmp_path / "1.parquet")
    assert not list(tmp_path.iterdir())


def test_any_parquet_reader_reads_a_part(tmp_path):
    write_live(tmp_path / "1.rows", some_batches())
    seal(tmp_path / "1.rows", tmp_path / "1.parquet")
    table = pq.read_table(tmp_path / "1.parquet")
    assert table.column_names == ["step", "layer", "x", "y"]
    assert len(table) == 8


def test_a_part_takes_little_space(tmp_path):
    """Values of pure noise, rounded to 21 bits: 20 bits of mantissa and about 3 of exponent are left, which byte
    streams and zstd bring to 3.15 bytes; keys nearly nothing. Dictionaries, pyarrow's default, need more than 8."""
    noise = np.random.default_rng(0).lognormal(size=20_000)
    rows = [(step, f"layer {step % 50}", {"x": value}) for step, value in enumerate(noise)]
    write_part(tmp_path / "1.parquet", rounded(merge([to_table(rows, ["x"])]), 21))
    group = pq.ParquetFile(tmp_path / "1.parquet").metadata.row_group(0)
    sizes = {group.column(n).path_in_schema: group.column(n).total_compressed_size for n in range(3)}
    assert sizes["x"] < 3.3 * len(noise)
    assert sizes["step"] + sizes["layer"] < 0.1 * len(noise)


ROW = st.tuples(st.integers(-3, 30), st.sampled_from(["", "a", "ä", "b", "c"]), st.floats(allow_nan=False))


@given(
    st.lists(ROW, max_size=40),
    st.integers(1, 7),
    st.none() | st.sets(st.sampled_from(["", "a", "b", "c", "not there"])),
    st.tuples(st.none() | st.integers(-5, 32), st.none() | st.integers(-5, 32)),
)
def test_reading_a_part_of_a_part_is_reading_it_and_choosing(tmp_path_factory, rows, group, layers, steps):
    """Whatever the size of its row groups, and whichever rows: against a filter over plain rows."""
    path = tmp_path_factory.mktemp("parts") / "1.parquet"
    merged = merge([schema(["x", "y"]).empty_table(), to_table([(s, name, {"x": x}) for s, name, x in rows], ["x"])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "GROUP", group)
        write_part(path, merged)
    part = Part(path)
    expected = {(name, step): x for step, name, x in rows}
    first, last = (-math.inf if steps[0] is None else steps[0]), (math.inf if steps[1] is None else steps[1])
    chosen = {
        key: x
        for key, x in sorted(expected.items())
        if (layers is None or key[0] in layers) and first <= key[1] <= last
    }
    for table in (part.read(["x"], layers, steps), within(merged.select(["step", "layer", "x"]), layers, steps)):
        assert {(row["layer"], row["step"]): row["x"] for row in table.to_pylist()} == chosen
        assert keys(table) == [(step, name) for name, step in chosen]
    assert part.rows == len(expected)
    assert part.layers == {
        name: sum(key[0] == name for key in expected) for name in sorted({key[0] for key in expected})
    }
    every = [step for _, step in expected]
    assert part.steps == ((min(every), max(every)) if every else None)
    assert part.names == ("x", "y")


@given(st.lists(st.lists(ROW, max_size=15), min_size=1, max_size=4), st.integers(1, 7), st.sets(st.integers(-3, 30)))
def test_parts_become_one_some_layers_at_a_time(tmp_path_factory, written, group, without):
    """Rows that repeat from part to part, and columns that only some have, against a dictionary that is updated."""
    folder, expected = tmp_path_factory.mktemp("parts"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "GROUP", group)
        sources = []
        for number, rows in enumerate(written):
            column = "xy"[number % 2]
            table = merge(
                [schema([column]).empty_table(), to_table([(s, a, {column: x}) for s, a, x in rows], [column])]
            )
            write_part(folder / f"{number}.parquet", table)
            sources.append(Part(folder / f"{number}.parquet"))
            for step, layer, x in rows:
                expected.setdefault((layer, step), {})[column] = x
        write_part(folder / "all.parquet", sources, [(1, 2, 4)], np.array(sorted(without), np.int64))
    part = Part(folder / "all.parquet")
    left = {key: values for key, values in sorted(expected.items()) if key[1] not in without}
    found = {(row.pop("layer"), row.pop("step")): row for row in part.read().to_pylist()}
    columns = ["x", "y"][: len(written)]
    assert found == {key: {name: values.get(name) for name in columns} for key, values in left.items()}
    assert [*found] == [*left]
    assert part.rows == sum(part.layers.values()) == len(left)
    assert part.thinned == [[1, 2, 4]]


def test_a_damaged_part_names_the_file_and_what_to_do(tmp_path):
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts" / "1.parquet"
    path.write_bytes(b"PAR1 no, it is not")
    with pytest.raises(DamagedData) as caught:
        Part(path)
    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert str(caught.value).endswith(f"`stepscope repair {tmp_path}` keeps what can be.")
    with pytest.raises(FileNotFoundError):
        Part(tmp_path / "parts" / "2.parquet")


def test_a_wrong_byte_anywhere_is_an_error_or_changes_nothing(tmp_path, monkeypatch):
    """Every byte of a part of several row groups is changed in turn: what is read is right, or nothing is. What is
    salvaged from it is a subset of what was there."""
    monkeypatch.setattr(parts, "GROUP", 3)
    path, rows = tmp_path / "1.parquet", [(step, layer, {"x": step + 0.1}) for layer in "ab" for step in range(5)]
    write_part(path, merge([to_table(rows, ["x"])]))
    data, right = path.read_bytes(), Part(path).read().to_pylist()
    outcomes = {"refused": 0, "right": 0}
    most = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = Part(path).read().to_pylist()
        except DamagedData:
            outcomes["refused"] += 1
            left = readable(path)
            if left is not None:
                assert all(row in right for row in left.to_pylist())
                most = max(most, len(left))
        else:
            outcomes["right"] += 1
            assert found == right
    assert outcomes["refused"] > 100
    assert most == 8  # of two layers of five rows, each in groups of three and two, all but one of two


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    write_live(folder / "1.rows", some_batches())
    seal(folder / "1.rows", folder / "1.parquet")
    assert Part(folder / "1.parquet").read().column_names == ["step", "layer", "x", "y"]


def test_a_name_with_a_dot_is_not_read_for_its_first_word(tmp_path):
    rows = [(1, "", {"a": 1.0, "a.b": 2.0})]
    write_part(tmp_path / "1.parquet", to_table(rows, ("a", "a.b")))
    for name in ("a", "a.b"):
        assert Part(tmp_path / "1.parquet").read([name]).column_names == ["step", "layer", name]


def test_a_part_of_version_1_tells_the_same_of_itself(tmp_path):
    rows = [(step, layer, {"x": step}) for layer in ("", "a", "b") for step in range(2, 5)]
    table = merge([to_table(rows, ["x"])])
    new, old = tmp_path / "new.parquet", tmp_path / "old.parquet"
    write_part(new, table)
    pq.write_table(table.set_column(1, "layer", table["layer"].cast(pa.string())), old)
    for name in ("names", "layers", "steps", "rows", "thinned"):
        assert getattr(Part(old), name) == getattr(Part(new), name)
    assert Part(old).read(["x"], ["a"], (3, None)).equals(Part(new).read(["x"], ["a"], (3, None)))
