"""Reading what a report is made from, and refusing what it cannot be made from."""

import json
import math
from pathlib import Path

import pytest
from tests.report.sample import make_results

from stepscope import store
from stepscope.errors import DamagedData, UserError
from stepscope.report import source


def test_a_folder_is_read_like_its_results(tmp_path: Path):
    results = make_results(seeds=1, steps=40, layers=("fc.weight",))
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert source.load(tmp_path) == source.load(str(tmp_path)) == source.load(results)


def test_numbers_that_are_not_finite_become_none():
    results = {"schema": source.SCHEMA, "problem": {"x": math.nan}, "settings": {"y": [math.inf, 1.0]}, "arms": ()}
    assert source.load(results) == {
        "schema": source.SCHEMA,
        "problem": {"x": None},
        "settings": {"y": [None, 1.0]},
        "arms": [],
    }


def test_another_schema_is_refused():
    with pytest.raises(UserError, match=r"schema 'stepscope.dissection/9'; this version of stepscope reads"):
        source.load({"schema": "stepscope.dissection/9"})


def test_results_that_lack_a_part_are_refused():
    with pytest.raises(DamagedData, match="these results lacks settings, arms"):
        source.load({"schema": source.SCHEMA, "problem": {}})


def test_a_folder_without_either_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds neither"):
        source.load(tmp_path)


def test_an_unfinished_dissection_says_how_to_go_on(tmp_path: Path):
    (tmp_path / "dissect.json").write_text("{}")
    with pytest.raises(UserError, match="run the same command again"):
        source.load(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"null"])
def test_broken_results_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(UserError):
        source.load(tmp_path)


def write_run(folder: Path, steps: int) -> None:
    with store.RunWriter(folder, config={"optimizer": "Adam"}, tensors=[{"name": "b"}, {"name": "a"}]) as run:
        for step in range(1, steps + 1):
            run.write(step, "", {"loss": 1 / step})
            run.write(step, "a", {"spread_median": float(step), "unknown": 1.0})
            if step % 2:
                run.write(step, "b", {"spread_median": math.nan if step == 3 else -float(step)})


def test_a_run_is_read_by_layer(tmp_path: Path):
    write_run(tmp_path / "run", 4)
    recorded = source.load(tmp_path / "run")
    assert isinstance(recorded, source.Recorded)
    assert (recorded.name, recorded.status) == ("run", "finished")
    assert recorded.layers == {
        "layers": ["b", "a"],
        "steps": [1, 2, 3, 4],
        "series": {"b": {"spread_median": [-1, None, None, None]}, "a": {"spread_median": [1, 2, 3, 4]}},
    }
    assert recorded.curves == {"loss": ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4])}


def test_a_long_run_is_thinned_to_steps_that_keep_their_values(tmp_path: Path):
    write_run(tmp_path / "run", 1001)
    recorded = source.load(store.Run(tmp_path / "run"))
    steps = recorded.layers["steps"]
    assert len(steps) == 200
    assert (steps[0], steps[-1]) == (1, 1001)
    assert recorded.layers["series"]["a"]["spread_median"] == steps
    assert all(value == 1 / step for step, value in zip(*recorded.curves["loss"], strict=True))


def test_an_empty_run_is_a_run(tmp_path: Path):
    store.RunWriter(tmp_path / "run").close()
    recorded = source.load(tmp_path / "run")
    assert (recorded.layers["steps"], recorded.curves) == ([], {})
