"""Reading the runs of methods that were compared: final values and curves, and tests paired by seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from stepscope.experiments.claims.claim import Finding, Verdict
from stepscope.experiments.claims.statistics import equivalent, mean_of
from stepscope.experiments.papers.experiment import Stored

__all__ = ["Curves", "above", "fractional", "same", "so_far"]


class Curves:
    """The arms of a stored run: each with runs, and these with columns over "step"."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.arms = {arm["method"]: arm for arm in stored["arms"]}

    def at(self, method: str, column: str, share: float = 1.0) -> dict[int, float]:
        """By seed, the value at the evaluation nearest to a share of the steps; of runs that did not diverge."""
        found = {}
        for run in self.arms.get(method, {"runs": ()})["runs"]:
            steps = run["step"]
            if run["status"] == "ok" and steps and run[column][-1] is not None:
                place = min(range(len(steps)), key=lambda i: abs(steps[i] - share * self.stored["steps"]))
                found[run["seed"]] = float(run[column][place])
        return found

    def paired(
        self, column: str, methods: Sequence[str], share: float = 1.0, log: bool = False
    ) -> list[tuple[float, ...]]:
        """A tuple of the methods' values for each seed that all of them finished."""
        values = [self.at(method, column, share) for method in methods]
        seeds = sorted(set.intersection(*map(set, values)))
        wrap: Callable[[float], float] = math.log if log else float
        return [tuple(wrap(one[seed]) for one in values) for seed in seeds]

    def band(self, method: str, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps, mean and standard deviation over seeds, where all of them are."""
        runs = [run for run in self.arms[method]["runs"] if run["status"] == "ok" and run[column][-1] is not None]
        if not runs:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        steps = sorted(set.intersection(*(set(run["step"]) for run in runs)))
        places: list[Mapping[int, int]] = [{step: i for i, step in enumerate(run["step"])} for run in runs]
        table = np.array([[run[column][at[s]] for s in steps] for run, at in zip(runs, places, strict=True)], float)
        deviation = table.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
        return np.array(steps), table.mean(axis=0), deviation


def above(values: Sequence[float], said: str, threshold: float = 0.0, unit: str = "") -> Finding:
    """Is the mean of paired values above the threshold? By its 95 % interval; `said` names the value."""
    if len(values) < 2:
        return _too_few(values, said)
    m = mean_of([value - threshold for value in values])
    verdict = Verdict.HOLDS if m.low > 0 else Verdict.FAILS if m.high < 0 else Verdict.UNDECIDED
    low, high = m.low + threshold, m.high + threshold
    text = f"{said}: {m.mean + threshold:.3g}{unit}, 95 % interval {low:.3g} to {high:.3g}, {m.n} seeds"
    condition = "more seeds" if verdict is Verdict.UNDECIDED else ""
    return Finding(verdict, text, condition, n=m.n, error=m.error, interval=(low, high), p=m.p)


def same(values: Sequence[float], margin: float, said: str) -> Finding:
    """Is the mean of paired values within the margin? Two one-sided tests."""
    if len(values) < 2:
        return _too_few(values, said)
    verdict, m = equivalent(values, margin)
    text = f"{said}: {m.mean:.3g}, 95 % interval {m.low:.3g} to {m.high:.3g}, margin {margin:.3g}, {m.n} seeds"
    condition = "more seeds" if verdict is Verdict.UNDECIDED else ""
    return Finding(verdict, text, condition, n=m.n, error=m.error, interval=(m.low, m.high))


def fractional(finding: Finding, stored: Stored) -> Finding:
    """A fraction of the protocol never decides the paper's sentence: whatever it finds, it indicates."""
    if not stored["extent"]:
        return finding
    if finding.verdict is Verdict.CANNOT:
        return replace(finding, measured=f"{finding.measured} ({stored['extent']})")
    words = {
        Verdict.HOLDS: "for the sentence",
        Verdict.HOLDS_IF: f"for the sentence, if {finding.condition}",
        Verdict.FAILS: "against the sentence",
    }
    leaning = words.get(finding.verdict, "neither way")
    text = f"{finding.measured} ({leaning}; {stored['extent']})"
    return replace(finding, verdict=Verdict.INDICATES, measured=text, condition="", p=None)


def so_far(note: str, done: int, planned: int) -> str:
    """The note of an extent, and how many of its runs are done, while that is not all of them."""
    return note if done == planned else f"{note or 'A fraction of the protocol'}, so far {done} of {planned} runs"


def _too_few(values: Sequence[float], said: str) -> Finding:
    """Of one seed there is a number, which may be told; of none there is nothing."""
    need = "two seeds or more that all methods finish"
    if not values:
        return Finding(Verdict.CANNOT, f"{said}: no seed that all methods finished", need)
    return Finding(Verdict.UNDECIDED, f"{said}: {values[0]:.3g}, 1 seed", need)
