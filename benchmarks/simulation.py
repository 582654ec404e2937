"""The simulation engine against its peers and against what the processor can do.

Rows with `limit` give the share of the measured limit of this processor (square roots and divisions, or multiply-adds,
that the rule cannot do without). All of it float64 unless said, on the smooth valley x^2 + 1e-3 y^2.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks._limits import seconds_per_lane
from benchmarks._timing import side_by_side
from stepscope.simulate import dense, run, sweep
from stepscope.simulate.run import Trajectory
from stepscope.theory import haar_rotation, mild_spectrum

SIDE = 256
STEPS = 2000
ROUNDS = 15
# Operations on each coordinate and step that no rearrangement avoids: r root, d division, m multiply or multiply-add.
NEEDED = {
    ("adam", "torch"): "rdd",
    ("adam", "reciprocal"): "rd",
    ("rmsprop", "torch"): "rd",
    ("adagrad", "torch"): "rd",
    ("sgd", "torch"): "mm",
    ("heavy_ball", "torch"): "mmmm",
}


def measure() -> list[dict[str, Any]]:
    """All rows."""
    return [*_paths(), *_batches(), *_map(), *_stochastic(), *_noise(), *_formulas(), *_starts()]


def _path() -> Trajectory:
    return run("adam", "smooth_valley", start=(1.0, 1.0), steps=1_000_000, every=1000, record=("theta", "loss"))


def _torch_loop(steps: int) -> None:
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    h = torch.tensor([2.0, 2e-3], dtype=torch.float64)
    optimizer = torch.optim.Adam([p], lr=1e-3, foreach=False)
    for _ in range(steps):
        p.grad = h * p.detach()
        optimizer.step()


def _paths() -> list[dict[str, Any]]:
    short = 1000  # torch's loop costs the same each step
    name = "one Adam path, 1e6 steps"
    rows = side_by_side({name: _path, "torch.optim.Adam loop, 1e3 steps": lambda: _torch_loop(short)}, name, 9)
    rows[1]["what"], rows[1]["seconds"] = "torch.optim.Adam loop, 1e6 steps", rows[1]["seconds"] * 1e6 / short
    rows[1]["ratio"] *= 1e6 / short
    return rows


def _steps(rule: str) -> int:
    """More for the rules that cost next to nothing, so that their loop is what is measured."""
    return 5 * STEPS if "m" in NEEDED.get((rule, "torch"), "") else STEPS


def _batch(rule: str, order: str = "torch", **more: Any) -> Callable[[], object]:
    # Rates that leave all numbers normal to the last step: subnormal ones cost a processor up to a hundred times more.
    x, lrs = np.linspace(-2, 2, SIDE)[None, :], np.geomspace(1e-5, 1e-3, SIDE)[:, None]
    return lambda: sweep(
        rule, "smooth_valley", start=(x, 1.0), lr=lrs, steps=_steps(rule), observe=("theta",), order=order,
        **{"threads": 1, **more},
    )  # fmt: skip


def _batches() -> list[dict[str, Any]]:
    rows = []
    for (rule, order), needed in NEEDED.items():
        call = _batch(rule, order)
        call()
        shares, times = [], []
        for _ in range(ROUNDS):
            limit = 2 * seconds_per_lane(needed)
            begin = time.perf_counter()
            call()
            times.append((time.perf_counter() - begin) / (SIDE * SIDE * _steps(rule)))
            shares.append(limit / times[-1])
        rows.append({
            "what": f"{rule}, {order} order, one core, per trajectory-step", "seconds": statistics.median(times),
            "ratio": statistics.median(shares), "to": f"limit of {needed}",
        })  # fmt: skip
    both = side_by_side(
        {
            "Adam batch, one thread": _batch("adam"),
            "Adam batch, all threads": _batch("adam", threads=None),
            "Adam batch, all threads, reciprocal order": _batch("adam", "reciprocal", threads=None),
            "Adam batch, all threads, float32": _batch("adam", threads=None, dtype="float32"),
            "torch.optim.Adam(fused) on a (2, B) tensor": _torch_batch,
        },
        "Adam batch, all threads",
        9,
    )
    return rows + both


def _torch_batch() -> None:
    """The same trajectories with one lr: torch has one lr for a tensor."""
    start = np.stack([np.tile(np.linspace(-2, 2, SIDE), SIDE), np.ones(SIDE * SIDE)])
    p = torch.nn.Parameter(torch.from_numpy(start))
    h = torch.tensor([[2.0], [2e-3]], dtype=torch.float64)
    optimizer = torch.optim.Adam([p], lr=1e-3, fused=True)
    for _ in range(STEPS):
        p.grad = h * p.detach()
        optimizer.step()


def _map() -> list[dict[str, Any]]:
    x, lrs = np.linspace(-2, 2, 512)[None, :], np.geomspace(1e-5, 1e-1, 512)[:, None]

    def drawn(order: str) -> Callable[[], object]:
        return lambda: sweep(
            "adam", "smooth_valley", start=(x, 1.0), lr=lrs, steps=1000, observe=("theta",), order=order
        )

    name = "512 x 512 map of 1000 Adam steps, all threads"
    return side_by_side({name: drawn("torch"), f"{name}, reciprocal order": drawn("reciprocal")}, name, 9)


def _stochastic() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rotation = haar_rotation(100, rng)
    Q = (rotation * mild_spectrum(rng)) @ rotation.T
    start = rng.standard_normal(100)

    def all_of_them() -> None:
        for nu in (0.0, 0.1, 4.0):
            for rule, lr in (("sgd", 0.5), ("ssd", 0.02)):
                problem = dense.StochasticQuadratic(Q, nu)
                dense.run(rule, problem, start=start, steps=200, repeats=1000, lr=lr, every=10)

    name = "stochastic quadratic, d = 100: 3 noise levels x 1000 repetitions x 2 methods x 200 steps"
    return side_by_side({name: all_of_them}, name, 3)


def _noise() -> list[dict[str, Any]]:
    seeds = np.arange(SIDE)[:, None]
    return side_by_side(
        {
            "Adam without noise": _batch("adam"),
            "Adam with noise": _batch("adam", noise="additive", sigma=0.1, seed=seeds),
        },
        "Adam without noise",
        9,
    )


def _formulas() -> list[dict[str, Any]]:
    count = iter(range(10**6))

    def fresh() -> object:
        """A formula never seen before, from text to its first step."""
        return run("adam", f"x**2 + {1 + next(count) * 1e-6!r}*y**2 + sin(x*y)", start=(1.0, 1.0), steps=1)

    rows = side_by_side({"new formula to first step": fresh}, "new formula to first step", 15)
    x = np.linspace(-4, 4, SIDE * SIDE)

    def rastrigin() -> object:
        return sweep("adam", "rastrigin", start=(x, 0.5), lr=1e-2, steps=500, observe=("theta",), threads=1)

    row = side_by_side(
        {"Adam on Rastrigin, one core, per trajectory-step": rastrigin},
        "Adam on Rastrigin, one core, per trajectory-step",
        9,
    )[0]
    return [*rows, {"what": row["what"], "seconds": row["seconds"] / (SIDE * SIDE * 500)}]


def _starts() -> list[dict[str, Any]]:
    def process(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    path = "from stepscope.simulate import run; run('adam', 'smooth_valley', steps=1000)"
    return side_by_side(
        {"process start to first path": process(path), "python -c pass": process("pass")}, "python -c pass", 9
    )
