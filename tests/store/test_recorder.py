import logging
import os
import random
import shutil
import signal
import time

import pytest

from stepscope.errors import UserError
from stepscope.store import Run, RunWriter, recorder
from stepscope.store.format import part_files

SLOW = 3600.0  # seconds between flushes: only those happen that a test asks for


# Kills and forks -----------------------------------------------------------------------------------------------------

RECORD = """
import itertools, sys
from stepscope.store import RunWriter, recorder
recorder.SEAL_ROWS = 100
run = RunWriter(sys.argv[1], flush_seconds=float(sys.argv[3]))
for step in itertools.count(int(sys.argv[2])):
    run.write(step, "a", {"x": step})
    run.write(step, "b", {"x": -step, f"y{step // 500}": 1.0})
    if step % 7 == 0:
        run.event("seven", step=step)
        run.flush()
        print(step, flush=True)
"""


@pytest.mark.parametrize("flush_seconds", [SLOW, 0.001])
def test_a_killed_run_keeps_every_flush_and_can_be_continued(tmp_path, start, flush_seconds):
    """Killed by the kernel at random moments, each time continued by a new process behind the last row."""
    dice = random.Random(f"{flush_seconds}")
    first = 0
    for life in range(4):
        child = start(RECORD, tmp_path, first, flush_seconds)
        lines = [child.stdout.readline()]
        time.sleep(dice.uniform(0.0, 0.25))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        run = Run(tmp_path)
        assert run.status == "interrupted"
        steps = {layer: run.table("x", layers=layer)["step"].to_pylist() for layer in "ab"}
        assert steps["a"] == list(range(len(steps["a"])))  # no gap anywhere, in this life or those before
        assert steps["b"] == list(range(len(steps["b"])))
        assert len(steps["a"]) - len(steps["b"]) in (0, 1)
        assert len(steps["b"]) > acknowledged
        sevens = [event["step"] for event in run.events if event["kind"] == "seven"]
        assert sevens == sorted(set(sevens))
        assert sevens[-1] >= acknowledged
        assert len(sevens) >= sevens[-1] // 7 + 1 - life  # a kill may fall between the rows of a flush and its events
        first = len(steps["b"])
    with RunWriter(tmp_path):
        assert not list((tmp_path / "live").iterdir())  # what the killed ones left is sealed first
    assert Run(tmp_path).table("x", layers="b")["step"].to_pylist() == steps["b"]


def test_leftovers_of_a_kill_are_tidied_up(tmp_path):
    RunWriter(tmp_path).close()
    leftovers = [tmp_path / ".run.json.1-2.tmp", tmp_path / "parts" / ".000001.parquet.1-2.tmp"]
    for path in leftovers:
        path.touch()
    assert len(Run(tmp_path).table()) == 0
    RunWriter(tmp_path).close()
    assert not any(path.exists() for path in leftovers)


FORK = """
import os, sys, time
from stepscope.store import Run, RunWriter
run = RunWriter(sys.argv[1], flush_seconds=3600)
run.write(1, "parent", {"x": 1.0})
child = os.fork()
if child == 0:
    run.write(2, "child", {"x": 2.0})
    run.event("child")
    run.flush()
    assert len(Run(sys.argv[1]).table()) == 0
    run.close()
    assert Run(sys.argv[1]).status == "running"
    del run
    sys.exit()  # as most programs end: with everything that runs at exit
assert os.waitpid(child, 0)[1] == 0
assert Run(sys.argv[1]).status == "running"
assert len(Run(sys.argv[1]).table()) == 0
run.write(3, "parent", {"x": 3.0})
run.close()
"""


def test_a_forked_child_writes_and_flushes_nothing(tmp_path, start, rows):
    assert start(FORK, tmp_path).wait() == 0
    assert [(row["layer"], row["x"]) for row in rows(tmp_path)] == [("parent", 1.0), ("parent", 3.0)]
    assert Run(tmp_path).events == []
    assert Run(tmp_path).status == "finished"


ORPHAN = """
import os, signal, sys, time
from stepscope.store import RunWriter
run = RunWriter(sys.argv[1])
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_outlives_a_killed_parent_does_not_hold_the_folder(tmp_path, start):
    parent = start(ORPHAN, tmp_path)
    child = int(parent.stdout.readline())
    try:
        parent.wait()
        assert Run(tmp_path).status == "interrupted"
        RunWriter(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)


# A disk that refuses -------------------------------------------------------------------------------------------------


@pytest.fixture
def complaints(caplog):
    """The warnings logged so far."""
    caplog.set_level(logging.WARNING, "stepscope.store")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError) as caught:
            RunWriter(folder)
        assert str(caught.value) == (
            f"cannot write {folder}: a file is in the place of a folder, or the other way round. Choose another folder."
        )


def test_a_full_disk_at_the_start_is_one_clear_line(small_disk, fill):
    filler = fill(small_disk)
    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full\. Free some space on the disk of "):
        RunWriter(small_disk / "run")
    filler.unlink()
    RunWriter(small_disk / "run").close()


def test_recording_waits_for_a_full_disk_and_goes_on(small_disk, fill, complaints):
    """A row takes several writes of the disk's 4 KiB pages, so the first one that fails is torn inside its batch."""
    folder = small_disk / "run"
    values = {f"x{index}": float(index) for index in range(50)}
    run = RunWriter(folder, flush_seconds=SLOW)
    run.write(0, "", values)
    run.flush()
    filler = fill(small_disk)
    for step in range(1, 40):
        run.write(step, "", values)
        run.event("step", step=step)
        run.flush()
    (complaint,) = complaints()
    assert complaint.startswith(f"cannot write {folder}")
    assert "the disk is full" in complaint
    assert complaint.endswith("Recording waits; up to 64 MiB of rows are kept meanwhile.")
    seen = Run(folder).table("x1")["step"].to_pylist()
    assert seen == list(range(len(seen)))
    assert 0 < len(seen) < 40
    assert len(list((folder / "live").iterdir())) <= 2
    filler.unlink()
    run.flush()
    assert Run(folder).table("x49")["step"].to_pylist() == list(range(40))
    run.close()
    assert len(complaints()) == 1
    assert Run(folder).status == "finished"
    assert Run(folder).table("x49")["x49"].to_pylist() == [49.0] * 40
    assert [event["step"] for event in Run(folder).events] == list(range(1, 40))


def test_a_disk_that_stays_full_costs_rows_but_no_exception(small_disk, fill, complaints, monkeypatch):
    monkeypatch.setattr(recorder, "MOST_PENDING", 100_000)
    monkeypatch.setattr(recorder, "MOST_EVENTS", 10)
    folder = small_disk / "run"
    values = {f"x{index}": 0.5 for index in range(500)}
    run = RunWriter(folder, flush_seconds=SLOW)
    run.write(0, "", values)
    run.flush()
    filler = fill(small_disk)
    for step in range(1, 200):
        run.write(step, "", values)
        run.event("step", step=step)
        run.flush()
    waiting = sum(encoded.rows for encoded in run._recorder._pending)
    assert 0 < waiting < 30
    assert len(run._recorder._lines) <= 10
    run.close()
    first, last = complaints()
    assert "the disk is full" in first
    kept = Run(folder).table("x0")["step"].to_pylist()
    assert last == f"{folder}: {200 - len(kept)} rows could not be written and are lost."
    assert Run(folder).status == "interrupted"
    filler.unlink()
    with RunWriter(folder) as run:
        run.write(1000, "", {"x0": 1.0})
    assert Run(folder).table("x0")["step"].to_pylist() == [*kept, 1000]
    assert not list((folder / "live").iterdir())


def test_rows_dropped_while_the_disk_was_full_are_noted(small_disk, fill, complaints, monkeypatch):
    monkeypatch.setattr(recorder, "MOST_PENDING", 20_000)
    folder = small_disk / "run"
    values = {f"x{index}": 0.5 for index in range(50)}
    with RunWriter(folder, flush_seconds=SLOW) as run:
        filler = fill(small_disk)
        for step in range(40):
            run.write(step, "", values)
            run.flush()
        filler.unlink()
    kept = Run(folder).table("x0")["step"].to_pylist()
    assert kept == list(range(40 - len(kept), 40))  # the oldest go first
    (event,) = Run(folder).events
    assert event["kind"] == "rows_lost"
    assert event["rows"] == 40 - len(kept) > 0
    first, last = complaints()
    assert "the disk is full" in first
    assert last == f"{folder}: {event['rows']} rows could not be written and are lost."


def test_events_wait_for_a_full_disk_too_and_come_once(small_disk, fill, complaints):
    """An event is longer than the disk's 4 KiB pages, so a failed write leaves a part of it behind."""
    folder = small_disk / "run"
    with RunWriter(folder, flush_seconds=SLOW) as run:
        run.event("first")
        run.flush()
        filler = fill(small_disk)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 8192)
        for number in range(3):
            run.event("long", number=number, text="x" * 5000)
        run.flush()
        assert [event["kind"] for event in Run(folder).events] == ["first"]
        filler.unlink()
    assert [event.get("number") for event in Run(folder).events] == [None, 0, 1, 2]
    assert len(complaints()) == 1


LIMITED = """
import resource, sys
from stepscope.store import RunWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
with RunWriter(sys.argv[1], flush_seconds=3600) as run:
    for step in range(3000):
        run.write(step, "", {"x": step, "y": 0.5})
        if step % 3 == 0:
            run.flush()
"""


def test_a_torn_batch_hides_nothing_that_comes_after_it(tmp_path, start):
    """No file may grow beyond 20 kB: every segment ends in a torn batch, and each time recording goes on behind it."""
    child = start(LIMITED, tmp_path, stderr=-1)
    _, errors = child.communicate()
    assert child.returncode == 0
    assert errors == ""
    assert Run(tmp_path).table("x")["x"].to_pylist() == list(range(3000))
    assert Run(tmp_path).status == "finished"
    assert max(file.last for file in part_files(tmp_path)) > 5


def test_recording_goes_on_in_a_new_folder_where_it_was_deleted(tmp_path, complaints, rows, monkeypatch):
    """Not at once, because it may only have been moved; what was in it is gone."""
    folder = tmp_path / "run"
    with RunWriter(folder, config={"lr": 0.1}, flush_seconds=SLOW) as run:
        for step in range(8):
            run.write(step, "", {"x": step})
            run.flush()
            if step == 2:
                shutil.rmtree(folder)
            if step == 5:
                assert not folder.exists()
                monkeypatch.setattr(recorder, "GONE_SECONDS", 0.0)
        assert [row["x"] for row in rows(folder)] == [3, 4, 5, 6, 7]
    (complaint,) = complaints()
    assert f"the folder {folder} is missing" in complaint
    assert (Run(folder).status, Run(folder).info["config"]) == ("finished", {"lr": 0.1})
    (event,) = Run(folder).events
    assert (event["kind"], event["after"]) == ("resumed", "the folder was gone")


def test_closing_makes_a_deleted_folder_again(tmp_path, complaints, rows):
    folder = tmp_path / "run"
    run = RunWriter(folder, flush_seconds=SLOW)
    for step in range(5):
        run.write(step, "", {"x": step})
        run.flush()
        if step == 2:
            shutil.rmtree(folder)
    run.close()
    assert [row["x"] for row in rows(folder)] == [3, 4]
    assert len(complaints()) == 1


def test_a_disk_that_is_gone_is_not_written_to_the_disk_below_it(tmp_path, complaints):
    """Where the folder above is missing too, a disk is probably not mounted."""
    folder = tmp_path / "disk" / "run"
    run = RunWriter(folder, flush_seconds=SLOW)
    shutil.rmtree(tmp_path / "disk")
    run.write(1, "", {"x": 1.0})
    run.close()
    assert not (tmp_path / "disk").exists()
    assert complaints()[1] == f"{folder}: 1 rows could not be written and are lost."


def test_an_empty_folder_in_the_place_of_a_deleted_one_is_used_at_once(tmp_path, complaints, rows):
    folder = tmp_path / "run"
    with RunWriter(folder, flush_seconds=SLOW) as run:
        shutil.rmtree(folder)
        run.write(1, "", {"x": 1.0})
        run.flush()
        folder.mkdir()
        run.flush()
        assert len(rows(folder)) == 1
    assert len(complaints()) == 1


READ_ONLY = """
import os, sys
from stepscope.store import Run, RunWriter, recorder
recorder.SEAL_BATCHES = 1  # each flush begins a new file
os.chdir(sys.argv[1])  # relative names need no rights on the folders above
os.chmod(".", 0o777)
root = os.geteuid() == 0  # may write anywhere, so somebody else flushes
with RunWriter("run", flush_seconds=3600) as run:
    for step in range(6):
        run.write(step, "", {"x": step})
        for folder in ("run", "run/live", "run/parts"):
            os.chmod(folder, 0o555 if step in (2, 3) else 0o777)
        if root:
            os.seteuid(65534)
        run.flush()
        if root:
            os.seteuid(0)
    print(len(Run("run").table("x")), flush=True)
"""


def test_a_folder_that_becomes_read_only_is_waited_for(tmp_path, start):
    child = start(READ_ONLY, tmp_path, stderr=-1)
    seen, errors = child.communicate()
    assert child.returncode == 0
    assert int(seen) == 6
    (line,) = errors.splitlines()
    assert "Permission denied" in line or "writing is not allowed there" in line
    assert Run(tmp_path / "run").table("x")["x"].to_pylist() == list(range(6))


def test_a_folder_that_was_moved_away_and_back_is_continued(tmp_path, complaints):
    folder = tmp_path / "run"
    with RunWriter(folder, flush_seconds=SLOW) as run:
        for step in range(6):
            run.write(step, "", {"x": step})
            run.flush()
            if step == 1:
                folder.rename(tmp_path / "elsewhere")
            if step == 3:
                (tmp_path / "elsewhere").rename(folder)
    assert len(complaints()) == 1
    assert Run(folder).table("x")["x"].to_pylist() == list(range(6))


def test_a_folder_that_now_belongs_to_another_writer_is_left_alone(tmp_path, complaints):
    folder = tmp_path / "run"
    old = RunWriter(folder, flush_seconds=SLOW)
    old.write(1, "", {"x": 1.0})
    shutil.rmtree(folder)
    with RunWriter(folder, flush_seconds=SLOW) as new:
        old.flush()
        old.event("late")
        old.close()
        assert Run(folder).status == "running"
        new.write(2, "", {"x": 2.0})
    assert "the folder was replaced by another" in complaints()[0]
    assert Run(folder).table("x")["x"].to_pylist() == [2.0]
    assert Run(folder).events == []
    assert Run(folder).status == "finished"


def test_what_cannot_be_stored_is_left_out_and_said_once(tmp_path, complaints, rows):
    with RunWriter(tmp_path, flush_seconds=SLOW) as run:
        for step in range(3):
            run.write(step, "", {"x": step, "word": "no", "step": 7.0, 3: 1.0})
            run.flush()
    assert [row["x"] for row in rows(tmp_path, "x")] == [0.0, 1.0, 2.0]
    names, value = complaints()
    assert names == f"{tmp_path}: no column can be called 'step', 3."
    assert value == f"{tmp_path}: word is no number but a str; left out, like all of this kind."


def test_a_mistake_of_ours_ends_neither_thread_nor_training(tmp_path, complaints):
    run = RunWriter(tmp_path, flush_seconds=SLOW)
    encode = run._recorder._encode

    def broken():
        raise KeyError("a bug")

    run._recorder._encode = broken
    for step in range(3):
        run.write(step, "", {"x": 1.0})
        run.flush()
    run._recorder._encode = encode
    run.close()
    (complaint,) = complaints()
    assert complaint == f"recording to {tmp_path} failed: KeyError('a bug')"
    assert len(Run(tmp_path).table("x")) == 3
