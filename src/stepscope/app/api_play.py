"""What the playground asks the server: the rules and landscapes there are, programs for the browser, and sweeps."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from stepscope.app import api_sweep
from stepscope.app.endpoint import Bound, Call, Endpoint, Text, endpoint
from stepscope.errors import unknown_name
from stepscope.graph.formula import LONGEST
from stepscope.rules import METHODS, Rule
from stepscope.simulate import LANDSCAPES, Landscape, find
from stepscope.simulate.javascript import curves_module, landscape_module, path_module

__all__ = ["ENDPOINTS"]


@dataclass(frozen=True)
class Nothing:
    """No arguments."""


@dataclass(frozen=True)
class HyperInfo:
    """A hyper-parameter: its default and the range [low, high]; high is null for none, excluded if `open_end`."""

    name: str
    default: float
    low: float
    high: float | None
    open_end: bool


@dataclass(frozen=True)
class RuleInfo:
    """An update rule."""

    name: str
    source: str
    hyper: list[HyperInfo]
    state: list[str]


@dataclass(frozen=True)
class LandscapeInfo:
    """A landscape, or what a formula makes."""

    name: str
    source: str
    variables: list[str]
    params: dict[str, float]
    start: list[float]
    minima: list[list[float]]
    view: list[list[float]]


@dataclass(frozen=True)
class Catalogue:
    """Every rule and every landscape."""

    rules: list[RuleInfo]
    landscapes: list[LandscapeInfo]


@dataclass(frozen=True)
class LandscapeQuery:
    """landscape: a name or a formula."""

    landscape: Annotated[str, Bound(1, LONGEST)]


@dataclass(frozen=True)
class PathQuery:
    """rule: its name.  landscape: a name or a formula.  noise: how it enters the gradient."""

    rule: Annotated[str, Bound(1, 80)]
    landscape: Annotated[str, Bound(1, LONGEST)]
    noise: Literal["none", "additive", "relative", "shift"] = "none"


def _rule(rule: Rule) -> RuleInfo:
    hyper = [HyperInfo(h.name, h.default, h.low, h.high, h.open_end) for h in rule.hyper]
    return RuleInfo(rule.name, rule.source, hyper, list(rule.state))


def _landscape(place: Landscape) -> LandscapeInfo:
    def lists(values: Any) -> list[list[float]]:
        return [list(one) for one in values]

    return LandscapeInfo(
        place.name,
        place.source,
        list(place.variables),
        dict(place.params),
        list(place.start),
        lists(place.minima),
        lists(place.view),
    )


@endpoint("GET", "/api/catalogue")
def catalogue(query: Nothing, call: Call) -> Catalogue:
    """Every update rule and every landscape with their numbers."""
    return Catalogue([_rule(rule) for rule in METHODS.values()], [_landscape(one) for one in LANDSCAPES.values()])


@endpoint("GET", "/api/landscape")
def landscape(query: LandscapeQuery, call: Call) -> LandscapeInfo:
    """A landscape by name, or what a formula makes; refused with the position of the mistake."""
    return _landscape(find(query.landscape))


_SCRIPT = "text/javascript"


@endpoint("GET", "/api/path.js")
def path_program(query: PathQuery, call: Call) -> Text:
    """The program that takes a rule's steps on a landscape, as a module."""
    if query.rule not in METHODS:
        raise unknown_name("update rule", query.rule, METHODS)
    noise = None if query.noise == "none" else query.noise
    return Text(path_module(METHODS[query.rule], find(query.landscape), noise), _SCRIPT)


@endpoint("GET", "/api/landscape.js")
def landscape_program(query: LandscapeQuery, call: Call) -> Text:
    """The program of a landscape's loss and gradient, as a module."""
    return Text(landscape_module(find(query.landscape)), _SCRIPT)


@endpoint("GET", "/api/curves.js")
def curves_program(query: Nothing, call: Call) -> Text:
    """The theoretical factors as functions of the spread, as a module."""
    return Text(curves_module(), _SCRIPT)


ENDPOINTS: tuple[Endpoint, ...] = (
    catalogue,
    landscape,
    path_program,
    landscape_program,
    curves_program,
    api_sweep.sweep_map,
)
