import json

import pytest

from stepscope.app.cli import run
from stepscope.store import RunWriter


@pytest.fixture
def folder(tmp_path):
    with RunWriter(tmp_path / "run", flush_seconds=3600) as writer:
        for step in range(3):
            writer.write(step, "a", {"x": step})
    return tmp_path / "run"


def test_repairing_a_whole_run_says_so(folder, capsys):
    assert run(["repair", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder} has 3 rows and is whole.\n"


def test_what_was_lost_is_said_and_is_the_exit_code(folder, capsys):
    part = folder / "parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    assert run(["repair", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 0
    assert found["lost"] == [f"{part}: damaged; 0 rows of it could be read and are kept"]
    assert (folder / "damaged" / "000001.parquet").exists()
    assert run(["repair", str(folder)]) == 0


def test_leftovers_of_a_kill_are_counted(folder, capsys):
    (folder / ".run.json.1-2.tmp").touch()
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"kind"')
    assert run(["repair", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["cut off: 7 bytes of a write that was never finished", "removed: 1 leftover"]


def test_a_folder_without_a_run_is_wrong_use(tmp_path, capsys):
    assert run(["repair", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_two_runs_are_compared_in_words_and_as_json(folder, tmp_path, capsys):
    with RunWriter(tmp_path / "other", flush_seconds=3600) as writer:
        for step in range(3):
            writer.write(step, "a", {"x": step + (step == 2)})
    assert run(["diff", str(folder), str(tmp_path / "other")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run and other, steps 0 to 2"
    assert lines[1] == "They agree bit for bit before step 2; first: x of a, 2 against 3."
    assert lines[-1] == f"report: {tmp_path / 'other' / 'diff.html'}"
    assert run(["diff", str(folder), str(tmp_path / "other"), "--json", "--out", str(tmp_path / "d.html")]) == 0
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    assert found["first_difference"] == {"step": 2, "layer": "a", "column": "x", "a": 2.0, "b": 3.0, "others": 0}
    assert streams.err == f"report: {tmp_path / 'd.html'}\n"
