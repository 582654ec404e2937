"""Recording symbols: call a rule once with them and get its expression graph, evaluation order and all.

Nodes are hash-consed, so a shared subexpression is one node. Nothing is simplified: rounding is part of a rule.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from stepscope.rules.rule import Rule

__all__ = [
    "FUNCTIONS",
    "PRIMITIVES",
    "SYMBOLS",
    "Symbol",
    "Traced",
    "as_symbol",
    "evaluate",
    "order",
    "prepared",
    "primitive",
    "symbol",
    "trace",
]

FUNCTIONS = {
    "sqrt": 1,
    "abs": 1,
    "sign": 1,
    "where": 3,
    "min": 2,
    "max": 2,
    "fma": 3,
    "exp": 1,
    "log": 1,
    "sin": 1,
    "cos": 1,
    "tanh": 1,
    "erf": 1,
}

PRIMITIVES = ("rint", "exponent", "mantissa", "pow2")
"""What polynomials for the functions above and histograms need beside arithmetic, of one argument each; no rule uses
them, and a namespace `k` has at least exponent and mantissa.

rint: the nearest whole number, of two the even one.  exponent, mantissa: x = mantissa 2^exponent, mantissa in [1, 2),
for a normal x > 0.  pow2: 2^n for a whole n in the format's range of normal numbers.
"""

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "neg": operator.neg,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "&": operator.and_,
}

_nodes: "WeakValueDictionary[tuple[Any, ...], Symbol]" = WeakValueDictionary()
_numbers = count()


class Symbol:
    """One node: an operation on other nodes, a constant ("const", value) or an input ("input", name)."""

    __slots__ = ("__weakref__", "args", "number", "op")

    op: str
    args: tuple[Any, ...]
    number: int

    def __new__(cls, op: str, *args: Any) -> "Symbol":
        """The node of this operation on these arguments: a new one, or the one that exists."""
        # Constants are keyed by their bits: 0.0 and -0.0 differ, and nan equals itself.
        key = (op, *(a.number if isinstance(a, Symbol) else a.hex() if isinstance(a, float) else a for a in args))
        node = _nodes.get(key)
        if node is None:
            node = object.__new__(cls)
            node.op, node.args, node.number = op, args, next(_numbers)
            _nodes[key] = node
        return node

    def __add__(self, other: Any) -> "Symbol":
        return _binary("+", self, other)

    def __radd__(self, other: Any) -> "Symbol":
        return _binary("+", other, self)

    def __sub__(self, other: Any) -> "Symbol":
        return _binary("-", self, other)

    def __rsub__(self, other: Any) -> "Symbol":
        return _binary("-", other, self)

    def __mul__(self, other: Any) -> "Symbol":
        return _binary("*", self, other)

    def __rmul__(self, other: Any) -> "Symbol":
        return _binary("*", other, self)

    def __truediv__(self, other: Any) -> "Symbol":
        return _binary("/", self, other)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return _binary("/", other, self)

    def __pow__(self, power: float) -> "Symbol":
        """A whole power, by repeated squaring; any other one has no single rounding and is not offered."""
        if power != int(power):
            raise TypeError(f"a recorded value has whole powers only, got {power}; use k.sqrt, k.exp and k.log")
        n, result, square = abs(int(power)), None, self
        while n:
            if n & 1:
                result = square if result is None else result * square
            n >>= 1
            if n:
                square = square * square
        result = Symbol("const", 1.0) if result is None else result
        return 1.0 / result if power < 0 else result

    def __neg__(self) -> "Symbol":
        return Symbol("neg", self)

    def __lt__(self, other: Any) -> "Symbol":
        return _binary("<", self, other)

    def __le__(self, other: Any) -> "Symbol":
        return _binary("<=", self, other)

    def __gt__(self, other: Any) -> "Symbol":
        return _binary(">", self, other)

    def __ge__(self, other: Any) -> "Symbol":
        return _binary(">=", self, other)

    def __and__(self, other: Any) -> "Symbol":
        return _binary("&", self, other)

    def __bool__(self) -> bool:
        raise TypeError("a recorded value has no truth value: use k.where(condition, a, b) instead of if")

    def __repr__(self) -> str:
        if self.op in ("const", "input"):
            return str(self.args[0])
        return f"{self.op}({', '.join(map(repr, self.args))})"


def as_symbol(value: Any) -> Symbol:
    """A number as a constant; a symbol as it is."""
    return value if isinstance(value, Symbol) else Symbol("const", float(value))


def _binary(op: str, a: Any, b: Any) -> Symbol:
    return Symbol(op, as_symbol(a), as_symbol(b))


def symbol(name: str) -> Symbol:
    """An input of the graph."""
    return Symbol("input", name)


def primitive(name: str, x: Symbol) -> Symbol:
    """One of PRIMITIVES, recorded."""
    if name not in PRIMITIVES:
        raise ValueError(f"no primitive {name!r}; there are {' '.join(PRIMITIVES)}")
    return Symbol(name, x)


class _Recorder:
    """The namespace `k` that records: each function of the closed list makes one node."""

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name in PRIMITIVES:
            return lambda x: primitive(name, as_symbol(x))
        if name not in FUNCTIONS:
            raise AttributeError(f"k has no function {name!r}; the closed list is {' '.join(FUNCTIONS)}")

        def record(*args: Any) -> Symbol:
            if len(args) != FUNCTIONS[name]:
                raise TypeError(f"k.{name} takes {FUNCTIONS[name]} arguments, got {len(args)}")
            return Symbol(name, *map(as_symbol, args))

        return record


SYMBOLS = _Recorder()


def order(roots: Sequence[Symbol]) -> Iterator[Symbol]:
    """Every node the roots need, once, arguments before their use."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if node.number in seen:
            continue
        if ready or node.op in ("const", "input"):
            seen.add(node.number)
            yield node
        else:
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))


@dataclass(frozen=True)
class Traced:
    """A rule as a graph. Its inputs are named g, theta, state.*, hyper.* and scalars.*"""

    theta: Symbol
    state: Mapping[str, Symbol]

    @property
    def roots(self) -> list[Symbol]:
        """The new theta, then the new state in the rule's order."""
        return [self.theta, *self.state.values()]


def trace(rule: Rule) -> Traced:
    """Record one update of `rule`."""
    hyper = {h.name: h.default for h in rule.hyper}
    theta, state = rule.update(
        SYMBOLS,
        symbol("g"),
        symbol("theta"),
        {s: symbol(f"state.{s}") for s in rule.state},
        {h: symbol(f"hyper.{h}") for h in hyper},
        {s: symbol(f"scalars.{s}") for s in rule.scalars},
    )
    return Traced(as_symbol(theta), {name: as_symbol(state[name]) for name in rule.state})


def prepared(roots: Sequence[Symbol], k: Any) -> Callable[[Mapping[str, Any]], list[Any]]:
    """A function from the inputs by name to the roots' values, with the functions of namespace `k`.

    The order of the operations is worked out here, once.
    """
    places: dict[int, int] = {}
    start: list[Any] = []
    inputs: list[tuple[int, str]] = []
    calls: list[tuple[int, Callable[..., Any], list[int]]] = []
    for node in order(roots):
        place = places[node.number] = len(start)
        start.append(node.args[0] if node.op == "const" else None)
        if node.op == "input":
            inputs.append((place, node.args[0]))
        elif node.op != "const":
            function = _OPERATORS.get(node.op) or getattr(k, node.op)
            calls.append((place, function, [places[a.number] for a in node.args]))
    wanted = [places[root.number] for root in roots]

    def run(given: Mapping[str, Any]) -> list[Any]:
        values = start.copy()
        for place, name in inputs:
            values[place] = given[name]
        for place, function, arguments in calls:
            values[place] = function(*[values[a] for a in arguments])
        return [values[place] for place in wanted]

    return run


def evaluate(roots: Sequence[Symbol], inputs: Mapping[str, Any], k: Any) -> list[Any]:
    """Compute the roots from the inputs by name, with the functions of namespace `k`."""
    return prepared(roots, k)(inputs)
