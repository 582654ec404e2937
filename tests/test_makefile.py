"""The set-up that `make demo` and `make test` do, with a Python that only writes down what it is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "make", "mkdir", "cp", "touch", "sed", "env")

# Stands for the system's python3, for .venv/bin/python and for every other program in .venv/bin.
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
    *sys.version_info*) exit "${TOO_OLD:-0}" ;;
    *importlib.metadata*) exit "${NO_TORCH:-1}" ;;
    --version) echo "Python 3.12.0" ;;
    "-m venv .venv") mkdir -p .venv/bin; for name in python stepscope; do cp "$0" ".venv/bin/$name"; done ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout under a name with a space, and a PATH with nothing else in it."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in (*TOOLS, "basename"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    (tools / "python3").write_text(PROGRAM)
    (tools / "python3").chmod(0o755)
    return folder


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    log = checkout.parent / "log"
    log.write_text("")
    variables = {"PATH": str(checkout.parent / "bin"), "LOG": str(log), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        ["make", *arguments], cwd=checkout, env=variables | environment, capture_output=True, text=True, check=False
    )
    done.args = [line for line in log.read_text().splitlines() if " -c " not in line]  # what was run, checks aside
    return done


PIP = "python -m pip --disable-pip-version-check install"


def test_demo_sets_up_in_order_and_only_once(checkout: Path):
    done = make(checkout, "demo")
    assert done.returncode == 0, done.stderr
    dissect = "stepscope dissect digits --profile demo --out runs/demo"
    assert done.args == [
        "python3 --version",
        "python3 -m venv .venv",
        f"{PIP} --quiet pip>=25.1",
        f"{PIP} torch==2.13.0",
        f"{PIP} --quiet --editable .",
        dissect,
    ]
    assert make(checkout, "demo").args == [dissect]


def test_tests_need_the_tools_on_top_and_demo_nothing_more_after_them(checkout: Path):
    make(checkout, "demo")
    assert make(checkout, ".venv/.develop").args == [f"{PIP} --quiet --editable . --group dev"]
    assert make(checkout, ".venv/.develop").args == []
    assert len(make(checkout, "demo").args) == 1


def test_an_edited_pyproject_installs_the_package_again_but_not_torch(checkout: Path):
    make(checkout, "demo")
    os.utime(checkout / "pyproject.toml", (2**32, 2**32))
    assert make(checkout, "demo").args[0] == f"{PIP} --quiet --editable ."


def test_another_index_for_torch_is_asked_for_nothing_else(checkout: Path):
    asked = make(checkout, "demo", "TORCH_INDEX=https://index.example/cpu").args
    assert [line for line in asked if "index" in line] == [f"{PIP} torch==2.13.0 --index-url https://index.example/cpu"]


def test_a_torch_that_is_there_is_left_alone(checkout: Path):
    assert not [line for line in make(checkout, "demo", NO_TORCH="0").args if "torch" in line]


def test_a_python_that_is_too_old_is_refused(checkout: Path):
    done = make(checkout, "test", TOO_OLD="1")
    assert done.returncode == 2
    assert "error: stepscope needs Python 3.11 or newer, and none was found" in done.stderr
    named = make(checkout, "test", "PYTHON=/no where/python3")
    assert named.returncode == 2
    assert "'/no where/python3' is not one" in named.stderr
    assert not (checkout / ".venv").exists()


def test_a_newer_python_beside_the_old_one_is_found(checkout: Path):
    new = checkout.parent / "bin" / "python3.12"
    new.write_text(PROGRAM)
    new.chmod(0o755)
    (new.parent / "python3").write_text("#!/bin/sh\nexit 1\n")
    assert "python3.12 -m venv .venv" in make(checkout, "demo").args


def test_every_target_is_listed(checkout: Path):
    listed = make(checkout).stdout
    for target in ("demo", "test", "lint", "bench", "docs", "clean"):
        assert f"  {target}\t" in listed
