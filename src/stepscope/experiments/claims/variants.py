"""Update rules as papers print them, where that is not what the method does elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stepscope.rules import METHODS, Hyper, Rule, StepScalar, View

__all__ = ["ADAGRAD_WITHOUT_ROOT", "ADAM_UNCORRECTED", "RMSPROP_AS_PRINTED"]

Numbers = Mapping[str, Any]

ADAM_UNCORRECTED: Rule = replace(
    METHODS["adam"],
    name="adam_uncorrected",
    source="[kaiser, Eq. 5]: Adam without bias correction",
    scalars={name: StepScalar((), lambda t: 1.0) for name in METHODS["adam"].scalars},
)


def _adagrad(
    k: Any, g: Any, theta: Any, state: Numbers, hyper: Numbers, scalars: Numbers
) -> tuple[Any, dict[str, Any]]:
    total = k.fma(g, g, state["sum"])
    return theta + (-hyper["lr"] * g) / (total + hyper["eps"]), {"sum": total}


def _adagrad_view(k: Any, g: Any, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    return View(g, None, None, 1 / (k.fma(g, g, state["sum"]) + hyper["eps"]))


ADAGRAD_WITHOUT_ROOT: Rule = replace(
    METHODS["adagrad"],
    name="adagrad_without_root",
    source="[kaiser, Eq. 2] as printed: the sum of squares without its root",
    hyper=(Hyper("lr", 1e-3), Hyper("eps", 0.0)),
    scalars={},
    update=_adagrad,
    view=_adagrad_view,
)


def _rmsprop(
    k: Any, g: Any, theta: Any, state: Numbers, hyper: Numbers, scalars: Numbers
) -> tuple[Any, dict[str, Any]]:
    v = hyper["beta2"] * state["square_avg"] + (1 - hyper["beta1"]) * (g * g)
    return theta - hyper["lr"] * g / (k.sqrt(v) + hyper["eps"]), {"square_avg": v}


def _rmsprop_view(k: Any, g: Any, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    v = hyper["beta2"] * state["square_avg"] + (1 - hyper["beta1"]) * (g * g)
    return View(k.sign(g), None, None, k.abs(g) / (k.sqrt(v) + hyper["eps"]))


RMSPROP_AS_PRINTED: Rule = replace(
    METHODS["rmsprop"],
    name="rmsprop_as_printed",
    source="[kaiser, Eq. 3] as printed: the square enters with 1 - beta1",
    hyper=(
        Hyper("lr", 1e-3),
        Hyper("beta1", 0.9, 0.0, 1.0),
        Hyper("beta2", 0.999, 0.0, 1.0),
        Hyper("eps", 1e-8),
    ),
    update=_rmsprop,
    view=_rmsprop_view,
)
