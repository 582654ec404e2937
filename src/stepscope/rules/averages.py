"""Exponential averages: their weights, the noise left in them, and how one sample enters them.

Step scalars are plain float64 numbers of the host. `t` counts samples from 1 (the papers' t from 0 is t - 1).
"""

import math
from typing import Any

__all__ = ["ema_weight", "lerp", "noise_odds", "noise_ratio", "variance_correction", "welford"]


def _math(name: str, x: Any) -> Any:
    """math.<name>(x), or what x itself makes of it: a number that is being traced has methods of these names."""
    own = getattr(x, name, None)
    return getattr(math, name)(x) if own is None else own()


def _one_minus_power(beta: float, t: int) -> float:
    """1 - beta^t without cancellation for beta near 1."""
    if beta > 0:
        return -_math("expm1", t * _math("log", beta))  # type: ignore[no-any-return]
    return 1.0 if t > 0 else 0.0


def ema_weight(beta: float, t: int) -> float:
    """Weight of the newest sample in a bias-corrected average: (1 - beta) / (1 - beta^t), in (0, 1]; 1 at t = 1.

    Source: [balles2018, Eq. 4], unrolled.

    >>> ema_weight(0.5, 1), round(ema_weight(0.5, 2), 6)
    (1.0, 0.666667)
    """
    return 1.0 if t == 1 else (1 - beta) / _one_minus_power(beta, t)


def noise_ratio(beta: float, t: int) -> float:
    """Variance of a bias-corrected average of i.i.d. samples, per unit of the sample variance: rho(beta, t).

    rho = (1 - beta)(1 + beta^t) / ((1 + beta)(1 - beta^t)), in (0, 1]; 1 at t = 1, (1 - beta)/(1 + beta) as t grows.
    Source: [balles2018, Eq. 21]; their t is t - 1.
    """
    return (1 - beta) * (1 + beta**t) / ((1 + beta) * _one_minus_power(beta, t))


def noise_odds(beta: float, t: int) -> float:
    """rho / (1 - rho): turns the averages' spread v - m^2 into the variance of m.  0 where v - m^2 is identically 0.

    That is at the first sample and for beta = 0, where rho = 1: M-SVAG's first step is an SGD step [balles2018, 4.4].
    1 - rho = 2 beta (1 - beta^(t-1)) / ((1 + beta)(1 - beta^t)) cancels the common terms.
    """
    if t == 1 or beta == 0:
        return 0.0
    return (1 - beta) * (1 + beta**t) / (2 * beta * _one_minus_power(beta, t - 1))


def variance_correction(beta: float, t: int) -> float:
    """1 / (1 - rho): turns v - m^2 into an unbiased estimate of the sample variance.  0 where v - m^2 is identically 0.

    Source: [balles2018, Eq. 22].
    """
    if t == 1 or beta == 0:
        return 0.0
    return (1 + beta) * _one_minus_power(beta, t) / (2 * beta * _one_minus_power(beta, t - 1))


def lerp(k: Any, start: Any, end: Any, weight: Any) -> Any:
    """start + weight (end - start), exact at both ends, rounded as `torch.lerp` rounds it on hardware with fma."""
    near_start = weight < 0.5
    return k.fma(k.where(near_start, weight, weight - 1), end - start, k.where(near_start, start, end))


def welford(k: Any, g: Any, m: Any, S: Any, weight: Any) -> tuple[Any, Any]:
    """One sample enters the bias-corrected mean m and variance S = v - m^2 >= 0.

    weight = ema_weight(beta, t).  S never cancels: it is exactly 0 for a constant gradient and cannot be negative.
    A weight of 1 forgets the past: m = g exactly, and S (0 until then) has nothing to learn from one sample.
    Source: West's weighted form of Welford's update, for [balles2018, Eq. 4-5] with beta1 = beta2.
    """
    near_m = weight < 0.5
    gap = g - m
    mean = k.where(near_m, m, g) + k.where(near_m, weight, weight - 1) * gap
    return mean, k.where(weight < 1, (1 - weight) * (S + weight * gap * gap), S)
