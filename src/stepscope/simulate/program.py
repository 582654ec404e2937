"""A simulation as expression graphs: what is carried from step to step, what is recorded, what is read at the end.

Inputs of the graphs, by name: theta.<i>, state.<name>.<i>, seen.<observer>: carried; hyper.*, param.*, sigma, tol,
bound, target.<i>: constants of a trajectory; scalars.<name>: the rule's step scalars; t: steps taken so far; noise.<i>:
standard normals, fresh each step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stepscope.errors import UserError, unknown_name
from stepscope.graph.expression import SYMBOLS, Symbol, order, symbol
from stepscope.rules import Rule, StepScalar
from stepscope.simulate.landscapes import Landscape, graph_of
from stepscope.simulate.observers import FINALS, OBSERVERS, Moment

__all__ = ["NOISES", "Program", "build"]

NOISES: Mapping[str, Callable[[Symbol, Symbol, Symbol], Symbol]] = {
    "additive": lambda g, sigma, z: g + sigma * z,
    "relative": lambda g, sigma, z: g * (1 + sigma * z),
    "shift": lambda g, sigma, z: g,
}
"""How a standard normal z enters the gradient g: additive has standard deviation sigma, relative sigma |g|.

shift: the gradient is taken at theta - sigma z. On a quadratic that is the stochastic quadratic problem, whose data
scatter about the minimum with deviation sigma.   [balles2018, Sec. 2]
"""


@dataclass(frozen=True)
class Program:
    """One step of a simulation, ready to be compiled or interpreted.

    carried: the next value of everything carried.  initial: what it starts from (theta: the caller's start).
    columns: what is recorded at each recorded step, of the step that is about to be taken.
    finals: what is read once after the last step.
    inputs: the constants of a trajectory that the graphs use.  scalars: the step scalars they use.
    normals: standard normals needed each step.
    """

    dims: int
    carried: Mapping[str, Symbol]
    initial: Mapping[str, float]
    columns: Mapping[str, Symbol]
    finals: Mapping[str, Symbol]
    inputs: tuple[str, ...]
    scalars: Mapping[str, StepScalar]
    normals: int


@lru_cache(maxsize=256)
def build(
    rule: Rule,
    landscape: Landscape,
    record: tuple[str, ...] = (),
    observe: tuple[str, ...] = (),
    noise: str | None = None,
    reciprocal: bool = False,
    norm: str = "euclidean",
    smallest_normal: float = 2.0**-1022,
) -> Program:
    """Put a rule on a landscape. Raises UserError for a column, observer or noise that does not exist."""
    points, loss, gradient = graph_of(landscape)
    thetas = [symbol(f"theta.{i}") for i in range(len(points))]
    places = {point.args[0]: theta for point, theta in zip(points, thetas, strict=True)}
    if noise is not None and noise not in NOISES:
        raise unknown_name("noise", noise, NOISES)
    seen = places
    if noise == "shift":
        seen = {v: theta - symbol("sigma") * symbol(f"noise.{i}") for i, (v, theta) in enumerate(places.items())}
    gradient = _renamed(gradient, seen)
    (loss,) = _renamed([loss], places)
    if noise is not None:
        blur = NOISES[noise]
        gradient = [blur(g, symbol("sigma"), symbol(f"noise.{i}")) for i, g in enumerate(gradient)]
    carried, cells = _step(rule, thetas, gradient, loss)
    columns = {name: root for wanted in record for name, root in _column(wanted, cells, rule).items()}
    moment = Moment(symbol("t"), loss, thetas, [symbol(name) for name in carried], norm, smallest_normal)
    finals: dict[str, Symbol] = {}
    initial = {name: 0.0 for name in carried if name.startswith("state.")}
    for wanted in observe:
        if wanted in FINALS:
            finals.update(FINALS[wanted](moment))
        elif wanted in OBSERVERS:
            for name, (start, after) in OBSERVERS[wanted](moment).items():
                carried[name], initial[name] = after, start
        else:
            raise unknown_name("observer", wanted, [*FINALS, *OBSERVERS])
    roots = [*carried.values(), *columns.values(), *finals.values()]
    if reciprocal:
        roots = _reciprocal(roots)
        carried = dict(zip(carried, roots, strict=False))
        columns = dict(zip(columns, roots[len(carried) :], strict=False))
        finals = dict(zip(finals, roots[len(carried) + len(columns) :], strict=True))
    used = {node.args[0] for node in order(roots) if node.op == "input"}
    constants = [n for n in sorted(used) if n.split(".")[0] in ("hyper", "param", "sigma", "tol", "bound", "target")]
    return Program(
        dims=len(thetas),
        carried=carried,
        initial=initial,
        columns=columns,
        finals=finals,
        inputs=tuple(constants),
        scalars={name: one for name, one in rule.scalars.items() if f"scalars.{name}" in used},
        normals=len(thetas) if noise is not None else 0,
    )


def _step(
    rule: Rule, thetas: Sequence[Symbol], gradient: Sequence[Symbol], loss: Symbol
) -> tuple[dict[str, Symbol], dict[str, list[Symbol]]]:
    """The carried values of one step, and everything about it that can be recorded: one list over coordinates each."""
    hyper = {name: symbol(f"hyper.{name}") for name in rule.defaults}
    scalars = {name: symbol(f"scalars.{name}") for name in rule.scalars}
    carried: dict[str, Symbol] = {}
    states: dict[str, Symbol] = {}
    cells: dict[str, list[Symbol]] = {"theta": list(thetas), "loss": [loss], "g": list(gradient)}
    for i, (theta, g) in enumerate(zip(thetas, gradient, strict=True)):
        old = {name: symbol(f"state.{name}.{i}") for name in rule.state}
        after, new = rule.update(SYMBOLS, g, theta, old, hyper, scalars)
        view = rule.view(SYMBOLS, g, old, hyper, scalars)
        carried[f"theta.{i}"] = after
        states |= {f"state.{name}.{i}": _symbol(value) for name, value in new.items()}
        here = {"update": after - theta, "direction": view.direction, "factor": view.factor, "base": view.base, **new}
        if view.mean is not None:
            here["mean"] = view.mean
        if view.variance is not None:
            here["variance"] = view.variance
            # Eigen's spread sigma/|m|; a negative v - m^2 (two betas) has none: 0.   [eigen2025, Sec. 2]
            positive = view.variance > 0
            deviation = SYMBOLS.sqrt(SYMBOLS.where(positive, view.variance, 0.0))
            here["spread"] = deviation / SYMBOLS.abs(view.mean)
        for name, value in here.items():
            cells.setdefault(name, []).append(_symbol(value))
    return carried | states, cells


def _symbol(value: Symbol | float) -> Symbol:
    return value if isinstance(value, Symbol) else Symbol("const", float(value))


def _column(wanted: str, cells: Mapping[str, list[Symbol]], rule: Rule) -> dict[str, Symbol]:
    if wanted not in cells:
        known = ", ".join(sorted(cells))
        raise UserError(f"a run of {rule.name!r} has no column {wanted!r}; record some of {known}.")
    if wanted == "loss":
        return {"loss": cells["loss"][0]}
    return {f"{wanted}.{i}": root for i, root in enumerate(cells[wanted])}


def _renamed(roots: Sequence[Symbol], places: Mapping[str, Symbol]) -> list[Symbol]:
    """The same graphs with some inputs put in the place of others."""
    values: dict[int, Symbol] = {}
    for node in order(roots):
        if node.op == "input":
            values[node.number] = places.get(node.args[0], node)
        elif node.op == "const":
            values[node.number] = node
        else:
            values[node.number] = Symbol(node.op, *(values[a.number] for a in node.args))
    return [values[root.number] for root in roots]


def _reciprocal(roots: Sequence[Symbol]) -> list[Symbol]:
    """x / c becomes x (1 / c) where c is the same for all coordinates of a step: fewer divisions, other roundings."""
    values: dict[int, Symbol] = {}
    shared: dict[int, bool] = {}
    one = Symbol("const", 1.0)
    for node in order(roots):
        if node.op in ("input", "const"):
            values[node.number] = node
            shared[node.number] = node.op == "const" or node.args[0].split(".")[0] in ("hyper", "scalars", "param")
            continue
        a = [values[x.number] for x in node.args]
        same = [shared[x.number] for x in node.args]
        shared[node.number] = all(same)
        if node.op == "/" and same[1] and not same[0]:
            values[node.number] = a[0] * (one / a[1])
        else:
            values[node.number] = Symbol(node.op, *a)
    return [values[root.number] for root in roots]
