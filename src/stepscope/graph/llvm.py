"""Expression graphs as LLVM IR text: scalars and explicit-width vectors, rounding exactly as the graph says.

No fast-math flag is ever set, so a compiler may not reorder, fuse or drop an operation. Nodes that depend on scalars
alone stay scalar; one that meets a vector is spread over its lanes at that point.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from stepscope.graph.expression import Symbol, order

__all__ = ["FORMATS", "Emitter", "Format", "Value"]


@dataclass(frozen=True)
class Format:
    """A number format: its names in LLVM, and where its exponent lies (0 bits: not reachable by bit operations)."""

    name: str
    llvm: str
    suffix: str
    bits: int
    fraction: int
    bias: int
    smallest_normal: float

    def literal(self, value: float) -> str:
        """The constant as LLVM writes it: the bits of a double, or of the 80-bit format."""
        if self.llvm != "x86_fp80":
            if self.llvm == "float":
                value = struct.unpack("f", struct.pack("f", value))[0]
            return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        return _extended(value)


def _extended(value: float) -> str:
    """An 80-bit literal: sign and exponent, then 64 bits of significand with the leading one written out."""
    sign = struct.unpack("<Q", struct.pack("<d", value))[0] >> 63
    if not math.isfinite(value):
        return f"0xK{(sign << 15) | 0x7FFF:04X}{0xC000000000000000 if math.isnan(value) else 1 << 63:016X}"
    if value == 0:
        return f"0xK{sign << 15:04X}{0:016X}"
    size = abs(Fraction(value))
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    return f"0xK{(sign << 15) | (exponent + 16383):04X}{int(size / Fraction(2) ** (exponent - 63)):016X}"


FORMATS: Mapping[str, Format] = {
    "float64": Format("float64", "double", "f64", 64, 52, 1023, 2.0**-1022),
    "float32": Format("float32", "float", "f32", 32, 23, 127, 2.0**-126),
    "extended": Format("extended", "x86_fp80", "f80", 0, 0, 0, 0),
}

_ARITHMETIC = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
_COMPARISONS = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge"}
_INTRINSICS = {
    "sqrt": "sqrt",
    "abs": "fabs",
    "fma": "fma",
    "rint": "rint",
    "exp": "exp",
    "log": "log",
    "sin": "sin",
    "cos": "cos",
}
_LIBRARY = ("tanh", "erf")  # no intrinsic: C's own function, one lane at a time


@dataclass(frozen=True)
class Value:
    """An SSA value: its name, whether it has lanes, and whether it is a truth value."""

    name: str
    vector: bool
    truth: bool = False


class Emitter:
    """Collects the instructions of one function. `width` lanes to a vector; 1 makes every value a scalar."""

    def __init__(self, width: int, number: Format) -> None:
        self.width, self.number = width, number
        self.estimates = False  # whether quotients and roots may be an ulp or two off, where that is faster
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self._count = 0
        self._spread: dict[str, str] = {}
        self._values: dict[int, Value] = {}

    def type_of(self, vector: bool, element: str | None = None) -> str:
        """LLVM's name of the type of a number (or of `element`), with lanes or without."""
        element = element or self.number.llvm
        return f"<{self.width} x {element}>" if vector and self.width > 1 else element

    def line(self, text: str) -> None:
        """One instruction."""
        self.lines.append(f"  {text}")

    def let(self, text: str) -> str:
        """One instruction with a result, whose name is returned."""
        self._count += 1
        name = f"%v{self._count}"
        self.line(f"{name} = {text}")
        return name

    def call(self, function: str, result: str, *arguments: tuple[str, str], flags: str = "") -> str:
        """A call of an external function or intrinsic, declared on the way."""
        types = ", ".join(kind for kind, _ in arguments)
        self.declarations.add(f"declare {result} @{function}({types})")
        return self.let(f"call {flags}{result} @{function}({', '.join(f'{kind} {name}' for kind, name in arguments)})")

    def spread(self, name: str, element: str | None = None) -> str:
        """A scalar in every lane."""
        if self.width == 1:
            return name
        kind, scalar = self.type_of(True, element), element or self.number.llvm
        if (key := f"{scalar} {name}") not in self._spread:
            one = self.let(f"insertelement {kind} poison, {scalar} {name}, i32 0")
            self._spread[key] = self.let(
                f"shufflevector {kind} {one}, {kind} poison, <{self.width} x i32> zeroinitializer"
            )
        return self._spread[key]

    def start_block(self, label: str, keep: bool = True) -> None:
        """Begin a basic block. keep: values made so far are still valid there (they dominate it)."""
        self.lines.append(f"{label}:")
        if not keep:
            self._spread, self._values = {}, {}

    def emit(self, roots: Sequence[Symbol], inputs: Mapping[str, Value]) -> list[Value]:
        """Instructions that compute the roots; what an earlier call computed in a dominating block is reused."""
        for node in order(roots):
            if node.number not in self._values:
                self._values[node.number] = self._node(node, inputs)
        return [self._values[root.number] for root in roots]

    def mark(self) -> tuple[dict[str, str], dict[int, Value]]:
        """What is valid now, for `restore` after a block that does not dominate what follows."""
        return dict(self._spread), dict(self._values)

    def restore(self, mark: tuple[dict[str, str], dict[int, Value]]) -> None:
        """Forget what was made since `mark`."""
        self._spread, self._values = dict(mark[0]), dict(mark[1])

    def _node(self, node: Symbol, inputs: Mapping[str, Value]) -> Value:
        if node.op == "input":
            return inputs[node.args[0]]
        if node.op == "const":
            return Value(self.number.literal(node.args[0]), False)
        arguments = [self._values[a.number] for a in node.args]
        # A condition may stay scalar while it chooses between vectors.
        lanes = arguments[1:] if node.op == "where" and not arguments[0].vector else arguments
        vector = any(a.vector for a in lanes)
        return self._operation(node.op, arguments, vector)

    def _operation(self, op: str, arguments: Sequence[Value], vector: bool) -> Value:
        kind = self.type_of(vector)
        names = [
            self.spread(a.name, "i1" if a.truth else None) if vector and not a.vector and not a.truth else a.name
            for a in arguments
        ]
        if op in _ARITHMETIC:
            fast = " ninf arcp afn" if self.estimates and op == "/" else ""
            return Value(self.let(f"{_ARITHMETIC[op]}{fast} {kind} {names[0]}, {names[1]}"), vector)
        if op == "neg":
            return Value(self.let(f"fneg {kind} {names[0]}"), vector)
        if op in _COMPARISONS:
            return Value(self.let(f"fcmp {_COMPARISONS[op]} {kind} {names[0]}, {names[1]}"), vector, truth=True)
        if op == "&":
            truths = [self._truth(a, vector) for a in arguments]
            return Value(self.let(f"and {self.type_of(vector, 'i1')} {truths[0]}, {truths[1]}"), vector, truth=True)
        if op == "where":
            condition = arguments[0]
            chooser = self.type_of(condition.vector, "i1")
            return Value(self.let(f"select {chooser} {condition.name}, {kind} {names[1]}, {kind} {names[2]}"), vector)
        return Value(self._function(op, names, vector), vector)

    def _truth(self, value: Value, vector: bool) -> str:
        return self.spread(value.name, "i1") if vector and not value.vector else value.name

    def _function(self, op: str, names: Sequence[str], vector: bool) -> str:
        kind = self.type_of(vector)
        suffix = f"v{self.width}{self.number.suffix}" if vector and self.width > 1 else self.number.suffix
        if op in _INTRINSICS:
            fast = "ninf arcp afn " if self.estimates and op == "sqrt" else ""
            return self.call(f"llvm.{_INTRINSICS[op]}.{suffix}", kind, *[(kind, name) for name in names], flags=fast)
        if op == "sign":
            one = self.spread(self.number.literal(1.0)) if vector else self.number.literal(1.0)
            size = self.call(f"llvm.copysign.{suffix}", kind, (kind, one), (kind, names[0]))
            # Unordered or zero: the argument itself, so that 0 stays 0 and nan stays nan.
            zero = "zeroinitializer" if vector and self.width > 1 else self.number.literal(0.0)
            other = self.let(f"fcmp one {kind} {names[0]}, {zero}")
            return self.let(f"select {self.type_of(vector, 'i1')} {other}, {kind} {size}, {kind} {names[0]}")
        if op in ("min", "max"):  # NumPy's and torch's: nan if either is
            test = self.let(f"fcmp {'ult' if op == 'min' else 'ugt'} {kind} {names[0]}, {names[1]}")
            chosen = self.let(f"select {self.type_of(vector, 'i1')} {test}, {kind} {names[0]}, {kind} {names[1]}")
            unordered = self.let(f"fcmp uno {kind} {names[1]}, {names[1]}")
            return self.let(f"select {self.type_of(vector, 'i1')} {unordered}, {kind} {names[1]}, {kind} {chosen}")
        if op in _LIBRARY:
            return self._library(op, names[0], vector)
        if op in ("exponent", "mantissa", "pow2"):
            return self._bits(op, names[0], vector)
        raise NotImplementedError(f"the LLVM backend has no {op}")

    def _library(self, op: str, name: str, vector: bool) -> str:
        scalar, kind = self.number.llvm, self.type_of(vector)
        function = op + {"double": "", "float": "f", "x86_fp80": "l"}[scalar]
        if not vector or self.width == 1:
            return self.call(function, scalar, (scalar, name))
        result = "poison"
        for lane in range(self.width):
            x = self.let(f"extractelement {kind} {name}, i32 {lane}")
            y = self.call(function, scalar, (scalar, x))
            result = self.let(f"insertelement {kind} {result}, {scalar} {y}, i32 {lane}")
        return result

    def _bits(self, op: str, name: str, vector: bool) -> str:
        """The exponent field, read or written: exact for normal numbers."""
        f, kind = self.number, self.type_of(vector)
        if not f.bits:
            raise NotImplementedError(f"{op} of {f.name} numbers")
        integer = f"i{f.bits}"
        whole = self.type_of(vector, integer)

        def constant(value: int) -> str:
            return self.spread(str(value), integer) if vector else str(value)

        if op == "pow2":
            n = self.let(f"fptosi {kind} {name} to {whole}")
            shifted = self.let(
                f"shl {whole} {self.let(f'add {whole} {n}, {constant(f.bias)}')}, {constant(f.fraction)}"
            )
            return self.let(f"bitcast {whole} {shifted} to {kind}")
        raw = self.let(f"bitcast {kind} {name} to {whole}")
        if op == "mantissa":
            low = self.let(f"and {whole} {raw}, {constant((1 << f.fraction) - 1)}")
            return self.let(
                f"bitcast {whole} {self.let(f'or {whole} {low}, {constant(f.bias << f.fraction)}')} to {kind}"
            )
        field = self.let(f"lshr {whole} {raw}, {constant(f.fraction)}")
        return self.let(f"sitofp {whole} {self.let(f'sub {whole} {field}, {constant(f.bias)}')} to {kind}")
