"""What the tests of the store share: child processes to kill, a disk small enough to fill, and runs as plain data."""

import os
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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def fill() -> Callable[[Path], Path]:
    """Fill the disk of a folder to the last byte with one file, whose removal empties it again."""

    def filler(folder: Path) -> Path:
        path = folder / "filler"
        with path.open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        return path

    return filler


@pytest.fixture
def rows() -> Callable[..., list[dict[str, object]]]:
    """The rows of a run folder as a list of dicts, in the order of the table."""

    def listed(folder: Path, *names: str, **options: object) -> list[dict[str, object]]:
        return Run(folder).table(*names, **options).to_pylist()

    return listed
