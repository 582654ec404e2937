"""`stepscope claims`, `reproduce` and `simulate` from the command line."""

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from stepscope.app import cli
from stepscope.app.simulation import parse_numbers
from stepscope.errors import UserError
from stepscope.experiments.claims import ledger
from stepscope.experiments.papers.reproduce import EXPERIMENTS


def test_the_ledger_is_printed(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["claims", "tutorial"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tutorial-listing-1" in text
    assert "fails" in text


def test_json_has_every_claim(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == list(ledger.claims())
    assert {"statement", "threshold", "verdict", "measured", "place"} <= set(rows[0])


def test_running_again_agrees_with_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["claims", "tutorial-memory", "--run", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "tutorial-memory-column" / "verdict.json").exists()
    assert "1/1" in capsys.readouterr().err


def test_a_changed_verdict_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(ledger, "stored", dict)
    assert cli.run(["claims", "tutorial-memory", "--run"]) == 1
    assert "nothing is stored" in capsys.readouterr().err


def test_an_unknown_prefix_is_named(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["claims", "wilson"]) == 2
    assert "no claim begins with 'wilson'" in capsys.readouterr().err


def test_reproduce_writes_a_figure_and_says_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["reproduce", "tutorial-bias-trace", "--out", str(tmp_path / "x")]) == 0
    assert "holds under a condition" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "x").iterdir()} >= {
        "figure.pdf",
        "figure.svg",
        "figure.png",
        "verdict.json",
        "caption.txt",
    }


def test_reproduce_lists_and_helps(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["reproduce"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ledger.claims()) + len(EXPERIMENTS)
    assert cli.run(["reproduce", "eigen-perfect"]) == 2
    assert "did you mean 'eigen-perfect-coincidence'" in capsys.readouterr().err


def test_simulate_writes_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "path.csv"
    assert (
        cli.run(
            ["simulate", "adam", "x^2 + y^2", "--start", "1,0.5", "--steps", "20", "--every", "5", "--out", str(out)]
        )
        == 0
    )
    table = pyarrow.csv.read_csv(out)
    assert table["step"].to_pylist() == [0, 5, 10, 15, 20]
    assert table["theta.x"][0].as_py() == 1.0
    assert "step 20:" in capsys.readouterr().out


def test_simulate_writes_a_grid(tmp_path: Path):
    out = tmp_path / "grid.parquet"
    arguments = ["simulate", "sgd", "parabola", "--start", "-1:1:3", "--set", "lr=0.1:0.4:2", "--steps", "5",
                 "--seeds", "2", "--noise", "additive", "--sigma", "0.1", "--out", str(out)]  # fmt: skip
    assert cli.run(arguments) == 0
    table = pq.read_table(out)
    assert table.num_rows == 12
    assert sorted(set(table["start.x"].to_pylist())) == [-1.0, 0.0, 1.0]
    assert sorted(set(table["lr"].to_pylist())) == [0.1, 0.4]


def test_simulate_lists(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["simulate", "--list"]) == 0
    text = capsys.readouterr().out
    assert "smooth_valley(x, y)" in text
    assert "adam: lr=0.001" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam", "x^2 + z"], "'z' is not known"),
        (["adam", "smooth_valley", "--set", "lr"], "NAME=VALUE"),
        (["adam", "smooth_valley", "--set", "lr=fast"], "LOW:HIGH:COUNT"),
        (["adam", "smooth_valley", "--set", "lr=0:1:5:log"], "lies above 0"),
        (["adam", "smooth_valley", "--start", "1"], "has 2 variables"),
        (["adam", "smooth_valley", "--sigma", "1"], "--noise"),
        (["adam", "smooth_valley", "--out", "x.txt"], ".csv or .parquet"),
        (["adam", "smooth_valley", "--set", "lr=1:2:100000", "--start", "0:1:100000,0"], "trajectories"),
        (["adam", "smooth_valley", "--set", "lr=1:2:3", "--observe", "los"], "did you mean 'loss'"),
    ],
)
def test_wrong_use_is_named(arguments, message, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["simulate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_formula_s_error_points_at_the_character(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["simulate", "adam", "x^2 + foo(x)"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].strip() == "x^2 + foo(x)"
    assert lines[2].index("^") == lines[1].index("foo")


def test_ranges():
    assert parse_numbers("0:1:3") == (0.0, 1.0, 3, False)
    with pytest.raises(UserError, match="at least one number"):
        parse_numbers("0:1:0")


def test_an_experiment_whose_curves_are_there_is_drawn_without_training(tmp_path, capsys):
    run = {"seed": 0, "status": "ok", "step": [0, 1200], "train_loss": [2.3, 0.4], "test_metric": [0.1, 0.8]}
    methods = ("msgd", "msvag", "mssd", "adam")
    curves = {
        "experiment": "balles2018_fig5_p1",
        "profile": "small",
        "extent": "A fifth of it",
        "steps": 1200,
        "arms": [{"method": m, "label": m, "lr": 0.1, "runs": [run, {**run, "seed": 1}]} for m in methods],
    }
    (tmp_path / "curves.json").write_text(json.dumps(curves))
    assert cli.run(["reproduce", "balles2018_fig5_p1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "A fifth of it." in out
    assert "indicates: " in out
    assert {"figure.png", "figure.pdf", "figure.svg", "verdicts.json"} <= {file.name for file in tmp_path.iterdir()}
    assert cli.run(["reproduce", "balles2018_fig5_p1", "--out", str(tmp_path), "--profile", "large"]) == 2
    assert "unknown profile 'large'" in capsys.readouterr().err
