"""A hundred thousand steps of a tiny model, every one recorded to a folder and logged: does memory stay flat?"""

import ctypes
import gc
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepscope import Scope
from stepscope.scope import Tracker

STEPS = int(os.environ.get("SOAK_STEPS", "100000"))
READINGS = 10
LOOKS = 8  # a reading
TARGET = 4 << 20  # bytes from the second reading to the last: a leak of 50 bytes a step would be as much


def measure() -> list[dict[str, Any]]:
    """At every tenth of the way: resident memory, Python objects, and what a step took since the reading before, in
    time and in processor time of all threads, which a busy machine does not lengthen. Then the rise beside its target.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs = torch.randn(16, 8)
    logged = 0

    def log(values: Any, step: int) -> None:
        nonlocal logged
        logged = step

    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Scope(optimizer, model, Path(folder) / "run", sinks=[Tracker(log)]) as scope,
    ):
        begun, spent = time.perf_counter(), time.process_time()
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            scope.note(loss=loss)
            if step % (STEPS // READINGS) == 0:
                seconds = (time.perf_counter() - begun) / (STEPS // READINGS)
                processor = (time.process_time() - spent) / (STEPS // READINGS)
                gc.collect()
                memory, objects = _resident(), len(gc.get_objects())
                what = (
                    f"{step:,} steps: {memory / 2**20:.1f} MiB resident, {objects:,} objects, "
                    f"{processor * 1e3:.2f} ms of processor a step; since the reading before, a step"
                )
                found = {"seconds": seconds, "processor": processor, "resident": memory, "objects": objects}
                rows.append({"what": what, **found})
                begun, spent = time.perf_counter(), time.process_time()  # looking is no part of a step
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    rows[-1]["on_disk"] = on_disk
    rise = rows[-1]["resident"] - rows[1]["resident"]
    more = rows[-1]["objects"] - rows[1]["objects"]
    verdict = "met" if rise <= TARGET else "MISSED"
    what = f"rise {rise / 2**20:.1f} MiB (target {TARGET / 2**20:.0f} MiB: {verdict}), {more:+,} objects; a step"
    seconds = sum(row["seconds"] for row in rows) / READINGS
    rows.append({"what": what, "seconds": seconds, "rise": rise, "target": TARGET, "more_objects": more})
    return rows


def _resident() -> int:
    """Bytes of resident memory of the process's own, at a moment when the store puts no parts together.

    Without what the C library keeps of memory that was freed, and without pages of program files: those of the code
    that writes Parquet come when the first part is written, 4 MiB once.
    """
    return min(_look() for _ in range(LOOKS))


def _look() -> int:
    time.sleep(0.3)
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
