"""How long it takes until stepscope is there: imports and --help, against an interpreter that does nothing."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks._timing import side_by_side

PROGRAMS = {
    "python, nothing else": ["-c", "pass"],
    "import stepscope": ["-c", "import stepscope"],
    "import stepscope.theory": ["-c", "import stepscope.theory"],
    "stepscope --help": ["-m", "stepscope.app.cli", "--help"],
    "stepscope dissect --help": ["-m", "stepscope.app.cli", "dissect", "--help"],
    "import torch": ["-c", "import torch"],
}


def measure() -> list[dict[str, Any]]:
    """One row a program."""
    programs = {name: _program(arguments) for name, arguments in PROGRAMS.items()}
    return side_by_side(programs, "python, nothing else", rounds=7)


def _program(arguments: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
