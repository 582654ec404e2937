"""Tests for claims about random quantities: paired differences, equivalence, shares, and the n that would decide."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from stepscope.experiments.claims.claim import Verdict
from stepscope.experiments.effects import ALPHA

__all__ = ["Paired", "decide_above", "equivalent", "fitted_slope", "mean_of", "needed", "sign_flip", "wilson"]

_EXACT = 16  # pairs up to which all sign patterns are tried


@dataclass(frozen=True)
class Paired:
    """A mean, its standard error, its 95 % interval by Student's t, and the two-sided p value of "the mean is 0"."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} (standard error {self.error:.2g}, n = {self.n})"


def mean_of(values: ArrayLike) -> Paired:
    """Mean of independent values (differences of pairs, say).  Raises ValueError for fewer than two, or not finite."""
    x = np.asarray(values, np.float64).reshape(-1)
    if len(x) < 2 or not np.all(np.isfinite(x)):
        raise ValueError(f"a mean with an error needs two or more finite values, got {len(x)}")
    mean, error = float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x)))
    if error == 0:
        return Paired(mean, 0.0, mean, mean, float(mean == 0), len(x))
    half = float(stdtrit(len(x) - 1, 1 - ALPHA / 2)) * error
    p = float(2 * stdtr(len(x) - 1, -abs(mean / error)))
    return Paired(mean, error, mean - half, mean + half, p, len(x))


def sign_flip(values: ArrayLike, draws: int = 100_000, seed: int = 0) -> float:
    """Two-sided p value of "symmetric about 0" by flipping signs: exact up to 16 values, sampled beyond.

    A sampled p value counts the observed pattern as one of the draws, so it is never 0.
    """
    x: NDArray[np.float64] = np.asarray(values, np.float64).reshape(-1)
    seen = abs(x.sum()) * (1 - 1e-12)
    if len(x) <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=len(x))))
        return float((np.abs(signs @ x) >= seen).mean())
    flips = np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, len(x)))
    return float((1 + (np.abs(flips @ x) >= seen).sum()) / (1 + draws))


def equivalent(values: ArrayLike, margin: float) -> tuple[Verdict, Paired]:
    """Two one-sided tests at ALPHA: is the mean within +-margin (HOLDS), outside it (FAILS), or UNDECIDED?"""
    m = mean_of(values)
    half = float(stdtrit(m.n - 1, 1 - ALPHA)) * m.error
    if m.mean - half > -margin and m.mean + half < margin:
        return Verdict.HOLDS, m
    if m.mean - half > margin or m.mean + half < -margin:
        return Verdict.FAILS, m
    return Verdict.UNDECIDED, m


def decide_above(m: Paired, threshold: float) -> Verdict:
    """Is the mean above the threshold? UNDECIDED if its interval includes the threshold."""
    if m.low > threshold:
        return Verdict.HOLDS
    return Verdict.FAILS if m.high < threshold else Verdict.UNDECIDED


def needed(m: Paired, threshold: float = 0.0) -> int:
    """Samples after which the interval of a mean like this one would exclude the threshold."""
    gap = abs(m.mean - threshold)
    if gap == 0:
        raise ValueError("the mean lies on the threshold: no number of samples decides")
    deviation = m.error * math.sqrt(m.n)
    return max(2, math.ceil((1.96 * deviation / gap) ** 2))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score method."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must lie in [0, n], got {successes} of {n}")
    z = 1.959963984540054
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of y on x, and its standard error."""
    from scipy import stats  # slow to load

    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.stderr)
