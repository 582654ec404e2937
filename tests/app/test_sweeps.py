"""`stepscope status`, `stepscope merge`, and where `stepscope dissect` trains."""

import json
from pathlib import Path

import pytest

from stepscope.app import cli

SETTINGS = {
    "schema": "stepscope.dissect/1",
    "problem": "digits",
    "methods": ["msgd", "adam"],
    "seeds": [0, 1],
    "budget": 8,
    "grid": {"msgd": [0.1, 0.3], "adam": [0.01]},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    for id, method, status in (("a", "msgd", "ok"), ("b", "msgd", "diverged"), ("c", "adam", "ok")):
        (folder / "trials" / id).mkdir(parents=True)
        (folder / "trials" / id / "result.json").write_text(
            json.dumps({"config": {"method": method}, "status": status})
        )
    (folder / "dissect.json").write_text(json.dumps(SETTINGS))
    (folder / "environment.json").write_text("{}")
    return folder


def test_the_status_in_words_and_as_json(sweep, capsys):
    assert cli.run(["status", str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "digits: interrupted, 3 of 6 trials",
        "  M-SGD: 1 ok, 1 diverged",
        "  Adam: 1 ok",
    ]
    assert cli.run(["status", str(sweep), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trials"], found["total"], found["done"]["adam"]) == (3, 6, {"ok": 1})


def test_merging_says_how_many_were_new(sweep, tmp_path, capsys):
    assert cli.run(["merge", str(tmp_path / "all"), str(sweep)]) == 0
    assert capsys.readouterr().out.startswith("3 trials are new in ")
    assert cli.run(["merge", str(tmp_path / "all"), str(tmp_path)]) == 2
    assert "is no folder of a dissection" in capsys.readouterr().err


def test_a_wrong_shard_or_a_missing_ray_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert cli.run(["dissect", "--out", str(tmp_path / "out"), "--executor", "ray"]) == 2
    assert "pip install 'stepscope[ray]'" in capsys.readouterr().err
    assert cli.run(["dissect", "--out", str(tmp_path / "out"), "--shard", "3/2"]) == 2
    assert "a shard is written i/n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
