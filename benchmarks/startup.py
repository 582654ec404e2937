"""How long it takes until stepscope is there: imports and --help, against an interpreter that does nothing."""

import subprocess
import sys
import time

REPETITIONS = 7
PROGRAMS = {
    "python, nothing else": ["-c", "pass"],
    "import stepscope": ["-c", "import stepscope"],
    "import stepscope.theory": ["-c", "import stepscope.theory"],
    "stepscope --help": ["-m", "stepscope.app.cli", "--help"],
    "stepscope dissect --help": ["-m", "stepscope.app.cli", "dissect", "--help"],
    "import torch": ["-c", "import torch"],
}


def measure() -> list[dict[str, object]]:
    """One row a program."""
    # Interleaved, so that a slow moment of the machine does not fall on one of them alone.
    seconds = {name: min(times) for name, times in _times().items()}
    bare = next(iter(seconds))
    return [
        {"what": name, "seconds": value, "ratio": value / seconds[bare], "to": bare} for name, value in seconds.items()
    ]


def _times() -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(REPETITIONS):
        for name, arguments in PROGRAMS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    return times
