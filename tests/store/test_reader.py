import json
import math
import random
import shutil
import threading

import numpy as np
import pytest

from stepscope.errors import DamagedData, UserError
from stepscope.store import Run, RunWriter
from stepscope.store import format as layout
from stepscope.store.format import part_files
from stepscope.store.parts import seal


@pytest.fixture
def folder(tmp_path):
    """Two layers and run-level values over three steps: one part, one live segment of a writer that was killed."""
    folder = tmp_path / "run"
    with RunWriter(folder, config={"lr": 0.1}, tensors=[{"name": "fc.weight"}, {"name": "fc.bias"}]) as writer:
        for step in (2, 1):
            writer.write(step, "", {"loss": 1 / step})
            writer.write(step, "fc.weight", {"spread": float(step), "size": 5.0})
            writer.write(step, "fc.bias", {"spread": -float(step)})
    writer = RunWriter(folder)
    writer.write(3, "fc.bias", {"spread": math.nan, "extra": 1.0})
    writer.write(3, "other", {"spread": 3.0})
    writer.flush()
    live = folder / "live" / "000002.rows"
    data = live.read_bytes()
    writer.close()
    (folder / "parts" / "000002.parquet").unlink()
    live.write_bytes(data + b"torn")
    return folder


def test_a_table_has_the_contract_of_columns_and_order(folder, rows):
    table = Run(folder).table()
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("step", "int64"),
        ("layer", "string"),
        ("loss", "double"),
        ("spread", "double"),
        ("size", "double"),
        ("extra", "double"),
    ]
    assert [(row["layer"], row["step"]) for row in table.to_pylist()] == [
        ("", 1),
        ("", 2),
        ("fc.bias", 1),
        ("fc.bias", 2),
        ("fc.bias", 3),
        ("fc.weight", 1),
        ("fc.weight", 2),
        ("other", 3),
    ]
    assert all(column.null_count == 0 for column in table.columns)
    assert rows(folder, "loss") == [{"step": 1, "layer": "", "loss": 1.0}, {"step": 2, "layer": "", "loss": 0.5}]


def test_only_rows_with_a_value_and_nan_where_one_is_absent(folder, rows):
    assert str(rows(folder, "extra", "loss")) == str(
        [
            {"step": 1, "layer": "", "extra": math.nan, "loss": 1.0},
            {"step": 2, "layer": "", "extra": math.nan, "loss": 0.5},
            {"step": 3, "layer": "fc.bias", "extra": 1.0, "loss": math.nan},
        ]
    )
    # A NaN that was written is a value.
    assert [row["step"] for row in rows(folder, "spread", layers=["fc.bias"])] == [1, 2, 3]


def test_layers_choose_rows(folder, rows):
    chosen = rows(folder, "spread", layers=["other", "fc.weight"])
    assert [row["layer"] for row in chosen] == ["fc.weight", "fc.weight", "other"]
    assert rows(folder, "spread", layers="other") == [{"step": 3, "layer": "other", "spread": 3.0}]
    assert rows(folder, "spread", layers=[""]) == rows(folder, "spread", layers=[]) == []
    assert [row["loss"] for row in rows(folder, "loss", layers=[""])] == [1.0, 0.5]


def test_names_and_layers_come_in_the_order_of_the_model(folder):
    run = Run(folder)
    assert run.names == ["loss", "spread", "size", "extra"]
    assert run.layers == ["fc.weight", "fc.bias", "other"]


def test_steps_choose_rows(folder, rows):
    run = Run(folder)
    assert run.steps == (1, 3)
    for steps in ((2, None), slice(2, None), slice(2, 4), (2, 3)):
        assert {row["step"] for row in rows(folder, steps=steps)} == {2, 3}
    assert rows(folder, "spread", layers="fc.bias", steps=(1, 1)) == [{"step": 1, "layer": "fc.bias", "spread": -1.0}]
    assert {row["step"] for row in rows(folder, steps=[1, 3, 8])} == {1, 3}
    assert run.rows == {"": 2, "fc.weight": 2, "fc.bias": 3, "other": 1}
    assert rows(folder, steps=(7, 9)) == rows(folder, "loss", steps=(None, 0)) == []
    with pytest.raises(ValueError, match="steps must be consecutive"):
        run.table(steps=slice(1, 9, 2))


def test_downsampling_gives_extremes_and_mean_of_equal_stretches(tmp_path):
    values = np.random.default_rng(0).normal(size=100)
    values[37] = math.inf
    with RunWriter(tmp_path) as writer:
        for step, value in enumerate(values):
            writer.write(step, "a", {"x": value})
            writer.write(step, "", {"x": 1.0})
    run = Run(tmp_path)
    found = run.downsample("x", buckets=10)
    assert list(found) == ["", "a"]
    tens = np.where(np.isfinite(values), values, np.nan).reshape(10, 10)
    np.testing.assert_array_equal(found["a"].low, np.nanmin(tens, axis=1))
    np.testing.assert_array_equal(found["a"].high, np.nanmax(tens, axis=1))
    np.testing.assert_allclose(found["a"].mean, np.nanmean(tens, axis=1), rtol=0, atol=1e-15)  # sums of ten normals
    assert found["a"].finite.tolist() == [10, 10, 10, 9, *[10] * 6]
    assert found["a"].broken.tolist() == [0, 0, 0, 1, *[0] * 6]
    assert run.downsample("x", "a", (20, 29), 2)["a"].step.tolist() == [22.0, 27.0]
    with pytest.raises(UserError, match="unknown column 'y'"):
        run.downsample("y")


def test_unknown_names_get_a_hint(folder):
    with pytest.raises(UserError) as caught:
        Run(folder).table("loss", "spred")
    assert str(caught.value) == "unknown column 'spred': did you mean 'spread'? Known: extra, loss, size, spread."
    with pytest.raises(UserError) as caught:
        Run(folder).table("spread", layers=["", "fc.wait"])
    assert str(caught.value) == "unknown layer 'fc.wait': did you mean 'fc.weight'? Known: fc.bias, fc.weight, other."


def test_a_run_before_its_first_flush_has_empty_tables(tmp_path):
    with RunWriter(tmp_path, flush_seconds=60) as writer:
        run = Run(tmp_path)
        assert run.status == "running"
        assert (run.names, run.layers, run.events) == ([], [], [])
        assert run.table("loss", layers=["a"]).column_names == ["step", "layer", "loss"]
        assert len(run.table()) == 0
        writer.write(1, "", {"loss": 1.0})
    assert len(run.table("loss")) == 1


def test_status_follows_the_writer(tmp_path):
    writer = RunWriter(tmp_path)
    run = Run(tmp_path)
    assert run.status == "running"
    writer.close()
    assert run.status == "finished"
    for status in ("finished", "failed", "interrupted"):
        RunWriter(tmp_path).close(status)
        assert run.status == status
    with RunWriter(tmp_path):
        assert run.status == "running"


def test_torn_lines_of_events_are_left_out(folder):
    run = Run(folder)
    path = folder / "events.jsonl"
    before = run.events
    with path.open("ab") as file:
        file.write(b'{"kind": "torn", "time": "20')
    assert run.events == before
    with RunWriter(folder) as writer:
        writer.event("spike", step=3, loss=math.inf)
    continued, spike = run.events[len(before) :]
    assert continued["kind"] == "continued"
    assert spike.pop("time") >= continued["time"]
    assert spike == {"kind": "spike", "step": 3, "loss": None}


def test_a_copy_without_empty_folders_and_lock_is_a_run(folder, tmp_path, rows):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("live", "lock", "events.jsonl"))
    run = Run(copy)
    assert run.events == []
    assert run.layers == ["fc.weight", "fc.bias"]
    assert rows(copy, "spread") == [row for row in rows(folder, "spread") if row["step"] < 3]


def test_a_damaged_part_is_named(folder):
    part = folder / "parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DamagedData, match=r"parts/000001\.parquet cannot be read"):
        Run(folder).table()


def test_a_deleted_run_says_so(folder):
    run = Run(folder)
    shutil.rmtree(folder)
    for ask in (run.table, lambda: run.status, lambda: run.info):
        with pytest.raises(UserError, match="is no run folder"):
            ask()


def test_reading_never_misses_what_is_being_sealed(folder):
    live, part = folder / "live" / "000002.rows", folder / "parts" / "000002.parquet"
    data = live.read_bytes()
    run = Run(folder)
    expected = str(run.table().to_pylist())
    reads = 0
    for _ in range(40):
        live.write_bytes(data)
        part.unlink(missing_ok=True)
        sealing = threading.Thread(target=seal, args=(live, part))
        sealing.start()
        while sealing.is_alive():
            assert str(run.table().to_pylist()) == expected
            reads += 1
        assert not live.exists()
    assert reads > 10


@pytest.mark.parametrize("listing", ["live_files", "part_files"])
def test_a_segment_sealed_right_after_a_listing_is_not_missed(folder, monkeypatch, listing):
    run = Run(folder)
    expected = str(run.table().to_pylist())
    listed = getattr(layout, listing)
    calls = []

    def list_and_seal(*arguments):
        found = listed(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            seal(folder / "live" / "000002.rows", folder / "parts" / "000002.parquet")
        return found

    monkeypatch.setattr(layout, listing, list_and_seal)
    assert str(run.table().to_pylist()) == expected
    # Sealed after both listings, it takes a second look.
    assert len(calls) == {"live_files": 1, "part_files": 2}[listing]


WRITE = """
import sys, time
from stepscope.store import RunWriter, recorder
recorder.SEAL_ROWS = 200
with RunWriter(sys.argv[1], flush_seconds=0.002) as run:
    print("open", flush=True)
    for step in range(int(sys.argv[2])):
        for layer in "abc":
            run.write(step, layer, {"x": step, "y": -step} if step % 2 else {"x": step})
        run.event("step", step=step)
        time.sleep(0.0005)
"""


def test_reading_while_another_process_writes_sees_complete_prefixes(tmp_path, start):
    """Whatever moment it is: the rows are the first n written, and n never shrinks."""
    steps = 1500
    child = start(WRITE, tmp_path, steps)
    child.stdout.readline()
    run = Run(tmp_path)
    dice = random.Random(0)
    seen, events = [0], [0]
    while run.status == "running":
        count = sum(len(values) for values in per_layer(run))
        assert count >= seen[-1]
        seen.append(count)
        events.append(len(run.events))
        assert [event["step"] for event in run.events[: events[-1]]] == list(range(events[-1]))
        assert events[-1] >= events[-2]
        if dice.random() < 0.2:
            run.names, run.layers  # noqa: B018 - they must not fail either
    assert child.wait() == 0
    assert run.status == "finished"
    assert [len(values) for values in per_layer(run)] == [steps] * 3
    assert len(run.events) == steps
    assert len(set(seen)) > 5
    assert max(file.last for file in part_files(tmp_path)) > 5
    assert not list((tmp_path / "live").iterdir())


def per_layer(run):
    """Values of x by layer, checked to be 0, 1, 2 ... without a gap, and as many in b as in a or one less ..."""
    values = {layer: [] for layer in "abc"}
    for row in run.table("x").to_pylist():
        values[row["layer"]].append((row["step"], row["x"]))
    for pairs in values.values():
        assert pairs == [(step, float(step)) for step in range(len(pairs))]
    lengths = [len(values[layer]) for layer in "abc"]
    assert sorted(lengths, reverse=True) == lengths
    assert lengths[0] - lengths[2] <= 1
    return list(values.values())


def test_info_is_what_was_given(folder):
    info = Run(folder).info
    assert info == json.loads((folder / "run.json").read_text())
    assert info["schema"] == "stepscope.run/2"
    assert info["config"] == {"lr": 0.1}
    assert info["tensors"] == [{"name": "fc.weight"}, {"name": "fc.bias"}]
    assert info["created"].endswith("+00:00")
    assert info["provenance"]["packages"].keys() >= {"torch", "numpy"}
