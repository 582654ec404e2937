"""How values are read off sums and histograms: each a function of the sums, with the names of those it reads."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import parts
from stepscope.rules.statistics import BINS, BINS_PER_OCTAVE, CENTRES, HIGHEST, JOINT, LOWEST, quantile
from stepscope.scope.instrument import Read, Sums
from stepscope.theory import bounds

Reading = tuple[tuple[str, ...], Read]  # what is read, and how


class Sheet(dict[str, Any]):
    """Sums by name, which adds up each histogram's counts but once."""

    def __init__(self, sums: Sums) -> None:
        super().__init__(sums)
        self._ranks: dict[str, Any] = {}

    def ranks(self, histogram: str) -> Any:
        """How many coordinates lie in the bins from 1 up to each."""
        if histogram not in self._ranks:
            self._ranks[histogram] = self[histogram][..., 1:].cumsum(-1)
        return self._ranks[histogram]


def _quantile(sums: Sums, histogram: str, q: float) -> Any:
    return (
        quantile(NUMPY, None, q, sums.ranks(histogram))
        if isinstance(sums, Sheet)
        else quantile(NUMPY, sums[histogram], q)
    )


def per(term: str, count: str, lr: str | None = None) -> Reading:
    """A sum over a count, and per step size if `lr` names it; NaN for nothing counted and for a step size of 0."""

    def mean(sums: Sums) -> Any:
        value = sums[term] / sums[count]
        return value if lr is None else np.where(sums[lr] > 0, value / sums[lr], math.nan)

    return (term, count) if lr is None else (term, count, lr), mean


def norm(term: str) -> Reading:
    """Root of a sum of squares."""
    return (term,), lambda sums: np.sqrt(sums[term])


def spread_quantile(q: float, then: Callable[[Any], Any] = lambda spread: spread) -> Reading:
    """Of the spreads, or of a growing function of them."""
    return ("spread_histogram",), lambda sums: then(_quantile(sums, "spread_histogram", q))


# What spreads of the bins from 1 on count as; beyond the range as its end.
_SPREADS = np.array(CENTRES)


def _finite_counts(sums: Sums) -> Any:
    """Coordinates with a spread that is not infinite, in the bins from 1 on."""
    counts = np.array(sums["spread_histogram"][..., 1:], float)
    counts[..., -1] -= sums["spread_infinite"]
    return counts


def spread_mean(sums: Sums) -> Any:
    """Over the spreads that are not infinite."""
    counts = _finite_counts(sums)
    return counts @ _SPREADS / counts.sum(-1)


def spread_log_mean(sums: Sums) -> Any:
    """Over the spreads in the range of the histogram, without its ends."""
    inside = sums["spread_histogram"][..., 2:-1]
    return inside @ np.log(_SPREADS[1:-1]) / inside.sum(-1)


_FACTORED = ("spread_histogram", "spread_infinite", "sampled")


def factor_mean(factor: Callable[[Any, Any], Any], scale: str | None = None) -> Reading:
    """Mean of a factor over all coordinates, 0 where m = 0; `scale` names the tensors' multiple of v - m^2."""

    def mean(sums: Sums) -> Any:
        counts = _finite_counts(sums)
        scales = np.broadcast_to(1.0 if scale is None else sums[scale], counts.shape[:-1])
        total = np.full(scales.shape, math.nan)
        for different in np.unique(scales):  # few: the scale depends on the decay rate and the number of gradients
            rows = scales == different
            total[rows] = counts[rows] @ factor(NUMPY, different * _SPREADS**2)
        return total / sums["sampled"]

    return (*_FACTORED, *([scale] if scale else [])), mean


def theoretical(spread: Any) -> Any:
    """Adam's step at this spread, in units of the learning rate."""
    return parts.adam_factor(NUMPY, spread * spread)


def theory_at_mean(sums: Sums) -> Any:
    """Adam's step at the mean spread."""
    return theoretical(spread_mean(sums))


def sign_agreement(sums: Sums) -> Any:
    """Share of agreeing signs among those that agree or do not."""
    return sums["sign_agreed"] / (sums["sign_agreed"] + sums["sign_opposed"])


def update_quantile(q: float) -> Reading:
    """The histogram holds |update| / lr already; it is meaningless for lr = 0."""

    def read(sums: Sums) -> Any:
        return np.where(sums["lr"] > 0, _quantile(sums, "update_histogram", q), math.nan)

    return ("update_histogram", "lr"), read


def quantile_of(histogram: str, q: float) -> Reading:
    """Of what a histogram holds."""
    return (histogram,), lambda sums: _quantile(sums, histogram, q)


def epsilon_share(sums: Sums) -> Any:
    """NaN where no epsilon is added to sqrt(v)."""
    return np.where(sums["eps"] > 0, sums["epsilon_dominated"] / sums["sampled"], math.nan)


def update_to_weight(sums: Sums) -> Any:
    """Size of the update to that of the weights; NaN for weights of 0."""
    return np.where(sums["theta_square"] > 0, np.sqrt(sums["update_square"] / sums["theta_square"]), math.nan)


def decay_share(sums: Sums) -> Any:
    """NaN without weight decay."""
    decays = (sums["decay"] != 0) | (sums["coupled"] != 0)
    return np.where(decays, sums["decay_dominated"] / sums["sampled"], math.nan)


def clipped_share(sums: Sums) -> Any:
    """NaN where nothing is known about clipping."""
    return np.where(sums["clip"] > 0, sums["clipped"] / sums["sampled"], math.nan)


def cosine(product: str, *squares: str | Callable[[Sums], Any]) -> Read:
    """Of two vectors by their product and their squares; NaN where one is 0."""

    def cosine(sums: Sums) -> Any:
        one, other = (sums[s] if isinstance(s, str) else s(sums) for s in squares)
        return np.where((one > 0) & (other > 0), sums[product] / np.sqrt(one) / np.sqrt(other), math.nan)

    return cosine


def ratio(square: str | Callable[[Sums], Any]) -> Read:
    """Size of a step with this square for lr = 1, times lr, to the size of the step that was taken."""

    def ratio(sums: Sums) -> Any:
        size = sums[square] if isinstance(square, str) else square(sums)
        there = (sums["move_square"] > 0) & (sums["lr"] > 0)
        return np.where(there, sums["lr"] * np.sqrt(size) / np.sqrt(sums["move_square"]), math.nan)

    return ratio


def sign_square(sums: Sums) -> Any:
    """Of sign m: the coordinates where m is not 0."""
    return sums["sampled"] - sums["still"]


# The largest step and distance depend on few numbers, which many tensors and steps share.
largest_step = lru_cache(maxsize=4096)(lambda b1, b2, t: float(bounds.max_step(b1, b2, t)))
flat_distance = lru_cache(maxsize=64)(lambda b1, b2: float(bounds.flat_distance(b1, b2)))


def share_of(bound: Callable[..., float], *numbers: str) -> Reading:
    """Mean |update| / lr as a share of a bound, NaN where the optimizer has no two decay rates."""
    needs = ("update_abs", "sampled", "lr", *numbers)

    def share(sums: Sums) -> Any:
        keys = np.stack([np.broadcast_to(sums[name], np.shape(sums["sampled"])) for name in numbers], -1)
        bounded = [math.nan if any(map(math.isnan, key)) else bound(*key) for key in map(tuple, keys.tolist())]
        value = sums["update_abs"] / sums["sampled"] / sums["lr"] / np.array(bounded)
        return np.where(sums["lr"] > 0, value, math.nan)

    return needs, share


OCTAVES = tuple(map(str, range(LOWEST - 1, HIGHEST + 2)))
PAIRS = tuple(f"{row},{column}" for row in range(LOWEST, LOWEST + JOINT) for column in range(LOWEST, LOWEST + JOINT))


def octaves(histogram: str) -> Reading:
    """Shares of coordinates by the whole part of log2 of the value, a 16th early; the outer ones hold the rest."""
    edges = np.arange(0, BINS - 3, BINS_PER_OCTAVE)

    def shares(sums: Sums) -> Any:
        counts = np.asarray(sums[histogram], float)
        found = np.zeros((*counts.shape[:-1], len(OCTAVES)))
        found[..., 0] = counts[..., 1]
        found[..., -1] = counts[..., -1]
        middle = counts[..., 2:-1]
        found[..., 1:-1] = np.add.reduceat(middle, edges, -1)
        return found / sums["sampled"][..., None]

    return (histogram, "sampled"), shares


def pairs(histogram: str) -> Reading:
    """Shares of coordinates by the cells of a joint histogram."""
    return (histogram, "sampled"), lambda sums: sums[histogram][..., 1:] / sums["sampled"][..., None]


# --- from step to step ------------------------------------------------------------------------------------------------


def flips(what: str) -> Read:
    """Share of opposite signs among the pairs without a 0."""
    return lambda sums: sums[f"series_{what}_flips"] / (sums["series_pairs"] - sums[f"series_{what}_still"])


def _correlations(sums: Sums) -> Any:
    """Of updates that lie 0, 1, ... steps apart; NaN where they are 0 or not there."""
    sizes = np.sqrt(np.asarray(sums["series_newer"])) * np.sqrt(np.asarray(sums["series_older"]))
    return np.where(sizes > 0, sums["series_products"] / sizes, math.nan)


def autocorrelation(sums: Sums) -> Any:
    """Of neighbouring updates."""
    return _correlations(sums)[..., 1]


def repetition(sums: Sums) -> Any:
    """The first maximum of the correlations that is high and has a negative value before it.

    n coordinates over 16 steps have a correlation of about 1/(4 sqrt n) by chance: four times that is asked for, but no
    more than 0.9, and no less than 0.5.
    """
    found = np.nan_to_num(_correlations(sums), nan=-1.0)
    middle, before, after = found[..., 2:-1], found[..., 1:-2], found[..., 3:]
    enough = np.clip(1 / np.sqrt(np.maximum(sums["series_size"], 1.0)), 0.5, 0.9)[..., None]
    dipped = np.minimum.accumulate(before, -1) < 0
    there = (middle >= enough) & (middle >= before) & (middle >= after) & dipped
    return np.where(there.any(-1), there.argmax(-1) + 2.0, math.nan)
