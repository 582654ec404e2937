"""How values are read off sums and histograms: each a function of the sums, with the names of those it reads."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import parts
from stepscope.rules.statistics import BINS, BINS_PER_OCTAVE, CENTRES, HIGHEST, JOINT, LOWEST, RANK_ERROR, quantile
from stepscope.scope.instrument import Read, Sums
from stepscope.theory import bounds

Reading = tuple[tuple[str, ...], Read]  # what is read, and how


_ROOM = 1 << 18  # numbers at least: as many as are usual, so that it does not grow step by step


class Sheet(dict[str, Any]):
    """Sums by name, which does but once what several readings share.

    scratch: memory that is kept from one sheet to the next; fresh pages would cost more than the sums.
    """

    def __init__(self, sums: Sums, scratch: "dict[Any, Any] | None" = None) -> None:
        super().__init__(sums)
        self._known: dict[Any, Any] = {}
        self._scratch = {} if scratch is None else scratch

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, kept under the key."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def room(self, key: Any, shape: tuple[int, ...]) -> Any:
        """An array of this shape, to be filled and used as long as the sheet is."""
        size = math.prod(shape)
        if key not in self._scratch or self._scratch[key].size < size:
            self._scratch[key] = np.empty(max(size, _ROOM))
        return self._scratch[key][:size].reshape(shape)


def _room(sums: Sums, key: Any, shape: tuple[int, ...]) -> Any:
    return sums.room(key, shape) if isinstance(sums, Sheet) else np.empty(shape)


def _once(sums: Sums, key: Any, compute: Callable[[], Any]) -> Any:
    return sums.once(key, compute) if isinstance(sums, Sheet) else compute()


def _quantile(sums: Sums, histogram: str, q: float) -> Any:
    """As `statistics.quantile`, of many rows at once: a search in running totals over all of them."""

    def totals() -> Any:
        counts = np.asarray(sums[histogram])[..., 1:]
        found = _room(sums, (histogram, "totals"), counts.shape)
        np.copyto(found, counts)  # cumsum with a dtype takes four times as long
        return np.cumsum(found, out=found.reshape(-1))

    def found() -> Any:
        shape = np.shape(sums[histogram])[:-1]
        ranks = _once(sums, (histogram, "totals"), totals)
        ends = ranks[BINS - 2 :: BINS - 1]
        starts = np.concatenate([[0.0], ends[:-1]])
        rows = np.arange(len(ends)) * (BINS - 1)
        below = np.searchsorted(ranks, starts + q * (ends - starts) - RANK_ERROR) - rows
        return quantile(NUMPY, None, q, np.where(ends > starts, below, -1).reshape(shape))

    return _once(sums, (histogram, q), found)


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

    def counts() -> Any:
        counts = np.asarray(sums["spread_histogram"])[..., 1:]
        found = _room(sums, "finite", counts.shape)
        np.copyto(found, counts)
        found[..., -1] -= sums["spread_infinite"]
        return found

    return _once(sums, "finite", counts)


def spread_mean(sums: Sums) -> Any:
    """Over the spreads that are not infinite."""

    def mean() -> Any:
        counts = _finite_counts(sums)
        return counts @ _SPREADS / counts.sum(-1)

    return _once(sums, "mean", mean)


def spread_log_mean(sums: Sums) -> Any:
    """Over the spreads in the range of the histogram, without its ends."""
    inside = sums["spread_histogram"][..., 2:-1]
    if isinstance(sums, Sheet) and "spread_infinite" in sums:
        inside = _finite_counts(sums)[..., 1:-1]  # the same there
    return inside @ np.log(_SPREADS[1:-1]) / inside.sum(-1)


_FACTORED = ("spread_histogram", "spread_infinite", "sampled")


def factor_mean(factor: Callable[[Any, Any], Any], scale: str | None = None) -> Reading:
    """Mean of a factor over all coordinates, 0 where m = 0; `scale` names the tensors' multiple of v - m^2."""

    def mean(sums: Sums) -> Any:
        counts = _finite_counts(sums)
        scales = np.broadcast_to(1.0 if scale is None else sums[scale], counts.shape[:-1])
        # Few are different: the scale depends on the decay rate and the number of gradients.
        different, place = np.unique(scales, return_inverse=True)
        factors = factor(NUMPY, different[:, None] * _SPREADS**2)
        each = np.take(factors, place.reshape(scales.shape), axis=0, out=_room(sums, "factors", counts.shape))
        # Row by row, so that a row's bits do not depend on those that are read with it.
        total = np.einsum("...i,...i->...", counts, each)
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


largest_step = bounds.max_step
_flat_distance = lru_cache(maxsize=64)(lambda b1, b2: float(bounds.flat_distance(b1, b2)))  # a search, of few numbers
flat_distance = np.vectorize(_flat_distance, otypes=[np.float64])


def share_of(bound: Callable[..., Any], *numbers: str) -> Reading:
    """Mean |update| / lr as a share of a bound, NaN where the optimizer has no two decay rates."""
    needs = ("update_abs", "sampled", "lr", *numbers)

    def share(sums: Sums) -> Any:
        shape = np.shape(sums["sampled"])
        keys = np.stack([np.broadcast_to(np.asarray(sums[name], float), shape).ravel() for name in numbers])
        there = ~np.isnan(keys).any(0)
        # Many tensors and steps share them.
        places = {key: i for i, key in enumerate(dict.fromkeys(zip(*keys[:, there].tolist(), strict=True)))}
        bounded = np.full(keys.shape[1], math.nan)
        if places:
            found = np.asarray(bound(*map(np.array, zip(*places, strict=True))), float)
            bounded[there] = found[[places[key] for key in zip(*keys[:, there].tolist(), strict=True)]]
        value = sums["update_abs"] / sums["sampled"] / sums["lr"] / bounded.reshape(shape)
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


def coordinate(field: str, place: int) -> Reading:
    """Of a traced coordinate; NaN where the tensor has none, or its row is that of several tensors."""

    def value(sums: Sums) -> Any:
        return np.where(sums["trace_there"][..., place] > 0, sums[f"trace_{field}"][..., place], math.nan)

    return (f"trace_{field}", "trace_there"), value
