"""The command line: what it parses, prints and answers. Jobs that train are in test_dissect_command.py."""

import errno
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import stepscope
from stepscope.app import cli
from stepscope.errors import UserError


def ask(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a shell would start it."""
    command = [sys.executable, "-m", "stepscope.app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False)


def one_line(text: str) -> str:
    """The only line of an error message."""
    assert text.startswith("error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["dissect"],
        ["report"],
        ["data"],
        ["data", "list"],
        ["data", "fetch"],
        ["play"],
        ["watch"],
        ["simulate"],
        ["claims"],
        ["reproduce"],
    ],
)
def test_help_loads_nothing_heavy(verb: list[str]):
    """So it takes a third of a second of processor time; benchmarks/startup.py measures it."""
    code = f"""
import sys
from stepscope.app.cli import run
assert run({[*verb, "--help"]!r}) == 0
heavy = {{"torch", "numpy", "scipy", "pyarrow", "matplotlib", "jinja2", "sklearn", "llvmlite"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == 0
    assert "dissect" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"stepscope {stepscope.__version__}\n"


def test_help_names_the_built_in_problems_and_the_library_agrees_on_defaults():
    """The command line repeats both, because it must not import torch to know them."""
    from stepscope import experiments, problems

    ours, theirs = inspect.signature(cli.dissect).parameters, inspect.signature(experiments.dissect).parameters
    for name in set(ours) - {"json", "problem", "grid", "methods", "executor", "address"}:
        assert ours[name].default == theirs[name].default, name
    assert set(theirs) - set(ours) == {"progress", "points"}  # the command line's --methods
    argument = str(ours["problem"].annotation.__metadata__[0].help)
    assert [name for name in problems.names() if name not in argument] == []


WRONG = [
    (["disect"], "did you mean 'dissect'"),
    (["dissect", "--seed", "3"], "--seeds"),
    (["dissect", "--seeds", "many"], "--seeds"),
    (["dissect", "--select", "luck"], "validation"),
    (["dissect", "digits", "fashion-mnist"], "unexpected extra argument"),
    (["dissect", "--grid", "msgd"], "METHOD=LR"),
    (["dissect", "--grid", "=0.1"], "METHOD=LR"),
    (["dissect", "--grid", "msgd=0.1,x"], "'x'"),
    (["dissect", "--grid", "msgd=0.1,"], "numbers with commas"),
    (["report"], "folder"),
    (["data", "fetch"], "name"),
    (["data", "fetch", "fashion-mnits"], "did you mean 'fashion-mnist'"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_use_is_answered_by_one_line_and_two(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says.lower() in one_line(printed.err).lower()


WRONG_SETTINGS = [
    (["dissect", "digit"], "did you mean 'digits'"),
    (["dissect", "nowhere.py"], "nowhere.py"),
    (["dissect", "digits", "--beta", "1"], "beta must lie in [0, 1)"),
    (["dissect", "digits", "--beta", "nan"], "beta must lie in [0, 1)"),
    (["dissect", "digits", "--seeds", "0"], "seeds"),
    (["dissect", "digits", "--steps", "0"], "steps"),
    (["dissect", "digits", "--budget", "0"], "budget"),
    (["dissect", "digits", "--jobs", "0"], "jobs"),
    (["dissect", "digits", "--record-every", "0"], "record_every"),
    (["dissect", "digits", "--grid", "mgd=0.1"], "did you mean 'msgd'"),
    (["dissect", "digits", "--grid", "msgd=-0.1"], "-0.1"),
    (["dissect", "digits", "--grid", "msgd=nan"], "nan"),
    (["dissect", "digits", "--grid", "msgd=0.1", "--grid", "msgd=0.1"], "0.1"),
    (["report", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), WRONG_SETTINGS, ids=[" ".join(arguments) for arguments, _ in WRONG_SETTINGS]
)
def test_wrong_settings_are_answered_by_one_line_and_leave_no_folder(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in one_line(printed.err)
    assert [*tmp_path.iterdir()] == []


def test_report_of_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in one_line(capsys.readouterr().err).replace("\n", " ")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "error: No space left on device: runs/x\n"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "error: Permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on where this one stopped\n"),
    ],
    ids=["wrong use", "full disk", "no permission", "interrupted"],
)
def test_errors_become_a_line_and_an_exit_code(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("stepscope.report.write", fail)
    assert cli.run(["report", "runs/x"]) == code
    assert capsys.readouterr().err == says


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("stepscope.report.write", fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.run(["report", "runs/x"])


def test_a_reader_that_leaves_early_is_no_error():
    python = shlex.quote(sys.executable)
    reader = f"{python} -c 'import sys; sys.stdin.close()'"
    shell = f"{python} -m stepscope.app.cli dissect --help | {reader}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1"}


def test_a_terminal_of_few_characters_is_no_reason_for_a_traceback():
    done = ask("dissect", "\u03bc", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    one_line(done.stderr)


def test_data_list_shows_what_there_is(tmp_path: Path):
    done = ask("data", STEPSCOPE_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"digits .* scikit-learn", done.stdout)
    assert re.search(r"fashion-mnist .* 31 MB .* MIT", done.stdout)
    assert done.stdout == ask("data", "list", STEPSCOPE_DATA=str(tmp_path)).stdout


def test_data_that_comes_with_a_package_needs_no_fetching(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["data", "fetch", "digits"]) == 0
    assert capsys.readouterr().out == ""


def test_grid_entries_for_one_method_add_up():
    assert cli.parse_grid(["msgd=0.1", " adam = 1e-3, 0.01 ", "msgd=3"]) == {"msgd": [0.1, 3.0], "adam": [0.001, 0.01]}


@pytest.mark.parametrize(
    ("problem", "folder"),
    [
        ("digits", "runs/digits"),
        ("/a/b/my nets.py", "runs/my-nets"),
        ("nets.py:small", "runs/nets-small"),
        ("../../up", "runs/-..-up"),
        ("..", "runs/problem"),
    ],
)
def test_default_folder_lies_under_runs(problem: str, folder: str):
    found = cli.default_folder(problem)
    assert found == Path(folder)
    assert found.resolve().parent == Path("runs").resolve()
