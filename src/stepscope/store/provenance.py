"""Where a run comes from: versions, code, command, seeds and hardware, and nothing that says who or which machine.

Runs get shared, so there is no host name, no user name and no path of a home folder in it.
"""

import contextlib
import getpass
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

PACKAGES = ("stepscope", "torch", "numpy", "pyarrow")
PATIENCE = 3.0  # seconds for git or nvidia-smi to answer


def provenance(command: Sequence[str] | None = None, seeds: Sequence[int] = ()) -> dict[str, Any]:
    """What one needs to know to repeat a run, ready for JSON:

    packages: versions of stepscope, torch, numpy and pyarrow, null where not installed (torch is not imported);
    git: of the current folder, null outside a repository: commit, and dirty = tracked files differ from it;
    command: the given one, or sys.argv, with the home folder as ``~`` and other paths that hold the user's name cut;
    seeds; hardware: cpu (model), cores (logical), memory_bytes, gpu (its name where torch is loaded and has one);
    python; platform (system, release, machine).  What cannot be found out is null; nothing raises.
    """
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(),
        "command": [_anonymous(str(word)) for word in (sys.argv if command is None else command)],
        "seeds": [int(seed) for seed in seeds],
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_bytes": _memory(), "gpu": _gpu()},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ask(*command: str) -> str | None:
    """What a program prints, or None if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _git() -> dict[str, Any] | None:
    # No file system monitor: a configured one is a program of somebody's, and would outlive this call.
    status = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if (text := _ask("git", "-c", "core.fsmonitor=false", *status)) is None:
        return None
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", text, re.MULTILINE)
    return {
        "commit": commit.group(1) if commit else None,
        "dirty": any(not line.startswith("#") for line in text.splitlines()),
    }


def _anonymous(word: str) -> str:
    """``word`` with the current folder's path left out, the home folder's as ``~``, and no path naming the user."""
    with contextlib.suppress(OSError):  # the current folder may have been deleted
        word = word.replace(f"{Path.cwd()}/", "")
    with contextlib.suppress(RuntimeError):  # there may be no home
        if len(home := str(Path.home())) > 1:
            word = re.sub(rf"{re.escape(home)}(?=/|$)", "~", word)
    with contextlib.suppress(OSError, KeyError):  # nor a user's name, as in some containers
        word = re.sub(rf"(?<=/){re.escape(getpass.getuser())}(?=/|$)", "~", word)
    return word


def _cpu() -> str | None:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        text = _ask("sysctl", "-n", "machdep.cpu.brand_string")
        return text.strip() if text else None
    return match.group(1).strip() if match else platform.machine() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not (torch.version.cuda or torch.version.hip):
        return None
    if torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    # Asking torch would initialize CUDA, which takes memory on the GPU and breaks forks; the driver's tool does not.
    if shutil.which("nvidia-smi") is None:
        return None
    names = (_ask("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()
    return names[0].strip() if names else None
