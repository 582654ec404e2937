"""What is descended: losses written once, as plain functions of a point, with their minima, starts and views."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stepscope.errors import UserError, unknown_name
from stepscope.graph.expression import SYMBOLS, Symbol, symbol
from stepscope.graph.gradient import gradient

__all__ = ["LANDSCAPES", "Landscape", "find", "graph_of", "quadratic", "register", "rosenbrock"]

Number = Any
Point = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Landscape:
    """A loss of a point. function(k, x, p): x the point's numbers, p the parameters by name.

    minima: known global minimisers at the default parameters; empty where there are none.  start: a customary one.
    view: the box to draw, low and high of each variable.  source: where it comes from.
    """

    name: str
    source: str
    variables: tuple[str, ...]
    function: Callable[[Any, Sequence[Number], Mapping[str, Number]], Number]
    start: Point
    minima: tuple[Point, ...] = ()
    params: Mapping[str, float] = field(default_factory=dict)
    view: tuple[tuple[float, float], ...] = ((-2.0, 2.0), (-2.0, 2.0))

    def __call__(self, k: Any, *x: Number, **params: Number) -> Number:
        """The loss at x with the functions of namespace k."""
        return self.function(k, x, {**self.params, **params})


LANDSCAPES: dict[str, Landscape] = {}
"""The catalogue, by name."""


def _named(name: str, source: str, variables: str = "x y", **more: Any) -> Callable[[Any], Landscape]:
    """Decorates a loss and enters it in the catalogue."""

    def enter(function: Any) -> Landscape:
        place = Landscape(name, source, tuple(variables.split()), function, **more)
        LANDSCAPES[name] = place
        return place

    return enter


_KAISER = "[kaiser, Sec. {}]"


@_named("parabola", "[eigen2025, Sec. 4]", "x", start=(1.0,), minima=((0.0,),), params={"h": 2.0}, view=((-2.0, 2.0),))
def _parabola(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """h x^2 / 2: curvature h, x^2 by default."""
    return 0.5 * p["h"] * (x[0] * x[0])


@_named("absolute", "one wall of the sharp valley", "x", start=(0.5,), minima=((0.0,),), view=((-1.0, 1.0),))
def _absolute(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    return k.abs(x[0])


@_named(
    "ellipse",
    "a quadratic with condition number kappa, turned by an angle",
    start=(1.0, 1.0),
    minima=((0.0, 0.0),),
    params={"kappa": 10.0, "angle": 0.0},
)
def _ellipse(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """(kappa u^2 + v^2) / 2 in the axes u, v turned by `angle` radians."""
    c, s = k.cos(p["angle"]), k.sin(p["angle"])
    u, v = c * x[0] + s * x[1], c * x[1] - s * x[0]
    return 0.5 * (p["kappa"] * (u * u) + v * v)


@_named("saddle", _KAISER.format(5), start=(1e-3, 1.0), view=((-1.0, 1.0), (-1.0, 1.0)))
def _saddle(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """(y^2 - x^2) / 2, Hessian diag(-1, 1)."""
    return 0.5 * (x[1] * x[1] - x[0] * x[0])


@_named("smooth_valley", _KAISER.format(6), start=(0.5, 0.9), minima=((0.0, 0.0),), params={"floor": 1e-3})
def _smooth_valley(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    return x[0] * x[0] + p["floor"] * (x[1] * x[1])


@_named("sharp_valley", _KAISER.format(6), start=(0.5, 0.9), minima=((0.0, 0.0),), params={"floor": 1e-4})
def _sharp_valley(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    return k.abs(x[0]) + p["floor"] * k.abs(x[1])


@_named("flat", _KAISER.format(4), "x", start=(0.0,), params={"slope": 1.0, "edge": 1.0}, view=((-1.0, 3.0),))
def _flat(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """Falls with a slope of -`slope` until `edge` and is exactly flat beyond."""
    return p["slope"] * k.max(p["edge"] - x[0], 0.0)


@_named(
    "plateau", "a bowl with a plain around it", start=(4.0, 3.0), minima=((0.0, 0.0),), view=((-6.0, 6.0), (-6.0, 6.0))
)
def _plateau(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """r^2 / (1 + r^2): the gradient fades as the distance grows."""
    r2 = x[0] * x[0] + x[1] * x[1]
    return r2 / (1 + r2)


@_named(
    "ravine",
    "a narrow quadratic valley across both axes",
    start=(-1.5, 1.0),
    minima=((0.0, 0.0),),
    params={"kappa": 100.0},
)
def _ravine(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    across, along = x[0] - x[1], x[0] + x[1]
    return 0.25 * (p["kappa"] * (across * across) + along * along)


@_named("rosenbrock", "Rosenbrock 1960", start=(-1.2, 1.0), minima=((1.0, 1.0),), view=((-2.0, 2.0), (-1.0, 3.0)))
def _rosenbrock(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    total: Number = 0.0
    for a, b in itertools.pairwise(x):
        off, gap = 1 - a, b - a * a
        term = off * off + 100 * (gap * gap)
        total = total + term
    return total


@_named("beale", "Beale 1958", start=(1.0, 1.0), minima=((3.0, 0.5),), view=((-4.5, 4.5), (-4.5, 4.5)))
def _beale(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    a, b = x
    total: Number = 0.0
    for c, power in ((1.5, b), (2.25, b * b), (2.625, b * b * b)):
        term = c - a + a * power
        total = total + term * term
    return total


@_named(
    "himmelblau",
    "Himmelblau 1972",
    start=(0.0, 0.0),
    minima=(
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    ),
    view=((-5.0, 5.0), (-5.0, 5.0)),
)
def _himmelblau(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    a, b = x[0] * x[0] + x[1] - 11, x[0] + x[1] * x[1] - 7
    return a * a + b * b


@_named("rastrigin", "Rastrigin 1974", start=(3.2, -2.7), minima=((0.0, 0.0),), view=((-5.12, 5.12), (-5.12, 5.12)))
def _rastrigin(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    total = 10.0 * len(x)
    for one in x:
        total = total + (one * one - 10 * k.cos(6.283185307179586 * one))
    return total


@_named("booth", "Booth's function", start=(-5.0, -5.0), minima=((1.0, 3.0),), view=((-10.0, 10.0), (-10.0, 10.0)))
def _booth(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    a, b = x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5
    return a * a + b * b


@_named(
    "styblinski_tang",
    "Styblinski & Tang 1990",
    start=(0.0, 4.0),
    minima=((-2.903534027771177, -2.903534027771177),),
    view=((-5.0, 5.0), (-5.0, 5.0)),
)
def _styblinski_tang(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    total = 0.0
    for one in x:
        square = one * one
        total = total + 0.5 * (square * square - 16 * square + 5 * one)
    return total


@_named("ackley", "Ackley 1987", start=(2.5, -1.5), minima=((0.0, 0.0),), view=((-4.0, 4.0), (-4.0, 4.0)))
def _ackley(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """Its minimum is a kink: the gradient there is not defined (0/0)."""
    a, b = x
    bowl = 20 * k.exp(-0.2 * k.sqrt(0.5 * (a * a + b * b)))
    ripple = k.exp(0.5 * (k.cos(6.283185307179586 * a) + k.cos(6.283185307179586 * b)))
    return 20 + 2.718281828459045 - bowl - ripple


@_named("monkey_saddle", "x^3 - 3 x y^2", start=(0.1, 0.5), view=((-1.5, 1.5), (-1.5, 1.5)))
def _monkey_saddle(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    return x[0] * x[0] * x[0] - 3 * x[0] * (x[1] * x[1])


_BUMPS = ((1.0, -1.0, -0.5, 0.6), (0.7, 1.2, 0.8, 0.5), (0.5, -0.2, 1.3, 0.4), (0.9, 0.6, -1.2, 0.7))


@_named(
    "bumps",
    "a bowl with four Gaussian bumps",
    start=(1.8, 1.8),
    view=((-2.5, 2.5), (-2.5, 2.5)),
    params={"height": 1.0},
)
def _bumps(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    total = 0.2 * (x[0] * x[0] + x[1] * x[1])
    for weight, a, b, width in _BUMPS:
        u, v = (x[0] - a) / width, (x[1] - b) / width
        total = total + p["height"] * weight * k.exp(-0.5 * (u * u + v * v))
    return total


@_named(
    "line_fit",
    "[tutorial, linear regression]",
    "w b",
    start=(0.0, 0.0),
    minima=((2.0, 1.0),),
    view=((-1.0, 4.0), (-1.0, 4.0)),
)
def _line_fit(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """Mean squared error of w X + b on the points (1, 3), (2, 5), ... (5, 11), which lie on 2 X + 1."""
    total: Number = 0.0
    for a in (1.0, 2.0, 3.0, 4.0, 5.0):
        error = x[0] * a + x[1] - (2 * a + 1)
        total = total + error * error
    return total / 5


# Two features of eight points and their classes; not separable, so that a best fit exists.
_POINTS = ((0.5, 1.2, 1), (-0.3, 0.8, 1), (1.1, -0.2, 1), (0.2, -0.6, 1), (-1.0, -0.4, -1), (-0.2, -1.1, -1),
           (0.6, 0.3, -1), (-0.7, 0.2, -1))  # fmt: skip


@_named("logistic", "logistic regression of eight points", "w1 w2", start=(-1.0, 2.0), view=((-3.0, 5.0), (-3.0, 5.0)))
def _logistic(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    total: Number = 0.0
    for a, b, label in _POINTS:
        margin = label * (x[0] * a + x[1] * b)
        # log(1 + exp(-margin)) without overflow
        term = k.log(1 + k.exp(-k.abs(margin))) + k.max(-margin, 0.0)
        total = total + term
    return total / len(_POINTS)


# An instance that sign descent cannot leave: features are the label, two constants, and each example's own.
_LABELS = (1.0, 1.0, -1.0)
_OWN = ((3,), (4,), (5, 6, 7, 8, 9))


@_named(
    "wilson",
    "[balles2018, Sec. 5], after Wilson et al. 2017",
    " ".join(f"w{i + 1}" for i in range(10)),
    start=(0.0,) * 10,
    view=((-1.0, 1.0),) * 10,
)
def _wilson(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
    """Least squares on three examples with X sign(X' y) = 4 y, which hold sign descent on the ray of sign(X' y)."""
    total: Number = 0.0
    for label, own in zip(_LABELS, _OWN, strict=True):
        error = label * x[0] + x[1] + x[2] - label
        for i in own:
            error = error + x[i]
        total = total + error * error
    return total / 6


def quadratic(spectrum: Sequence[float], name: str = "") -> Landscape:
    """sum_i lambda_i x_i^2 / 2 in as many dimensions as there are eigenvalues."""
    values = tuple(float(v) for v in spectrum)
    if not values:
        raise ValueError("a quadratic needs at least one eigenvalue")

    def loss(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
        total: Number = 0.0
        for value, one in zip(values, x, strict=True):
            term = (0.5 * value) * (one * one)
            total = total + term
        return total

    d = len(values)
    names = tuple(f"x{i + 1}" for i in range(d))
    return Landscape(
        name or f"quadratic of {d} dimensions", "", names, loss, (1.0,) * d, ((0.0,) * d,), view=((-2.0, 2.0),) * d
    )


def rosenbrock(dimensions: int) -> Landscape:
    """Rosenbrock's function in two or more dimensions."""
    if dimensions < 2:
        raise ValueError(f"Rosenbrock's function has two or more dimensions, got {dimensions}")
    names = tuple(f"x{i + 1}" for i in range(dimensions))
    known = LANDSCAPES["rosenbrock"]
    start = tuple((-1.2, 1.0)[i % 2] for i in range(dimensions))
    return Landscape(
        f"rosenbrock of {dimensions} dimensions", known.source, names, known.function, start, ((1.0,) * dimensions,),
        view=((-2.0, 2.0),) * dimensions,
    )  # fmt: skip


def register(landscape: Landscape) -> None:
    """Enter a landscape of your own under its name. Raises UserError for a name that is taken."""
    if landscape.name in LANDSCAPES:
        raise UserError(f"there is a landscape {landscape.name!r} already; give yours another name.")
    LANDSCAPES[landscape.name] = landscape


def find(text: str) -> Landscape:
    """A landscape by name, or of a formula in x and y (x alone: one dimension; x1, x2 ...: as many as are used).

    Raises UserError for a name that is not known, and FormulaError (a UserError) that points into the formula.
    """
    if text in LANDSCAPES:
        return LANDSCAPES[text]
    if text.isidentifier() and text not in ("x", "y"):
        raise unknown_name("landscape", text, LANDSCAPES)
    return _from_formula(text)


@lru_cache(maxsize=256)
def _from_formula(text: str) -> Landscape:
    from stepscope.graph.expression import evaluate, order
    from stepscope.graph.formula import parse

    highest = max((int(n) for n in re.findall(r"(?<![A-Za-z_0-9])x([1-9])(?![A-Za-z_0-9])", text)), default=0)
    names = tuple(f"x{i}" for i in range(1, highest + 1)) or ("x", "y")
    root = parse(text, variables=names)
    if names == ("x", "y") and not any(n.op == "input" and n.args[0] == "y" for n in order([root])):
        names = ("x",)

    def loss(k: Any, x: Sequence[Number], p: Mapping[str, Number]) -> Number:
        return evaluate([root], dict(zip(names, x, strict=True)), k)[0]

    return Landscape(text, "a formula", names, loss, (1.0,) * len(names), view=((-2.0, 2.0),) * len(names))


@lru_cache(maxsize=512)
def graph_of(landscape: Landscape) -> tuple[list[Symbol], Symbol, list[Symbol]]:
    """The inputs (named by variable; parameters are inputs "param.<name>"), the loss, and its gradient, as graphs."""
    inputs = [symbol(name) for name in landscape.variables]
    params = {name: symbol(f"param.{name}") for name in landscape.params}
    loss = landscape.function(SYMBOLS, inputs, params)
    loss = loss if isinstance(loss, Symbol) else Symbol("const", float(loss))
    return inputs, loss, gradient(loss, inputs)
