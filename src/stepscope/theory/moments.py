"""Exponential averages of a noisy gradient: weights, remaining noise, and the corrected variance estimate.

`t` counts samples from 1; the papers' t, which starts at 0, is t - 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.rules import averages

__all__ = ["corrected_variance", "ema_weights", "rho"]

Array = NDArray[np.float64]


def _checked(beta: ArrayLike, t: ArrayLike) -> None:
    if not np.all((np.asarray(beta) >= 0) & (np.asarray(beta) < 1)):
        raise ValueError(f"beta must lie in [0, 1), got {beta!r}")
    if not np.all((np.asarray(t) >= 1) & (np.asarray(t) == np.floor(t))):
        raise ValueError(f"t counts samples and is a whole number from 1, got {t!r}")


def _over(function: Callable[[float, int], float], beta: ArrayLike, t: ArrayLike) -> Array:
    _checked(beta, t)
    return np.asarray(np.vectorize(lambda b, n: function(float(b), int(n)), otypes=[np.float64])(beta, t))


def rho(beta: ArrayLike, t: ArrayLike) -> Array:
    """rho(beta, t): variance of the bias-corrected average of t i.i.d. samples, per unit of sample variance, in (0, 1].

    Limits: 1 at t = 1; (1 - beta) / (1 + beta) as t grows.  Source: [balles2018, Eq. 21].

    >>> rho(0.9, [1, 10**6]).round(6).tolist()
    [1.0, 0.052632]
    """
    return _over(averages.noise_ratio, beta, t)


def corrected_variance(v_minus_m2: ArrayLike, beta: ArrayLike, t: ArrayLike) -> Array:
    """Unbiased sample variance (v - m^2) / (1 - rho) from bias-corrected averages with one beta.   [balles2018, Eq. 22]

    0 at t = 1 and for beta = 0, where v - m^2 is identically 0 (Sec. 4.4).
    """
    return np.asarray(np.asarray(v_minus_m2, dtype=np.float64) * _over(averages.variance_correction, beta, t))


def ema_weights(beta: float, t: int) -> Array:
    """Weights of samples 1..t in the bias-corrected average, oldest first; they sum to 1.   [balles2018, Eq. 4]

    >>> ema_weights(0.5, 2).round(6).tolist()
    [0.333333, 0.666667]
    """
    _checked(beta, t)
    return np.asarray(averages.ema_weight(beta, t) * float(beta) ** np.arange(t - 1, -1, -1, dtype=np.float64))
