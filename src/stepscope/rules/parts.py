"""The named parts a step is composed of: directions, factors, base scales and masks.

A step is theta -= lr * direction * factor * base * mask. Variance estimates are in `estimators`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "BASES",
    "DIRECTIONS",
    "FACTORS",
    "MASKS",
    "Direction",
    "Factor",
    "adam_factor",
    "average",
    "cautious",
    "exact_factor",
    "gradient",
    "inverse",
    "relative_variance",
    "shrink",
    "sign_of_average",
    "sign_of_gradient",
    "size_of_average",
    "svag_factor",
]


# --- directions: (k, g, m) -> what is followed ------------------------------------------------------------------------


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


def size_of_average(k: Any, g: Any, m: Any) -> Any:
    """Follow sign(g) |m|: the newest sign, the average's size.   [Cao et al. 2024, Grams]"""
    return k.sign(g) * k.abs(m)


@dataclass(frozen=True)
class Direction:
    """step(k, g, m).  of_average: whether it needs m.  blends: m is blend m + (1 - blend) g, Nesterov's.
    unit: whether it is a sign, so that a full step has the length lr."""

    step: Callable[[Any, Any, Any], Any]
    of_average: bool = True
    blends: bool = False
    unit: bool = False


DIRECTIONS: Mapping[str, Direction] = MappingProxyType(
    {
        "g": Direction(gradient, of_average=False),
        "m": Direction(average),
        "sign_g": Direction(sign_of_gradient, of_average=False, unit=True),
        "sign_m": Direction(sign_of_average, unit=True),
        "nesterov": Direction(average, blends=True),
        "sign_nesterov": Direction(sign_of_average, blends=True, unit=True),
        "sign_g_abs_m": Direction(size_of_average),
    }
)


# --- factors: (k, eta^2) -> shrinkage ---------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Factor:
    """shape(k, x) at x = eta^2 of one gradient, or, of_average, x = rho eta^2 of the average m.

    weighted: x is multiplied by the hyper-parameter lambda_.
    """

    shape: Callable[[Any, Any], Any]
    of_average: bool = False
    weighted: bool = False


FACTORS: Mapping[str, Factor | None] = MappingProxyType(
    {
        "one": None,
        "adam": Factor(adam_factor),
        "adam_rho": Factor(adam_factor, of_average=True),
        "erf": Factor(exact_factor),
        "erf_rho": Factor(exact_factor, of_average=True),
        "svag": Factor(svag_factor),
        "svag_rho": Factor(svag_factor, of_average=True),
        "nsr": Factor(adam_factor, weighted=True),
    }
)


# --- base scales and masks --------------------------------------------------------------------------------------------

BASES: Mapping[str, str] = MappingProxyType(
    {
        "none": "1",
        "root_v": "1/(sqrt(v) + eps), v the second moment (Adam, RMSProp)",
        "deviation": "1/(sqrt(s) + eps), s the variance (AdaBelief, centered RMSProp)",
        "adagrad": "1/(sqrt(sum g^2) + eps)",
    }
)
MASKS: Mapping[str, str] = MappingProxyType({"none": "1", "cautious": "0 where the step has not the sign of g"})


def inverse(k: Any, x: Any) -> Any:
    """1 / x; 0 where x is not above 0: a scale that nothing has been learned about moves nothing."""
    return k.where(x > 0, 1 / k.where(x > 0, x, 1.0), 0.0)


def cautious(k: Any, step: Any, g: Any) -> Any:
    """1 where step and g have the same sign, else 0.   [Liang et al. 2024, Alg. 1]

    The paper also divides by the share of coordinates that are left, a mean over a tensor; a scalar rule does not.
    """
    return k.where(k.sign(step) * k.sign(g) > 0, 1.0, 0.0)
