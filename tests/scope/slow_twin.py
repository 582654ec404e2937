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
    coupled: float = 0.0,
    clip: float = 0.0,
    uphill: bool = False,
    adam: bool = False,
) -> dict[str, Any]:
    """history: gradients as the averages saw them, the newest last; raw: the newest p.grad where that differs.

    uphill: the optimizer goes along the averages.  adam: it keeps two raw averages, so that Adam's bounds are told.
    """
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
        gamma = m**2 / (m**2 + rho * s) if m != 0 else 0.0
        size = math.hypot(m, math.sqrt(plain))
        move = (1.0 if uphill else -1.0) * (new - (1 - decay) * old)
        add("move", move)
        for name, value in (
            ("step_msgd", m),
            ("step_mssd", (m > 0) - (m < 0)),
            ("step_msvag", gamma * m),
            ("step_adam", m / size if m != 0 else 0.0),
        ):
            add(name, value)
        add("signed_g", g)
        add("signed_m", m)
        add("decayed", float(abs(decay * old) > abs(move) or abs(coupled * old) > abs(g)))
        add("clipped", float(abs(g) >= clip))
        if m != 0:
            add("rate", abs(new - old) / abs(m))
        add("update", abs(new - old))
        add("undecayed", abs(new - (1 - decay) * old))
        add("negative", float(v < m * m and (t > 1 or betas[0] != betas[1])))
        add("epsilon", float(math.sqrt(v) <= eps))
        add("theta", abs(old))
        add("infinite", float(plain > 0 and m == 0))

    def norm(name: str) -> float:
        return math.sqrt(math.fsum(x * x for x in rows[name]))

    def cosine(one: str, other: str) -> float:
        size = norm(one) * norm(other)
        product = math.fsum(a * b for a, b in zip(rows[one], rows[other], strict=True))
        return product / size if size else math.nan

    get = {name: rows.get(name, []) for name in ("spread", "finite_spread", "log", "agree")}
    median = quantile(get["spread"], 0.5)
    spread_mean = mean(get["finite_spread"])
    exact = {
        "grad_abs_mean": mean(rows["g"]),
        "momentum_abs_mean": mean(rows["m"]),
        "sigma_mean": mean(rows["sigma"]),
        "still_share": mean([float(m == 0) for m in rows["m"]]),
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
        "grad_momentum_cosine": cosine("signed_g", "signed_m"),
        "decay_dominated_share": mean(rows["decayed"]) if decay or coupled else math.nan,
        "clipped_share": mean(rows["clipped"]) if clip else math.nan,
    }
    for name in ("msgd", "mssd", "msvag", "adam"):
        exact[f"update_cosine_{name}"] = cosine("move", f"step_{name}")
        exact[f"update_ratio_{name}"] = lr * norm(f"step_{name}") / norm("move") if norm("move") else math.nan
    # Cauchy-Schwarz: the largest sum of w1 g for a given sum of w2 g^2, over all gradients g; on a flat, the averages
    # of thousands of gradients decay and are bias-corrected no more.
    largest = math.sqrt(math.fsum(a * a / b for a, b in zip(w1, w2, strict=True))) if w2[0] > 0 else math.nan
    many = [(1 - b) * b ** np.arange(8000.0) for b in betas]
    fall = [(betas[0] / math.sqrt(betas[1])) ** j for j in range(1, 4000)]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(many[0] ** 2 / many[1])
    farthest = math.sqrt(terms.sum()) * math.fsum(fall)
    share = mean(rows["update"]) / lr
    exact["step_share_of_largest"] = share / largest if adam else math.nan
    exact["step_share_of_flat_distance"] = share / farthest if adam else math.nan
    binned = {
        "spread_mean": spread_mean,
        "spread_log_mean": mean(get["log"]),
        "factor_adam": mean(rows["adam"]),
        "factor_svag": mean(rows["svag"]),
        "factor_exact": mean(rows["exact"]),
        "factor_msvag": mean(rows["msvag"]),
        "step_theory_mean": 1 / math.sqrt(1 + spread_mean**2),
        "step_theory_median": 1 / math.sqrt(1 + median**2),
    }
    for name, q in (("q10", 0.1), ("median", 0.5), ("q90", 0.9)):
        binned[f"spread_{name}"] = quantile(get["spread"], q)
        binned[f"relative_variance_{name}"] = quantile(get["spread"], q) ** 2
        binned[f"update_abs_{name}_per_lr"] = quantile(rows["update"], q) / lr
        binned[f"rate_{name}"] = quantile(rows.get("rate", []), q)
        binned[f"momentum_abs_{name}"] = quantile(rows["m"], q)
    return {"exact": exact, "binned": binned}
