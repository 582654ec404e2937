"""The statistics of one step: what each coordinate adds to its tensor's sums, and where it falls in the histograms.

Sums and histogram counts are additive, so tensors may be measured in blocks, on several devices or on several machines,
inside the pass that updates them or in a pass of their own. Whatever is shown of a step is a function of them.

Of large tensors the histograms and some sums are taken over a fixed sample, every `period`-th block of 1024.

Histograms have fixed bins, eight an octave; the powers of two, Adam's full step 1 among them, are amid a bin:
    0           no value (a spread 0/0, a number that is not finite); what is counted here has no meaning
    1           below the range, zero included
    2 ... 514   bin i lies around its centre 2^((i - 2)/8 - 40), half a bin, the ratio 2^(1/16), either way
    515         above the range, infinity included
"""

import math
from typing import Any, NamedTuple

__all__ = [
    "BINS",
    "BINS_PER_OCTAVE",
    "CENTRES",
    "EVERYWHERE",
    "HIGHEST",
    "HISTOGRAMS",
    "LOWEST",
    "QUANTILE_ERROR",
    "SAMPLE_BLOCK",
    "Numbers",
    "Statistics",
    "Step",
    "period",
    "quantile",
    "statistics",
]

Number = Any  # a tensor, array, symbol or float: whatever the statistics are called with

LOWEST, HIGHEST = -40, 24  # log2 of the first and the last centre
BINS_PER_OCTAVE = 8
BINS = 4 + (HIGHEST - LOWEST) * BINS_PER_OCTAVE
CENTRES = (0.0, *(2.0 ** (i / BINS_PER_OCTAVE + LOWEST) for i in range(BINS - 2)))  # of the bins from 1 on
EVERYWHERE = 4  # the first of the sums are over all coordinates, the others over the sampled ones
HISTOGRAMS = ("spread_histogram", "update_histogram")  # in the order of the statistics' bins

# log2 of m in [1, 2) for a bin's edges: exact at both ends, within 0.0009 in between, and six operations that round
# alike everywhere. (The best of the polynomials f + f (1 - f)(a + b f), f = m - 1.)
_LOG2 = (-2.16417114, 3.06469709, -1.05974615, 0.15922020)
_LOG2_ERROR = 0.0009
QUANTILE_ERROR = 2 ** (0.5 / BINS_PER_OCTAVE + _LOG2_ERROR)  # a quantile is right within this ratio, 1.045: half a bin


SAMPLE_BLOCK = 1 << 10
_ENOUGH = 1 << 13  # coordinates
_SPARSEST = 64


def period(coordinates: int) -> int:
    """Of a tensor of so many coordinates, every how manyth block is sampled.

    At least 8,192 coordinates are, and a 64th of very many: a share has a standard error of at most 0.006.
    """
    return max(1, min(_SPARSEST, coordinates // _ENOUGH))


class Step(NamedTuple):
    """One coordinate at one step, as it is stored.

    g: gradient.  mean, second: the two averages after the step.  before, after: weight before and after it.
    """

    g: Number
    mean: Number
    second: Number
    before: Number
    after: Number


class Numbers(NamedTuple):
    """What all coordinates of a tensor share.

    ascent: -1 where the averages are of -g, because the optimizer ascends, else 1.
    mean_scale, second_scale: what takes the bias out of averages that start at 0, else 1.
    per_lr: 1 / lr, 0 for lr = 0.  eps: the constant added to sqrt(v), 0 for none.
    decay: the share of the weight that decoupled weight decay takes away, lr * weight_decay.
    """

    ascent: Number = 1.0
    mean_scale: Number = 1.0
    second_scale: Number = 1.0
    per_lr: Number = 0.0
    eps: Number = 0.0
    decay: Number = 0.0


class Statistics(NamedTuple):
    """sums: the terms of each additive statistic by name.  bins: truncated to integers, the bins to count up.

    gaps: 0 where the coordinate's numbers are finite, else NaN: those of the first EVERYWHERE sums, and all.
    """

    sums: dict[str, Number]
    bins: dict[str, Number]
    gaps: tuple[Number, Number]


def statistics(
    k: Any, step: Step, numbers: Numbers, *, raw: bool, inside: Number = 1.0, trusting: bool = False
) -> Statistics:
    """What one coordinate adds.

    raw: `second` is an average of squares, v; otherwise it is v - m^2 itself.  inside: 0 for a place that is no
    coordinate, else 1.  trusting: spare the tests that make a coordinate with an infinity or NaN add nothing, because
    both `gaps` are known to be 0 and `inside` to be 1.

    `broken` counts these coordinates, `sampled` the other ones of the sample, where v - m^2 must be finite too. A
    negative v - m^2 counts as 0, is counted and makes no spread. The spread sigma/|m| is defined where m is not 0,
    infinite where m = 0 < sigma, none where both are 0. (0 is what is smaller than 2^-126, float32's smallest normal.)
    """
    g, m, theta, update = step.g, step.mean, step.before, step.after - step.before
    gap = k.fma(0.0, update, k.fma(0.0, m, 0.0 * g))
    n, broken = 1.0, 0.0
    if not trusting:
        finite = gap >= 0
        n, broken = k.where(finite, inside, 0.0), k.where(finite, 0.0, inside)
        g, m, theta, update = (k.where(finite, x, 0.0) for x in (g, m, theta, update))
    sums = {
        "broken": broken,
        "grad_square": g * g,
        "update_square": update * update,
        "theta_square": theta * theta,
    }

    g, m = numbers.ascent * g, numbers.mean_scale * m
    if raw:
        second = numbers.second_scale * step.second
        variance = second - m * m
    else:
        variance, second = step.second, step.second + m * m
    gaps = gap, gap + 0.0 * variance
    if not trusting:
        finite = gaps[1] >= 0
        n = k.where(finite, inside, 0.0)
        g, m, theta, update, variance, second = (
            k.where(finite, x, 0.0) for x in (g, m, theta, update, variance, second)
        )
    m_abs = k.abs(m)
    positive = k.where(variance > 0, variance, 0.0)
    moves, noisy = m_abs > _SMALLEST, positive > 0
    inverse = 1.0 / k.where(moves, m_abs, 1.0)
    agreement = g * m
    sums |= {
        "sampled": n,
        "grad_abs": k.abs(g),
        "momentum_abs": m_abs,
        "update_abs": k.abs(update),
        "still": k.where(moves, 0.0, n),
        "sigma": positive / k.sqrt(k.where(noisy, positive, 1.0)),  # a quotient can be estimated, a root cannot
        "spread_infinite": k.where(moves, 0.0, k.where(noisy, 1.0, 0.0)),
        "undecayed_abs": k.abs(update + numbers.decay * theta),
        "sign_agreed": k.where(agreement > 0, 1.0, 0.0),
        "sign_opposed": k.where(agreement < 0, 1.0, 0.0),
        "variance_negative": k.where(variance < 0, 1.0, 0.0),
        "epsilon_dominated": k.where(second > numbers.eps * numbers.eps, 0.0, n),
    }
    square = _bin(k, (positive * inverse) * inverse, BINS_PER_OCTAVE / 2)  # half as many an octave of the square
    bins = {
        "spread_histogram": k.where(moves, square, k.where(noisy, BINS - 0.5, 0.0)),
        "update_histogram": n * _bin(k, numbers.per_lr * k.abs(update), BINS_PER_OCTAVE),
    }
    return Statistics(sums, bins, gaps)


_SMALLEST = 2.0**-126


def _bin(k: Any, x: Number, per_octave: float) -> Number:
    """The bin of x >= 0, with the fraction of the bin that is below it: per_octave log2(x), from the lowest edge on."""
    span = BINS_PER_OCTAVE / per_octave  # of octaves of x to one of what is shown
    below, above = (2.0 ** (span * (end + side)) for end, side in ((LOWEST, -0.125), (HIGHEST, 0.125)))
    x = k.where(x < above, k.where(x > below, x, below), above)
    m = k.mantissa(x)
    c = [per_octave * c for c in _LOG2]
    start = 2.5 - BINS_PER_OCTAVE * LOWEST
    return per_octave * k.exponent(x) + ((start + c[0]) + m * (c[1] + m * (c[2] + m * c[3])))


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
