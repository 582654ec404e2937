"""Variance adaptation factors as functions of the relative standard deviation eta = sigma / |gradient| >= 0."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import parts

__all__ = ["adam_factor", "exact_factor", "sign_success_probability", "svag_factor"]

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
