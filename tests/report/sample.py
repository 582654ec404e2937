"""A plausible dissection, made up with fixed random numbers, so that every number in its report is known."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["ARMS", "LAYERS", "make_results"]

LAYERS = tuple(f"{name}.{kind}" for name in ("conv1", "conv2", "fc1", "fc2") for kind in ("weight", "bias"))

# method: label, sign, variance adaptation, role, tuned lr, final loss, final test accuracy
ARMS = {
    "msgd": ("M-SGD", False, False, "cell", 0.31622776601683794, 0.0412, 0.962),
    "mssd": ("M-SSD", True, False, "cell", 0.001, 0.0171, 0.971),
    "msvag": ("M-SVAG", False, True, "cell", 1.0, 0.0352, 0.966),
    "adam": ("Adam", True, True, "cell", 0.0031622776601683794, 0.0127, 0.974),
    "adam_one_beta": ("Adam (one beta)", True, True, "matched", 0.0031622776601683794, 0.0139, 0.973),
}


def make_results(
    seeds: int = 3, steps: int = 600, metric: bool = True, layers: tuple[str, ...] = LAYERS
) -> dict[str, Any]:
    """Results in the schema "stepscope.dissection/1"; `metric=False` is a regression problem without an accuracy."""
    rng = np.random.default_rng(20180601)
    arms = [_arm(rng, method, seeds, steps, metric) for method in ARMS]
    effects = [
        effect
        for cell in ("adam", "adam_one_beta")
        for outcome in ("train_loss", "test_metric" if metric else "test_loss")
        for effect in _effects(arms, cell, outcome)
    ]
    return {
        "schema": "stepscope.dissection/1",
        "problem": {
            "name": "digits",
            "description": "a two-layer convolutional network on 8x8 images of handwritten digits",
            "parameters": 27722,
            "train_examples": 1198,
            "validation_examples": 239,
            "test_examples": 360,
            "steps": steps,
            "batch_size": 64,
            "evaluate_every": max(1, steps // 30),
            "metric": "accuracy" if metric else None,
            "higher_is_better": True,
            "metric_is_share": True,
        },
        "settings": {
            "select": "validation",
            "select_reason": "Step sizes were chosen by their best validation result: part of the training examples "
            "was held out for that, and the test examples played no part.",
            "seeds": list(range(seeds)),
            "tuning_seeds": [1000],
            "budget": 8,
            "beta": 0.9,
            "profile": "demo",
            "loss_evaluation_examples": 1000,
        },
        "arms": arms,
        "effects": effects,
        "verdict": {
            "headline": "On digits, the sign is the ingredient that matters for the final training loss: it helps (a "
            "factor 0.361 [0.288, 0.452], 3 seeds, p = 0.0081), while variance adaptation remains undecided; 3 seeds "
            "cannot tell whether the sign or variance adaptation matters for the final test accuracy.",
            "sentences": [
                "Taking the sign lowers the final training loss by a factor 0.361 [0.288, 0.452] (95 % interval, "
                "3 seeds, Holm-corrected p = 0.0081).",
                "3 seeds cannot tell whether adapting to the variance changes the final training loss: a factor 0.846 "
                "[0.65, 1.1] (95 % interval, 3 seeds, Holm-corrected p = 0.33).",
            ],
            "adam_cells": "The paper's Adam also differs in beta2, the uncorrected variance and epsilon; with one beta "
            "and the corrected variance of Eq. 22 instead, the conclusion is the same.",
        },
        "dissection": {method: _series(rng, method, steps, layers) for method in ARMS},
        "environment": {
            "packages": {"stepscope": "0.1.0", "torch": "2.13.0", "numpy": "2.3.1"},
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "command": ["stepscope", "dissect", "digits"],
            "seeds": list(range(seeds)),
            "hardware": {"cpu": "An Example CPU @ 2.60GHz", "cores": 8, "memory_bytes": 33_000_000_000, "gpu": None},
            "python": "3.12.4",
            "platform": "Linux-6.1-x86_64",
        },
        "command": "stepscope dissect digits --seeds 3 --budget 8",
    }


def _arm(rng: np.random.Generator, method: str, seeds: int, steps: int, metric: bool) -> dict[str, Any]:
    label, sign, adapted, role, lr, loss, accuracy = ARMS[method]
    every = max(1, steps // 30)
    runs = []
    for seed in range(seeds):
        end = loss * math.exp(rng.normal(0, 0.12))
        best = accuracy + rng.normal(0, 0.0025)
        speed = 5.0 if sign else 3.4
        evaluations = []
        for step in [*range(0, steps, every), steps]:
            x = step / steps
            train = end * (2.3 / end) ** math.exp(-speed * x) * math.exp(rng.normal(0, 0.05) * x * (1 - x) * 4)
            good = best - (best - 0.1) * math.exp(-3 * speed * x) + rng.normal(0, 0.004) * x * (1 - x)
            evaluations.append(
                {
                    "step": step,
                    "train_loss": train,
                    "train_metric": min(1.0, good + 0.02 * x) if metric else None,
                    "test_loss": train + 0.09 * x,
                    "test_metric": good if metric else None,
                    "validation_loss": train + 0.08 * x,
                    "validation_metric": good - 0.002 if metric else None,
                }
            )
        runs.append(
            {
                "seed": seed,
                "status": "ok",
                "evaluations": evaluations,
                "trial": f"{method}-{seed}",
                "recorded": seed == 0,
            }
        )
    tuning = []
    for offset in range(-5, 3):
        trial_lr = lr * 10 ** (offset / 2)
        status = "ok" if offset < 1 else "unstable" if offset == 1 else "diverged"
        score = accuracy - 0.012 * offset**2 - rng.uniform(0, 0.002)
        tuning.append(
            {
                "lr": trial_lr,
                "status": status,
                "score": None if status == "diverged" else score if metric else score - 1.2,
                "train_loss": None if status == "diverged" else loss * 2.0 ** (offset**2),
            }
        )
    return {
        "method": method,
        "label": label,
        "sign": sign,
        "variance_adaptation": adapted,
        "role": role,
        "lr": lr,
        "lr_at_edge": None,
        "tuning": tuning,
        "runs": runs,
    }


def _effects(arms: list[dict[str, Any]], adam_cell: str, outcome: str) -> Iterator[dict[str, Any]]:
    ratio = outcome.endswith("loss")

    def finals(method: str) -> np.ndarray:
        arm = next(arm for arm in arms if arm["method"] == method)
        values = np.array([run["evaluations"][-1][outcome] for run in arm["runs"]])
        return np.log(values) if ratio else values

    plain, sign, adapted, both = (finals(name) for name in ("msgd", "mssd", "msvag", adam_cell))
    contrasts = {
        "sign": ((sign - plain) + (both - adapted)) / 2,
        "variance_adaptation": ((adapted - plain) + (both - sign)) / 2,
        "interaction": (both - adapted) - (sign - plain),
    }
    p_values = {}
    for name, contrast in contrasts.items():
        n = len(contrast)
        mean = contrast.mean()
        error = contrast.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
        margin = stats.t.ppf(0.975, n - 1) * error if n > 1 else math.nan
        p_values[name] = float(2 * stats.t.sf(abs(mean / error), n - 1)) if n > 1 else None
        p_holm = None if p_values[name] is None else min(1.0, 3 * p_values[name])
        better = (mean < 0) == ratio
        verdict = "cannot tell" if p_holm is None or p_holm > 0.05 else "helps" if better else "hurts"
        back = math.exp if ratio else float
        yield {
            "adam_cell": adam_cell,
            "outcome": outcome,
            "scale": "ratio" if ratio else "difference",
            "effect": name,
            "estimate": back(mean),
            "low": None if n < 2 else back(mean - margin),
            "high": None if n < 2 else back(mean + margin),
            "p": p_values[name],
            "p_holm": p_holm,
            "seeds": n,
            "per_seed": [back(value) for value in contrast],
            "verdict": verdict,
            "sentence": f"{name} changes the {outcome}.",
        }


def _series(rng: np.random.Generator, method: str, steps: int, layers: tuple[str, ...]) -> dict[str, Any]:
    _, sign, adapted, _, lr, *_ = ARMS[method]
    shown = np.unique(np.linspace(1, steps, min(200, steps)).astype(int))
    x = shown / steps
    series = {}
    for depth, layer in enumerate(layers):
        wander = np.cumsum(rng.normal(0, 0.05, len(shown)))
        spread = 1.2 + 5 * x * (1 + 0.2 * depth / len(layers)) * np.exp(0.15 * wander) + rng.uniform(0, 0.1, len(shown))
        momentum = 0.02 * (1 + depth) * np.exp(-3 * x + 0.1 * rng.normal(size=len(shown)))
        theory = 1 / np.sqrt(1 + spread**2)
        mean = spread * np.exp(0.9 + np.minimum(9, 0.4 * np.abs(rng.standard_t(2, len(shown)))))
        size = np.ones(len(shown)) if sign else momentum
        if adapted:
            blur = 0.12 if method == "adam" else 0.01
            size = size * (theory if sign else 1 / (1 + 0.05 * spread**2)) * np.exp(blur * rng.normal(size=len(shown)))
        columns = {
            "grad_abs_mean": momentum * 2,
            "momentum_abs_mean": momentum,
            "sigma_mean": momentum * spread,
            "spread_mean": mean,
            "spread_q10": spread / 4,
            "spread_median": spread,
            "spread_q90": spread * 5,
            "factor_adam": theory * 1.05,
            "factor_exact": theory * 1.12,
            "factor_svag": theory**2 * 1.2,
            "factor_msvag": 1 / (1 + 0.053 * spread**2),
            "step_theory_mean": 1 / np.sqrt(1 + mean**2),
            "step_theory_median": theory,
            "update_abs_mean_per_lr": size * 1.05,
            "update_abs_median_per_lr": size,
            "sign_agreement": 0.5 + 0.4 / spread,
            "variance_negative_share": np.full(len(shown), 0.0) if method != "adam" else 0.25 * np.exp(-2 * x),
            "epsilon_dominated_share": np.full(len(shown), 0.0),
            "update_to_weight": lr * size / (0.05 + 0.1 * x),
        }
        columns["spread_mean"][0] = np.nan
        series[layer] = {
            name: [None if math.isnan(value) else float(value) for value in values] for name, values in columns.items()
        }
    return {"layers": list(layers), "steps": [int(step) for step in shown], "series": series}
