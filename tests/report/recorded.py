"""A recorded run for tests of its page: noise in five columns, of which one is 0 throughout, and three alarms."""

from pathlib import Path

import numpy as np

from stepscope.store import RunWriter

__all__ = ["record"]

COLUMNS = {"spread_median": {"unit": "", "formula": "median of sigma / |m|"}}


def record(folder: Path, layers: int, seed: int, steps: int = 60, later: float = 1.0) -> Path:
    """Write a run of so many layers, four a block; in its second half one column is ``later`` times as large."""
    dice = np.random.default_rng(seed)
    names = tuple(f"net.{n // 4}.part{n % 4}.weight" for n in range(layers))
    columns = ("momentum_abs_mean", "spread_median", "update_abs_median_per_lr", "update_to_weight", "zero")
    tensors = [{"name": name, "shape": [4, 3]} for name in names]
    config = {"scope": {"optimizer": "Adam", "columns": COLUMNS}}
    with RunWriter(folder, config=config, tensors=tensors) as run:
        for step in range(1, steps + 1):
            values = dice.lognormal(size=(layers, len(columns)))
            values[:, -1] = 0
            values[:, 0] *= later if step > steps / 2 else 1.0
            run.write_block(step, names, columns, values)
            run.write(step, "", {"loss": 1 / step, "lr": 0.1})
        run.event(
            "alarm", id="dead_tensor", step=40, layer=names[1], text="no <gradient>", helps="look", evidence={"g": 0.0}
        )
        run.event("alarm", id="dead_tensor", step=50, layer=names[1], text="no <gradient>")
        run.event("alarm", id="odd")
    return folder
