"""What an update rule is: one pure elementwise function, its state, its numbers and where it comes from.

A rule sees one coordinate. It is called with anything that has `+ - * /` and comparisons (torch tensors, NumPy arrays,
mpmath numbers, recording symbols); the elementary functions come from `k`, a namespace with a closed list:
`sqrt abs sign where min max fma exp log sin cos tanh erf`. Both branches of `k.where` are evaluated, so a rule never
divides by something that may be zero without replacing it first.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

__all__ = ["Hyper", "Rule", "StepScalar", "View", "ascending", "decayed"]

Number = Any  # a float, tensor, array, mpmath number or symbol: whatever the rule is called with
Numbers = Mapping[str, Number]


class View(NamedTuple):
    """What one step is made of: theta moves by -lr * direction * base * factor (decoupled decay aside).

    direction: a gradient, an average, or the sign of either.  factor >= 0: the shrinkage; at most 1 where its variance
    estimate cannot be negative.  base: a scale of the step that is no shrinkage (Adadelta's).
    mean, variance: the bias-corrected estimates of the gradient's mean and variance, None where the rule keeps none.
    """

    direction: Number
    mean: Number | None
    variance: Number | None
    factor: Number
    base: Number = 1.0


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter: its default and the range [low, high], or [low, high) with `open_end`."""

    name: str
    default: float
    low: float = 0.0
    high: float = math.inf
    open_end: bool = True

    def check(self, value: float) -> None:
        """Raise ValueError, naming the parameter, if `value` lies outside the range or is not a number."""
        inside = self.low <= value and (value < self.high if self.open_end else value <= self.high)
        if not inside:
            end = ")" if self.open_end else "]"
            raise ValueError(f"{self.name} must lie in [{self.low:g}, {self.high:g}{end}, got {value}")


@dataclass(frozen=True)
class StepScalar:
    """A number that all coordinates of a step share: value(t, *hyper-parameters it needs), in float64 on the host.

    Naming the few numbers it depends on lets a sweep compute it once for each of their values. It changes in one
    direction from t = 2 on, so that a value equal to the one at the end of time is final.
    """

    needs: tuple[str, ...]
    value: Callable[..., float]


@dataclass(frozen=True, eq=False)
class Rule:
    """One update rule. `t` counts the samples of a coordinate, its current one included, from 1.

    state: names of the per-coordinate state, all 0 before the first sample (but see `initial`).
    scalars: the numbers that all coordinates of a step share, by name; `step_scalars` computes them.
    update(k, g, theta, state, hyper, scalars) -> (theta_new, state_new).
    view(k, g, state, hyper, scalars) -> View of the same step; `state` is the state before it.
    source: the paper and the place in it.
    """

    name: str
    source: str
    hyper: tuple[Hyper, ...]
    state: tuple[str, ...]
    scalars: Mapping[str, StepScalar]
    update: Callable[[Any, Number, Number, Numbers, Numbers, Numbers], tuple[Number, dict[str, Number]]]
    view: Callable[[Any, Number, Numbers, Numbers, Numbers], View]

    def check(self, hyper: Mapping[str, float]) -> None:
        """Raise ValueError for the first hyper-parameter that is out of its range."""
        for h in self.hyper:
            h.check(hyper[h.name])

    def step_scalars(self, t: int, hyper: Mapping[str, float]) -> dict[str, float]:
        """The numbers of step t >= 1 that all coordinates share."""
        return {name: one.value(t, *[hyper[h] for h in one.needs]) for name, one in self.scalars.items()}

    @property
    def defaults(self) -> dict[str, float]:
        """Default of every hyper-parameter by name."""
        return {h.name: h.default for h in self.hyper}


WEIGHT_DECAY = Hyper("weight_decay", 0.0)


def decayed(rule: Rule, *, decoupled: bool, name: str | None = None, default: float = 0.0, source: str = "") -> Rule:
    """The same rule with weight decay, in torch's order of operations.

    coupled: g + weight_decay theta enters the rule.  decoupled: theta (1 - lr weight_decay) is stepped from
    [Loshchilov & Hutter 2019, Alg. 2].  The view is that of the step without a decoupled decay.
    """

    def update(
        k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers
    ) -> tuple[Number, dict[str, Number]]:
        if decoupled:
            return rule.update(k, g, theta * (1 - hyper["lr"] * hyper["weight_decay"]), state, hyper, scalars)
        return rule.update(k, k.fma(hyper["weight_decay"], theta, g), theta, state, hyper, scalars)

    return replace(
        rule,
        name=name or rule.name,
        source=source or rule.source,
        hyper=(*rule.hyper, replace(WEIGHT_DECAY, default=default)),
        update=update,
    )


def ascending(rule: Rule) -> Rule:
    """The same rule climbing: it sees -g."""

    def update(
        k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers
    ) -> tuple[Number, dict[str, Number]]:
        return rule.update(k, -g, theta, state, hyper, scalars)

    def view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
        return rule.view(k, -g, state, hyper, scalars)

    return replace(rule, update=update, view=view)
