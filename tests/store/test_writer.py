import contextlib
import gc
import math
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepscope.errors import FolderInUse
from stepscope.store import Run, RunWriter, recorder
from stepscope.store.format import part_files

SLOW = 3600.0  # seconds between flushes: only those happen that a test asks for


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


# Round trip ----------------------------------------------------------------------------------------------------------

LAYER = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
NAME = st.sampled_from(["x", "y/z", "a.b", "a", "größe"])
WRITE = st.tuples(st.integers(-(2**63), 2**63 - 1), LAYER, st.dictionaries(NAME, st.floats(), max_size=3))
FEW = st.tuples(st.integers(0, 3), st.sampled_from(["", "a"]), st.dictionaries(NAME, st.floats(), min_size=1))


@settings(max_examples=20)
@given(st.lists(WRITE | FEW | st.sampled_from(["flush", "reopen"]), max_size=25), st.integers(1, 5))
def test_what_is_written_is_what_is_read(tmp_path_factory, actions, rows_per_segment):
    """Against a dictionary: bit for bit, whatever was flushed, sealed or reopened in between, and overwritten later."""
    folder = tmp_path_factory.mktemp("run")
    expected = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "SEAL_ROWS", rows_per_segment)
        run = RunWriter(folder, flush_seconds=SLOW)
        for action in actions:
            if action == "flush":
                run.flush()
            elif action == "reopen":
                run.close()
                run = RunWriter(folder, flush_seconds=SLOW)
            else:
                step, layer, values = action
                run.write(step, layer, values)
                expected.setdefault((layer, step), {}).update(values)
        run.flush()
        names = Run(folder).names
        for _ in range(2):  # as it lies, then with everything sealed
            found = {(row.pop("layer"), row.pop("step")): row for row in Run(folder).table().to_pylist()}
            assert list(found) == sorted(expected)
            for key, values in expected.items():
                assert str(found[key]) == str({name: values.get(name, math.nan) for name in names})
            run.close()
    assert set(names) == {name for values in expected.values() for name in values}
    shutil.rmtree(folder)


def test_values_are_copied(tmp_path, rows):
    values = {"loss": 1.0}
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        for step in (1, 2):
            values["loss"] = step
            run.write(step, "", values)
    assert rows(tmp_path, "loss") == [{"step": 1, "layer": "", "loss": 1.0}, {"step": 2, "layer": "", "loss": 2.0}]


def test_blocks_are_many_rows_at_once(tmp_path, rows):
    layers, columns = ("b", "a"), ("x", "y")
    values = np.array([[1.0, math.nan], [3.0, 4.0]])
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        run.write_block(1, layers, columns, values)
        values[:] = 0  # it was copied
        run.write(1, "", {"loss": 0.5})
        run.write_block([2, 3], ["a", "a"], columns, [[5, 6], [7, 8]])
        run.write_block([4, 5], ("c", "d"), columns, [[[10, 11], [12, 13]], [[14, 15], [16, 17]]])
    table = [(row["layer"], row["step"], row["x"], row["y"]) for row in rows(tmp_path, "x", "y")]
    assert table[4:] == [("c", 4, 10.0, 11.0), ("c", 5, 14.0, 15.0), ("d", 4, 12.0, 13.0), ("d", 5, 16.0, 17.0)]
    assert table[:3] == [("a", 1, 3.0, 4.0), ("a", 2, 5.0, 6.0), ("a", 3, 7.0, 8.0)]
    assert table[3][:3] == ("b", 1, 1.0)
    assert math.isnan(table[3][3])
    assert rows(tmp_path, "loss") == [{"step": 1, "layer": "", "loss": 0.5}]


def test_blocks_that_cannot_be_rows_are_refused_at_once(tmp_path):
    with RunWriter(tmp_path) as run:
        for arguments, text in (
            ((1, ("a",), ("x",), [1.0]), r"shape \(1, 1\) of rows and columns, got \(1,\)"),
            (([1, 2], ("a",), ("x",), [[1.0]]), r"for steps of shape \(2,\)"),
            ((1, ("a",), ("x",), [[[1.0]]]), r"for steps of shape \(\)"),
            (([1], ("a",), ("x",), [[[[1.0]]]]), r"got \(1, 1, 1, 1\)"),
            ((1, ("a",), ("step",), [[1.0]]), "no column can be called 'step'"),
            ((1, (3,), ("x",), [[1.0]]), "the name of a layer must be text, got 3"),
            ((1, ("a",), ("x", "x"), [[1.0, 2.0]]), "a name of its own"),
        ):
            with pytest.raises(ValueError, match=text):
                run.write_block(*arguments)
    with pytest.raises(ValueError, match="is closed"):
        run.write_block(1, ("a",), ("x",), [[1.0]])
    assert len(Run(tmp_path).table()) == 0


def test_layers_may_be_rounded_and_the_run_is_not(tmp_path, rows):
    third = 1 / 3
    with RunWriter(tmp_path, bits=21) as run:
        run.write(1, "a", {"x": third})
        run.write(1, "", {"x": third})
    whole, layer = (row["x"] for row in rows(tmp_path))
    assert whole == third
    assert 0 < abs(layer - third) <= third * 2**-21


def test_columns_may_appear_at_any_time(tmp_path, rows):
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        for step in range(5):
            run.write(step, "", {f"x{step}": step, "x": step})
            run.flush()
    assert Run(tmp_path).names == ["x0", "x", "x1", "x2", "x3", "x4"]
    assert rows(tmp_path, "x3") == [{"step": 3, "layer": "", "x3": 3.0}]
    assert [row["x"] for row in rows(tmp_path, "x")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("limit", ["SEAL_ROWS", "SEAL_BYTES", "SEAL_BATCHES"])
def test_long_runs_are_sealed_on_the_way(tmp_path, rows, monkeypatch, limit):
    monkeypatch.setattr(recorder, limit, 3)
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        for step in range(20):
            run.write(step, "", {"x": step})
            run.flush()
        assert max(file.last for file in part_files(tmp_path)) >= 6
        assert len(list((tmp_path / "live").iterdir())) == 1
    assert [row["x"] for row in rows(tmp_path, "x")] == list(range(20))
    assert not list((tmp_path / "live").iterdir())


def test_rows_appear_by_themselves_after_flush_seconds(tmp_path):
    with RunWriter(tmp_path, flush_seconds=0.02) as run:
        run.write(1, "", {"x": 1.0})
        run.event("first")
        wait_for(lambda: len(Run(tmp_path).table("x")) == 1 and Run(tmp_path).events)


def test_many_rows_do_not_wait_for_flush_seconds(tmp_path):
    """And not a row is dropped however fast they come: beyond a bound the caller waits for the disk."""
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        for step in range(3 * recorder.MOST_ROWS):
            run.write(step, "", {"x": 1.0})
            assert len(run._recorder.rows) <= recorder.MOST_ROWS
    assert len(Run(tmp_path).table("x")) == 3 * recorder.MOST_ROWS


def test_several_threads_write(tmp_path):
    with RunWriter(tmp_path, flush_seconds=0.001) as run:

        def work(layer):
            for step in range(2000):
                run.write(step, layer, {"x": step})

        threads = [threading.Thread(target=work, args=(layer,)) for layer in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(Run(tmp_path).table("x")) == 8000


def test_write_is_cheap(tmp_path):
    """About 1 us; 50 allows for a slow, busy machine, and would still notice a system call or a conversion."""
    values = {f"statistic {index}": 0.5 for index in range(20)}
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        times = []
        for step in range(1000):
            begin = time.perf_counter()
            run.write(step, "layer", values)
            times.append(time.perf_counter() - begin)
    assert sorted(times)[500] < 50e-6


# Opening, continuing, closing ----------------------------------------------------------------------------------------


HOLD = """
import sys
from stepscope.store import RunWriter
run = RunWriter(sys.argv[1])
print("open", flush=True)
input()
"""


def test_two_writers_on_one_folder_are_refused(tmp_path, start):
    with RunWriter(tmp_path), pytest.raises(FolderInUse, match="already being recorded by this process"):
        RunWriter(tmp_path)
    child = start(HOLD, tmp_path, stdin=-1)
    child.stdout.readline()
    with pytest.raises(FolderInUse, match=f"is being recorded by process {child.pid}"):
        RunWriter(tmp_path)
    assert Run(tmp_path).status == "running"
    child.communicate("\n")
    RunWriter(tmp_path).close()


def test_continuing_keeps_what_was_and_notes_it(tmp_path, rows):
    with RunWriter(tmp_path, config={"lr": 0.1}, tensors=[{"name": "a"}]) as run:
        run.write(1, "", {"x": 1.0})
        run.write(2, "", {"x": 2.0})
    first = Run(tmp_path).info
    with RunWriter(tmp_path, config={"lr": 0.2}) as run:
        run.write(2, "", {"x": 20.0})  # again, from a checkpoint at step 1
        run.write(3, "", {"x": 30.0})
    second = Run(tmp_path).info
    assert [row["x"] for row in rows(tmp_path, "x")] == [1.0, 20.0, 30.0]
    assert second["created"] == first["created"]
    assert (second["config"], second["tensors"]) == ({"lr": 0.2}, [{"name": "a"}])
    (event,) = Run(tmp_path).events
    assert (event["kind"], event["status"], event["config"]) == ("continued", "finished", {"lr": 0.1})
    assert event["provenance"] == first["provenance"]


def test_how_the_block_ends_is_the_status(tmp_path):
    for error, status in ((RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")):
        with contextlib.suppress(error), RunWriter(tmp_path):
            raise error
        assert Run(tmp_path).status == status


def test_after_close(tmp_path):
    run = RunWriter(tmp_path)
    run.close("failed")
    run.close("finished")
    run.flush()
    for call in (lambda: run.write(1, "", {"x": 1.0}), lambda: run.event("late")):
        with pytest.raises(ValueError, match="is closed; it takes no more rows"):
            call()
    assert Run(tmp_path).status == "failed"


def test_arguments_out_of_range(tmp_path):
    for seconds in (0, -1, math.nan):
        with pytest.raises(ValueError, match="flush_seconds must be > 0"):
            RunWriter(tmp_path, flush_seconds=seconds)
    RunWriter(tmp_path, flush_seconds=math.inf).close()
    run = RunWriter(tmp_path)
    with pytest.raises(ValueError, match="status must be finished, failed or interrupted, got 'done'"):
        run.close("done")
    run.close()


def test_a_forgotten_writer_flushes_when_collected(tmp_path, rows):
    run = RunWriter(tmp_path, flush_seconds=SLOW)
    run.write(1, "", {"x": 1.0})
    thread = run._recorder._thread
    del run
    gc.collect()
    assert not thread.is_alive()
    assert rows(tmp_path) == [{"step": 1, "layer": "", "x": 1.0}]
    assert Run(tmp_path).status == "interrupted"


def test_a_writer_collected_by_its_own_thread_flushes(tmp_path, monkeypatch):
    """The collector runs in any thread at any time, in the background thread's flush too, where waiting would hang."""
    run = RunWriter(tmp_path, flush_seconds=0.01)
    inner = run._recorder
    encode = inner._encode

    def collect_and_encode():
        gc.collect()
        encode()

    gc.disable()  # so that it is the call above that collects
    try:
        run.write(1, "", {"x": 1.0})
        run.circle = run
        del run
        inner._encode = collect_and_encode
        inner._thread.join(20)
    finally:
        gc.enable()
    assert not inner._thread.is_alive()
    assert len(Run(tmp_path).table("x")) == 1
    assert Run(tmp_path).status == "interrupted"


def test_a_signal_handler_may_flush_in_the_middle_of_a_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "SEAL_ROWS", 50)
    run = RunWriter(tmp_path, flush_seconds=0.001)
    former = signal.signal(signal.SIGUSR1, lambda *_: run.flush())
    done = threading.Event()

    def disturb():
        while not done.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.0005)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for step in range(500):
            run.write(step, "", {"x": step})
            run.flush()
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, former)
    run.close()
    assert Run(tmp_path).table("x")["x"].to_pylist() == list(range(500))


def test_a_signal_between_two_halves_of_a_batch_tears_nothing(tmp_path, monkeypatch):
    """The system may write less than it was given, and a handler run before the rest is written."""
    run = RunWriter(tmp_path, flush_seconds=SLOW)
    write = os.write

    def write_half_and_flush(file, data):
        count = write(file, data[: len(data) // 2 + 1])
        run.flush()
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half_and_flush)
        for step in range(3):
            run.write(step, "", {"x": step})
            run.event("step", step=step)
            run.flush()
    assert Run(tmp_path).table("x")["x"].to_pylist() == [0.0, 1.0, 2.0]
    assert [event["step"] for event in Run(tmp_path).events] == [0, 1, 2]
    run.close()


def test_a_signal_handler_may_close_in_the_middle_of_a_flush(tmp_path):
    run = RunWriter(tmp_path, flush_seconds=SLOW)
    store = run._recorder._store

    def interrupted_store():
        run.close("failed")
        store()

    run._recorder._store = interrupted_store
    run.write(1, "", {"x": 1.0})
    run.flush()
    run._recorder._thread.join(20)
    assert len(Run(tmp_path).table("x")) == 1
    assert Run(tmp_path).status == "failed"


def test_a_process_that_ends_without_closing_flushes(tmp_path, start, rows):
    script = """
import sys
from stepscope.store import RunWriter
run = RunWriter(sys.argv[1], flush_seconds=3600)
run.write(1, "", {"x": 1.0})
run.event("seen")
"""
    assert start(script, tmp_path).wait() == 0
    assert rows(tmp_path) == [{"step": 1, "layer": "", "x": 1.0}]
    assert [event["kind"] for event in Run(tmp_path).events] == ["seen"]
    assert Run(tmp_path).status == "interrupted"
