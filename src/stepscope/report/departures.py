"""What changed first between two runs, and where.

Two answers, because there are two questions.

*From which step on do they differ at all?*  The first step at which any recorded value is another one, bit for bit. Two
runs of the same program and seed agree until the first effect of what was changed between them.

*Where do they differ by more than their own noise?*  For each layer and column, in ``buckets`` equal stretches of the
steps that both have: the difference of the means, of their logarithms where all are positive. Its noise is the scatter
of both series about straight lines through their neighbours, robustly (median of absolute second differences, at
distances of 1, 2 and 4 stretches, the largest counts), so that a trend that both share is no noise. A departure begins
where the difference exceeds z times the noise, with the same sign, for ``IN_A_ROW`` stretches in a row. z is chosen so
that, if noise were normal and independent, all series together would give a false departure in one comparison of a
hundred. Noise that wanders over more than four stretches is not in the estimate: differences between runs of different
seeds are such, and are found.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stepscope.errors import UserError
from stepscope.report.history import History, histories

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["Comparison", "Departure", "Difference", "compare", "departures"]

BUCKETS = 120
IN_A_ROW = 3
FALSE_ALARMS = 0.01
_FLOOR = 1e-6  # of a series' size: below, a difference is rounding
WHOLE = ""  # the layer of the run as a whole


@dataclass(frozen=True)
class Difference:
    """The first value that is not the same in both runs; NaN where it was not written in one of them."""

    step: int
    layer: str
    column: str
    a: float
    b: float
    others: int
    """Further values that differ at that step."""


@dataclass(frozen=True)
class Departure:
    """A layer's column that leaves its noise: from ``step`` on, by ``sigmas`` of the noise of the difference.

    a, b: its means over the stretches that decide.  relative: of their logarithms.
    """

    step: int
    layer: str
    column: str
    a: float
    b: float
    sigmas: float
    relative: bool


@dataclass(frozen=True)
class Comparison:
    """Two runs over the steps that both have.

    first: None where they agree bit for bit.  departures: the earliest first, then the clearest.  pairs: the histories
    of both, by column.  threshold: z as above.  series: how many layers and columns were compared.
    """

    names: tuple[str, str]
    span: tuple[int, int]
    layers: tuple[str, ...]
    first: Difference | None
    departures: Sequence[Departure]
    pairs: Sequence[tuple[History, History]]
    threshold: float
    series: int
    settings: Sequence[tuple[str, str, str]]
    only: tuple[Sequence[str], Sequence[str]]
    """Layers and columns that one of them lacks."""

    def summary(self) -> dict[str, Any]:
        """The same as plain data, without the histories."""
        return {
            "runs": list(self.names),
            "steps": list(self.span),
            "settings": [{"name": name, "a": a, "b": b} for name, a, b in self.settings],
            "first_difference": None if self.first is None else vars(self.first),
            "departures": [vars(departure) for departure in self.departures],
            "threshold_sigmas": self.threshold,
            "series_compared": self.series,
            "only_in_a": list(self.only[0]),
            "only_in_b": list(self.only[1]),
        }


def compare(a: "Run", b: "Run", names: tuple[str, str], settings: Sequence[tuple[str, str, str]] = ()) -> Comparison:
    """Compare two runs.  Raises: UserError if they have no step, or no layer and column, in common."""
    if a.steps is None or b.steps is None:
        raise UserError(
            f"nothing was recorded in {(a if a.steps is None else b).folder} yet; there is nothing to compare."
        )
    span = max(a.steps[0], b.steps[0]), min(a.steps[1], b.steps[1])
    if span[0] > span[1]:
        raise UserError(
            f"{a.folder} holds steps {a.steps[0]} to {a.steps[1]}, {b.folder} steps {b.steps[0]} to {b.steps[1]}: "
            "they have none in common. Compare runs of the same length."
        )
    in_a, in_b = ({*run.layers, *([WHOLE] if WHOLE in run.rows else [])} for run in (a, b))
    layers = tuple(name for name in [WHOLE, *a.layers] if name in in_a & in_b)
    found = [{one.column: one for one in histories(run, layers, BUCKETS, span)} for run in (a, b)]
    pairs = [(one, found[1][column]) for column, one in found[0].items() if column in found[1]]
    if not pairs:
        raise UserError(f"{a.folder} and {b.folder} have no layer and column in common; there is nothing to compare.")
    series = sum(_counted(one, other) for one, other in pairs)
    threshold = needed(series, len(pairs[0][0].steps))
    departed = sorted(
        (departure for one, other in pairs for departure in departures(one, other, layers, threshold)),
        key=lambda departure: (departure.step, -departure.sigmas),
    )
    only = [
        [*sorted(mine - theirs), *(name for name in columns if name not in others)]
        for mine, theirs, columns, others in ((in_a, in_b, found[0], found[1]), (in_b, in_a, found[1], found[0]))
    ]
    first = _first(a, b, pairs, layers)
    return Comparison(names, span, layers, first, departed, pairs, threshold, series, settings, (only[0], only[1]))


def needed(series: int, stretches: int) -> float:
    """How many sigmas make a departure, so that one comparison in a hundred has a false one.

    Of ``series`` x ``stretches`` starts each is one with the probability 2 q^IN_A_ROW, q being that of a normal number
    above z.

    >>> round(needed(1, 100), 2), round(needed(10_000, 100), 2)
    (1.79, 2.93)
    """
    chance = (FALSE_ALARMS / max(series * stretches, 1) / 2) ** (1 / IN_A_ROW)
    return -NormalDist().inv_cdf(chance)


def departures(one: History, other: History, layers: Sequence[str], threshold: float) -> Iterator[Departure]:
    """The layers in which a column of two runs departs, each where it first does."""
    for place, layer in enumerate(layers):
        a, b = one.mean[place].astype(float), other.mean[place].astype(float)
        known = np.isfinite(a) & np.isfinite(b)
        if known.sum() < 2 * IN_A_ROW or np.array_equal(a[known], b[known]):
            continue
        at = np.flatnonzero(known)
        a, b = a[known], b[known]
        relative = bool((a > 0).all() and (b > 0).all())
        x, y = (np.log(a), np.log(b)) if relative else (a, b)
        floor = _FLOOR if relative else _FLOOR * float(np.abs(np.r_[x, y]).max())
        noise = max(math.hypot(scatter(x), scatter(y)), floor)
        score = (y - x) / noise
        start = _first_run(score, threshold)
        if start is not None:
            inside = slice(start, start + IN_A_ROW)
            yield Departure(
                int(one.edges[at[start]]),
                layer,
                one.column,
                float(a[inside].mean()),
                float(b[inside].mean()),
                float(np.abs(score[inside]).min()),
                relative,
            )


def scatter(values: NDArray[np.float64]) -> float:
    """Standard deviation of a series about straight lines through its neighbours: the largest over three distances.

    A second difference at distance d, x[t-d] - 2 x[t] + x[t+d], has 6 times the variance of independent noise, and
    0.6745 sigma is the median of |normal|.
    """
    found = [0.0]
    for distance in (1, 2, 4):
        if len(values) > 2 * distance:
            second = values[: -2 * distance] - 2 * values[distance:-distance] + values[2 * distance :]
            found.append(float(np.median(np.abs(second))) / 0.6745 / math.sqrt(6))
    return max(found)


def _first_run(score: NDArray[np.float64], threshold: float) -> int | None:
    """Where the score first stays beyond the threshold, on one side, for IN_A_ROW places."""
    found = []
    for side in (score, -score):
        in_a_row = np.convolve(side > threshold, np.ones(IN_A_ROW, int), "valid")
        found += np.flatnonzero(in_a_row == IN_A_ROW).tolist()[:1]
    return min(found, default=None)


def _counted(one: History, other: History) -> int:
    return int((np.isfinite(one.mean).any(axis=1) & np.isfinite(other.mean).any(axis=1)).sum())


def _first(a: "Run", b: "Run", pairs: Sequence[tuple[History, History]], layers: Sequence[str]) -> Difference | None:
    """Found by stretch, then by step: only the first stretch with a difference is read value by value."""
    starts = []
    for one, other in pairs:
        same = (
            (one.low == other.low) & (one.mean == other.mean) & (one.high == other.high) & (one.broken == other.broken)
        )
        differs = ~(same | (np.isnan(one.mean) & np.isnan(other.mean) & (one.broken == other.broken)))
        at = np.flatnonzero(differs.any(axis=0))
        starts.append(int(at[0]) if at.size else len(one.steps))
    earliest = min(starts)
    edges = pairs[0][0].edges
    if earliest == len(edges) - 1:
        return None
    names = [one.column for (one, _), start in zip(pairs, starts, strict=True) if start == earliest]
    span = (int(edges[earliest]), int(edges[earliest + 1]) - 1)
    values = [_values(run, names, layers, span) for run in (a, b)]
    unequal = [
        (step, place, number)
        for step, place in sorted(values[0].keys() | values[1].keys())
        for number in range(len(names))
        if not _same(_value(values[0], step, place, number), _value(values[1], step, place, number))
    ]
    if not unequal:
        return None
    step, place, number = unequal[0]
    ours, theirs = (_value(one, step, place, number) for one in values)
    others = sum(other[0] == step for other in unequal) - 1
    return Difference(step, layers[place], names[number], ours, theirs, others)


_Values = dict[tuple[int, int], list[float]]


def _values(run: "Run", names: Sequence[str], layers: Sequence[str], span: tuple[int, int]) -> _Values:
    table = run.table(*names, layers=list(layers), steps=span)
    places = {name: place for place, name in enumerate(layers)}
    keys = zip(table["step"].to_pylist(), (places[name] for name in table["layer"].to_pylist()), strict=True)
    rows = np.stack([table[name].to_numpy() for name in names], axis=1).tolist()
    return dict(zip(keys, rows, strict=True))


def _value(values: _Values, step: int, place: int, number: int) -> float:
    row = values.get((step, place))
    return math.nan if row is None else row[number]


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
