"""The named parts a step is composed of: directions and factors.

direction(k, g, m): the gradient, its average, or a sign.  factor(k, x): the shrinkage at relative variance x = eta^2.
"""

import math
from typing import Any

__all__ = [
    "adam_factor",
    "average",
    "exact_factor",
    "gradient",
    "relative_variance",
    "shrink",
    "sign_of_average",
    "sign_of_gradient",
    "svag_factor",
]


def gradient(k: Any, g: Any, m: Any) -> Any:
    """Follow g."""
    return g


def average(k: Any, g: Any, m: Any) -> Any:
    """Follow the average m."""
    return m


def sign_of_gradient(k: Any, g: Any, m: Any) -> Any:
    """Follow sign g, with sign 0 = 0."""
    return k.sign(g)


def sign_of_average(k: Any, g: Any, m: Any) -> Any:
    """Follow sign m, with sign 0 = 0."""
    return k.sign(m)


def relative_variance(k: Any, variance: Any, mean: Any) -> Any:
    """eta^2 = variance / mean^2 >= 0, formed as (variance / mean) / mean so that no square under- or overflows.

    Where the mean is 0 the value is meaningless: `shrink` puts the factor to 0 there.   [balles2018, Eq. 9]
    """
    safe = k.where(k.abs(mean) > 0, mean, 1.0)
    return (variance / safe) / safe


def adam_factor(k: Any, x: Any) -> Any:
    """1 / sqrt(1 + eta^2): what Adam's division by sqrt(v) amounts to.   [balles2018, Eq. 8]"""
    return 1 / k.sqrt(1 + x)


def svag_factor(k: Any, x: Any) -> Any:
    """1 / (1 + eta^2): the best factor for a gradient.   [balles2018, Lemma 1, Eq. 15 and 17]"""
    return 1 / (1 + x)


def exact_factor(k: Any, x: Any) -> Any:
    """erf(1 / (sqrt 2 eta)): the best factor for the sign of a normal gradient.   [balles2018, Lemma 1, Eq. 10, 16]"""
    noisy = x > 0
    return k.where(noisy, k.erf(1 / (math.sqrt(2) * k.sqrt(k.where(noisy, x, 1.0)))), 1.0)


def shrink(k: Any, factor: Any, mean: Any, variance: Any) -> Any:
    """factor(eta^2), in [0, 1]; 0 where the mean is 0, so that 0/0 is no update.   [balles2018, Sec. 4.4]"""
    return k.where(k.abs(mean) > 0, factor(k, relative_variance(k, variance, mean)), 0.0)
