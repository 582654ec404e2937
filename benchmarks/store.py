"""The store: what recording costs the training thread and the disk, and how quickly pictures are read.

Values are noise with the spread of a lognormal, rounded to 21 bits as a scope writes them: they hardly compress. What a
thread costs is its own processor time, so that a busy machine does not count.
Queries are a dashboard's, over 2e7 values: cold (files just opened, in the system's cache) and asked again.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stepscope.store import Run, RunWriter
from stepscope.store.query import Query

LARGE = int(os.environ.get("STORE_STEPS", "1000"))  # steps of the large model: 10000 make 2e8 values
COLUMNS = tuple(f"statistic {number}" for number in range(20))


def measure() -> list[dict[str, Any]]:
    """Rows: writing for models of 50 and 1000 tensors, and four queries of each."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        rows = [*_write(small, 50, 20_000), *_write(large, 1000, LARGE)]
        return [
            *rows,
            *_ask(small, "2e7 values, 50 tensors"),
            *_ask(large, f"{LARGE * 20_000:.0e} values, 1000 tensors"),
        ]


def _write(folder: Path, tensors: int, steps: int) -> list[dict[str, Any]]:
    dice = np.random.default_rng(0)
    noise = dice.lognormal(size=(8, tensors, len(COLUMNS)))
    layers = tuple(f"encoder.layer.{number}.weight" for number in range(tensors))
    rest = 4e-7 * tensors * len(COLUMNS)  # stands for training, which leaves the other thread some time
    seconds, own = [], []
    everything = time.process_time()
    with RunWriter(folder, bits=21) as run:
        for step in range(steps):
            values = noise[step % 8] * dice.uniform()
            start, begin = time.perf_counter(), time.thread_time()
            run.write_block(step, layers, COLUMNS, values)
            run.write(step, "", {"loss": 1 / (step + 1), "lr": 1e-3})
            own.append(time.thread_time() - begin)
            seconds.append(time.perf_counter() - start)
            time.sleep(rest)
    everything = time.process_time() - everything
    thousands = tensors * len(COLUMNS) / 1000
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    label = f"{tensors} tensors x {len(COLUMNS)} x {steps:,} steps"
    count = tensors * len(COLUMNS) * steps
    parts = len([*(folder / "parts").iterdir()])
    return [
        {"what": f"{label}: training thread, its time, 1000 values", "seconds": statistics.mean(own) / thousands},
        {"what": f"{label}: training thread, 1000 values, median", "seconds": statistics.median(seconds) / thousands},
        {"what": f"{label}: all threads' time, 1000 values", "seconds": everything / count * 1000},
        {"what": f"{label}: disk, in {parts} parts", "bytes_per_value": size / count},
    ]


def _ask(folder: Path, label: str) -> list[dict[str, Any]]:
    run = Run(folder)
    layers = run.layers
    last = (run.steps or (0, 0))[1]
    questions: dict[str, Any] = {
        "one series in 1000 buckets": lambda query: query.series(COLUMNS[3], layers[3:4], buckets=1000),
        "one column of all layers in 200 buckets": lambda query: query.series(COLUMNS[4], layers, buckets=200),
        "the last 1000 steps of one column": lambda query: query.series(COLUMNS[5], layers, last - 999, last, 1000),
        "loss in 1000 buckets": lambda query: query.series("loss", [""], buckets=1000),
    }
    rows = []
    for name, ask in questions.items():
        query = Query(folder)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            ask(query)
            times.append(time.perf_counter() - start)
        rows.append({"what": f"{label}: {name}, first", "seconds": times[0]})
        rows.append({"what": f"{label}: {name}, again", "seconds": statistics.median(times[1:])})
    times = []
    for number in range(5):
        start = time.perf_counter()
        Run(folder).table(COLUMNS[6], layers=layers[number], steps=(last - 2000, None))
        times.append(time.perf_counter() - start)
    rows.append({"what": f"{label}: table of one series, last 2000 steps", "seconds": statistics.median(times)})
    return rows
