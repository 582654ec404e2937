"""From the results of a dissection to the numbers that the report shows. No drawing, no rounding."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepscope.report import style, text

__all__ = [
    "Arm",
    "Arrow",
    "Comparison",
    "Curve",
    "Effect",
    "Measure",
    "Summary",
    "arms",
    "arrows",
    "comparisons",
    "curves",
    "effects",
    "loss",
    "measure",
]


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1 in the denominator; None for a single value) over ``n`` of ``total`` seeds."""

    mean: float | None
    deviation: float | None
    n: int
    total: int


@dataclass(frozen=True)
class Measure:
    """How an outcome is shown: ``scale`` times the stored value, in ``unit``.

    is_share: it lies between 0 and 1, so that differences are spoken of in points of a hundred.
    """

    column: str
    name: str
    higher_is_better: bool
    scale: float = 1
    unit: str = ""
    is_share: bool = False

    @property
    def difference_scale(self) -> float:
        """What differences of stored values are multiplied with."""
        return 100 if self.is_share else self.scale

    @property
    def difference_unit(self) -> str:
        """The unit of differences."""
        return "points" if self.is_share else self.unit

    def show(self, summary: Summary) -> str:
        """Mean and deviation with the unit: "97.3 ± 0.2 %"."""
        mean = None if summary.mean is None else summary.mean * self.scale
        deviation = None if summary.deviation is None else summary.deviation * self.scale
        return text.plus_minus(mean, deviation) + (f" {self.unit}" if self.unit and mean is not None else "")

    def value(self, value: float | None) -> str:
        """One value with the unit."""
        if value is None:
            return text.MISSING
        return text.number(value * self.scale) + (f" {self.unit}" if self.unit else "")

    def difference(self, value: float | None, unit: bool = True) -> str:
        """A difference with its sign and, unless told otherwise, its unit. Points have two decimals."""
        if value is None:
            return text.MISSING
        words = text.signed(value * self.difference_scale, decimals=2 if self.is_share else None)
        return f"{words} {self.difference_unit}" if unit and self.difference_unit else words


def measure(results: Mapping[str, Any], split: str = "test") -> Measure:
    """The quality measured on a split: the problem's metric, or the loss where it has none.

    An accuracy is shown in percent, differences of any metric that is a share in points of a hundred.
    """
    problem = results["problem"]
    name = problem.get("metric")
    if not name:
        return loss(split)
    better = bool(problem.get("higher_is_better", True))
    is_share = bool(problem.get("metric_is_share", False))
    if name == "accuracy":
        return Measure(f"{split}_metric", f"{split} accuracy", better, scale=100, unit="%", is_share=True)
    return Measure(f"{split}_metric", f"{split} {name}", better, is_share=is_share)


def loss(split: str) -> Measure:
    """The loss on a split."""
    return Measure(f"{split}_loss", f"{'training' if split == 'train' else split} loss", higher_is_better=False)


LOSS = loss("train")


@dataclass(frozen=True)
class Arm:
    """One method with its tuned step size and its runs; ``finished`` counts the runs that ended well."""

    method: str
    label: str
    sign: bool
    adapted: bool
    matched: bool
    formula: str
    other: int | None  # its number among the methods outside the square of four
    lr: float | None
    edge: str | None
    tuning: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]

    @property
    def look(self) -> style.Look:
        """How the method is drawn."""
        return style.look(self.sign, self.adapted, self.matched, self.other)

    @property
    def finished(self) -> Sequence[Mapping[str, Any]]:
        """The runs that ended well."""
        return [run for run in self.runs if run.get("status") == "ok" and run.get("evaluations")]

    def finals(self, column: str) -> dict[int, float]:
        """The last evaluation of each finished run: {seed: value}."""
        values = {run["seed"]: run["evaluations"][-1].get(column) for run in self.finished}
        return {seed: value for seed, value in values.items() if value is not None}

    def final(self, column: str) -> Summary:
        """Mean and deviation of the last evaluation over the finished runs."""
        return _summary(self.finals(column).values(), len(self.runs))


def _summary(values: Iterable[float], total: int) -> Summary:
    found = [*values]
    mean = statistics.fmean(found) if found else None
    return Summary(mean, statistics.stdev(found) if len(found) > 1 else None, len(found), total)


def arms(results: Mapping[str, Any]) -> list[Arm]:
    """The arms in the order of the results."""
    others = [arm["method"] for arm in results["arms"] if arm.get("role") == "other"]
    return [
        Arm(
            method=str(arm["method"]),
            label=str(arm.get("label") or arm["method"]),
            sign=bool(arm.get("sign")),
            adapted=bool(arm.get("variance_adaptation")),
            matched=arm.get("role") == "matched",
            formula=str(arm.get("formula") or ""),
            other=others.index(arm["method"]) if arm["method"] in others else None,
            lr=arm.get("lr"),
            edge=arm.get("lr_at_edge"),
            tuning=sorted(
                (trial for trial in arm.get("tuning") or () if trial.get("lr")), key=lambda trial: trial["lr"]
            ),
            runs=arm.get("runs") or (),
        )
        for arm in results["arms"]
    ]


@dataclass(frozen=True)
class Arrow:
    """What one step from a cell to its neighbour changes, over the ``seeds`` that both finished.

    ratio: of the final training losses, geometric mean; difference: of the final quality, mean. None: not known.
    """

    effect: str
    source: Arm
    target: Arm
    ratio: float | None
    difference: float | None
    seeds: int


def arrows(found: Sequence[Arm], quality: Measure) -> dict[str, Arrow]:
    """The four arrows of the 2x2 picture, by place: "sign/plain", "sign/adapted", "variance/plain", "variance/sign"."""
    cells = {(arm.sign, arm.adapted): arm for arm in found if not arm.matched and arm.other is None}
    places = {
        "sign/plain": ((False, False), (True, False)),
        "sign/adapted": ((False, True), (True, True)),
        "variance/plain": ((False, False), (False, True)),
        "variance/sign": ((True, False), (True, True)),
    }
    return {
        place: _arrow(place.partition("/")[0], cells[start], cells[end], quality)
        for place, (start, end) in places.items()
        if start in cells and end in cells
    }


def _arrow(effect: str, source: Arm, target: Arm, quality: Measure) -> Arrow:
    before, after = source.finals(LOSS.column), target.finals(LOSS.column)
    seeds = sorted(before.keys() & after.keys())
    ratio = None
    if seeds and all(before[seed] > 0 and after[seed] > 0 for seed in seeds):
        ratio = math.exp(statistics.fmean(math.log(after[seed] / before[seed]) for seed in seeds))
    old, new = source.finals(quality.column), target.finals(quality.column)
    both = sorted(old.keys() & new.keys())
    difference = statistics.fmean(new[seed] - old[seed] for seed in both) if both else None
    return Arrow(effect, source, target, ratio, difference, len(seeds))


@dataclass(frozen=True)
class Effect:
    """One row of the table of effects; ``low`` and ``high`` bound the 95 % interval."""

    adam_cell: str
    outcome: str
    effect: str
    ratio: bool
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds: int
    verdict: str
    sentence: str


def effects(results: Mapping[str, Any]) -> list[Effect]:
    """The effects in the order of the results."""
    return [
        Effect(
            adam_cell=str(row["adam_cell"]),
            outcome=str(row["outcome"]),
            effect=str(row["effect"]),
            ratio=row.get("scale") == "ratio",
            estimate=row.get("estimate"),
            low=row.get("low"),
            high=row.get("high"),
            p=row.get("p"),
            p_holm=row.get("p_holm"),
            seeds=int(row.get("seeds") or 0),
            verdict=str(row.get("verdict") or "cannot tell"),
            sentence=str(row.get("sentence") or ""),
        )
        for row in results.get("effects") or ()
    ]


@dataclass(frozen=True)
class Comparison:
    """One row of the table of methods against the baseline."""

    method: str
    baseline: str
    outcome: str
    ratio: bool
    estimate: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    seeds: int
    verdict: str


def comparisons(results: Mapping[str, Any]) -> list[Comparison]:
    """The comparisons in the order of the results; none where the square of four is all there is."""
    return [
        Comparison(
            method=str(row["method"]),
            baseline=str(row["baseline"]),
            outcome=str(row["outcome"]),
            ratio=row.get("scale") == "ratio",
            estimate=row.get("estimate"),
            low=row.get("low"),
            high=row.get("high"),
            p_holm=row.get("p_holm"),
            seeds=int(row.get("seeds") or 0),
            verdict=str(row.get("verdict") or "cannot tell"),
        )
        for row in results.get("comparisons") or ()
    ]


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over the finished seeds, at the steps that all of them evaluated."""

    arm: Arm
    steps: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def curves(found: Sequence[Arm], column: str) -> list[Curve]:
    """One curve per arm that has a finished run with this column; the deviation of a single seed is 0."""
    return [curve for arm in found for curve in _curve(arm, column)]


def _curve(arm: Arm, column: str) -> Iterator[Curve]:
    runs = [
        {point["step"]: point[column] for point in run["evaluations"] if point.get(column) is not None}
        for run in arm.finished
    ]
    runs = [run for run in runs if run]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if steps:
        values = np.array([[run[step] for step in steps] for run in runs], dtype=float)
        deviation = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
        yield Curve(arm, np.array(steps), values.mean(axis=0), deviation)
