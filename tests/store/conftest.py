"""What the tests of the store share: child processes to kill, and runs as plain data."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepscope.store import Run

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python script in a process of its own; its standard output is a pipe. None survives the test."""
    children: list[subprocess.Popen[str]] = []

    def begin(script: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
        return children[-1]

    yield begin
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
def rows() -> Callable[..., list[dict[str, object]]]:
    """The rows of a run folder as a list of dicts, in the order of the table."""

    def listed(folder: Path, *names: str, **options: object) -> list[dict[str, object]]:
        return Run(folder).table(*names, **options).to_pylist()

    return listed
