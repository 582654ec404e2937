"""The whole job: arguments, folders, interruptions and that equal work gives equal bytes."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepscope import problems
from stepscope.errors import FolderInUse, UserError
from stepscope.experiments import attempt, dissect
from stepscope.store.lock import FolderLock

SMALL = {"seeds": 2, "budget": 3, "steps": 6}
PATIENCE = 60.0


def content(folder: Path) -> bytes:
    return (folder / "results.json").read_bytes()


def test_equal_work_gives_equal_bytes_wherever_and_in_whatever_order_it_runs(small, tiny, tmp_path):
    """In this process last come, first served; one process at a time; two at once."""
    here = small(out="here").folder
    for jobs in (1, 2):
        dissect(tiny("problem"), out=tmp_path / str(jobs), jobs=jobs, **SMALL)
        assert content(tmp_path / str(jobs)) == content(here)


def test_a_problem_object_is_as_good_as_its_name(small, tiny, tmp_path):
    given = dissect(problems.load(tiny("problem")), out=tmp_path / "object", **SMALL)
    assert content(given.folder) == content(small().folder)


def test_a_finished_folder_is_returned_as_it_is(small, here, diary):
    first = small()
    again = small(executor=here, progress=diary)
    assert again.results == first.results
    assert (here.ran, diary.total) == ([], 0)


def test_other_settings_need_another_folder(small):
    small()
    with pytest.raises(
        UserError, match=r"belongs to other settings \(seeds is \[0, 1\] there, \[0\] here\): choose another"
    ):
        small(seeds=1)


def test_a_changed_problem_needs_another_folder(tmp_path, tiny, here):
    source = Path(tiny("").rstrip(":")).read_text()
    copy = tmp_path / "copy.py"
    copy.write_text(source)
    dissect(f"{copy}:problem", out=tmp_path / "out", executor=here, **SMALL)
    copy.write_text(source.replace("1.5 *", "1.6 *"))
    with pytest.raises(UserError, match="problem fingerprint is"):
        dissect(f"{copy}:problem", out=tmp_path / "out", executor=here, **SMALL)


def test_settings_that_do_not_change_results_may_change(small, tiny, tmp_path):
    folder = small().folder
    assert dissect(tiny("problem"), out=folder, jobs=1, **SMALL).folder == folder


def test_without_a_folder_one_is_named_after_problem_and_settings(tmp_path, tiny, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = dissect(tiny("problem"), executor=here, **SMALL).folder
    other = dissect(tiny("problem"), executor=here, **(SMALL | {"seeds": 1})).folder
    assert first != other
    assert {path.parts[:-1] for path in (first, other)} == {("runs",)}
    assert all(path.name.startswith("dissect-tiny-") for path in (first, other))


def test_a_folder_in_use_is_refused(small, tmp_path):
    (tmp_path / "out").mkdir()
    lock = FolderLock(tmp_path / "out" / "lock")
    with pytest.raises(FolderInUse, match="another process is working in "):
        small()
    lock.release()


@pytest.mark.parametrize("jobs", [0, -1, 1.5])
def test_jobs_must_make_sense(small, jobs):
    with pytest.raises(UserError, match="jobs must be a whole number of at least 1, got "):
        small(jobs=jobs)


def test_an_unknown_problem_is_the_users():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        dissect("digit")


def test_what_is_no_problem_is_the_users():
    with pytest.raises(UserError, match=r"^dissect takes a Problem, a name or 'FILE.py:NAME', got dict.$"):
        dissect({})


def test_a_file_that_dissects_itself_is_refused(tmp_path, tiny):
    file = tmp_path / "own.py"
    file.write_text(
        f"from stepscope import dissect, problems\nproblem = problems.load({tiny('problem')!r})\ndissect(__file__)"
    )
    with pytest.raises(UserError, match=r"it calls dissect\(\) while it is loaded; put that under: if __name__ =="):
        dissect(str(file))


def test_nothing_is_written_for_arguments_that_are_wrong(small, tmp_path):
    with pytest.raises(UserError):
        small(beta=2.0)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_out_before_any_trial(tmp_path, tiny, here):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write .*\n?Choose another folder.$"):
        dissect(tiny("problem"), out=tmp_path / "file" / "out", executor=here, **SMALL)
    assert here.ran == []


def test_a_disk_that_fills_up_midway_is_one_line_and_the_sweep_goes_on_later(small, here, tmp_path, monkeypatch):
    written, write_json = [], attempt.write_json

    def nearly_full(path, content):
        if len(written) == 3:  # two files a trial: the second trial's result does not fit
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(attempt, "write_json", nearly_full)
        with pytest.raises(UserError, match="is full: free some space and run the same again"):
            small(executor=here)
    kept = [child.name for child in (tmp_path / "out" / "trials").iterdir()]
    assert len(kept) == 1
    resumed = small(executor=here)
    assert content(resumed.folder) == content(small(out="undisturbed").folder)
    assert len(here.ran) == 1 + 1 + 24


@pytest.mark.parametrize("trials", [1, 16])
def test_a_disk_that_is_full_is_one_line_and_what_is_finished_counts(
    small_disk, fill, small, tiny, tmp_path, diary, trials
):
    """A real one, with real processes: full after the first trial, or when the first recorded ones begin."""
    diary.advance = lambda event: event.done == trials and fill(small_disk)
    with pytest.raises(UserError, match=r"^.*full[^\n]*$"):
        dissect(tiny("problem"), out=small_disk / "out", jobs=2, progress=diary, **SMALL)
    shutil.copytree(small_disk / "out", tmp_path / "moved")
    before = finished(tmp_path / "moved")
    assert len(before) >= trials
    assert not (tmp_path / "moved" / "results.json").exists()
    resumed = small(out="moved")
    assert before.items() <= finished(tmp_path / "moved").items()
    assert content(resumed.folder) == content(small(out="undisturbed").folder)


def test_timings_are_kept_apart(small):
    folder = small().folder
    assert b"seconds" not in content(folder)
    assert b"wall_seconds" in (folder / "timings.json").read_bytes()


SCRIPT = """
import sys
from stepscope.experiments import dissect
class Notes:
    def start(self, total): pass
    def advance(self, event): pass
    def note(self, text): print(text, flush=True)
try:
    dissect(sys.argv[1], out=sys.argv[2], jobs=2, seeds=2, budget=3, steps=6, progress=Notes())
except KeyboardInterrupt:
    sys.exit(130)
"""


def interrupt(spec: str, out: Path, trials: int, how: signal.Signals) -> tuple[int, str]:
    """Start a sweep in a process group of its own and send a signal when so many trials are finished."""
    command = [sys.executable, "-c", SCRIPT, spec, out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as driver:
        deadline = time.monotonic() + PATIENCE
        while len(list(out.glob("trials/[!.]*"))) < trials:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if how == signal.SIGINT:
            os.killpg(driver.pid, how)
        else:
            os.kill(driver.pid, how)
        text = driver.stdout.read()
        code = driver.wait()
    while members(driver.pid):
        assert time.monotonic() < deadline, f"left behind: {members(driver.pid)}"
        time.sleep(0.02)
    return code, text


def members(group: int) -> list[str]:
    """The processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group, *_ = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def finished(out: Path) -> dict[str, int]:
    """Finished trials, with what identifies the very file they were first written to."""
    return {file.parent.name: file.stat().st_ino for file in out.glob("trials/[!.]*/result.json")}


@pytest.mark.timeout(180)
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_bytes(small, tiny, tmp_path):
    """Twice by SIGKILL and once by Ctrl-C, at random moments: nobody is left behind, no finished trial is repeated."""
    out, spec = tmp_path / "killed", tiny("problem")
    generator = random.Random(20180713)
    before: dict[str, int] = {}
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        code, text = interrupt(spec, out, len(before) + 1 + generator.randrange(6), how)
        after = finished(out)
        assert before.items() <= after.items()
        assert not (out / "results.json").exists()
        if how == signal.SIGINT:
            assert (code, text) == (
                130,
                f"Stopped. {out} keeps the finished trials: the same command goes on from there.\n",
            )
        before = after
    resumed = small(out="killed")
    assert before.items() <= finished(out).items()
    assert not list(out.glob("trials/.*"))
    assert content(resumed.folder) == content(small(out="undisturbed").folder)
