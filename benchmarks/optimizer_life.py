"""An optimizer's first step, its memory, and a step while other programs hold the cores. A process each."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._timing import side_by_side
from stepscope import optim

_FIRST = """
import json, time, torch
from {module} import {name} as Method
p = torch.nn.Parameter(torch.ones(1000))
p.grad = torch.ones(1000)
torch.optim.SGD([p], lr=0.0).step()  # what torch sets up at its own first step
begin = time.perf_counter()
Method([p]).step()
print(json.dumps(time.perf_counter() - begin))
"""

# VmHWM is reset by writing 5; the peak is taken over steps alone.
_MEMORY = """
import json, torch
from {module} import {name} as Method
n = 20_000_000
p = torch.nn.Parameter(torch.ones(n))
p.grad = torch.ones(n)
small = torch.nn.Parameter(torch.ones(9))
small.grad = torch.ones(9)
Method([small]).step()

def resident(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

optimizer = Method([p])
before = resident("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
for _ in range(3):
    optimizer.step()
print(json.dumps((resident("VmHWM") - before) / (4 * n)))
"""

CLASSES = (
    ("torch.optim", "Adam"),
    ("stepscope.optim", "Adam"),
    ("stepscope.optim", "MSVAG"),
    ("stepscope.optim", "SGD"),
)


def measure() -> list[dict[str, Any]]:
    """Rows: first steps, peak memory in copies of the weights (under "copies"), and steps beside busy processes."""
    rows = []
    for module, name in CLASSES:
        seconds = sorted(_asked(_FIRST, module, name) for _ in range(5))
        rows.append({"what": f"first step of {module}.{name}", "seconds": seconds[2]})
    for module, name in CLASSES:
        copies = _asked(_MEMORY, module, name)
        rows.append({"what": f"memory of {module}.{name}: {copies:.2f} copies", "seconds": 0.0, "copies": copies})
    return rows + _beside_others()


def _asked(text: str, module: str, name: str) -> float:
    program = text.format(module=module, name=name)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def _beside_others() -> list[dict[str, Any]]:
    """1000 tensors of 1000 while every core also runs an endless loop of somebody else's."""
    torch.set_num_threads(os.cpu_count() or 1)
    steps: dict[str, Callable[[], object]] = {}
    for name, make in (
        ("torch.optim.Adam(fused)", lambda p: torch.optim.Adam(p, fused=True)),
        ("stepscope.optim.Adam", optim.Adam),
        ("stepscope.optim.MSVAG", optim.MSVAG),
    ):
        parameters = [torch.nn.Parameter(torch.ones(1000)) for _ in range(1000)]
        for p in parameters:
            p.grad = torch.ones(1000)
        steps[name] = make(parameters).step
    alone = side_by_side(steps, "torch.optim.Adam(fused)")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        beside = side_by_side(steps, "torch.optim.Adam(fused)")
    finally:
        for other in others:
            other.kill()
    rows = [row | {"what": f"1000 tensors of 1000, alone: {row['what']}"} for row in alone]
    return rows + [row | {"what": f"1000 tensors of 1000, cores busy: {row['what']}"} for row in beside]
