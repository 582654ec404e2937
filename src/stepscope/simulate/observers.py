"""What a sweep can say about a trajectory without storing it: values carried along, or read after the last step."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stepscope.graph.expression import SYMBOLS, Symbol, symbol

__all__ = ["FINALS", "NEVER", "OBSERVERS", "Moment"]

NEVER = -1.0
"""What a step counter holds when the thing has not happened."""


class Moment(NamedTuple):
    """The point after t steps. values: everything carried there, the coordinates among it."""

    t: Symbol
    loss: Symbol
    theta: Sequence[Symbol]
    values: Sequence[Symbol]
    norm: str
    smallest_normal: float


Carried = Mapping[str, tuple[float, Symbol]]  # by name: the value before the first step, and the value after this one


def _inside(now: Moment) -> Symbol:
    """Within tol of the target. A point that is not a number is not."""
    gaps = [x - symbol(f"target.{i}") for i, x in enumerate(now.theta)]
    if now.norm == "max":
        distance = SYMBOLS.abs(gaps[0])
        for gap in gaps[1:]:
            distance = SYMBOLS.max(distance, SYMBOLS.abs(gap))
        return distance <= symbol("tol")
    square = gaps[0] * gaps[0]
    for gap in gaps[1:]:
        square = square + gap * gap
    return SYMBOLS.sqrt(square) <= symbol("tol")


def _first(name: str, happens: Symbol, t: Symbol) -> Carried:
    old = symbol(f"seen.{name}")
    return {f"seen.{name}": (NEVER, SYMBOLS.where(happens & (old < 0), t, old))}


def _first_inside(now: Moment) -> Carried:
    return _first("first_inside", _inside(now), now.t)


def _last_outside(now: Moment) -> Carried:
    return {"seen.last_outside": (NEVER, SYMBOLS.where(_inside(now), symbol("seen.last_outside"), now.t))}


def _min_loss(now: Moment) -> Carried:
    old = symbol("seen.min_loss")
    return {"seen.min_loss": (float("inf"), SYMBOLS.where(now.loss < old, now.loss, old))}


def _max_abs(now: Moment) -> Carried:
    new = symbol("seen.max_abs")
    for x in now.theta:
        new = SYMBOLS.where(SYMBOLS.abs(x) > new, SYMBOLS.abs(x), new)
    return {"seen.max_abs": (0.0, new)}


def _diverged_at(now: Moment) -> Carried:
    """The first point with a coordinate beyond the bound, or not a number."""
    old = symbol("seen.diverged_at")
    size = SYMBOLS.abs(now.theta[0])
    for x in now.theta[1:]:
        size = SYMBOLS.max(size, SYMBOLS.abs(x))
    bounded = size <= symbol("bound")
    return {"seen.diverged_at": (NEVER, SYMBOLS.where(bounded, old, SYMBOLS.where(old < 0, now.t, old)))}


def _underflow_at(now: Moment) -> Carried:
    """The first point at which something carried, until then a normal number, is subnormal or exactly 0."""
    old = symbol("seen.underflow_at")
    new = old
    carried: dict[str, tuple[float, Symbol]] = {}
    for value in now.values:
        name = f"seen.normal.{value.args[0]}"
        normal = SYMBOLS.abs(value) >= now.smallest_normal
        lost = (SYMBOLS.abs(value) < now.smallest_normal) & (symbol(name) > 0) & (new < 0)
        new = SYMBOLS.where(lost, now.t, new)
        carried[name] = (0.0, SYMBOLS.where(normal, 1.0, 0.0))
    return {"seen.underflow_at": (NEVER, new), **carried}


OBSERVERS: Mapping[str, Callable[[Moment], Carried]] = {
    "first_inside": _first_inside,
    "last_outside": _last_outside,
    "min_loss": _min_loss,
    "max_abs": _max_abs,
    "diverged_at": _diverged_at,
    "underflow_at": _underflow_at,
}

FINALS: Mapping[str, Callable[[Moment], Mapping[str, Symbol]]] = {
    "theta": lambda now: {},  # carried anyway
    "loss": lambda now: {"loss": now.loss},
}
