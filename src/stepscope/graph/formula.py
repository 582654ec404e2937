"""Formulas typed by a user: a tokenizer and a Pratt parser into expression graphs. Nothing is ever evaluated.

Grammar: numbers; variables; the constants pi and e; + - * / ^ (also **), powers binding tighter than a sign on their
left and grouping to the right (-x^2 = -(x^2), 2^3^2 = 2^9); products written by juxtaposition bind like *: 2x,
2 sin(x), (x+1)(y-1); |x|; superscripts (x²); functions with brackets. Whole powers up to 64 are products, ^0.5 is a
square root, every other power b^p is exp(p log b) and so needs b > 0.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from stepscope.errors import UserError
from stepscope.graph.expression import SYMBOLS, Symbol, symbol

__all__ = ["FUNCTIONS", "LONGEST", "FormulaError", "parse"]

LONGEST = 500
"""Characters of a formula."""
_DEEPEST = 60
_MOST_NODES = 400
_HIGHEST_POWER = 64
_SHOWN = 60  # characters of a long formula that an error shows


class FormulaError(UserError):
    """A text that is no formula. `position` counts characters from 0; the message shows the place."""

    lines = True

    def __init__(self, problem: str, text: str, position: int) -> None:
        self.problem, self.text, self.position = problem, text, position
        start = max(0, position - _SHOWN // 2)
        shown = text[start : start + _SHOWN]
        shown = "".join(c if c.isprintable() else "·" for c in shown)
        before, after = "…" if start else "", "…" if start + _SHOWN < len(text) else ""
        caret = " " * (len(before) + position - start) + "^"
        super().__init__(f"{problem} (character {position + 1}):\n  {before}{shown}{after}\n  {caret}")


class _Token(NamedTuple):
    kind: str  # number, name, operator, power (a superscript), end
    text: str
    position: int


_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_ALIKE = {"−": "-", "·": "*", "×": "*", "⋅": "*", "÷": "/", "²": "^2", "³": "^3"}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))


def _tan(x: Symbol) -> Symbol:
    return SYMBOLS.sin(x) / SYMBOLS.cos(x)


def _cosh(x: Symbol) -> Symbol:
    return 0.5 * (SYMBOLS.exp(x) + SYMBOLS.exp(-x))


def _sinh(x: Symbol) -> Symbol:
    """tanh cosh: no cancellation near 0."""
    return SYMBOLS.tanh(x) * _cosh(x)


FUNCTIONS: Mapping[str, tuple[int, Callable[..., Symbol]]] = {
    **{
        name: (1, getattr(SYMBOLS, name)) for name in ("sqrt", "abs", "sign", "exp", "log", "sin", "cos", "tanh", "erf")
    },
    "ln": (1, SYMBOLS.log),
    "tan": (1, _tan),
    "sinh": (1, _sinh),
    "cosh": (1, _cosh),
    "min": (2, SYMBOLS.min),
    "max": (2, SYMBOLS.max),
}
"""Every function a formula may call: how many arguments it takes, and its graph."""

_CONSTANTS = {"pi": math.pi, "e": math.e}


def _tokens(text: str) -> list[_Token]:
    out: list[_Token] = []
    i = 0
    while i < len(text):
        c = text[i]
        if c in " \t\n\r":
            i += 1
        elif match := _NUMBER.match(text, i):
            out.append(_Token("number", match[0], i))
            i = match.end()
        elif match := _NAME.match(text, i):
            out.append(_Token("name", match[0], i))
            i = match.end()
        elif c in _SUPERSCRIPTS:
            j = i
            while j < len(text) and text[j] in _SUPERSCRIPTS:
                j += 1
            out.append(_Token("power", "".join(_SUPERSCRIPTS[d] for d in text[i:j]), i))
            i = j
        elif text.startswith("**", i):
            out.append(_Token("operator", "^", i))
            i += 2
        elif (plain := _ALIKE.get(c, c)) in tuple("+-*/^()|,"):
            out.append(_Token("operator", plain, i))
            i += 1
        else:
            name = repr(c) if c.isprintable() else f"U+{ord(c):04X}"
            raise FormulaError(f"{name} is not allowed in a formula", text, i)
    out.append(_Token("end", "", len(text)))
    return out


# How tightly an operator holds what is on its left.
_SUM, _PRODUCT, _SIGN, _POWER = 10, 20, 30, 40
_BINDING = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "^": _POWER}


class _Parser:
    def __init__(self, text: str, names: Mapping[str, Symbol]) -> None:
        self.text, self.names = text, names
        self.tokens, self.at = _tokens(text), 0
        self.depth = self.nodes = self.bars = 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def fail(self, problem: str, token: _Token | None = None) -> FormulaError:
        return FormulaError(problem, self.text, (token or self.now).position)

    def take(self) -> _Token:
        token = self.now
        self.at += 1
        return token

    def expect(self, text: str, why: str) -> None:
        if self.now.kind != "operator" or self.now.text != text:
            raise self.fail(f"{text!r} is missing: {why}")
        self.take()

    def whole(self) -> Symbol:
        if self.now.kind == "end":
            raise self.fail("the formula is empty")
        value = self.expression(0)
        if self.now.kind != "end":
            raise self.fail(f"{self.now.text!r} does not belong here")
        return value

    def expression(self, least: int) -> Symbol:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.fail(f"the formula is nested more than {_DEEPEST} deep")
        left = self.prefix()
        while (binding := self.binding()) > least:
            left = self.infix(left, binding)
        self.depth -= 1
        return left

    def binding(self) -> int:
        token = self.now
        if token.kind == "power":
            return _POWER
        if token.kind in ("number", "name"):
            return _PRODUCT  # juxtaposition
        if token.kind == "operator":
            if token.text == "(" or (token.text == "|" and not self.bars):
                return _PRODUCT
            return _BINDING.get(token.text, 0)
        return 0

    def count(self, token: _Token, value: Symbol) -> Symbol:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise self.fail(f"the formula has more than {_MOST_NODES} operations", token)
        if value.op == "const" and not math.isfinite(value.args[0]):
            raise self.fail("the number is too large", token)
        return value

    def prefix(self) -> Symbol:
        token = self.take()
        if token.kind == "number":
            return self.count(token, _constant(float(token.text)))
        if token.kind == "name":
            return self.name(token)
        if token.text in ("-", "+") and token.kind == "operator":
            value = self.expression(_SIGN)
            return self.count(token, _negative(value)) if token.text == "-" else value
        if token.text == "(":
            bars, self.bars = self.bars, 0
            value = self.expression(0)
            self.expect(")", "a bracket was opened and not closed")
            self.bars = bars
            return value
        if token.text == "|":
            self.bars += 1
            value = self.expression(0)
            self.expect("|", "the absolute value has no end")
            self.bars -= 1
            return self.count(token, SYMBOLS.abs(value))
        if token.kind == "end":
            raise self.fail("the formula ends where a value should follow", token)
        raise self.fail(f"a value should stand before {token.text!r}", token)

    def name(self, token: _Token) -> Symbol:
        name = token.text
        called = self.now.kind == "operator" and self.now.text == "("
        if name in self.names:
            return self.count(token, self.names[name])
        if name in FUNCTIONS:
            if not called:
                raise self.fail(f"{name} needs its argument in brackets, as in {name}(x)", token)
            return self.call(token)
        if name in _CONSTANTS:
            return self.count(token, _constant(_CONSTANTS[name]))
        known = [*self.names, *_CONSTANTS, *FUNCTIONS]
        shown = name if len(name) <= 30 else name[:30] + "…"
        near = difflib.get_close_matches(name[:30], known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"the variables are {', '.join(self.names) or 'none'}"
        raise self.fail(f"{shown!r} is not known; {hint}", token)

    def call(self, token: _Token) -> Symbol:
        wanted, function = FUNCTIONS[token.text]
        self.take()
        bars, self.bars = self.bars, 0
        arguments = [self.expression(0)]
        while self.now.kind == "operator" and self.now.text == ",":
            self.take()
            arguments.append(self.expression(0))
        self.expect(")", f"the arguments of {token.text} have no end")
        self.bars = bars
        if len(arguments) != wanted:
            said = f"{wanted} argument" + ("s" if wanted > 1 else "")
            raise self.fail(f"{token.text} takes {said}, got {len(arguments)}", token)
        return self.count(token, function(*arguments))

    def infix(self, left: Symbol, binding: int) -> Symbol:
        token = self.now
        if token.kind == "power":
            self.take()
            self.count(token, _constant(float(token.text)))
            return self.power(token, left, _constant(float(token.text)))
        if token.kind != "operator" or token.text in "(|":
            return self.count(token, _folded("*", left, self.expression(_PRODUCT), self, token))
        self.take()
        if token.text == "^":
            return self.power(token, left, self.expression(_SIGN if self._signed() else _POWER - 1))
        return self.count(token, _folded(token.text, left, self.expression(binding), self, token))

    def _signed(self) -> bool:
        return self.now.kind == "operator" and self.now.text in "+-"

    def power(self, token: _Token, base: Symbol, exponent: Symbol) -> Symbol:
        if exponent.op != "const":
            return self.count(token, SYMBOLS.exp(exponent * SYMBOLS.log(base)))
        p = float(exponent.args[0])
        if base.op == "const":
            try:
                value = float(base.args[0]) ** p
            except (OverflowError, ZeroDivisionError, ValueError):
                value = math.inf
            if isinstance(value, complex) or not math.isfinite(value):
                raise self.fail("this power is not a finite real number", token)
            return self.count(token, _constant(value))
        if p == 0.5:
            return self.count(token, SYMBOLS.sqrt(base))
        if p != int(p):
            return self.count(token, SYMBOLS.exp(p * SYMBOLS.log(base)))
        if abs(p) > _HIGHEST_POWER:
            raise self.fail(f"powers of a variable go up to {_HIGHEST_POWER}", token)
        self.nodes += 2 * int(abs(p)).bit_length()
        return self.count(token, base ** int(p))


def _constant(value: float) -> Symbol:
    return Symbol("const", value)


def _negative(value: Symbol) -> Symbol:
    return _constant(-value.args[0]) if value.op == "const" else -value


def _folded(op: str, a: Symbol, b: Symbol, parser: _Parser, token: _Token) -> Symbol:
    """a op b; of two numbers, the number."""
    if op == "/" and b.op == "const" and b.args[0] == 0:
        raise parser.fail("division by zero", token)
    if a.op == b.op == "const":
        x, y = a.args[0], b.args[0]
        return _constant({"+": x + y, "-": x - y, "*": x * y}[op] if op != "/" else x / y)
    return {"+": a + b, "-": a - b, "*": a * b}[op] if op != "/" else a / b


def parse(text: str, variables: Sequence[str] = ("x", "y"), parameters: Iterable[str] = ()) -> Symbol:
    """The graph of a formula. Its inputs are named by the variables, and "param.<name>" for parameters.

    Raises FormulaError, with the place, for anything that is not a formula in these names.

    >>> parse("x^2 + 1e-3 y²")
    +(*(x, x), *(0.001, *(y, y)))
    """
    if len(text) > LONGEST:
        raise FormulaError(f"the formula has {len(text)} characters; {LONGEST} is the most", text, LONGEST)
    names = {name: symbol(name) for name in variables} | {name: symbol(f"param.{name}") for name in parameters}
    return _Parser(text, names).whole()
