"""What each ingredient of Adam does to an outcome: 2 x 2 contrasts, paired by seed; and methods in pairs.

                    no variance adaptation   variance adaptation
    no sign         M-SGD                    M-SVAG
    sign            M-SSD                    Adam

The four cells of one seed share initial weights and mini-batches, so every contrast is taken within a seed and only
its variation over seeds counts as noise. All contrasts are linear in the outcome, or in its logarithm for a loss, where
they become factors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from scipy.special import stdtr, stdtrit

__all__ = [
    "ALPHA",
    "Comparison",
    "Contrast",
    "Effect",
    "EffectName",
    "Outcome",
    "Student",
    "Verdict",
    "comparisons",
    "contrasts",
    "effects",
    "holm",
    "student",
]

EffectName = Literal["sign", "variance_adaptation", "interaction"]
Verdict = Literal["helps", "hurts", "no difference", "cannot tell"]

ALPHA: Final = 0.05  # of the Holm-corrected p value; intervals cover 1 - ALPHA
FACTOR_MARGIN: Final = math.log(1.05)  # a loss within 5 % either way counts as the same
SHARE_MARGIN: Final = 0.005  # so does a metric between 0 and 1 within half a point
ROUNDING: Final = 1e-9  # contrasts of a metric on a lattice that are equal may differ by this share of themselves
RESOLUTION: Final = (
    1e-6  # losses are float32 averages: a smaller relative contrast is rounding, and counts as exactly 0
)


@dataclass(frozen=True)
class Outcome:
    """One final number per method and seed.

    values: method -> seed -> value, None where the run did not finish; a method without a stable step size has no
    seeds.  unit: what the number is called in a sentence, such as "loss" or "accuracy".  is_share: a metric that is a
    share between 0 and 1, spoken of in points of a hundred.
    """

    name: Literal["train_loss", "test_loss", "test_metric"]
    unit: str
    higher_is_better: bool
    values: Mapping[str, Mapping[int, float | None]]
    is_share: bool = False

    def finite(self) -> list[float]:
        """All values there are."""
        return [value for runs in self.values.values() for value in runs.values() if value is not None]

    @property
    def scale(self) -> Literal["ratio", "difference"]:
        """A loss whose values are all positive is compared by factors, everything else by differences."""
        return "ratio" if self.name != "test_metric" and all(value > 0 for value in self.finite()) else "difference"

    @property
    def margin(self) -> float | None:
        """The largest effect that counts as no difference (a log factor on the ratio scale); None: none is known."""
        return FACTOR_MARGIN if self.scale == "ratio" else SHARE_MARGIN if self.is_share else None


@dataclass(frozen=True)
class Student:
    """A mean with its 95 % Student-t interval and two-sided p value; None where one value says nothing about them."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A contrast of one outcome. On the ratio scale estimate, low, high and per_seed are factors (1: no effect)."""

    outcome: Outcome
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    per_seed: tuple[float, ...]
    missing: Mapping[str, tuple[int, ...] | None]  # method -> seeds that did not finish; None: no stable step size
    negligible: bool  # the interval lies wholly inside the margin: the effect may be certain, but it is small
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Effect(Contrast):
    """What an ingredient does, with `adam_cell` in the fourth cell."""

    adam_cell: str
    effect: EffectName


@dataclass(frozen=True, kw_only=True)
class Comparison(Contrast):
    """What `method` does instead of `baseline`."""

    method: str
    baseline: str


def student(values: Sequence[float]) -> Student:
    """Student's t for the mean of independent normal values.

    Values that do not vary say nothing about how much they could: no interval then, and the exact sign-flip p value
    2^(1-n) that all of them fall on one side.  If all are 0 there is no effect: interval 0 to 0, p = 1.

    >>> test = student([1.0, 2.0, 3.0])  # 2 +- 4.3027 / sqrt(3)
    >>> test.mean, round(test.low, 4), round(test.high, 4), round(test.p, 4)
    (2.0, -0.4841, 4.4841, 0.0742)
    """
    n = len(values)
    if n < 2:
        return Student(values[0] if values else None)
    mean = math.fsum(values) / n
    if max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        return Student(mean, p=2.0 ** (1 - n)) if mean else Student(0.0, 0.0, 0.0, 1.0)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * error
    return Student(mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: rejecting where the result is below alpha errs anywhere with probability <= alpha.

    Source: [holm1979].

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def contrasts(msgd: float, mssd: float, msvag: float, adam: float, *, rounding: float = 0.0) -> dict[EffectName, float]:
    """The three contrasts of the 2 x 2 cells: main effects averaged over the other ingredient, and their interaction.

    A contrast of at most ``rounding`` either way is 0.

    >>> contrasts(msgd=4.0, mssd=2.0, msvag=3.0, adam=0.5)
    {'sign': -2.25, 'variance_adaptation': -1.25, 'interaction': -0.5}
    """
    raw: dict[EffectName, float] = {
        "sign": ((adam - msvag) + (mssd - msgd)) / 2,
        "variance_adaptation": ((adam - mssd) + (msvag - msgd)) / 2,
        "interaction": (adam - mssd) - (msvag - msgd),
    }
    return {name: 0.0 if abs(value) <= rounding else value for name, value in raw.items()}


def effects(outcome: Outcome, adam_cell: str) -> list[Effect]:
    """The three effects on one outcome, with ``adam_cell`` in the place of Adam; Holm's correction is over the three.

    Only seeds on which all four cells finished count.
    """
    cells = ("msgd", "mssd", "msvag", adam_cell)
    outcome = replace(outcome, values={method: outcome.values[method] for method in cells})
    seeds = sorted({seed for method in cells for seed in outcome.values[method]})
    rows = [[outcome.values[method].get(seed) for method in cells] for seed in seeds]
    complete = [[value for value in row if value is not None] for row in rows if None not in row]
    is_ratio = outcome.scale == "ratio"
    if is_ratio:
        paired = [contrasts(*map(math.log, row), rounding=RESOLUTION) for row in complete]
    else:
        paired = [contrasts(*row, rounding=RESOLUTION * max(map(abs, row))) for row in complete]
    missing = _missing(outcome, cells)
    names: tuple[EffectName, ...] = ("sign", "variance_adaptation", "interaction")
    tests = {name: student([seed[name] for seed in paired]) for name in names}
    corrected = _corrected(tests)
    return [
        Effect(
            adam_cell=adam_cell,
            effect=name,
            **_told(outcome, test, corrected.get(name), [seed[name] for seed in paired], missing),
        )
        for name, test in tests.items()
    ]


def comparisons(outcome: Outcome, methods: Sequence[str], baseline: str) -> list[Comparison]:
    """Each method against the baseline, paired by seed; Holm's correction is over all of them.

    Only seeds on which both finished count.
    """
    is_ratio = outcome.scale == "ratio"
    tests: dict[str, Student] = {}
    paired: dict[str, list[float]] = {}
    base = outcome.values[baseline]
    for method in methods:
        rows = [(base.get(seed), value) for seed, value in sorted(outcome.values[method].items())]
        both = [(a, b) for a, b in rows if a is not None and b is not None]
        gaps = [math.log(b) - math.log(a) if is_ratio else b - a for a, b in both]
        slack = [RESOLUTION * (1 if is_ratio else max(abs(a), abs(b))) for a, b in both]
        paired[method] = [0.0 if abs(gap) <= s else gap for gap, s in zip(gaps, slack, strict=True)]
        tests[method] = student(paired[method])
    corrected = _corrected(tests)
    return [
        Comparison(
            method=method,
            baseline=baseline,
            **_told(outcome, test, corrected.get(method), paired[method], _missing(outcome, (baseline, method))),
        )
        for method, test in tests.items()
    ]


def _missing(outcome: Outcome, methods: Sequence[str]) -> dict[str, tuple[int, ...] | None]:
    return {
        method: tuple(seed for seed, value in outcome.values[method].items() if value is None) or None
        for method in methods
        if not outcome.values[method] or None in outcome.values[method].values()
    }


def _corrected(tests: Mapping[Any, Student]) -> dict[Any, float]:
    """Holm's p values of the tests that have one."""
    known = {name: test.p for name, test in tests.items() if test.p is not None}
    return dict(zip(known, holm([*known.values()]), strict=True))


def _told(
    outcome: Outcome,
    test: Student,
    p_holm: float | None,
    paired: Sequence[float],
    missing: Mapping[str, tuple[int, ...] | None],
) -> dict[str, Any]:
    """The fields of a contrast from its values by seed, which are logarithms on the ratio scale."""
    is_ratio = outcome.scale == "ratio"

    def back(value: float | None) -> float | None:
        return _factor(value) if is_ratio and value is not None else value

    return {
        "outcome": outcome,
        "estimate": back(test.mean),
        "low": back(test.low),
        "high": back(test.high),
        "p": test.p,
        "p_holm": p_holm,
        "per_seed": tuple(_factor(value) if is_ratio else value for value in paired),
        "missing": missing,
        "negligible": _is_negligible(test, outcome.margin),
        "verdict": _verdict(test, p_holm, outcome),
    }


def _factor(logarithm: float) -> float:
    """The factor, 1e304 at most: the interval of two seeds can reach beyond the largest float."""
    return math.exp(min(logarithm, 700.0))


def _is_negligible(test: Student, margin: float | None) -> bool:
    if test.low is None or test.high is None:
        return False
    return test.low == test.high == 0 or (margin is not None and -margin < test.low and test.high < margin)


def _verdict(test: Student, p_holm: float | None, outcome: Outcome) -> Verdict:
    """The corrected p value decides first, so a small effect can help or hurt; then the interval and the margin."""
    if test.mean is None or p_holm is None:
        return "cannot tell"
    if p_holm < ALPHA:
        return "helps" if (test.mean > 0) == outcome.higher_is_better else "hurts"
    return "no difference" if _is_negligible(test, outcome.margin) else "cannot tell"
