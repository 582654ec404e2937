"""Maps of the playground: one number per setting, over two ranges of settings, sent coarse first and then in bands."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepscope.app.endpoint import Bound, Call, Stream, endpoint, frame
from stepscope.errors import UserError, unknown_name
from stepscope.graph.formula import LONGEST
from stepscope.rules import METHODS
from stepscope.simulate import Landscape, find, sweep

__all__ = ["MOST_STEPS", "Axis", "MapRequest", "Method", "sweep_map"]

Array = NDArray[np.float64]

MOST_STEPS = 20_000_000_000
"""Steps of all trajectories of a map together: a minute on two cores."""
_SECONDS = 90.0
_BAND = 4e7  # steps between two looks at whether anybody still waits: about 50 ms
_COARSE = 48  # cells along a side of the first picture
_NEAR = 0.05  # of the view's diagonal: what counts as having reached a minimum

Quantity = Literal["loss", "min_loss", "first_inside", "diverged_at", "period", "basin", "winner"]


@dataclass(frozen=True)
class Axis:
    """A range of one number: start.x (or another variable's name), or a setting of the rule or landscape, or sigma."""

    name: Annotated[str, Bound(1, 80)]
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Method:
    """A rule with its numbers, as far as they are not its defaults."""

    rule: Annotated[str, Bound(1, 80)]
    hyper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MapRequest:
    """What to map. Every cell is one trajectory (for "winner" one of each method)."""

    landscape: Annotated[str, Bound(1, LONGEST)]
    methods: Annotated[list[Method], Bound(1, 8)]
    x: Axis
    y: Axis
    start: Annotated[list[float], Bound(1, 10)]
    quantity: Quantity = "loss"
    steps: Annotated[int, Bound(1, 1_000_000)] = 1000
    size: Annotated[int, Bound(8, 512)] = 256
    params: dict[str, float] = field(default_factory=dict)
    noise: Literal["none", "additive", "relative", "shift"] = "none"
    sigma: Annotated[float, Bound(0, 1e6)] = 0.0
    seed: Annotated[int, Bound(-(2**53), 2**53)] = 0


def _values(axis: Axis, size: int) -> Array:
    """The middles of the cells."""
    middle = (np.arange(size) + 0.5) / size
    if axis.log:
        return np.asarray(axis.low * (axis.high / axis.low) ** middle)
    return np.asarray(axis.low + (axis.high - axis.low) * middle)


@endpoint("POST", "/api/map")
def sweep_map(query: MapRequest, call: Call) -> Stream:
    """A map of a quantity over two settings: frames of float32 rows, a coarse picture, then the whole in bands."""
    place = find(query.landscape)
    for axis in (query.x, query.y):
        if axis.log and not 0 < axis.low < axis.high:
            raise UserError(f"the range of {axis.name} must lie above 0 to have even factors.")
        if not axis.low < axis.high:
            raise UserError(f"the range of {axis.name} is empty: {axis.low:g} to {axis.high:g}.")
    if query.x.name == query.y.name:
        raise UserError("the two axes must be different settings.")
    _check_names(query, place)
    total = query.size**2 * query.steps * len(_taking_part(query))
    if total > MOST_STEPS:
        raise UserError(f"this map takes {total:,} steps, more than {MOST_STEPS:,}; take fewer cells or steps.")
    _cells(query, place, np.array([0.5 * (query.x.low + query.x.high)]), np.array([query.y.high]), steps=0)
    return Stream(_frames(query, place, call))


def _check_names(query: MapRequest, place: Landscape) -> None:
    """Only numbers of the rules and the landscape get through: `sweep` has other arguments that are not for guests."""
    for method in query.methods:
        if method.rule not in METHODS:
            raise unknown_name("update rule", method.rule, METHODS)
        for name in method.hyper:
            if name not in METHODS[method.rule].defaults:
                raise unknown_name(f"setting of {method.rule}", name, METHODS[method.rule].defaults)
    for name in query.params:
        if name not in place.params:
            raise unknown_name(f"setting of {place.name}", name, place.params)
    common = set.intersection(*(set(METHODS[one.rule].defaults) for one in _taking_part(query)))
    known = [*(f"start.{v}" for v in place.variables), *sorted(common), *place.params, "sigma"]
    for axis in (query.x, query.y):
        if axis.name not in known:
            raise unknown_name("setting", axis.name, known)


def _taking_part(query: MapRequest) -> list[Method]:
    return query.methods if query.quantity == "winner" else query.methods[:1]


def _frames(query: MapRequest, place: Landscape, call: Call) -> Iterator[bytes]:
    """Row 0 is the lowest value of y."""
    begun = time.monotonic()
    for size in sorted({min(_COARSE, query.size), query.size}):
        xs, ys = _values(query.x, size), _values(query.y, size)
        steps = size * query.steps * len(_taking_part(query))
        band = max(1, min(size, int(_BAND / steps)))
        for row in range(0, size, band):
            if call.gone:
                return
            if time.monotonic() - begun > _SECONDS:
                yield frame({"error": f"stopped after {_SECONDS:g} seconds; take fewer cells or steps"})
                return
            cells = _cells(query, place, xs, ys[row : row + band], query.steps)
            last = row + band >= size
            yield frame({"size": size, "row": row, "done": last and size == query.size}, cells.astype(np.float32))


def _cells(query: MapRequest, place: Landscape, xs: Array, ys: Array, steps: int) -> Array:
    """The quantity [row, column]; NaN where there is none."""
    results = []
    for method in _taking_part(query):
        numbers: dict[str, Any] = {**method.hyper, **query.params}
        start: list[Any] = list(query.start)
        noise = None if query.noise == "none" else query.noise
        extra: dict[str, Any] = {"sigma": query.sigma}
        for axis, values in ((query.x, xs[None, :]), (query.y, ys[:, None])):
            kind, _, variable = axis.name.partition(".")
            if kind == "start" and variable in place.variables:
                start[place.variables.index(variable)] = values
            elif axis.name == "sigma":
                extra["sigma"] = values
            else:
                numbers[axis.name] = values
        observe = {"basin": "theta", "winner": "loss"}.get(query.quantity, query.quantity)
        reach = _NEAR * math.hypot(*(high - low for low, high in place.view))
        found = sweep(
            method.rule,
            place,
            start=start,
            steps=steps,
            observe=(observe,),
            tol=reach if query.quantity == "basin" else 1e-3,
            noise=noise,
            seed=query.seed,
            **extra,
            **numbers,
        )[observe]
        if query.quantity == "basin":
            results.append(_basin(found, place, reach, (len(ys), len(xs))))
        else:
            results.append(np.broadcast_to(found, (len(ys), len(xs))).astype(np.float64))
    if query.quantity == "winner":
        return _winner(results)
    cells = results[0]
    if query.quantity in ("first_inside", "diverged_at", "period"):
        never = 0 if query.quantity == "period" else -1
        cells = np.where(cells == never, np.nan, cells)
    return cells


def _basin(theta: Array, place: Landscape, reach: float, shape: tuple[int, int]) -> Array:
    """Which of the known minima the trajectory ends near; NaN for none. Without known minima: where x ends."""
    if not place.minima:
        return np.broadcast_to(theta[0], shape)
    points = np.stack([np.broadcast_to(x, shape) for x in theta])
    minima = np.array(place.minima)[:, :, None, None]
    distance = np.sqrt(np.sum((points[None] - minima) ** 2, axis=1))
    with np.errstate(invalid="ignore"):
        nearest = np.argmin(np.where(np.isfinite(distance), distance, np.inf), axis=0)
        return np.where(distance.min(axis=0) < reach, nearest.astype(np.float64), np.nan)


def _winner(losses: list[Array]) -> Array:
    """The number of the method that ends lowest; NaN where all diverge."""
    stack = np.stack([np.where(np.isfinite(one), one, np.inf) for one in losses])
    return np.where(np.isfinite(stack.min(axis=0)), np.argmin(stack, axis=0).astype(np.float64), np.nan)
