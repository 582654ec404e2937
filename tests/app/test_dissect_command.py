"""`stepscope dissect` and `stepscope report` on a problem that trains in milliseconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepscope.app import cli

PROBLEM = """
import torch
from torch import nn
from stepscope.problems import Data, Problem, Protocol, Split


def data():
    inputs = torch.randn(240, 3)
    targets = inputs.sum(1, keepdim=True) + 0.5 * torch.randn(240, 1)
    return Data(Split(inputs[:200], targets[:200]), Split(inputs[200:], targets[200:]))


def model(seed):
    return nn.Linear(3, 1)


def moody_model(seed):
    if seed == 1:
        raise RuntimeError("not with this seed")
    return nn.Linear(3, 1)


problem = Problem("line", data, model, nn.MSELoss(), Protocol(8, 20, 10), None)
moody = Problem("moody", data, moody_model, nn.MSELoss(), Protocol(8, 20, 10), None)
"""
METHODS = ("msgd", "mssd", "msvag", "adam", "adam_one_beta")
UNTUNED = [word for method in METHODS for word in ("--grid", f"{method}=0.05")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a problem file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(PROBLEM)
    return tmp_path


def test_a_dissection_from_end_to_end(here: Path, capsys: pytest.CaptureFixture[str]):
    """One sweep, because each costs seconds: first run, second run, other settings, and both kinds of report."""
    command = ["dissect", "tiny.py", "--seeds", "2", "--jobs", "2", *UNTUNED]
    folder = Path("runs/tiny")

    assert cli.run([*command, "--json"]) == 0
    printed = capsys.readouterr()
    results = (folder / "results.json").read_bytes()
    assert printed.out.encode() == results
    assert [arm["method"] for arm in json.loads(printed.out)["arms"]] == list(METHODS)
    assert "10 trials" in printed.err
    assert f"report: {folder / 'report.html'}\n" in printed.err
    assert 10_000 < (folder / "report.html").stat().st_size < 2_000_000

    assert cli.run(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no trial was run
    assert "variance adaptation" in printed.out
    assert json.loads(results)["verdict"]["headline"].split()[0] in printed.out
    assert printed.out.endswith(f"report: {folder / 'report.html'}\n")
    assert (folder / "results.json").read_bytes() == results

    assert cli.run([*command, "--steps", "10"]) == 2
    refused = capsys.readouterr()
    assert refused.err.startswith("error: runs/tiny belongs to")
    assert refused.err.count("\n") == 1

    (folder / "report.html").unlink()
    assert cli.run(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    recorded = next(folder.glob("trials/*/run"))
    assert cli.run(["report", str(recorded), "--out", "pages/run.html"]) == 0
    assert "<html" in Path("pages/run.html").read_text("utf-8")


def test_a_run_that_fails_makes_the_exit_code_one(here: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["dissect", "tiny.py:moody", "--seeds", "2", *UNTUNED]) == 1
    printed = capsys.readouterr()
    assert "not with this seed" in printed.err
    assert printed.err.endswith("5 runs failed with an error; result.json in runs/tiny-moody/trials says which\n")
    assert Path("runs/tiny-moody/report.html").exists()


def test_an_interrupted_job_says_so_and_goes_on(here: Path):
    """Ctrl-C at a terminal reaches the whole process group; so does this."""
    command = [sys.executable, "-m", "stepscope.app.cli", "dissect", "tiny.py", "--seeds", "2", "--jobs", "1", *UNTUNED]
    slow = {**os.environ, "PYTHONUNBUFFERED": "1"}
    job = subprocess.Popen(
        [*command, "--steps", "100"], stderr=subprocess.PIPE, text=True, env=slow, start_new_session=True
    )
    trials = here / "runs" / "tiny" / "trials"
    patience = time.monotonic() + 120
    while not (trials.is_dir() and [*trials.glob("[!.]*")]) and job.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("interrupted: the same command goes on where this one stopped\n")
    kept = {trial.name for trial in trials.glob("[!.]*")}
    assert 0 < len(kept) < 10

    done = subprocess.run([*command, "--steps", "100"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kept < {trial.name for trial in trials.glob("[!.]*")}
