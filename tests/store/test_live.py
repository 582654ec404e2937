import os
import random

import pyarrow as pa
import pytest

from stepscope.store.live import Live, Segment, framed, read_live
from stepscope.store.rows import to_table


def some_batches():
    row = iter(range(100))
    return [[(next(row), f"layer {n}", {"x": n, f"y{size}": 0.5}) for n in range(size)] for size in (3, 1, 4)]


def write(path, batches):
    """A live segment of the given batches of rows; returns the file's size after each."""
    segment = Segment(path)
    sizes = []
    for rows in batches:
        columns = sorted({name for _, _, values in rows for name in values})
        segment.append(framed(to_table(rows, columns)), len(rows))
        sizes.append(path.stat().st_size)
    segment.close()
    return sizes


def keys(table):
    return [] if table is None else list(zip(table["step"].to_pylist(), table["layer"].to_pylist(), strict=True))


def keys_of(batches):
    return [(step, layer) for rows in batches for step, layer, _ in rows]


def test_a_segment_cut_at_any_byte_gives_the_complete_frames_before(tmp_path):
    """Exactly those: the sizes after each append are the independent witness of where a frame ends."""
    path = tmp_path / "1.rows"
    batches = some_batches()
    sizes = write(path, batches)
    for size in reversed(range(sizes[-1] + 1)):
        os.truncate(path, size)
        whole = [rows for rows, end in zip(batches, sizes, strict=True) if end <= size]
        assert keys(read_live(path)) == keys_of(whole), size


def test_a_wrong_byte_anywhere_costs_its_frame_and_no_other(tmp_path):
    """Every byte of the file is changed in turn, one bit and all bits: no wrong number, and no more than a frame."""
    path = tmp_path / "1.rows"
    batches = some_batches()
    sizes = write(path, batches)
    data = path.read_bytes()
    tables = [str(read_alone(tmp_path, data[start:end])) for start, end in zip([0, *sizes], sizes, strict=False)]
    for place in range(len(data)):
        hurt = next(number for number, end in enumerate(sizes) if place < end)
        for change in (1 << place % 8, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= change
            path.write_bytes(damaged)
            live = Live(path)
            live.refresh()
            assert [str(table.to_pylist()) for table in live.tables] == tables[:hurt] + tables[hurt + 1 :]
            assert live.damaged + live.torn == sizes[hurt] - [0, *sizes][hurt]


def read_alone(folder, data):
    (folder / "alone.rows").write_bytes(data)
    return read_live(folder / "alone.rows").to_pylist()


def test_rubbish_behind_the_tear_is_ignored(tmp_path):
    """A disk that loses power may leave zeros, or anything, where the tail was."""
    path = tmp_path / "a.rows"
    batches = some_batches()
    sizes = write(path, batches)
    data = path.read_bytes()
    dice = random.Random(0)
    tails = [bytes(500), b"\xff" * 500, b"SSR2" * 100, *(dice.randbytes(500) for _ in range(50))]
    tails += [data[sizes[1] :][:n] + dice.randbytes(100) for n in (4, 8, 12, 16, 17, 50, 200)]
    for tail in tails:
        path.write_bytes(data[: sizes[1]] + tail)
        assert keys(read_live(path)) == keys_of(batches[:2])


def test_reading_on_sees_what_was_added_and_nothing_twice(tmp_path):
    path = tmp_path / "1.rows"
    segment, live, written = Segment(path), Live(path), []
    for step in range(200):
        frame = framed(to_table([(step, "a", {f"x{step % 3}": 1.0})], [f"x{step % 3}"]))
        segment.append(frame[: len(frame) // 2], 1)
        live.refresh()
        assert keys(live.table) == written  # half a frame is none
        segment.append(frame[len(frame) // 2 :], 0)
        written.append((step, "a"))
        live.refresh()
        assert keys(live.table) == written
    assert (live.torn, live.damaged) == (0, 0)
    assert set(live.table.column_names) == {"step", "layer", "x0", "x1", "x2"}


def test_an_empty_segment_leaves_no_file(tmp_path):
    Segment(tmp_path / "a.rows").close()
    assert not list(tmp_path.iterdir())


def test_a_sealed_segment_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_live(tmp_path / "1.rows")


def test_a_stream_of_version_1_cut_at_any_byte_gives_the_complete_batches_before(tmp_path):
    """Against pyarrow's own writer, which is what wrote such segments."""
    path = tmp_path / "1.arrow"
    names = pa.schema([("step", pa.int64()), ("layer", pa.string()), ("x", pa.float64())])
    batches = [pa.record_batch([[n], [f"layer {n}"], [0.5]], schema=names) for n in range(3)]
    data = names.serialize().to_pybytes()
    sizes = []
    for batch in batches:
        data += batch.serialize().to_pybytes()
        sizes.append(len(data))
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in sizes)
        live = Live(path)
        live.refresh()
        assert keys(live.table) == [(n, f"layer {n}") for n in range(whole)]
        assert live.torn == size - max([end for end in [len(names.serialize()), *sizes] if end <= size], default=0)
