"""One folder, one dissection, one process at a time."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from stepscope.errors import DamagedData, FolderInUse, UserError
from stepscope.experiments.folder import Folder
from stepscope.experiments.trial import Trial
from stepscope.store.lock import FolderLock

SETTINGS = {"problem": "tiny", "steps": 12, "grid": {"msgd": [0.1]}}
TRIAL = Trial("mark", "msgd", 0.1, 0.9, 0, 12, 8, 5, 10, ("train", "test"))


def finish(folder: Folder, name: str, status: str = "ok") -> Path:
    place = folder.trials / name
    place.mkdir()
    (place / "result.json").write_text(json.dumps({"status": status}))
    return place


def test_settings_are_written_first_and_recognised_again(tmp_path):
    with closing(Folder(tmp_path / "deep" / "out", SETTINGS)) as folder:
        assert not folder.is_finished
    assert json.loads((tmp_path / "deep/out/dissect.json").read_text()) == {"schema": "stepscope.dissect/1", **SETTINGS}
    Folder(tmp_path / "deep" / "out", SETTINGS).close()


def test_other_settings_are_named(tmp_path):
    Folder(tmp_path, SETTINGS).close()
    with pytest.raises(UserError) as caught:
        Folder(tmp_path, SETTINGS | {"steps": 13, "grid": {}})
    assert str(caught.value) == (
        f"{tmp_path} belongs to other settings (steps is 12 there, 13 here; grid is {{'msgd': [0.1]}} there, "
        "{} here): choose another --out, or delete it."
    )
    Folder(tmp_path, SETTINGS).close()  # the refusal let go of the lock


def test_one_process_at_a_time(tmp_path):
    with closing(Folder(tmp_path, SETTINGS)):
        with pytest.raises(FolderInUse) as caught:
            Folder(tmp_path, SETTINGS)
        assert str(caught.value) == f"another process is working in {tmp_path}: wait for it, or choose another --out."
    Folder(tmp_path, SETTINGS).close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds something else \(thesis.tex\): choose another --out"):
        Folder(tmp_path, SETTINGS)
    assert not (tmp_path / "dissect.json").exists()


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write .* Choose another folder.$"):
        Folder(tmp_path / "file" / "out", SETTINGS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"writing is not allowed there. Choose a folder that you may write to.$"):
        Folder(tmp_path / "out", SETTINGS)


def test_a_full_disk_is_one_line_and_nothing_is_left(small_disk, fill):
    fill(small_disk)
    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full. Free some space .*$"):
        Folder(small_disk / "out", SETTINGS)
    assert not (small_disk / "out").exists()


def test_settings_that_cannot_be_read_are_damaged(tmp_path):
    (tmp_path / "dissect.json").write_text("{")
    with pytest.raises(DamagedData, match=r"dissect.json cannot be read .* delete .* and run the same command again"):
        Folder(tmp_path, SETTINGS)


def test_another_version_of_the_format_is_refused(tmp_path):
    (tmp_path / "dissect.json").write_text('{"schema": "stepscope.dissect/2"}')
    with pytest.raises(UserError, match=r"has schema 'stepscope.dissect/2', not 'stepscope.dissect/1'"):
        Folder(tmp_path, SETTINGS)


def test_only_finished_trials_survive_an_interruption(tmp_path):
    with closing(Folder(tmp_path, SETTINGS)) as folder:
        finish(folder, "a")
        finish(folder, "b", "diverged")
        finish(folder, "c", "failed")  # tried again: memory may have been short
        (folder.trials / ".d").mkdir()
        (folder.trials / "e").mkdir()
        for name in (".f", ".g"):
            (folder.trials / name).mkdir()
            (folder.trials / name / "checkpoint.pt").touch()
        at_work = FolderLock(folder.trials / ".d" / "lock")
        assert folder.finished_trials() == {"a": {"status": "ok"}, "b": {"status": "diverged"}}
        left = {"a", "b", ".d", ".f", ".g"}  # somebody is still at work, and what can be gone on with
        assert {child.name for child in folder.trials.iterdir()} == left
        at_work.release()
        folder.remove_attempts()
        assert {child.name for child in folder.trials.iterdir()} == {"a", "b"}


def test_a_failure_is_written_down(tmp_path):
    with closing(Folder(tmp_path, SETTINGS)) as folder:
        result = folder.result(TRIAL, "Traceback ...")
        assert result == json.loads((folder.trials / TRIAL.id / "result.json").read_text())
        assert (result["status"], result["error"], result["config"]["lr"]) == ("failed", "Traceback ...", 0.1)
        assert folder.seconds(TRIAL) is None


def test_finishing_leaves_no_attempts(tmp_path):
    with closing(Folder(tmp_path, SETTINGS)) as folder:
        finish(folder, ".d.123")
        folder.finish({"schema": 1}, {"seconds": 2})
        assert list(folder.trials.iterdir()) == []
        assert folder.is_finished
        assert folder.results == {"schema": 1}
