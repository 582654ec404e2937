"""Sweeps in parts: jobs that share a folder, and folders that are brought together."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stepscope.errors import FolderInUse, UserError
from stepscope.experiments.folder import Folder
from stepscope.experiments.gather import merge, status
from stepscope.experiments.shard import PartDone, Shard

GRID = {"points": ["msgd", "mssd", "adam"], "grid": {"msgd": [0.1, 0.3], "mssd": [0.01], "adam": [0.01]}}


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "a/2", "1/2/3", "-1/2"])
def test_a_shard_that_is_none_is_one_line(text):
    with pytest.raises(UserError, match="a shard is written i/n"):
        Shard.parse(text)


def test_every_trial_belongs_to_exactly_one_part():
    ids = [f"{7919 * n:012x}" for n in range(500)]
    owners = [[shard.owns(i) for shard in (Shard(k, 7) for k in range(1, 8))].count(True) for i in ids]
    assert set(owners) == {1}


def test_parts_take_turns_until_all_is_done_and_the_results_are_the_same(small):
    whole = small(**GRID)
    ended = []
    for turn in range(12):  # nobody else is at work, so each stops where the other has to go on
        try:
            parts = small(out="parts", shard=Shard(turn % 2 + 1, 2), **GRID)
            break
        except PartDone as error:
            ended.append(str(error))
    assert ended
    assert "has done all it can" in ended[0]
    assert parts.results == whole.results


def test_parts_at_work_side_by_side_wait_for_each_other(tmp_path, tiny):
    """Four processes, started together, end with the same results as one; none of them stops early for good."""
    code = (
        "import sys\nfrom stepscope.experiments import dissect\nfrom stepscope.experiments.shard import PartDone\n"
        "try:\n    dissect(sys.argv[1], out=sys.argv[2], shard=sys.argv[3] or None, jobs=1, seeds=2, steps=6,\n"
        f"            points={GRID['points']}, grid={GRID['grid']})\n"
        "except PartDone:\n    sys.exit(3)\n"
    )
    command = [sys.executable, "-c", code, tiny("problem"), str(tmp_path / "out")]
    jobs = [subprocess.Popen([*command, f"{k}/2"], cwd=tmp_path) for k in (1, 2)]
    ends = [job.wait(timeout=200) for job in jobs]
    while 3 in ends:  # one may have begun only after the other had nobody to wait for
        ends = [subprocess.run([*command, f"{k}/2"], cwd=tmp_path, check=False).returncode for k in (1, 2)]
    assert ends == [0, 0]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(arm["runs"]) for arm in results["arms"]] == [2, 2, 2]


def test_the_same_part_twice_or_a_part_beside_the_whole_is_refused(tmp_path):
    part = Folder(tmp_path / "out", {}, shard=Shard(1, 2))
    other = Folder(tmp_path / "out", {}, shard=Shard(2, 2))
    assert part.is_shared
    for shard in (Shard(1, 2), None):
        with pytest.raises(FolderInUse, match="another process is working in"):
            Folder(tmp_path / "out", {}, shard=shard)
    part.close()
    assert not other.is_shared
    other.close()
    whole = Folder(tmp_path / "out", {})
    with pytest.raises(FolderInUse, match="on part 1/2, or on all of it"):
        Folder(tmp_path / "out", {}, shard=Shard(1, 2))
    whole.close()


def test_merged_folders_are_gone_on_with_and_nothing_is_trained_twice(small, here, tmp_path):
    whole = small(**GRID)
    for k in (1, 2):
        with pytest.raises(PartDone):
            small(out=f"part{k}", shard=Shard(k, 2), **GRID)
    places = [tmp_path / "part1", tmp_path / "part2"]
    before = {trial.name for place in places for trial in (place / "trials").iterdir()}
    assert merge(tmp_path / "all", places) == len(before)
    assert merge(tmp_path / "all", places) == 0
    merged = small(out="all", executor=here, **GRID)
    assert merged.results == whole.results
    assert not before & set(here.ran)


def test_only_parts_of_one_sweep_merge(small, tmp_path):
    small(**GRID)
    small(out="other", **GRID | {"steps": 7})
    with pytest.raises(UserError, match=r"differs from .* in its steps"):
        merge(tmp_path / "all", [tmp_path / "out", tmp_path / "other"])
    with pytest.raises(UserError, match="is no folder of a dissection"):
        merge(tmp_path / "all", [tmp_path])


def test_the_status_says_how_far_it_is(small, tmp_path):
    with pytest.raises(PartDone):
        small(shard=Shard(1, 2), **GRID)
    trials = tmp_path / "out" / "trials"
    (trials / ".0123456789ab").mkdir()
    (trials / ".0123456789ab" / "checkpoint.pt").touch()
    found = status(tmp_path / "out")
    assert (found.total, found.working, found.finished) == (2 + 3 * 2, False, False)
    assert found.trials == len(list(trials.glob("[!.]*")))
    assert "interrupted" in found.lines()[0]
    assert found.lines()[-1].startswith("  0123456789ab: interrupted, checkpoint")
    with pytest.raises(UserError, match="is no folder of a dissection"):
        status(tmp_path)


def test_a_status_is_read_while_somebody_works(small, tmp_path, here):
    seen = []
    plain = here.wait

    def wait():
        thread = threading.Thread(target=lambda: seen.append(status(Path(tmp_path, "out"))))
        thread.start()
        thread.join()
        return plain()

    here.wait = wait
    small(executor=here, **GRID)
    assert all(one.working for one in seen)
    assert [one.trials for one in seen] == list(range(8))
