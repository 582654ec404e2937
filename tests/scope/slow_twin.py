"""Every column of a recorded step from first principles: one coordinate after the other, sums by `math.fsum`.

Averages are weighted sums over the whole history of gradients, and the noise of the average m is the sum of its squared
weights: no recursion, no bias correction, no closed form for rho.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["columns"]


def weights(beta: float, t: int) -> list[float]:
    raw = [beta ** (t - 1 - i) for i in range(t)]
    return [w / math.fsum(raw) for w in raw]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[math.ceil(q * len(values)) - 1] if values else math.nan


def columns(
    history: Sequence[np.ndarray],
    before: np.ndarray,
    after: np.ndarray,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float = 0.0,
    decay: float = 0.0,
    raw: np.ndarray | None = None,
) -> dict[str, Any]:
    """history: gradients as the averages saw them, the newest last; raw: the newest p.grad where that differs."""
    t = len(history)
    w1, w2 = weights(betas[0], t), weights(betas[1], t)
    rho = math.fsum(w * w for w in w1)  # variance of m for independent gradients of variance 1
    rows: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    newest = history[-1] if raw is None else raw
    for i in range(before.size):
        samples = [float(h.flat[i]) for h in history]
        g, old, new = float(newest.flat[i]), float(before.flat[i]), float(after.flat[i])
        m = math.fsum(w * x for w, x in zip(w1, samples, strict=True))
        v = math.fsum(w * x * x for w, x in zip(w2, samples, strict=True))
        plain = max(v - m * m, 0.0) if t > 1 or betas[0] != betas[1] else 0.0
        s = plain / (1 - rho) if t > 1 else 0.0
        add("g", abs(g))
        add("m", abs(m))
        add("sigma", math.sqrt(plain))
        if m != 0:
            spread = math.sqrt(plain) / abs(m)
            add("finite_spread", spread)
            add("spread", spread)
            if spread > 0:
                add("log", math.log(spread))
            add("adam", 1 / math.sqrt(1 + plain / m**2))
            add("svag", m**2 / (m**2 + s))
            add("exact", math.erf(1 / math.sqrt(2 * s / m**2)) if s > 0 else 1.0)
            add("msvag", 1 / (1 + rho * s / m**2))
            if g != 0:
                add("agree", float((g > 0) == (m > 0)))
        else:
            for name in ("adam", "svag", "exact", "msvag"):
                add(name, 0.0)
            if plain > 0:
                add("spread", math.inf)
        add("update", abs(new - old))
        add("undecayed", abs(new - (1 - decay) * old))
        add("negative", float(v < m * m and (t > 1 or betas[0] != betas[1])))
        add("epsilon", float(math.sqrt(v) <= eps))
        add("theta", abs(old))
        add("infinite", float(plain > 0 and m == 0))

    def norm(name: str) -> float:
        return math.sqrt(math.fsum(x * x for x in rows[name]))

    get = {name: rows.get(name, []) for name in ("spread", "finite_spread", "log", "agree")}
    median = quantile(get["spread"], 0.5)
    spread_mean = mean(get["finite_spread"])
    exact = {
        "grad_abs_mean": mean(rows["g"]),
        "momentum_abs_mean": mean(rows["m"]),
        "sigma_mean": mean(rows["sigma"]),
        "spread_infinite_share": mean(rows["infinite"]),
        "update_abs_mean_per_lr": mean(rows["update"]) / lr,
        "update_abs_mean_per_lr_without_decay": mean(rows["undecayed"]) / lr,
        "sign_agreement": mean(get["agree"]),
        "variance_negative_share": mean(rows["negative"]),
        "epsilon_dominated_share": mean(rows["epsilon"]) if eps else math.nan,
        "update_to_weight": norm("update") / norm("theta") if norm("theta") else math.nan,
        "grad_norm": norm("g"),
        "update_norm": norm("update"),
        "weight_norm": norm("theta"),
        "nonfinite_share": 0.0,
        "lr": lr,
    }
    binned = {
        "spread_mean": spread_mean,
        "spread_log_mean": mean(get["log"]),
        "factor_adam": mean(rows["adam"]),
        "factor_svag": mean(rows["svag"]),
        "factor_exact": mean(rows["exact"]),
        "factor_msvag": mean(rows["msvag"]),
        "step_theory_mean": 1 / math.sqrt(1 + spread_mean**2),
        "spread_q10": quantile(get["spread"], 0.1),
        "spread_median": median,
        "spread_q90": quantile(get["spread"], 0.9),
        "relative_variance_median": median**2,
        "step_theory_median": 1 / math.sqrt(1 + median**2),
        "update_abs_median_per_lr": quantile(rows["update"], 0.5) / lr,
    }
    return {"exact": exact, "binned": binned}
