"""The statistics of one step: what each coordinate adds to its tensor's sums, and where it falls in the histograms.

Sums and histogram counts are additive, so tensors may be measured in blocks, on several devices or on several machines.
Whatever is shown of a step is a function of them. An indicator is a sign, 0 or 1: cheaper than a condition.

Histograms have fixed bins, eight an octave; the powers of two, Adam's full step 1 among them, are amid a bin:
    0           no value (a spread 0/0)
    1           below the range, zero included
    2 ... 514   bin i lies around its centre 2^((i - 2)/8 - 40), half a bin, the ratio 2^(1/16), either way
    515         above the range, infinity included
"""

import math
from typing import Any, NamedTuple

from stepscope.rules import parts

__all__ = [
    "BINS",
    "BINS_PER_OCTAVE",
    "HIGHEST",
    "LOWEST",
    "QUANTILE_ERROR",
    "Statistics",
    "Step",
    "quantile",
    "statistics",
]

Number = Any  # a tensor, array, symbol or float: whatever the statistics are called with

LOWEST, HIGHEST = -40, 24  # log2 of the first and the last centre
BINS_PER_OCTAVE = 8
BINS = 4 + (HIGHEST - LOWEST) * BINS_PER_OCTAVE
QUANTILE_ERROR = 2 ** (0.5 / BINS_PER_OCTAVE)  # a quantile is right within this ratio, 1.044: half a bin either way

# Spreads enter mean and logarithm clipped to [2^-50, 2^40]. Beyond it the mean of sigma/|m|, which has no finite
# expectation, is that of a few coordinates whose m decayed to nothing.
_SMALLEST, _LARGEST = 2.0**-100, 2.0**80  # of the relative variance
_TINY = 2.0**-50  # stands for 0 in a logarithm that only chooses a bin


class Step(NamedTuple):
    """One coordinate at one step. Averages are bias-corrected and include this step's gradient.

    g: gradient.  m: its average.  variance: v - m^2, which two decay rates or rounding can make negative.
    second: v, the average of g^2.  theta: weight before the step.  update: weight after minus before.
    undecayed: the same without decoupled weight decay.
    Numbers of the whole tensor:  per_lr: 1 / lr, 0 for lr = 0.  eps: the constant added to sqrt(v), 0 for none.
    correction: `averages.variance_correction`, odds: `averages.noise_odds` of m's decay rate.
    """

    g: Number
    m: Number
    variance: Number
    second: Number
    theta: Number
    update: Number
    undecayed: Number
    per_lr: Number
    eps: Number
    correction: Number
    odds: Number


class Statistics(NamedTuple):
    """sums: the terms of each additive statistic by name.  positions: truncated to integers, the bins to count up."""

    sums: dict[str, Number]
    positions: dict[str, Number]


def statistics(k: Any, step: Step) -> Statistics:
    """What one coordinate adds.

    A negative v - m^2 counts as 0, is counted, and makes no spread. The spread sigma/|m| is defined where m is not 0,
    infinite where m = 0 < sigma, and none where both are 0. Factors are 0 where m = 0 [balles2018, Sec. 4.4].
    Each factor is that of the method it is named after: Adam's from v - m^2 itself [Eq. 8-9], SVAG's and the exact one
    for a sign from the corrected variance [Eq. 22 in Eq. 23 and 16], M-SVAG's from the variance of m [Eq. 25].
    """
    m_abs = k.abs(step.m)
    moving = k.sign(m_abs)
    variance = k.max(step.variance, 0.0)
    noisy = k.sign(variance)
    infinite = noisy - noisy * moving
    relative = k.min(moving * parts.relative_variance(k, variance, step.m), _LARGEST)
    log_spread = 0.5 * k.log(k.max(relative, _SMALLEST))
    spread_noisy = noisy * moving
    same_sign = k.sign(step.g) * k.sign(step.m)
    update_abs = k.abs(step.update)
    sums = {
        "grad_abs": k.abs(step.g),
        "grad_square": step.g * step.g,
        "momentum_abs": m_abs,
        "moving": moving,
        "sigma": k.sqrt(variance),
        "spread": k.sqrt(relative),
        "spread_noisy": spread_noisy,
        "spread_log": spread_noisy * log_spread,
        "spread_infinite": infinite,
        "factor_adam": moving * parts.adam_factor(k, relative),
        "factor_svag": moving * parts.svag_factor(k, step.correction * relative),
        "factor_exact": moving * parts.exact_factor(k, step.correction * relative),
        "factor_msvag": moving * parts.svag_factor(k, step.odds * relative),
        "update_abs": update_abs,
        "update_square": step.update * step.update,
        "undecayed_abs": k.abs(step.undecayed),
        "theta_square": step.theta * step.theta,
        "sign_compared": k.abs(same_sign),
        "sign_agreed": k.max(same_sign, 0.0),
        "variance_negative": k.sign(variance - step.variance),
        "epsilon_dominated": 1.0 - k.sign(k.max(step.second - step.eps * step.eps, 0.0)),
    }
    positions = {
        "spread": moving * _position(k, log_spread) + (BINS - 0.5) * infinite,
        "update": _position(k, k.log(k.max(step.per_lr * update_abs, _TINY))),
    }
    return Statistics(sums, positions)


def _position(k: Any, logarithm: Number) -> Number:
    """Where exp(logarithm) lies among the bins, with the fraction of the bin that is below it."""
    exact = (BINS_PER_OCTAVE / math.log(2)) * logarithm + (2.5 - LOWEST * BINS_PER_OCTAVE)
    return k.min(k.max(exact, 1.5), BINS - 0.5)


def quantile(k: Any, counts: Any, q: float) -> Any:
    """The q-quantile of what was counted: the smallest value with at least the share q at or below it, 0 < q <= 1.

    counts[..., BINS]: an array or tensor.  Returns the centre of the value's bin, which is right within the ratio
    QUANTILE_ERROR; 0 below the range, infinity above it, NaN where nothing was counted.
    """
    ranks = counts[..., 1:].cumsum(-1)
    total = ranks[..., -1]
    # Ranks are whole numbers; a small fraction keeps the rounding of q * total from skipping one.
    below = (ranks < q * ranks[..., -1:] - 1e-6).sum(-1)
    middle = 2.0 ** ((below - 1) / BINS_PER_OCTAVE + LOWEST)
    inside = k.where(below < BINS - 2, k.where(below > 0, middle, 0.0), math.inf)
    return k.where(total > 0, inside, math.nan)
