"""A server in a process of its own, as a user starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Server", "served"]


@dataclass
class Server:
    """A `stepscope play` or `stepscope watch` that listens at `address` (without a slash at its end)."""

    process: subprocess.Popen[str]
    address: str
    printed: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextmanager
def served(*arguments: str, port: int = 0, cwd: Path | None = None) -> Iterator[Server]:
    """Start the command, as a user would, and wait for the address that it prints."""
    command = [sys.executable, "-m", "stepscope.app.cli", *arguments, "--no-open", "--port", str(port)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert "http://" in line, process.stderr.read()
        printed = line.split("http://", 1)[1].split()[0]
        yield Server(process, "http://" + printed.split("/", 1)[0], "http://" + printed)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
