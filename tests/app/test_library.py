"""What is found below a folder, and that nothing else can be."""

import os
import shutil

import pytest

from stepscope.app import library as module
from stepscope.app.library import Library
from stepscope.errors import UserError
from stepscope.experiments.shard import Shard
from stepscope.store import RunWriter
from stepscope.store.lock import FolderLock


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch):
    monkeypatch.setattr(module, "RESCAN_SECONDS", 0.0)


def record(folder, steps=3, status="finished", **options):
    with_events = RunWriter(folder, tensors=[{"name": "a", "shape": [2, 3]}], **options)
    for step in range(1, steps + 1):
        with_events.write(step, "a", {"spread": float(step)})
    if status:
        with_events.close(status)
    return with_events


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "runs"
    record(root / "one")
    record(root / "deep" / "er" / "two", status="failed")
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    record(root / "empty", steps=0)
    record(tmp_path / "outside")
    return root


def test_runs_are_found_with_their_state(root):
    lines = {line.id: line for line in Library(root).runs()}
    assert {id: (line.status, line.last) for id, line in lines.items()} == {
        "runs/one": ("finished", 3),
        "runs/deep/er/two": ("failed", 3),
        "runs/broken": ("broken", None),
        "runs/empty": ("finished", None),
    }
    assert lines["runs/one"].tensors == 1
    assert lines["runs/broken"].problem.startswith("runs/broken/run.json is no valid JSON")
    assert str(root) not in lines["runs/broken"].problem


def test_a_run_itself_can_be_watched(root):
    (line,) = Library(root / "one").runs()
    assert (line.id, line.last) == ("one", 3)


def test_a_run_that_appears_grows_and_ends_is_noticed(root):
    library = Library(root)
    before = library.stamp(library.runs())
    assert library.stamp(library.runs()) == before
    writer = record(root / "live", status="")
    writer.flush()
    stamps = {before}
    for step in (4, 5):
        writer.write(step, "a", {"spread": 1.0})
        writer.flush()
        line = library.line("runs/live")
        assert (line.status, line.last) == ("running", step)
        stamps.add(library.stamp(library.runs()))
    writer.event("alarm", step=5)
    writer.flush()
    assert library.line("runs/live").alarms == 1
    stamps.add(library.stamp(library.runs()))
    writer.close()
    stamps.add(library.stamp(library.runs()))
    assert library.line("runs/live").status == "finished"
    shutil.rmtree(root / "live")
    assert library.stamp(library.runs()) == before
    assert len(stamps) == 5


@pytest.mark.parametrize(
    "id",
    [
        "outside",
        "../outside",
        "runs/../outside",
        "runs/../../outside",
        "/etc",
        "runs/one/../../../outside",
        "runs\\one",
        "runs/one/",
        "runs/one\0",
        "runs",
        "",
        ".",
    ],
)
def test_an_id_leads_nowhere_but_to_what_was_found(root, id):
    library = Library(root)
    for ask in (library.line, library.query, library.folder, library.dissection):
        with pytest.raises(UserError, match="unknown"):
            ask(id)


def test_links_are_not_followed(root, tmp_path):
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "fake").mkdir()
    (root / "fake" / "run.json").symlink_to(tmp_path / "outside" / "run.json")
    trials = root / "job" / "trials"
    trials.mkdir(parents=True)
    (root / "job" / "dissect.json").write_text("{}")
    (trials / "abc").symlink_to(tmp_path / "outside", target_is_directory=True)
    (trials / "def").mkdir()
    (trials / "def" / "run").symlink_to(tmp_path / "outside", target_is_directory=True)
    ids = {line.id for line in Library(root).runs()}
    assert ids == {"runs/one", "runs/deep/er/two", "runs/broken", "runs/empty"}


def test_a_trial_keeps_its_id_when_it_is_finished(root):
    trials = root / "job" / "trials"
    attempt = trials / f".abc123.{os.getpid()}"
    attempt.mkdir(parents=True)
    (root / "job" / "dissect.json").write_text('{"problem": "digits"}')
    writer = record(attempt / "run", status="")
    writer.flush()
    library = Library(root)
    line = library.line("runs/job/abc123")
    assert (line.status, line.dissection) == ("running", "runs/job")
    assert library.query(line.id).extent() == (1, 3)
    writer.close()
    attempt.rename(trials / "abc123")
    line = library.line("runs/job/abc123")
    assert (line.status, line.last) == ("finished", 3)
    assert library.query(line.id).folder == trials / "abc123" / "run"
    (job,) = library.dissections()
    assert (job.id, job.status, job.problem, job.done) == ("runs/job", "interrupted", "digits", 1)


def test_too_many_runs_are_cut_and_said_so(root, monkeypatch):
    monkeypatch.setattr(module, "MOST_FOUND", 2)
    library = Library(root)
    assert len(library.runs()) == 2
    assert library.truncated


def test_values_of_a_few_runs_are_kept(root, monkeypatch):
    monkeypatch.setattr(module, "MOST_LOADED", 1)
    library = Library(root)
    one = library.query("runs/one")
    one.series("spread")
    assert one._rows.bytes > 0
    library.query("runs/deep/er/two").series("spread")
    assert one._rows.bytes == 0
    assert library.query("runs/one") is one
    assert one.series("spread").layers["a"].mean.tolist() == [1, 2, 3]


def test_a_sweep_of_which_a_part_is_at_work_is_running(root):
    """`--shard 2/3` locks its part only."""
    (root / "job" / "trials").mkdir(parents=True)
    (root / "job" / "dissect.json").write_text('{"problem": "digits"}')
    library = Library(root)
    assert [line.status for line in library.dissections()] == ["interrupted"]
    part = FolderLock(root / "job" / Shard(2, 3).lock)
    try:
        assert [line.status for line in library.dissections()] == ["running"]
    finally:
        part.release()
    assert [line.status for line in library.dissections()] == ["interrupted"]
