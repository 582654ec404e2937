"""Compose a rule from named parts: a direction, a factor, and the share of v - m^2 that is the direction's variance."""

from collections.abc import Callable
from typing import Any

from stepscope.rules import averages, parts
from stepscope.rules.rule import Hyper, Number, Numbers, Rule, StepScalar, View

__all__ = ["compose"]

BETA = Hyper("beta", 0.9, 0.0, 1.0)


def compose(
    name: str,
    source: str,
    direction: Callable[[Any, Number, Number], Number],
    factor: Callable[[Any, Number], Number] | None = None,
    variance: Callable[[float, int], float] | None = None,
    *,
    lr: float,
) -> Rule:
    """Build theta - lr direction factor with one decay rate beta and state (m, S) as far as the parts need it.

    factor: None for 1.  variance(beta, t): the step scalar that turns S = v - m^2 into the variance of the direction:
    `averages.variance_correction` for g (Eq. 22), `averages.noise_odds` for m (Eq. 24-25).
    """
    of_average = direction in (parts.average, parts.sign_of_average)
    state = ("m", "S") if factor else ("m",) if of_average else ()

    scalars: dict[str, StepScalar] = {}
    if state:
        scalars["weight"] = StepScalar(("beta",), lambda t, beta: averages.ema_weight(beta, t))
    if variance:
        scalars["variance_of_direction"] = StepScalar(("beta",), lambda t, beta: variance(beta, t))

    def advance(k: Any, g: Number, old: Numbers, scalars: Numbers) -> dict[str, Number]:
        if factor:
            m, S = averages.welford(k, g, old["m"], old["S"], scalars["weight"])
            return {"m": m, "S": S}
        return {"m": averages.welford(k, g, old["m"], 0.0, scalars["weight"])[0]} if state else {}

    def look(k: Any, g: Number, new: Numbers, scalars: Numbers) -> View:
        m, S = new.get("m"), new.get("S")
        shrinkage = parts.shrink(k, factor, m, scalars["variance_of_direction"] * S) if factor else 1.0
        return View(direction(k, g, m), m, S, shrinkage)

    def update(
        k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers
    ) -> tuple[Number, dict[str, Number]]:
        new = advance(k, g, state, scalars)
        step = look(k, g, new, scalars)
        return theta - hyper["lr"] * (step.direction * step.factor if factor else step.direction), new

    def view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
        return look(k, g, advance(k, g, state, scalars), scalars)

    return Rule(
        name=name,
        source=source,
        hyper=(Hyper("lr", lr), BETA) if state else (Hyper("lr", lr),),
        state=state,
        scalars=scalars,
        update=update,
        view=view,
    )
