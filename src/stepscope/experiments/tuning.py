"""The search for a method's step size, as pure logic: what was tried and how it went, in; what to try next, out.

As in [balles2018, Sec. 6.1]: first find the largest stable step size, then search downwards. Both happen on the
half-decade grid 1, 3.16, 10, ...; the trials that are left refine around the best on the quarter-decade grid. Nothing
here trains, and nothing is remembered between calls: the next step size depends only on what was tried, so a search
that was interrupted continues where it stood, whatever the order in which its trials finished.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from stepscope.errors import UserError

__all__ = ["MAX_BUDGET", "Select", "Tried", "best", "check_grid", "edge", "judge", "propose", "step_size"]

Select = Literal["validation", "paper"]
Place = TypeVar("Place", int, float)  # on the quarter-decade grid (10**(place/4)), or a step size itself

HALF_DECADE = 2  # in quarter decades, the unit in which the search counts

# A search that only ever goes one way stays within 10**-50 ... 10**50.
MAX_BUDGET = 100


@dataclass(frozen=True)
class Tried:
    """How one step size did.

    status: "ok" | "unstable" (finished, but the training loss ended above where it started) | "diverged" (a loss was
    not finite) | "failed" (the trial raised an error or died).  score: higher is better.  loss: breaks ties, lower is
    better.  train_loss: at the last evaluation.  All three None where there is nothing to report.
    """

    status: str
    score: float | None = None
    loss: float | None = None
    train_loss: float | None = None

    @property
    def stable(self) -> bool:
        """All losses were finite and the last evaluated training loss is not above the initial one."""
        return self.status == "ok"


def step_size(place: int) -> float:
    """The step size at a place on the quarter-decade grid, 10**(place/4), rounded to three digits.

    >>> [step_size(place) for place in (-8, -2, -1, 0, 2)]
    [0.01, 0.316, 0.562, 1.0, 3.16]
    """
    return float(f"{10 ** (place / 4):.3g}")


def propose(tried: Mapping[float, Tried], anchor: float, budget: int) -> float | None:
    """The next step size to try, or None when the budget is used up.

    tried: step size -> how it did, as proposed here.  anchor: where to start, a value of `step_size`.
    budget: trials in all, 1 ... MAX_BUDGET.
    Up from the anchor in half decades until a step size is unstable, or down until one is stable. On a bounded loss
    nothing is ever unstable, so the climb also ends two half decades above the best. Then down while the smallest
    step size tried is the best one. What is left of the budget goes to the untried places nearest to the best, smaller
    first, never above a step size known to be unstable.
    """
    if len(tried) >= budget:
        return None
    places = {_place(lr): outcome for lr, outcome in tried.items()}
    return step_size(_next_place(places, budget)) if places else anchor


def _place(lr: float) -> int:
    return round(4 * math.log10(lr))


def _next_place(tried: Mapping[int, Tried], budget: int) -> int:
    stable = [place for place, outcome in tried.items() if outcome.stable]
    if not stable:
        return min(tried) - HALF_DECADE
    top, winner = max(stable), best(tried)
    ceiling = min((place for place in tried if place > top), default=math.inf)
    if ceiling == math.inf and winner > top - 2 * HALF_DECADE:
        return top + HALF_DECADE
    if winner == min(tried):
        return winner - HALF_DECADE
    nearest = (winner + side * distance for distance in range(1, 4 * budget) for side in (-1, 1))
    return next(place for place in nearest if place not in tried and place < ceiling)


def best(tried: Mapping[Place, Tried]) -> Place:
    """The stable step size with the highest score; ties go to the lower loss, then to the smaller step size.

    Raises ValueError when none is stable.
    """

    def rank(place: Place) -> tuple[float, float, float]:
        outcome = tried[place]
        score = -math.inf if outcome.score is None else outcome.score
        loss = math.inf if outcome.loss is None else outcome.loss
        return score, -loss, -place

    return max((place for place, outcome in tried.items() if outcome.stable), key=rank)


def edge(tried: Mapping[float, Tried], lr: float) -> Literal["lower", "upper"] | None:
    """Whether the chosen step size is the smallest or the largest of those tried, so that a better one may lie beyond.

    An unstable step size above the chosen one closes the upper edge. A single step size was given, not searched: None.
    """
    if len(tried) < 2:
        return None
    return "lower" if lr == min(tried) else "upper" if lr == max(tried) else None


def judge(evaluations: Sequence[Mapping[str, Any]], status: str, select: Select, higher_is_better: bool) -> Tried:
    """Read a finished trial as the search sees it.

    evaluations: the trial's, first at step 0 (see trial.train).  status: the trial's "ok" | "diverged" | "failed".
    Score [balles2018, Sec. 6.1]: the best test metric ("paper") or validation metric ("validation") at any evaluation,
    ties broken by the training loss ("paper") or validation loss there. Without a metric: the lowest test or validation
    loss at any evaluation.
    """
    if status != "ok":
        return Tried(status)
    part, tie = ("test", "train_loss") if select == "paper" else ("validation", "validation_loss")
    first, last = evaluations[0]["train_loss"], evaluations[-1]["train_loss"]

    def rank(evaluation: Mapping[str, Any]) -> tuple[float, float]:
        metric, loss = evaluation[f"{part}_metric"], evaluation[tie]
        if metric is None:
            return -evaluation[f"{part}_loss"], -loss
        return (metric if higher_is_better else -metric), -loss

    score, loss = max(rank(evaluation) for evaluation in evaluations)
    return Tried("ok" if last <= first else "unstable", score=score, loss=-loss, train_loss=last)


def check_grid(method: str, values: Iterable[float]) -> tuple[float, ...]:
    """Step sizes given for a method, sorted.  Raises UserError unless they are finite, above 0 and all different."""
    grid = tuple(sorted(float(value) for value in values))
    if not grid:
        raise UserError(f"the grid for {method} is empty: give at least one step size, as in {method}=0.1,0.3.")
    for value in grid:
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"a step size must be a finite number above 0, got {value:g} in the grid for {method}.")
    if len(set(grid)) < len(grid):
        raise UserError(f"the grid for {method} names a step size twice: {', '.join(f'{value:g}' for value in grid)}.")
    return grid
