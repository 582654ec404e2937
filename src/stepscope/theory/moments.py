"""Exponential averages of a noisy gradient: weights, mean, remaining noise, and the corrected variance estimate.

`t` counts samples from 1; the papers' t, which starts at 0, is t - 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.rules import averages

__all__ = [
    "average_moments",
    "bias_correction",
    "check_decay",
    "check_samples",
    "corrected_variance",
    "ema_weights",
    "noise_floor",
    "one_minus_power",
    "rho",
    "square_average_moments",
    "uncorrected_rho",
]

Array = NDArray[np.float64]


def check_decay(beta: ArrayLike, name: str = "beta") -> Array:
    """beta as float64; ValueError outside [0, 1)."""
    value = np.asarray(beta, dtype=np.float64)
    if not np.all((value >= 0) & (value < 1)):
        raise ValueError(f"{name} must lie in [0, 1), got {beta!r}")
    return value


def check_samples(t: ArrayLike) -> Array:
    """t as float64; ValueError unless every t is a whole number from 1, or inf."""
    value = np.asarray(t, dtype=np.float64)
    if not np.all((value >= 1) & (value == np.floor(value))):
        raise ValueError(f"t counts samples and is a whole number from 1, got {t!r}")
    return value


def _over(function: Callable[[float, Any], float], beta: ArrayLike, t: ArrayLike) -> Array:
    """A step scalar of the rules, element by element; t = inf is its limit."""
    check_decay(beta)
    check_samples(t)

    def one(b: float, n: float) -> float:
        return function(float(b), n if np.isinf(n) else int(n))

    return np.asarray(np.vectorize(one, otypes=[np.float64])(beta, t))


def one_minus_power(beta: ArrayLike, t: ArrayLike) -> Array:
    """1 - beta^t, in (0, 1], without cancellation.  beta in [0, 1); t a whole number from 1, or inf."""
    decay, samples = check_decay(beta), check_samples(t)
    with np.errstate(divide="ignore"):  # beta = 0: log is -inf and the power 0
        return np.asarray(-np.expm1(samples * np.log(decay)))


def bias_correction(beta: ArrayLike, t: ArrayLike) -> Array:
    """1 / (1 - beta^t), in [1, inf): what an average of t samples that began at 0 must be multiplied with.

    Limits: 1 / (1 - beta) at t = 1; 1 as t grows.  Measured error over beta in [1e-10, 1 - 1e-10], t to 10^6: 1.4 EPS.
    Source: [balles2018, Eq. 4].

    >>> bias_correction(0.9, [1, 2, np.inf]).round(6).tolist()
    [10.0, 5.263158, 1.0]
    """
    return np.asarray(1 / one_minus_power(beta, t))


def rho(beta: ArrayLike, t: ArrayLike) -> Array:
    """rho(beta, t): variance of the bias-corrected average of t i.i.d. samples, per unit of sample variance, in (0, 1].

    Falls with t.  Limits: 1 at t = 1; `noise_floor(beta)` at t = inf.  Source: [balles2018, Eq. 21].

    >>> rho(0.9, [1, 10**6]).round(6).tolist()
    [1.0, 0.052632]
    """
    return _over(averages.noise_ratio, beta, t)


def uncorrected_rho(beta: ArrayLike, t: ArrayLike) -> Array:
    """Variance of the average that began at 0, without bias correction: (1 - beta)(1 - beta^(2t)) / (1 + beta).

    In (0, 1].  It rises with t, from (1 - beta)^2 to `noise_floor(beta)`: it does not tend to 0, as [kaiser, Sec. 3]
    has it of Var[g_T].  Measured error: 1.6 EPS.

    >>> uncorrected_rho(0.9, [1, np.inf]).round(6).tolist()
    [0.01, 0.052632]
    """
    decay = check_decay(beta)
    return np.asarray((1 - decay) * one_minus_power(decay, 2 * check_samples(t)) / (1 + decay))


def noise_floor(beta: ArrayLike, correlation: ArrayLike = 0.0) -> Array:
    """Variance left in an average however long it ran, per unit of sample variance.

    (1 - beta)/(1 + beta) x (1 + beta c)/(1 - beta c) for noise with autocorrelation c^lag, c = correlation in [-1, 1];
    c = 0 is independent noise, c = 1 noise that never changes: 1.  Refutes "tends to zero" in [kaiser, Sec. 3].

    >>> noise_floor(0.9, [0.0, 1.0]).round(6).tolist()
    [0.052632, 1.0]
    """
    decay, c = check_decay(beta), np.asarray(correlation, dtype=np.float64)
    if not np.all(np.abs(c) <= 1):
        raise ValueError(f"a correlation lies in [-1, 1], got {correlation!r}")
    return np.asarray((1 - decay) / (1 + decay) * ((1 + decay * c) / (1 - decay * c)))


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
    check_decay(beta)
    if not np.all(np.isfinite(check_samples(t))):
        raise ValueError("weights of infinitely many samples do not fit into an array")
    return np.asarray(averages.ema_weight(beta, t) * float(beta) ** np.arange(t - 1, -1, -1, dtype=np.float64))


def average_moments(
    gradients: ArrayLike,
    variances: ArrayLike,
    beta: float,
    *,
    corrected: bool = True,
    correlation: float | ArrayLike = 0.0,
) -> tuple[Array, Array]:
    """Mean and variance of the average m_1..m_T of gradients[t] + noise.

    gradients, variances >= 0: [T, ...], oldest first, the true gradient and the variance of its noise at each step
    (they broadcast).  correlation: of the noise; a number c in [-1, 1] means c^lag (AR(1) where |c| < 1), a sequence
    r_0 = 1, r_1, r_2, ... gives it lag by lag and 0 beyond.  corrected: divide by 1 - beta^t.
    Returns two arrays [T, ...].  All terms are positive for correlations >= 0 (error of a few ulp); negative ones
    cancel.  With equal gradients, variances and no correlation the variance is `rho` times the noise's.
    Source: [kaiser, Sec. 3], [balles2018, B.5], generalised.  Raises ValueError out of range, also where no noise can
    have these correlations because a variance would come out negative.

    >>> mean, variance = average_moments([1.0, 1.0], 1.0, 0.5)
    >>> mean.tolist(), variance.round(6).tolist()
    ([1.0, 1.0], [1.0, 0.555556])
    """
    check_decay(beta)
    g, var = np.broadcast_arrays(np.asarray(gradients, dtype=np.float64), np.asarray(variances, dtype=np.float64))
    if g.ndim == 0 or len(g) == 0:
        raise ValueError("gradients have shape [T, ...] with T >= 1")
    if not np.all(var >= 0):
        raise ValueError("variances must be >= 0")
    gain, deviation = 1 - beta, np.sqrt(var)
    mean = _filtered([gain], [1.0, -beta], g, axis=0)
    # Cov[m_(t-1), noise_t] / deviation_t: the past's noise as far as it is remembered and resembles the new one.
    shared = np.zeros_like(deviation)
    shared[1:] = _remembered(deviation, float(beta), correlation)[:-1]
    own = gain**2 * var
    variance = _filtered([1.0], [1.0, -(beta**2)], own + 2 * beta * gain * deviation * shared, axis=0)
    if not np.all(variance >= -1e-12 * np.maximum(own, np.max(own, axis=0))):
        raise ValueError(f"no noise has the correlations {correlation!r}: a variance would be negative")
    variance = np.maximum(variance, 0.0)
    if corrected:
        steps = np.arange(1, len(g) + 1, dtype=np.float64).reshape(-1, *[1] * (g.ndim - 1))
        scale = bias_correction(beta, steps)
        mean, variance = mean * scale, variance * scale**2
    return np.asarray(mean), np.asarray(variance)


def _filtered(*arguments: Any, **more: Any) -> Any:
    from scipy.signal import lfilter  # a third of a second to load

    return lfilter(*arguments, **more)


def _remembered(deviation: Array, beta: float, correlation: float | ArrayLike) -> Array:
    """[t]: covariance of m_t with the standardised noise one step later."""
    r = np.asarray(correlation, dtype=np.float64)
    if not np.all(np.abs(r) <= 1):
        raise ValueError(f"a correlation lies in [-1, 1], got {correlation!r}")
    gain = 1 - beta
    if r.ndim == 0:
        c = float(r)
        return np.asarray(_filtered([c * gain], [1.0, -beta * c], deviation, axis=0))
    if r.ndim != 1 or len(r) == 0 or r[0] != 1:
        raise ValueError("correlations are a sequence that starts with that of lag 0, which is 1")
    kernel = gain * beta ** np.arange(len(r) - 1) * r[1:]
    return np.asarray(_filtered(kernel, [1.0], deviation, axis=0)) if kernel.size else np.zeros_like(deviation)


def square_average_moments(
    gradients: ArrayLike, variances: ArrayLike, beta: float, *, corrected: bool = True
) -> tuple[Array, Array]:
    """Mean and variance of v_1..v_T, the average of squared gradients with independent normal noise.

    Shapes and errors as `average_moments`.  A normal g has E[g^2] = mean^2 + var, Var[g^2] = 2 var^2 + 4 mean^2 var.
    Source: [kaiser, Sec. 3], which leaves it to the reader.
    """
    g, var = np.asarray(gradients, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    return average_moments(g**2 + var, 2 * var**2 + 4 * g**2 * var, beta, corrected=corrected)
