"""What can be dissected: named methods and points of the grid, how they are called, built and searched."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import nn

from stepscope import optim
from stepscope.errors import UserError, unknown_name
from stepscope.optim import LABELS
from stepscope.rules import Point, compose, parts

__all__ = ["FOUR", "STANDARD", "anchor", "chosen", "formula", "is_adapted", "is_signed", "label", "make", "takes_beta"]

FOUR: Final = ("msgd", "mssd", "msvag", "adam")  # the cells of the 2 x 2 square
STANDARD: Final = (*FOUR, "adam_one_beta")

_POINTS: Final = {
    "msgd": "m",
    "ssd": "sign_g",
    "mssd": "sign_m",
    "svag": "g:svag",
    "msvag": "m:svag_rho",
    "adam": "sign_m:adam:two_emas",
    "adamw": "sign_m:adam:two_emas",
    "adam_erf": "sign_m:erf_rho",
    "adam_one_beta": "sign_m:adam",
    "signum": "sign_m",
    "lion": "sign_nesterov",
    "grams": "sign_g_abs_m:one:two_emas:root_v",
    "adabelief": "m:one:belief:deviation",
    "sgd": "g",
    "rmsprop": "g:one:ema_raw:root_v",
    "adagrad": "g:one:ema:adagrad",
}
_DIRECTIONS: Final = {
    "g": "g",
    "m": "m",
    "sign_g": "sign(g)",
    "sign_m": "sign(m)",
    "nesterov": "n",
    "sign_nesterov": "sign(n)",
    "sign_g_abs_m": "sign(g)|m|",
}
_FACTORS: Final = {
    "one": "",
    "adam": "1/√(1+η²)",
    "adam_rho": "1/√(1+ρη²)",
    "erf": "erf(1/√(2η²))",
    "erf_rho": "erf(1/√(2ρη²))",
    "svag": "1/(1+η²)",
    "svag_rho": "1/(1+ρη²)",
    "nsr": "1/√(1+λη²)",
}
_BASES: Final = {"none": "", "root_v": "1/√v", "deviation": "1/√s", "adagrad": "1/√Σg²"}


def chosen(names: Sequence[str | Point]) -> tuple[str, ...]:
    """The arms of a dissection, points in their shortest spelling.

    Raises: UserError for what is neither a method nor a point, for a repetition, and for fewer than two.
    """
    found: list[str] = []
    for given in names:
        name = str(given)
        if name not in optim.METHODS:
            parts_given = name.split(":")
            if len(parts_given) == 1 and name not in parts.DIRECTIONS:
                raise unknown_name("method", name, [*optim.METHODS, *parts.DIRECTIONS])
            point = Point.parse(name)
            if point.decay != "none":
                raise UserError(f"{name}: a dissection has no weight decay; leave the decay out.")
            name = str(point)
        if name in found:
            raise UserError(f"{name} is there twice: name each method once.")
        found.append(name)
    if len(found) < 2:
        raise UserError(f"give two methods at least, to compare them, got {', '.join(found) or 'none'}.")
    return tuple(found)


def _point(method: str) -> Point | None:
    """The point that a method is, decay and start of averages aside; None for what is none."""
    text = _POINTS.get(method) if method in optim.METHODS else method
    return None if text is None else Point.parse(text)


def label(method: str) -> str:
    """What people call it."""
    return LABELS.get(method, method)


def formula(method: str) -> str:
    """The step in symbols; the label of a method that is no point of the grid."""
    point = _point(method)
    if point is None:
        return label(method)
    words = ["lr", _DIRECTIONS[str(point.direction)], _FACTORS[str(point.factor)], _BASES[point.base]]
    words += ["[if it has the sign of g]"] if point.mask == "cautious" else []
    return " · ".join(filter(None, words))


def is_signed(method: str) -> bool:
    """Whether a full step has the length lr in every coordinate: a sign, or a size divided by its like."""
    point = _point(method)
    return point is None or parts.DIRECTIONS[str(point.direction)].unit or point.base != "none"


def is_adapted(method: str) -> bool:
    """Whether a variance shrinks the step."""
    point = _point(method)
    return point is not None and (point.factor != "one" or point.base in ("root_v", "deviation"))


def takes_beta(method: str) -> bool:
    """Whether it has one decay rate called beta, which the dissection sets."""
    if method in optim.METHODS:
        return "beta" in inspect.signature(optim.METHODS[method]).parameters
    return "beta" in compose(*method.split(":")).defaults


def anchor(method: str) -> float:
    """Where the search for the step size starts: for steps as long as the gradient, and for steps of length lr."""
    return 1.0 if method == "adadelta" else 0.01 if is_signed(method) else 0.316


def make(
    method: str, model: nn.Module, lr: float, beta: float | None, more: Mapping[str, Any] | None = None
) -> optim.RuleOptimizer:
    """The optimizer of an arm; defaults for whatever is not given.  more: further arguments."""
    options: dict[str, Any] = {"lr": lr, **({} if beta is None else {"beta": beta}), **(more or {})}
    if method in optim.METHODS:
        return optim.METHODS[method](model.parameters(), **options)
    point = Point.parse(method)
    for part in ("direction", "factor", "variance", "base", "mask"):
        options[part] = getattr(point, part)
    return optim.Dissected(model.parameters(), **options)
