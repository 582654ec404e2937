import json
import os
import shutil
from pathlib import Path

import pytest

from stepscope.errors import FolderInUse, UserError
from stepscope.store import Run, RunWriter, repair
from stepscope.store.format import live_files

ROWS = [(step, layer) for layer in ("", "a", "b") for step in range(1, 7)]


@pytest.fixture
def crashed(tmp_path) -> Path:
    """A run of two lives: steps 1 to 3 sealed, 4 to 6 in the live segment of a writer that was killed."""
    folder = tmp_path / "crashed"
    for first in (1, 4):
        run = RunWriter(folder, config={"lr": 0.1}, tensors=[{"name": "a"}, {"name": "b"}], flush_seconds=3600)
        for step in range(first, first + 3):
            for layer in ("", "a", "b"):
                run.write(step, layer, {"x": step})
            run.event("step", step=step)
            run.flush()
        live = {path: path.read_bytes() for path in live_files(folder).values()}
        run.close()
    (folder / "parts" / "000002.parquet").unlink()
    for path, data in live.items():
        path.write_bytes(data)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"status": None}))
    return folder


def keys(folder):
    return [(row["step"], row["layer"]) for row in Run(folder).table("x").to_pylist()]


def test_a_run_after_a_crash_is_made_whole(crashed):
    found = repair(crashed)
    assert (found.rows, found.sealed, found.torn, found.lost) == (18, 1, 0, [])
    assert keys(crashed) == ROWS
    assert not list((crashed / "live").iterdir())
    assert Run(crashed).status == "interrupted"


def test_a_run_that_is_whole_is_not_changed(crashed):
    repair(crashed)
    before = {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file() and path.name != "lock"}
    found = repair(crashed)
    assert (found.rows, found.sealed, found.tidied, found.torn, found.lost) == (18, 0, 0, 0, [])
    assert before == {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("how", ["repair", "open"])
def test_cut_at_any_byte_everything_that_was_flushed_before_is_there(crashed, tmp_path, how):
    """The live segment ends wherever the kill left it; flushes were at steps 4, 5 and 6. (What is read after a cut at
    any byte whatsoever is tested with the live segments; here it is what repair makes of it.)"""
    (live,) = live_files(crashed).values()
    ends = [place for place in range(len(live.read_bytes()) + 1) if live.read_bytes()[place : place + 4] == b"SSR2"]
    ends = [*ends[1:], live.stat().st_size]
    last = live.stat().st_size
    sizes = {end + more for end in [0, *ends] for more in (-1, 0, 1, 16, 17) if 0 <= end + more <= last}
    for size in sorted(sizes | set(range(0, last, 31 if how == "repair" else 97))):
        folder = tmp_path / f"{size}"
        shutil.copytree(crashed, folder)
        os.truncate(folder / live.relative_to(crashed), size)
        whole = 3 + sum(end <= size for end in ends)
        expected = [key for key in ROWS if key[0] <= whole]
        assert keys(folder) == expected
        if how == "repair":
            found = repair(folder)
            assert (found.rows, found.lost) == (len(expected), [])
            assert found.torn == size - max(end for end in [0, *ends] if end <= size)
        else:
            RunWriter(folder).close()
        assert keys(folder) == expected
        assert not list((folder / "live").iterdir())
        shutil.rmtree(folder)


def test_a_wrong_byte_anywhere_costs_little_and_is_said(crashed, tmp_path):
    """Of every file of the run each 41st byte is changed: afterwards the run can be read, no value is wrong, what is
    missing is said, and it is no more than one part, one flush, or the settings."""
    for file in sorted(path for path in crashed.rglob("*") if path.is_file() and path.name != "lock"):
        for place in range(0, file.stat().st_size, 41):
            folder = tmp_path / "copy"
            shutil.copytree(crashed, folder)
            path = folder / file.relative_to(crashed)
            data = bytearray(path.read_bytes())
            data[place] ^= 0xFF
            path.write_bytes(data)
            found = repair(folder)
            rows = Run(folder).table("x").to_pylist()
            assert all(row["x"] == row["step"] for row in rows)
            missing = set(ROWS) - {(row["step"], row["layer"]) for row in rows}
            assert len(missing) <= {"000001.parquet": 9, "000002.rows": 3}.get(file.name, 0)
            assert not missing or found.lost or found.torn
            assert found.rows == len(rows)
            assert repair(folder).lost == []
            shutil.rmtree(folder)


def test_a_part_damaged_while_its_segment_is_still_there_is_made_again(crashed):
    (live,) = live_files(crashed).values()
    data = live.read_bytes()
    repair(crashed)
    live.write_bytes(data)  # the writer was killed before it could remove it ...
    part = crashed / "parts" / "000002.parquet"
    part.write_bytes(part.read_bytes()[:-30])  # ... and the power went before the part was on the disk
    found = repair(crashed)
    assert (found.rows, found.lost) == (18, [])
    assert keys(crashed) == ROWS


def test_a_lost_run_json_is_made_again(crashed):
    for content in (None, b"", b"{", b"\xff"):
        path = crashed / "run.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        found = repair(crashed)
        assert [line for line in found.lost if "run.json" in line]
        assert keys(crashed) == ROWS
        assert Run(crashed).info["config"] == {}


def test_torn_and_damaged_events(crashed):
    path = crashed / "events.jsonl"
    before = Run(crashed).events
    path.write_bytes(path.read_bytes() + b'{"kind": "torn", "ti')
    found = repair(crashed)
    assert (found.torn, found.lost) == (20, [])
    assert Run(crashed).events == before
    path.write_bytes(b"rubbish\n" + path.read_bytes())
    (line,) = repair(crashed).lost
    assert line == f"{path}: 1 lines of it are damaged; the others are kept"
    assert Run(crashed).events == before
    assert (crashed / "damaged" / "events.jsonl").exists()


def test_what_is_no_run_or_is_being_recorded_is_left_alone(crashed, tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        repair(tmp_path / "nothing")
    with RunWriter(crashed), pytest.raises(FolderInUse, match="is already being recorded"):
        repair(crashed)
    (crashed / "run.json").write_text('{"schema": "stepscope.run/99"}')
    before = sorted(crashed.rglob("*"))
    with pytest.raises(UserError, match="newer stepscope"):
        repair(crashed)
    assert sorted(crashed.rglob("*")) == before
