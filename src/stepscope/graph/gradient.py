"""Symbolic gradients of expression graphs by reverse accumulation.

Only the derivative's own constants are simplified (x 1, x + 0, x 0, products of numbers); the function's graph is
left as it is, so that its rounding stays its own. Conventions: d|x|/dx = sign x with sign 0 = 0; sign has derivative 0;
where, min and max pass the derivative to the side they choose (min and max: the first argument on a tie).
"""

import math
from collections.abc import Sequence

from stepscope.graph.expression import SYMBOLS, Symbol, order

__all__ = ["gradient"]


def _number(value: float) -> Symbol:
    return Symbol("const", float(value))


_ZERO, _ONE = _number(0.0), _number(1.0)


def _value(node: Symbol) -> float | None:
    return float(node.args[0]) if node.op == "const" else None


def _add(a: Symbol, b: Symbol) -> Symbol:
    if a is _ZERO:
        return b
    if b is _ZERO:
        return a
    x, y = _value(a), _value(b)
    if x is not None and y is not None:
        return _number(x + y)
    return _times(_number(2.0), a) if a is b else a + b


def _negative(a: Symbol) -> Symbol:
    x = _value(a)
    if x is not None:
        return _number(-x)
    return a.args[0] if a.op == "neg" else -a


def _times(a: Symbol, b: Symbol) -> Symbol:
    if a is _ZERO or b is _ZERO:
        return _ZERO
    if a is _ONE:
        return b
    if b is _ONE:
        return a
    x, y = _value(a), _value(b)
    if x is not None and y is not None:
        return _number(x * y)
    return a * b


def _over(a: Symbol, b: Symbol) -> Symbol:
    return a if a is _ZERO or b is _ONE else a / b


def _chosen(condition: Symbol, g: Symbol) -> Symbol:
    return g if g is _ZERO else SYMBOLS.where(condition, g, _ZERO)


def _parts(node: Symbol, g: Symbol) -> list[Symbol]:  # noqa: PLR0911, PLR0912 -- one case per operation
    """The derivative g of the result, passed on to each argument."""
    a = node.args
    k = SYMBOLS
    match node.op:
        case "+":
            return [g, g]
        case "-":
            return [g, _negative(g)]
        case "*":
            return [_times(g, a[1]), _times(g, a[0])]
        case "/":
            return [_over(g, a[1]), _negative(_over(_times(g, node), a[1]))]
        case "neg":
            return [_negative(g)]
        case "sqrt":
            return [_over(_times(g, _number(0.5)), node)]
        case "abs":
            return [_times(g, k.sign(a[0]))]
        case "fma":
            return [_times(g, a[1]), _times(g, a[0]), g]
        case "exp":
            return [_times(g, node)]
        case "log":
            return [_over(g, a[0])]
        case "sin":
            return [_times(g, k.cos(a[0]))]
        case "cos":
            return [_negative(_times(g, k.sin(a[0])))]
        case "tanh":
            return [_times(g, 1 - node * node)]
        case "erf":
            return [_times(g, (2 / math.sqrt(math.pi)) * k.exp(-(a[0] * a[0])))]
        case "where":
            return [_ZERO, _chosen(a[0], g), g if g is _ZERO else k.where(a[0], _ZERO, g)]
        case "min" | "max":
            first = a[0] <= a[1] if node.op == "min" else a[0] >= a[1]
            return [_chosen(first, g), g if g is _ZERO else k.where(first, _ZERO, g)]
        case _:  # sign, comparisons and what is made of them: constant almost everywhere
            return [_ZERO] * len(a)


def gradient(root: Symbol, inputs: Sequence[Symbol]) -> list[Symbol]:
    """Derivatives of `root` with respect to each of `inputs` (any nodes), as graphs that share its nodes."""
    slopes: dict[int, Symbol] = {root.number: _ONE}
    for node in reversed(list(order([root]))):
        g = slopes.get(node.number, _ZERO)
        if g is _ZERO or node.op in ("input", "const"):
            continue
        for argument, part in zip(node.args, _parts(node, g), strict=True):
            if part is not _ZERO and argument.op != "const":
                slopes[argument.number] = _add(slopes.get(argument.number, _ZERO), part)
    return [slopes.get(one.number, _ZERO) for one in inputs]
