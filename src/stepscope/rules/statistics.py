"""The statistics of one step: what each coordinate adds to its tensor's sums, and where it falls in the histograms.

Sums and histogram counts are additive, so tensors may be measured in blocks, on several devices or on several machines,
inside the pass that updates them or in a pass of their own. Whatever is shown of a step is a function of them.

Of large tensors the histograms and some sums are taken over a fixed sample, every `period`-th block of 1024.

Which of them are taken is chosen: TERMS and HISTOGRAMS name all there are, PLAIN is the cheap set, `selection` makes
one of names. The first EVERYWHERE terms always are.

Histograms have fixed bins, eight an octave; the powers of two, Adam's full step 1 among them, are amid a bin:
    0           no value (a spread 0/0, a number that is not finite); what is counted here has no meaning
    1           below the range, zero included
    2 ... 514   bin i lies around its centre 2^((i - 2)/8 - 40), half a bin, the ratio 2^(1/16), either way
    515         above the range, infinity included
Joint histograms have JOINT_BINS: 0 as above, then 64 rows (the first quantity) of 64 columns (the second), one octave
each, from 2^-40 on; what lies beyond the range counts at its end.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from stepscope.rules import parts

__all__ = [
    "BINS",
    "BINS_PER_OCTAVE",
    "CENTRES",
    "EVERYWHERE",
    "HIGHEST",
    "HISTOGRAMS",
    "JOINT",
    "JOINT_BINS",
    "LOWEST",
    "NONE",
    "PLAIN",
    "QUANTILE_ERROR",
    "RANK_ERROR",
    "SAMPLE_BLOCK",
    "TERMS",
    "Numbers",
    "Selection",
    "Statistics",
    "Step",
    "bins_of",
    "period",
    "quantile",
    "selection",
    "statistics",
]

Number = Any  # a tensor, array, symbol or float: whatever the statistics are called with

LOWEST, HIGHEST = -40, 24  # log2 of the first and the last centre
BINS_PER_OCTAVE = 8
BINS = 4 + (HIGHEST - LOWEST) * BINS_PER_OCTAVE
CENTRES = (0.0, *(2.0 ** (i / BINS_PER_OCTAVE + LOWEST) for i in range(BINS - 2)))  # of the bins from 1 on
EVERYWHERE = 4  # the first of the sums are over all coordinates, the others over the sampled ones
JOINT = 64  # octaves a side
JOINT_BINS = 1 + JOINT * JOINT

# All terms and histograms there are, in the order in which they are kept.
TERMS = (
    *("broken", "grad_square", "update_square", "theta_square"),
    *("sampled", "grad_abs", "momentum_abs", "update_abs", "still", "sigma", "spread_infinite", "undecayed_abs"),
    *("sign_agreed", "sign_opposed", "variance_negative", "epsilon_dominated", "decay_dominated", "clipped"),
    *("grad_momentum", "grad_square_sampled", "momentum_square"),
    *("move_square", "move_msgd", "move_mssd", "move_msvag", "move_adam", "msvag_square", "adam_square"),
)
HISTOGRAMS = (
    *("spread_histogram", "update_histogram", "momentum_histogram", "rate_histogram"),
    *("momentum_update_joint", "spread_update_joint"),
)


class Selection(NamedTuple):
    """Which terms and which histograms are taken, each in the order of TERMS and HISTOGRAMS."""

    terms: tuple[str, ...]
    histograms: tuple[str, ...]


def selection(names: Iterable[str]) -> Selection:
    """The terms and histograms of these names, the first EVERYWHERE terms and `sampled` in any case.

    Raises: ValueError for a name that is neither.
    """
    wanted = set(names)
    if unknown := wanted - {*TERMS, *HISTOGRAMS}:
        raise ValueError(f"no term or histogram is called {', '.join(sorted(unknown))}")
    wanted |= {*TERMS[: EVERYWHERE + 1]}
    return Selection(tuple(t for t in TERMS if t in wanted), tuple(h for h in HISTOGRAMS if h in wanted))


PLAIN = selection({*TERMS[: TERMS.index("move_square")], *HISTOGRAMS[:2]} - {"clipped"})


def bins_of(histogram: str) -> int:
    """How many bins a histogram has."""
    return JOINT_BINS if histogram.endswith("joint") else BINS


# log2 of m in [1, 2) for a bin's edges: exact at both ends, within 0.0009 in between, and three operations.
# (The best of the polynomials f + f (1 - f)(a + b f), f = m - 1.)
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


NONE = 0.0  # this very object as both `decay` and `coupled` says that there is no weight decay to look for


class Numbers(NamedTuple):
    """What all coordinates of a tensor share.

    ascent: -1 where the averages are of -g, because the optimizer ascends, else 1.  downhill: 1 where an optimizer
    ascends along averages of g itself, else -1: the sign that takes the average to the direction of the step.
    mean_scale, second_scale: what takes the bias out of averages that start at 0, else 1.
    per_lr: 1 / lr, 0 for lr = 0.  eps: the constant added to sqrt(v), 0 for none.
    decay: the share of the weight that decoupled weight decay takes away, lr * weight_decay.  coupled: the factor of
    the weight that is added to the gradient.
    odds: rho / (1 - rho), which turns v - m^2 into the variance of m.
    clip: the size from which on a coordinate of the gradient is taken for clipped; 0 for none.
    """

    ascent: Number = 1.0
    downhill: Number = -1.0
    mean_scale: Number = 1.0
    second_scale: Number = 1.0
    per_lr: Number = 0.0
    eps: Number = 0.0
    decay: Number = NONE
    coupled: Number = NONE
    odds: Number = 0.0
    clip: Number = 0.0


class Statistics(NamedTuple):
    """sums: the terms of each additive statistic by name.  bins: truncated to integers, the bins to count up.

    gaps: 0 where the mean, and where the variance is finite, else NaN. What else is not finite shows in the first
    EVERYWHERE sums, where it is squared.
    """

    sums: dict[str, Number]
    bins: dict[str, Number]
    gaps: tuple[Number, Number]


def statistics(
    k: Any,
    step: Step,
    numbers: Numbers,
    *,
    raw: bool,
    inside: Number = 1.0,
    trusting: bool = False,
    chosen: Selection = PLAIN,
) -> Statistics:
    """What one coordinate adds to the chosen sums and histograms.

    raw: `second` is an average of squares, v; otherwise it is v - m^2 itself.  inside: 0 for a place that is no
    coordinate, else 1.  trusting: spare the tests that make a coordinate with an infinity or NaN add nothing, because
    both `gaps` are known to be 0, the squares to be finite and `inside` to be 1.

    `broken` counts these coordinates, `sampled` the other ones of the sample, where v - m^2 must be finite too. A
    negative v - m^2 counts as 0, is counted and makes no spread. The spread sigma/|m| is defined where m is not 0,
    infinite where m = 0 < sigma, none where both are 0. (0 is what is smaller than 2^-126, float32's smallest normal.)

    move: the update without decoupled weight decay, in the direction of descent; its products are with the steps of
    M-SGD (m), M-SSD (sign m), M-SVAG (gamma m) and Adam (m / sqrt v), for lr = 1 and without epsilon.
    The rate is |update| / |m|, the learning rate in effect.
    """
    g, m, theta, update = step.g, step.mean, step.before, step.after - step.before
    gap = 0.0 * m
    n, broken = 1.0, 0.0
    if not trusting:
        finite = k.fma(0.0, update, k.fma(0.0, g, gap)) >= 0
        n, broken = k.where(finite, inside, 0.0), k.where(finite, 0.0, inside)
        g, m, theta, update = (k.where(finite, x, 0.0) for x in (g, m, theta, update))
    sums = {
        "broken": broken,
        "grad_square": g * g,
        "update_square": update * update,
        "theta_square": theta * theta,
    }

    m = numbers.mean_scale * m
    if raw:
        second = numbers.second_scale * step.second
        variance = second - m * m
    else:
        variance, second = step.second, step.second + m * m
    gaps = gap, 0.0 * variance
    if not trusting:
        finite = k.where(finite, gaps[1], math.nan) >= 0
        n = k.where(finite, inside, 0.0)
        g, m, theta, update, variance, second = (
            k.where(finite, x, 0.0) for x in (g, m, theta, update, variance, second)
        )
    m_abs, update_abs = k.abs(m), k.abs(update)
    positive = k.where(variance > 0, variance, 0.0)
    moves, noisy = m_abs > _SMALLEST, positive > 0
    inverse = 1.0 / k.where(moves, m_abs, 1.0)
    relative = (positive * inverse) * inverse
    agreement = numbers.ascent * (g * m)
    decays = not (numbers.decay is numbers.coupled is NONE)
    decayed, coupled = (numbers.decay * theta, numbers.coupled * theta) if decays else (0.0, 0.0)
    undecayed = update + decayed if decays else update
    move = numbers.downhill * undecayed

    @cache
    def msvag() -> Number:
        x = k.where(relative < _LARGEST, relative, _LARGEST)  # odds may be 0: no 0 * infinity
        return parts.svag_factor(k, numbers.odds * x) * m

    @cache
    def adam() -> Number:
        return parts.adam_factor(k, relative) * m_sign()

    @cache
    def m_sign() -> Number:
        return k.where(moves, k.sign(m), 0.0)

    terms: dict[str, Callable[[], Number]] = {
        "sampled": lambda: n,
        "grad_abs": lambda: k.abs(g),
        "momentum_abs": lambda: m_abs,
        "update_abs": lambda: update_abs,
        "still": lambda: k.where(moves, 0.0, n),
        "sigma": lambda: k.sqrt(positive),
        "spread_infinite": lambda: k.where(moves, 0.0, k.where(noisy, 1.0, 0.0)),
        "undecayed_abs": lambda: k.abs(undecayed),
        "sign_agreed": lambda: k.where(agreement > 0, 1.0, 0.0),
        "sign_opposed": lambda: k.where(agreement < 0, 1.0, 0.0),
        "variance_negative": lambda: k.where(variance < 0, 1.0, 0.0),
        "epsilon_dominated": lambda: k.where(second > numbers.eps * numbers.eps, 0.0, n),
        "decay_dominated": lambda: (
            k.where(k.abs(decayed) > k.abs(undecayed), 1.0, k.where(k.abs(coupled) > k.abs(g), 1.0, 0.0))
            if decays
            else 0.0
        ),
        "clipped": lambda: k.where(k.abs(g) >= k.where(numbers.clip > 0, numbers.clip, math.inf), 1.0, 0.0),
        "grad_momentum": lambda: agreement,
        "grad_square_sampled": lambda: g * g,
        "momentum_square": lambda: m * m,
        "move_square": lambda: move * move,
        "move_msgd": lambda: move * m,
        "move_mssd": lambda: move * m_sign(),
        "move_msvag": lambda: move * msvag(),
        "move_adam": lambda: move * adam(),
        "msvag_square": lambda: msvag() * msvag(),
        "adam_square": lambda: adam() * adam(),
    }
    sums |= {name: terms[name]() for name in chosen.terms[EVERYWHERE:]}

    def octave(x: Number) -> Number:
        """Row or column of a joint histogram, from 0 on."""
        top = 2.0 ** (LOWEST + JOINT - 0.5)
        return k.exponent(k.where(x < top, k.where(x > 2.0**LOWEST, x, 2.0**LOWEST), top)) - LOWEST

    def joint(row: Number, column: Number) -> Number:
        return n * ((1.5 + column) + JOINT * row)

    per_lr = numbers.per_lr * update_abs
    places: dict[str, Callable[[], Number]] = {
        "spread_histogram": lambda: k.where(
            moves, _bin(k, relative, BINS_PER_OCTAVE / 2), k.where(noisy, BINS - 0.5, 0.0)
        ),  # half as many bins an octave of the square
        "update_histogram": lambda: n * _bin(k, per_lr, BINS_PER_OCTAVE),
        "momentum_histogram": lambda: n * _bin(k, m_abs, BINS_PER_OCTAVE),
        "rate_histogram": lambda: k.where(moves, n * _bin(k, update_abs * inverse, BINS_PER_OCTAVE), 0.0),
        "momentum_update_joint": lambda: joint(octave(m_abs), octave(per_lr)),
        "spread_update_joint": lambda: k.where(
            moves,
            joint(octave(terms["sigma"]() * inverse), octave(per_lr)),
            k.where(noisy, joint(JOINT - 1.0, octave(per_lr)), 0.0),
        ),
    }
    return Statistics(sums, {name: places[name]() for name in chosen.histograms}, gaps)


_SMALLEST = 2.0**-126
_LARGEST = 2.0**126


def _bin(k: Any, x: Number, per_octave: float) -> Number:
    """The bin of x >= 0, with the fraction of the bin that is below it: per_octave log2(x), from the lowest edge on."""
    span = BINS_PER_OCTAVE / per_octave  # of octaves of x to one of what is shown
    below, above = (2.0 ** (span * (end + side)) for end, side in ((LOWEST, -0.125), (HIGHEST, 0.125)))
    x = k.where(x > below, x, below)
    x = k.where(x < above, x, above)
    m = k.mantissa(x)
    c = [per_octave * c for c in _LOG2]
    start = 2.5 - BINS_PER_OCTAVE * LOWEST
    within = k.fma(m, k.fma(m, k.fma(m, c[3], c[2]), c[1]), start + c[0])
    return k.fma(per_octave, k.exponent(x), within)


def quantile(k: Any, counts: Any, q: float, below: Any = None) -> Any:
    """The q-quantile of what was counted: the smallest value with at least the share q at or below it, 0 < q <= 1.

    counts[..., BINS]: an array or tensor.  below: how many of the bins from 1 on lie below the quantile's, -1 where
    nothing was counted, where that is known.  Returns the centre of the value's bin, which is right within the ratio
    QUANTILE_ERROR; 0 below the range, infinity above it, NaN where nothing was counted.
    """
    if below is None:
        ranks = counts[..., 1:].cumsum(-1)
        total = ranks[..., -1]
        below = k.where(total > 0, (ranks < q * ranks[..., -1:] - RANK_ERROR).sum(-1), -1)
    middle = 2.0 ** ((below - 1) / BINS_PER_OCTAVE + LOWEST)
    inside = k.where(below < BINS - 2, k.where(below > 0, middle, 0.0), math.inf)
    return k.where(below >= 0, inside, math.nan)


RANK_ERROR = 1e-6  # ranks are whole numbers; a small fraction keeps the rounding of q * total from skipping one
