"""Expression graphs and step scalars as JavaScript text, in float64: the bits are those of the compiled kernels.

+ - * / and Math.sqrt round once, as everywhere. `fma`, the functions of whole numbers and the bit operations come from
runtime.js, which is exact; the elementary functions are functions of the program, printed from what
`elementary.rewrite` spells out. Nothing a user typed ever gets into the text: a program is printed from a graph, whose
names are looked up.

Step scalars call the host's pow, log and expm1. Here beta^t is rounded once from twice the digits; the C library's pow
errs by up to 0.52 ulp and its expm1 and log by less than 1, so tables agree to a few ulp (tests/graph/test_javascript).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from stepscope.graph.elementary import ELEMENTARY, rewrite
from stepscope.graph.expression import Symbol, order, symbol

__all__ = ["RUNTIME", "Printer", "elementary", "literal", "runtime", "scalar"]

RUNTIME = ("fma", "sign", "min", "max", "rint", "exponent", "mantissa", "pow2", "power", "normals", "float32Product")
"""What printed text may call: functions of runtime.js."""

_INFIX = {"+": "+", "-": "-", "*": "*", "/": "/", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "&": "&&"}
_CALLS = {"sqrt": "Math.sqrt", "abs": "Math.abs"} | {
    name: name for name in ("sign", "min", "max", "fma", "rint", "exponent", "mantissa", "pow2", *ELEMENTARY)
}
_LONGEST = 160  # characters of an expression that is put into its only use


def runtime() -> str:
    """The source of runtime.js."""
    return (files("stepscope.graph") / "runtime.js").read_text("utf-8")


def literal(value: float) -> str:
    """The number as JavaScript writes it: the shortest digits that give it back.

    >>> literal(0.1), literal(-2.0), literal(float("inf"))
    ('0.1', '(-2)', 'Infinity')
    """
    if math.isnan(value):
        return "NaN"
    size = "Infinity" if math.isinf(value) else repr(abs(value)).removesuffix(".0")
    return f"(-{size})" if math.copysign(1.0, value) < 0 else size


class Printer:
    """Statements that compute graphs. inputs: the JavaScript expression of each input by name.

    Every graph that will be asked for is named at once, so that a value used once is written where it is used and one
    used more often gets a name.
    """

    def __init__(self, roots: Sequence[Symbol], inputs: Mapping[str, str], prefix: str = "v") -> None:
        self.inputs, self.prefix = dict(inputs), prefix
        self.uses: dict[int, int] = {}
        for node in order(roots):
            for argument in node.args if node.op not in ("input", "const") else ():
                self.uses[argument.number] = self.uses.get(argument.number, 0) + 1
        for root in roots:
            self.uses[root.number] = self.uses.get(root.number, 0) + 1
        self.known: dict[int, str] = {}

    def statements(self, roots: Sequence[Symbol]) -> tuple[list[str], list[str]]:
        """The statements not yet made that the roots need, and the expressions of the roots."""
        lines: list[str] = []
        for node in order(roots):
            if node.number in self.known:
                continue
            text = self._text(node)
            simple = node.op in ("input", "const")
            if not simple and (self.uses.get(node.number, 2) > 1 or len(text) > _LONGEST):
                name = f"{self.prefix}{len(self.known)}"
                lines.append(f"const {name} = {text};")
                text = name
            self.known[node.number] = text
        return lines, [self.known[root.number] for root in roots]

    def invariants(self, roots: Sequence[Symbol], constant: Callable[[str], bool]) -> list[str]:
        """Statements for all parts of the graphs that depend on constant inputs alone, and on some."""
        fixed: dict[int, bool] = {}
        wanted: list[Symbol] = []
        for node in order(roots):
            if node.op == "input":
                fixed[node.number] = constant(str(node.args[0]))
            elif node.op == "const":
                fixed[node.number] = True
            else:
                fixed[node.number] = all(fixed[a.number] for a in node.args)
                if not fixed[node.number]:
                    wanted += [a for a in node.args if fixed[a.number] and a.op not in ("input", "const")]
        for node in wanted:  # they outlive the place where they are made, so each gets a name
            self.uses[node.number] = 2
        return self.statements(list(dict.fromkeys(wanted)))[0]

    def _text(self, node: Symbol) -> str:
        if node.op == "input":
            return self.inputs[node.args[0]]
        if node.op == "const":
            return literal(node.args[0])
        arguments = [self.known[a.number] for a in node.args]
        if node.op in _INFIX:
            return f"({arguments[0]} {_INFIX[node.op]} {arguments[1]})"
        if node.op == "neg":
            return f"(-{arguments[0]})"
        if node.op == "where":
            return f"({arguments[0]} ? {arguments[1]} : {arguments[2]})"
        if node.op not in _CALLS:
            raise NotImplementedError(f"JavaScript has no {node.op}")
        return f"{_CALLS[node.op]}({', '.join(arguments)})"


def elementary(roots: Sequence[Symbol]) -> list[str]:
    """Statements that define the elementary functions the graphs call, each once: spelled out at every call, a program
    would be ten times as long.
    """
    used = {node.op for node in order(roots)}
    found = []
    for name in (name for name in ELEMENTARY if name in used):
        (root,) = rewrite([Symbol(name, symbol("x"))])
        lines, (value,) = Printer([root], {"x": "x"}).statements([root])
        found.append(f"const {name} = (x) => {{ {' '.join(lines)} return {value}; }};")
    return found


class _Undecided(Exception):
    """A step scalar asks whether a condition holds."""

    def __init__(self, condition: str) -> None:
        self.condition = condition


class _Text:
    """A number of the host as JavaScript text. A comparison asks, and both answers are followed."""

    def __init__(self, text: str, answers: Mapping[str, bool], needs: Sequence[str]) -> None:
        self.text, self.answers, self.needs = text, answers, needs

    def _new(self, text: str) -> "_Text":
        return _Text(text, self.answers, self.needs)

    def _made(self, template: str, other: Any) -> "_Text":
        text = other.text if isinstance(other, _Text) else literal(float(other))
        return self._new(template.format(self.text, text))

    def __add__(self, other: Any) -> "_Text":
        return self._made("({0} + {1})", other)

    def __radd__(self, other: Any) -> "_Text":
        return self._made("({1} + {0})", other)

    def __sub__(self, other: Any) -> "_Text":
        return self._made("({0} - {1})", other)

    def __rsub__(self, other: Any) -> "_Text":
        return self._made("({1} - {0})", other)

    def __mul__(self, other: Any) -> "_Text":
        return self._made("({0} * {1})", other)

    def __rmul__(self, other: Any) -> "_Text":
        return self._made("({1} * {0})", other)

    def __truediv__(self, other: Any) -> "_Text":
        return self._made("({0} / {1})", other)

    def __rtruediv__(self, other: Any) -> "_Text":
        return self._made("({1} / {0})", other)

    def __pow__(self, exponent: Any) -> "_Text":
        """A whole power given by a traced number, or a square root."""
        if isinstance(exponent, _Text):
            return self._made("power({0}, {1})", exponent)
        if exponent == 0.5:
            return self._new(f"Math.sqrt({self.text})")
        raise NotImplementedError(f"a step scalar has no power {exponent}")

    def __rpow__(self, base: Any) -> "_Text":
        return self._made("Math.pow({1}, {0})", base)

    def __neg__(self) -> "_Text":
        return self._new(f"(-{self.text})")

    def log(self) -> "_Text":
        return self._new(f"Math.log({self.text})")

    def expm1(self) -> "_Text":
        return self._new(f"Math.expm1({self.text})")

    def float32_product(self, factor: "Callable[[_Text], _Text]") -> "_Text":
        """factor(1) factor(2) ... factor(t), factors and products rounded to float32."""
        one = factor(self._new("s")).text
        return self._new(f"float32Product({self.text}, (s) => {one}, [{', '.join(self.needs)}].join())")

    def _asked(self, operator: str, other: Any) -> bool:
        condition = self._made(f"({{0}} {operator} {{1}})", other).text
        if condition not in self.answers:
            raise _Undecided(condition)
        return self.answers[condition]

    def __eq__(self, other: object) -> bool:
        return self._asked("===", other)

    def __ne__(self, other: object) -> bool:
        return self._asked("!==", other)

    def __lt__(self, other: Any) -> bool:
        return self._asked("<", other)

    def __gt__(self, other: Any) -> bool:
        return self._asked(">", other)

    def __le__(self, other: Any) -> bool:
        return self._asked("<=", other)

    def __ge__(self, other: Any) -> bool:
        return self._asked(">=", other)

    __hash__ = None  # type: ignore[assignment]


def scalar(value: Callable[..., Any], needs: Sequence[str]) -> str:
    """A step scalar value(t, *needs) as a JavaScript function of the same numbers.

    >>> scalar(lambda t, beta: 0.0 if t == 1 else 1 - beta**t, ["beta"])
    '(t, beta) => ((t === 1) ? 0 : (1 - power(beta, t)))'
    """
    names = ["t", *needs]

    def follow(answers: dict[str, bool]) -> str:
        try:
            result = value(*[_Text(name, answers, needs) for name in names])
        except _Undecided as question:
            yes, no = ({**answers, question.condition: answer} for answer in (True, False))
            return f"({question.condition} ? {follow(yes)} : {follow(no)})"
        return result.text if isinstance(result, _Text) else literal(float(result))

    return f"({', '.join(names)}) => {follow({})}"
