"""Runs that older versions of the store wrote, kept as they were written: they are read, repaired and continued."""

import json
import math
import shutil
from pathlib import Path

import pytest

from stepscope.store import Run, RunWriter, repair
from stepscope.store.format import VERSION

RUNS = Path(__file__).parent / "versions"
EXPECTED = {
    ("", step): {"loss": 1 / step} for step in range(1, 6)
} | {("fc.weight", step): {"spread_median": step / 3} for step in range(1, 6)} | {
    ("fc.bias", step): {"spread_median": step / 3 + 1} if step < 4 else {"spread_median": -float(step), "extra": 1.0}
    for step in range(1, 8)
}  # fmt: skip


@pytest.fixture(params=sorted(path.name for path in RUNS.iterdir()))
def old(request, tmp_path) -> Path:
    """A run with a sealed part, which ends, and was continued from step 4 by a writer that was killed."""
    shutil.copytree(RUNS / request.param, tmp_path / "run")
    schema = json.loads((tmp_path / "run" / "run.json").read_text())["schema"]
    assert schema == f"stepscope.run/{request.param}"
    return tmp_path / "run"


def check(folder, extra=()):
    run = Run(folder)
    assert run.names[:3] == ["loss", "spread_median", "extra"]
    assert run.layers[:2] == ["fc.weight", "fc.bias"]
    assert run.info["config"] == {"optimizer": "Adam", "lr": 0.01}
    assert [event["kind"] for event in run.events][:2] == ["spike", "continued"]
    rows = {(row.pop("layer"), row.pop("step")): row for row in run.table().to_pylist()}
    expected = EXPECTED | dict(extra)
    assert rows.keys() == expected.keys()
    for key, values in expected.items():
        assert {name: value for name, value in rows[key].items() if not math.isnan(value)} == values
    assert len(run.table("extra", layers="fc.bias", steps=(5, 6))) == 2


def test_every_version_is_there():
    assert [path.name for path in sorted(RUNS.iterdir())] == [str(n) for n in range(1, VERSION + 1)]


def test_an_old_run_is_read(old):
    check(old)


def test_an_old_run_is_repaired(old):
    found = repair(old)
    assert (found.rows > 0, found.lost) == (True, [])
    assert not list((old / "live").iterdir())
    check(old)


def test_an_old_run_is_continued_in_the_present_version(old):
    with RunWriter(old) as run:
        run.write(9, "fc.bias", {"spread_median": 0.5})
    assert Run(old).info["schema"] == f"stepscope.run/{VERSION}"
    check(old, {("fc.bias", 9): {"spread_median": 0.5}}.items())
