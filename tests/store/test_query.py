"""What a screen is shown against the rows themselves: `Run.table` and loops in plain Python."""

import math
import random
import shutil
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from stepscope.errors import UserError
from stepscope.store import Run, RunWriter, query, summary
from stepscope.store.buckets import Rows, Scale, bucketed, chunked, joined
from stepscope.store.query import Query

NAMES = ("loss", "spread", "size")


def record(folder, seed, first, last, *, layers=("", "a", "b.weight"), flush_every=7, status="finished"):
    """Rows in a random order within a step, some columns left out, some values not finite; several record batches."""
    draw = random.Random(seed)
    writer = RunWriter(folder, tensors=[{"name": "b.weight"}, {"name": "frozen"}, {"name": "a"}])
    for step in range(first, last + 1):
        for layer in draw.sample(layers, len(layers)):
            values = {name: draw.choice([draw.gauss(0, 1)] * 8 + [math.nan, -math.inf]) for name in NAMES}
            for name in draw.sample(NAMES, draw.randrange(2)):
                del values[name]
            if draw.random() < 0.9:
                writer.write(step, layer, values)
        if step % flush_every == 0:
            writer.flush()
    writer.flush()
    if status:
        writer.close(status)
    return writer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight parts and a live segment; the second recording goes over the last 40 steps of the first one again."""
    monkeypatch.setattr("stepscope.store.recorder.SEAL_ROWS", 100)
    monkeypatch.setattr("stepscope.store.upkeep.TOGETHER", 1000)  # parts stay many
    folder = tmp_path / "run"
    record(folder, 1, 1, 200)
    writer = record(folder, 2, 161, 260, status="")
    yield folder
    writer.close()


def expected(run, column, layer, first, last, count):
    """Buckets of one layer, from the table: {bucket: (steps, finite values, broken, last value)}."""
    width = (last - first + 1) / count
    found = {}
    for row in run.table(column, layers=[layer]).to_pylist():
        if first <= row["step"] <= last:
            place = min(int((row["step"] - first) / width), count - 1)
            steps, values, broken = found.setdefault(place, ([], [], []))
            steps.append(row["step"])
            (values if math.isfinite(row[column]) else broken).append(row[column])
    return found


def check(folder, column, first=None, last=None, buckets=20, reader=None):
    run, reader = Run(folder), reader or Query(folder)
    steps = run.table()["step"].to_pylist()
    low, high = min(steps) if first is None else first, max(steps) if last is None else last
    series = reader.series(column, None, first, last, buckets).layers
    shown = 0
    for layer in ["", *run.layers]:
        truth = expected(run, column, layer, low, high, min(buckets, high - low + 1))
        if not truth:
            assert layer not in series
            continue
        got = series[layer]
        assert got.place.tolist() == sorted(truth)
        for i, (steps, values, broken) in enumerate(truth[place] for place in sorted(truth)):
            assert (got.finite[i], got.broken[i]) == (len(values), len(broken))
            # Sums of at most 300 numbers, in another order: each addition rounds within 2^-53 of the sum of sizes.
            assert got.step[i] == pytest.approx(sum(steps) / len(steps), rel=300 * 2**-53)
            if values:
                assert (got.low[i], got.high[i]) == (min(values), max(values))
                assert got.total[i] == pytest.approx(math.fsum(values), abs=300 * 2**-53 * sum(map(abs, values)))
            else:
                assert math.isnan(got.low[i])
                assert math.isnan(got.mean[i])
        shown += int(got.finite.sum() + got.broken.sum())
    return shown


@pytest.mark.parametrize(("first", "last"), [(None, None), (150, 170), (1, 1), (190, 500), (-5, 100)])
@pytest.mark.parametrize("buckets", [1, 20, 100_000])
def test_every_value_falls_into_the_bucket_of_its_step(folder, first, last, buckets):
    shown = [check(folder, name, first, last, buckets) for name in NAMES]
    assert all(shown)


def test_layers_come_in_the_order_of_the_run_and_only_those_asked_for(folder):
    reader = Query(folder)
    assert reader.layers() == ["", *Run(folder).layers] == ["", "b.weight", "a"]
    assert set(reader.columns()) == set(Run(folder).names)
    assert list(reader.series("loss", ["a", ""]).layers) == ["a", ""]
    assert reader.series("loss", ["frozen"]).layers == {}  # known, without a row
    with pytest.raises(UserError, match=r"unknown layer 'b\.wieght': did you mean 'b\.weight'"):
        reader.series("loss", ["b.wieght"])
    with pytest.raises(UserError, match="unknown column 'los'"):
        reader.series("los")
    with pytest.raises(UserError, match="ends before it begins"):
        reader.series("loss", first=3, last=2)


def test_a_matrix_holds_the_same_numbers(folder):
    reader = Query(folder)
    for value in ("mean", "low", "high", "end"):
        scale, matrix, read = reader.matrix("spread", ["a", "frozen", ""], 20, 240, 30, value=value)
        assert read == 1
        assert scale == Scale(20, 240, 30)
        series = reader.series("spread", ["a", ""], 20, 240, 30).layers
        for row, layer in ((0, "a"), (2, "")):
            place = series[layer].place
            np.testing.assert_array_equal(matrix[row, place], getattr(series[layer], value))
            assert np.isnan(np.delete(matrix[row], place)).all()
        assert np.isnan(matrix[1]).all()


def test_the_end_of_a_bucket_is_the_value_at_its_last_step(folder):
    table = Run(folder).table("spread", layers=["a"]).to_pylist()
    ends = Query(folder).series("spread", ["a"], 1, 260, 26).layers["a"]
    for place, end in zip(ends.place.tolist(), ends.end.tolist(), strict=True):
        inside = [row["spread"] for row in table if place * 10 < row["step"] <= place * 10 + 10]
        np.testing.assert_equal(end, inside[-1])


def test_a_reader_follows_a_run_that_grows_is_sealed_and_continued(tmp_path, monkeypatch):
    monkeypatch.setattr("stepscope.store.recorder.SEAL_ROWS", 50)
    folder = tmp_path / "run"
    writer = RunWriter(folder)
    reader = Query(folder)
    assert (reader.columns(), reader.layers(), reader.extent()) == ([], [], None)
    assert reader.series("loss") == (None, {}, 1)
    assert reader.matrix("loss", ["a"]).values.shape == (1, 0)
    for step in range(1, 120):
        writer.write(step, "a", {"loss": 1 / step})
        writer.write(step, f"new{step // 40}", {"loss": 2 / step, "other": 1.0} if step > 60 else {"loss": 2.0})
        if step % 3 == 0:
            writer.flush()
            assert check(folder, "loss", reader=reader) == 2 * step
            assert reader.extent() == (1, step)
    writer.close()
    assert check(folder, "loss", reader=reader) == 2 * 119
    assert reader.layers() == ["a", "new0", "new1", "new2"]


def test_a_torn_tail_is_read_once_it_is_whole(tmp_path):
    writer = RunWriter(tmp_path / "run")
    for step in range(1, 6):
        writer.write(step, "a", {"loss": float(step)})
        writer.flush()
    live = tmp_path / "run" / "live" / "000001.rows"
    whole = live.read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)
    writer.close()
    reader, growing = Query(copy), copy / "live" / "000001.rows"
    counts = []
    for size in range(0, len(whole) + 1, 8):
        growing.write_bytes(whole[:size])
        series = reader.series("loss", buckets=100).layers if reader.columns() else {}
        counts.append(len(series["a"].step) if "a" in series else 0)
    assert counts == sorted(counts)
    assert set(counts) == set(range(6))


def test_a_damaged_part_costs_its_own_rows_only_and_is_named(folder):
    whole = check(folder, "loss")
    parts = sorted((folder / "parts").iterdir())
    data = parts[1].read_bytes()
    parts[1].write_bytes(data[:-3])
    reader = Query(folder)
    left = sum(int(found.finite.sum() + found.broken.sum()) for found in reader.series("loss").layers.values())
    assert 0 < left < whole
    assert list(reader.problems) == [parts[1].name]
    assert "cannot be read" in reader.problems[parts[1].name]
    # Damage inside, behind a footer that is in order.
    parts[1].write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    other = Query(folder)
    assert sum(int(found.finite.sum() + found.broken.sum()) for found in other.series("loss").layers.values()) == left
    assert list(other.problems) == [parts[1].name]


@pytest.fixture
def coarse(monkeypatch):
    """Summaries are used for everything, in chunks of four."""
    monkeypatch.setattr(query, "FEW_ROWS", 0)
    monkeypatch.setattr(query, "MANY_ROWS", 0)
    monkeypatch.setattr(summary, "CHUNK", 4)


def same(coarse, exact):
    """Chunks of 2 to 6 recorded steps go where their middle lies: up to 3 values change places at both edges."""
    assert coarse.layers.keys() == exact.layers.keys()
    for layer, found in coarse.layers.items():
        truth = exact.layers[layer]
        for name, whole in (("finite", np.sum), ("broken", np.sum), ("low", np.nanmin), ("high", np.nanmax)):
            assert whole(getattr(found, name)) == whole(getattr(truth, name)), name
        assert found.total.sum() == pytest.approx(truth.total.sum())
        assert np.abs(found.finite + found.broken - truth.finite - truth.broken).max() <= 6


def test_summaries_lose_no_value_and_put_none_far_away(folder, coarse, monkeypatch):
    found = Query(folder).series("spread", buckets=10)
    some = Query(folder).series("spread", ["a"], 60, 150, 5)
    monkeypatch.undo()
    same(found, Query(folder).series("spread", buckets=10))
    truth = Query(folder).series("spread", ["a"], 60, 150, 5).layers["a"]
    assert abs(int(some.layers["a"].finite.sum() - truth.finite.sum())) <= 6


def test_an_impatient_picture_gets_finer_until_all_is_read(folder, coarse):
    reader = Query(folder)
    answers = []
    while not answers or answers[-1].read < 1:
        answers.append(reader.series("spread", buckets=10, patience=1e-9))
        assert len(answers) < 50
        if len(answers) == 1:  # one part a call, at least: nobody waits for ever
            assert answers[0].read < 1
    same(answers[-1], Query(folder).series("spread", buckets=10))
    shares = [answer.read for answer in answers]
    assert len(answers) > 3
    assert shares[-1] == max(shares)


def test_an_impatient_reader_without_summaries_gets_there_too(folder):
    reader, truth = Query(folder), Query(folder).series("spread", buckets=10)
    shares = []
    while not shares or shares[-1] < 1:
        answer = reader.series("spread", buckets=10, patience=1e-9)
        shares.append(answer.read)
        assert len(shares) < 50
    assert len(shares) > 3
    assert shares == sorted(shares)
    for layer, found in answer.layers.items():
        np.testing.assert_array_equal(found, truth.layers[layer])


def test_a_replaced_part_is_read_again(folder, coarse):
    reader = Query(folder)
    before = reader.series("size", buckets=10)
    part = min((folder / "parts").iterdir())
    copy = part.with_suffix(".new")
    table = pq.read_table(part, partitioning=None)
    pq.write_table(table.slice(0, 0), copy)
    copy.replace(part)
    after = reader.series("size", buckets=10)
    lost = sum(b.finite.sum() + b.broken.sum() for b in before.layers.values())
    lost -= sum(b.finite.sum() + b.broken.sum() for b in after.layers.values())
    assert lost == table["size"].is_valid().to_numpy().sum()


def test_what_is_kept_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(query, "ROWS_KEPT", 4096)
    reader = Query(folder)
    assert check(folder, "spread", reader=reader) == check(folder, "spread")
    assert reader._rows.bytes <= 4096


def test_threads_take_turns_while_the_run_grows(tmp_path):
    folder = tmp_path / "run"
    writer = RunWriter(folder, flush_seconds=0.01)
    reader, failures, done = Query(folder), [], threading.Event()

    def ask() -> None:
        seen = 0
        try:
            while not done.is_set():
                series = reader.series("loss", buckets=50).layers if reader.columns() else {}
                count = int(series["a"].finite.sum()) if series else 0
                assert count >= seen
                seen = count
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(3000):
        writer.write(step, "a", {"loss": 1.0})
    writer.close()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert int(reader.series("loss").layers["a"].finite.sum()) == 3000


def test_pieces_join_to_the_same_buckets_as_the_whole():
    draw = np.random.default_rng(0)
    layer = np.repeat(np.arange(5), 1000)
    step = np.concatenate([np.sort(draw.choice(5000, 1000, replace=False)) for _ in range(5)])
    rows, scale = Rows(layer, step, draw.normal(size=5000)), Scale(0, 4999, 77)
    whole = bucketed(rows, scale)
    cut = [Rows(*(a[step % 3 == k] for a in rows)) for k in range(3)]
    parts = joined([bucketed(piece, scale) for piece in cut])
    for name in ("layer", "place", "finite", "low", "high"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts.total, whole.total, atol=1e-12)  # at most 20 numbers of size 1 to 4 a bucket
    chunks = chunked(rows, 32)
    assert set(chunks.finite.tolist()) == {32, 33}
    assert len(chunks.finite) == 5 * 31
