"""Variance adaptation: factors of the relative standard deviation eta = sigma / |gradient| >= 0, and Adam as one.

`t` counts samples from 1.  All functions broadcast.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import parts
from stepscope.theory.moments import one_minus_power

__all__ = [
    "AdamParts",
    "adam_factor",
    "adam_parts",
    "adam_update",
    "adam_update_from_raw",
    "best_sign_factor",
    "exact_factor",
    "gradient_distance",
    "relative_deviation",
    "relative_variance",
    "sign_distance",
    "sign_success_probability",
    "success_probability",
    "svag_factor",
]

Array = NDArray[np.float64]


def _eta_squared(eta: ArrayLike) -> Array:
    eta = np.asarray(eta, dtype=np.float64)
    if not np.all(eta >= 0):
        raise ValueError("eta = sigma / |gradient| must be >= 0 everywhere")
    with np.errstate(over="ignore"):  # eta^2 = inf has the right factor, 0
        return np.asarray(np.square(eta))


def _apply(factor: Any, eta: ArrayLike) -> Array:
    return np.asarray(factor(NUMPY, _eta_squared(eta)), dtype=np.float64)


def adam_factor(eta: ArrayLike) -> Array:
    """1 / sqrt(1 + eta^2), in [0, 1]: Adam's shrinkage, and Eigen's theoretical step.

    Source: [balles2018, Eq. 8]; [eigen2025, Sec. 2].  Raises ValueError for negative or undefined eta.

    >>> adam_factor([0.0, 1.0]).round(6).tolist()
    [1.0, 0.707107]
    """
    return _apply(parts.adam_factor, eta)


def svag_factor(eta: ArrayLike) -> Array:
    """1 / (1 + eta^2), in [0, 1]: the factor that brings a noisy gradient nearest to the true one.

    Source: [balles2018, Lemma 1, Eq. 15].  Raises ValueError for negative or undefined eta.

    >>> svag_factor([0.0, 1.0]).tolist()
    [1.0, 0.5]
    """
    return _apply(parts.svag_factor, eta)


def exact_factor(eta: ArrayLike) -> Array:
    """erf(1 / (sqrt 2 eta)), in [0, 1]: the factor that brings the sign of a normal gradient nearest to the true sign.

    Source: [balles2018, Lemma 1, Eq. 16 with Eq. 10].  Raises ValueError for negative or undefined eta.

    >>> exact_factor([0.0, 1.0]).round(6).tolist()
    [1.0, 0.682689]
    """
    with np.errstate(divide="ignore"):
        return _apply(parts.exact_factor, eta)


def sign_success_probability(eta: ArrayLike) -> Array:
    """P[sign g = sign of the true gradient] for a normal g, in [1/2, 1].   [balles2018, Eq. 10]

    >>> sign_success_probability(1.0).round(6).tolist()
    0.841345
    """
    return np.asarray(0.5 + 0.5 * exact_factor(eta))


def relative_deviation(gradient: ArrayLike, sigma: ArrayLike) -> Array:
    """eta = sigma / |gradient|, in [0, inf]; inf where only the gradient is 0.   [balles2018, Eq. 9]; Eigen's spread.

    Raises ValueError for sigma < 0, for a value that is not finite, and where both are 0: the ratio is undefined.

    >>> relative_deviation([2.0, -1.0, 0.0], 1.0).tolist()
    [0.5, 1.0, inf]
    """
    g, s = _gradient_and_sigma(gradient, sigma)
    if np.any((g == 0) & (s == 0)):
        raise ValueError("the relative deviation of a gradient 0 without noise is undefined")
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(s / np.abs(g))


def relative_variance(gradient: ArrayLike, sigma: ArrayLike) -> Array:
    """eta^2 = sigma^2 / gradient^2, in [0, inf].  Errors as `relative_deviation`.   [balles2018, Eq. 9]"""
    return _eta_squared(relative_deviation(gradient, sigma))


def success_probability(gradient: ArrayLike, sigma: ArrayLike) -> Array:
    """P[sign g = sign of the gradient] for g ~ Normal(gradient, sigma^2), in [1/2, 1].   [balles2018, Eq. 10]

    1 without noise, also at a gradient 0; 1/2 where the gradient is 0 and noise is not.

    >>> success_probability([1.0, 0.0], [0.0, 1.0]).tolist()
    [1.0, 0.5]
    """
    g, s = _gradient_and_sigma(gradient, sigma)
    noisy = s > 0
    with np.errstate(divide="ignore", over="ignore"):
        eta = np.where(noisy, s / np.abs(np.where(noisy, g, 1.0)), 0.0)
    return sign_success_probability(eta)


def _gradient_and_sigma(gradient: ArrayLike, sigma: ArrayLike) -> tuple[Array, Array]:
    g, s = np.asarray(gradient, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if not (np.all(np.isfinite(g)) and np.all(np.isfinite(s))):
        raise ValueError("gradient and sigma must be finite")
    if not np.all(s >= 0):
        raise ValueError("sigma must be >= 0 everywhere")
    return g, s


def gradient_distance(gamma: ArrayLike, gradient: ArrayLike, sigma: ArrayLike) -> Array:
    """E[(gamma g - gradient)^2] for a g of this mean and deviation, >= 0; one coordinate of Lemma 1's first objective.

    (1 - gamma)^2 gradient^2 + gamma^2 sigma^2: bias and noise.  Least at gamma = svag_factor(sigma / |gradient|), where
    it is gradient^2 sigma^2 / (gradient^2 + sigma^2).   [balles2018, Lemma 1, Eq. 15]

    >>> gradient_distance([0.0, 0.5, 1.0], 1.0, 1.0).tolist()
    [1.0, 0.5, 1.0]
    """
    g, s = _gradient_and_sigma(gradient, sigma)
    c = np.asarray(gamma, dtype=np.float64)
    return np.asarray(((1 - c) * g) ** 2 + (c * s) ** 2)


def sign_distance(gamma: ArrayLike, success: ArrayLike) -> Array:
    """E[(gamma sign g - sign of the gradient)^2], >= 0, when P[the signs agree] = success; Lemma 1's second objective.

    success (1 - gamma)^2 + (1 - success)(1 + gamma)^2; least at `best_sign_factor(success)`, where it is
    4 success (1 - success).   [balles2018, Lemma 1, Eq. 16]

    >>> sign_distance([0.0, 0.5, 1.0], 0.75).tolist()
    [1.0, 0.75, 1.0]
    """
    p, c = _probability(success), np.asarray(gamma, dtype=np.float64)
    return np.asarray(p * (1 - c) ** 2 + (1 - p) * (1 + c) ** 2)


def best_sign_factor(success: ArrayLike) -> Array:
    """2 success - 1, in [-1, 1]: the factor that brings sign g nearest to the true sign.   [balles2018, Eq. 16]

    For a normal gradient this is `exact_factor(eta)`, which does not cancel for small values; use that where eta is
    known.  Negative where the sign is wrong more often than right, which a normal gradient never is.

    >>> best_sign_factor([0.5, 1.0]).tolist()
    [0.0, 1.0]
    """
    return np.asarray(2 * _probability(success) - 1)


def _probability(success: ArrayLike) -> Array:
    p = np.asarray(success, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("a probability lies in [0, 1]")
    return p


class AdamParts(NamedTuple):
    """Adam's step in units of the learning rate, taken apart: sign x factor.   [balles2018, Eq. 7-9]"""

    sign: Array  # of m, in {-1, 0, 1}
    relative_variance: Array  # (v - m^2) / m^2 >= -1; below 0 only where beta1 != beta2 made v < m^2; inf at m = 0
    factor: Array  # |m| / sqrt(v) = 1 / sqrt(1 + relative_variance) >= 0; above 1 where v < m^2; 0 at m = 0


def adam_parts(m: ArrayLike, v: ArrayLike) -> AdamParts:
    """Adam's update m / sqrt(v) as sign x factor, for bias-corrected averages m and v >= 0, without epsilon.

    The factor is formed as |m| / sqrt(v): 1 + (v - m^2)/m^2 would cancel where v << m^2.  2 ulp.
    Source: [balles2018, Eq. 7-9].  Raises ValueError where v < 0, or v = 0 and m is not.

    >>> adam_parts(-3.0, 25.0).factor.tolist()
    0.6
    """
    mean, square = _averages(m, v)
    if np.any((square == 0) & (mean != 0)):
        raise ValueError("v = 0 while m is not: the update is infinite without epsilon")
    size = np.abs(mean)
    moving = size > 0
    root = np.sqrt(np.where(moving, square, 1.0))
    with np.errstate(over="ignore"):
        ratio = root / np.where(moving, size, 1.0)
        # (v - m^2)/m^2 as a product of differences: no square can under- or overflow, and v = m^2 gives 0 exactly.
        relative = np.where(moving, (ratio - 1) * (ratio + 1), np.inf)
    return AdamParts(np.sign(mean), np.asarray(relative), np.where(moving, size / root, 0.0))


def adam_update(m: ArrayLike, v: ArrayLike, eps: ArrayLike = 0.0) -> Array:
    """m / (sqrt(v) + eps) for bias-corrected averages, in units of the learning rate; 0/0 is 0.   [balles2018, Eq. 6]

    Raises ValueError where v < 0 or eps < 0, or v = eps = 0 and m is not 0.

    >>> adam_update(-3.0, 25.0, eps=1.0).tolist()
    -0.5
    """
    mean, square = _averages(m, v)
    return _divided(mean, np.sqrt(square) + _epsilon(eps))


def adam_update_from_raw(
    m: ArrayLike, v: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, t: ArrayLike, eps: ArrayLike = 0.0
) -> Array:
    """The same update from the averages that began at 0: m / (sqrt(v) + eps') x sqrt(1 - beta2^t)/(1 - beta1^t).

    eps' = eps sqrt(1 - beta2^t).   [kaiser, Eq. 4]; the paper's g_t and sigma_t are our m and sqrt(v).
    """
    mean, square = _averages(m, v)
    root = np.sqrt(one_minus_power(beta2, t))
    return np.asarray(_divided(mean, np.sqrt(square) + _epsilon(eps) * root) * (root / one_minus_power(beta1, t)))


def _averages(m: ArrayLike, v: ArrayLike) -> tuple[Array, Array]:
    mean, square = np.asarray(m, dtype=np.float64), np.asarray(v, dtype=np.float64)
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(square))):
        raise ValueError("m and v must be finite")
    if not np.all(square >= 0):
        raise ValueError("v is an average of squares and cannot be negative")
    return mean, square


def _epsilon(eps: ArrayLike) -> Array:
    value = np.asarray(eps, dtype=np.float64)
    if not np.all(value >= 0):
        raise ValueError(f"eps must be >= 0, got {eps!r}")
    return value


def _divided(mean: Array, denominator: Array) -> Array:
    if np.any((denominator == 0) & (mean != 0)):
        raise ValueError("v = eps = 0 while m is not: the update is infinite")
    return np.asarray(mean / np.where(denominator > 0, denominator, 1.0))
