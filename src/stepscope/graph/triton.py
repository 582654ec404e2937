"""One pass over many tensors as Triton source: pure text, in which every operation rounds once, as the graph says.

A program of the launch takes one chunk of one tensor, block by block: it reads a block of every stream, computes and
writes. It may also measure: terms are added up in the pass's precision along the chunk, then in float64, bins are
counted by whole-number atomics. Chunks are added up by a second small kernel in a fixed order, so that nothing depends
on which program ran first.

A compiler option, not the text, keeps products and sums apart: launch with enable_fp_fusion=False.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stepscope.graph.elementary import rewrite
from stepscope.graph.expression import PRIMITIVES, Symbol, order, symbol
from stepscope.graph.streams import BLOCK, COLUMNS, Measured, Stream, split

__all__ = ["CHUNK", "HEADER", "Emitter", "Pass", "printed"]

CHUNK = 8 * BLOCK  # elements of a program: enough to pay for its start, few enough to fill a device with 1e6 elements

HEADER = "import triton\nimport triton.language as tl\n"

# The upper half of a float32. Bits are converted here: Triton's own conversion needs a GPU of capability 8.
_STORED = {"bfloat16": "uint16"}

_FUNCTIONS = ("exp", "log", "sin", "cos", "tanh", "erf")
_INFIX = ("+", "-", "*", "<", "<=", ">", ">=", "&")


@dataclass(frozen=True)
class _Format:
    """A number format: the whole numbers of its width, and where its exponent lies."""

    signed: str
    unsigned: str
    fraction: int
    bias: int


_FORMATS = {
    "float32": _Format("tl.int32", "tl.uint32", 23, 127),
    "float64": _Format("tl.int64", "tl.uint64", 52, 1023),
}


class Emitter:
    """Collects the statements of one kernel. Values are names of blocks or scalars; both mix in every operation."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.lines: list[str] = []
        self.constants: dict[tuple[str, str], str] = {}  # by bits and format; they are set before everything else
        self.indent = "    "
        self._count = 0
        self._values: dict[int, str] = {}

    def line(self, text: str) -> None:
        """One statement."""
        self.lines.append(self.indent + text)

    def let(self, text: str) -> str:
        """A new name for an expression."""
        self._count += 1
        self.line(f"v{self._count} = {text}")
        return f"v{self._count}"

    def constant(self, value: float, precision: str | None = None) -> str:
        """The name of a number."""
        key = value.hex(), precision or self.precision
        return self.constants.setdefault(key, f"k{len(self.constants)}")

    def preamble(self) -> list[str]:
        """The statements that set the constants."""
        return [
            f"    {name} = {_number(float.fromhex(bits), precision)}"
            for (bits, precision), name in self.constants.items()
        ]

    def emit(self, roots: Sequence[Symbol], inputs: Mapping[str, str]) -> list[str]:
        """Statements that compute the roots; what was computed before is reused until it is forgotten."""
        return self._graph(roots, inputs, self.precision, self._values)

    def forget(self, kept: Mapping[int, str] | None = None) -> dict[int, str]:
        """Forget all values but the kept ones, because a block of statements ended.  Returns a copy of the old ones."""
        old, self._values = dict(self._values), dict(kept or {})
        return old

    def _graph(
        self, roots: Sequence[Symbol], inputs: Mapping[str, str], precision: str, values: dict[int, str]
    ) -> list[str]:
        for node in order(roots):
            if node.number not in values:
                if node.op == "input":
                    values[node.number] = inputs[node.args[0]]
                elif node.op == "const":
                    values[node.number] = self.constant(node.args[0], precision)
                else:
                    values[node.number] = self._node(node.op, [values[a.number] for a in node.args], precision)
        return [values[root.number] for root in roots]

    def _node(self, op: str, names: Sequence[str], precision: str) -> str:
        if op in _INFIX:
            return self.let(f"{names[0]} {op} {names[1]}")
        if op in _FUNCTIONS:
            return self._elementary(op, names[0], precision)
        if op in PRIMITIVES:
            return self._bits(op, names[0], precision)
        return self.let(self._operation(op, names, precision))

    def _operation(self, op: str, names: Sequence[str], precision: str) -> str:
        a, b = names[0], names[-1]
        exact = precision == "float32"  # where Triton's plain quotients and roots are estimates on CUDA
        match op:
            case "/":
                text = f"tl.div_rn({a}, {b})" if exact else f"{a} / {b}"
            case "sqrt":
                text = f"tl.sqrt_rn({a})" if exact else f"tl.sqrt({a})"
            case "neg":  # Triton's own is 0 - x, which makes 0 of 0
                text = f"{a} * {self.constant(-1.0, precision)}"
            case "abs" | "where" | "fma":
                text = f"tl.{op}({', '.join(names)})"
            case "sign":  # 0 stays 0 and nan stays nan
                one, zero, minus = (self.constant(value, precision) for value in (1.0, 0.0, -1.0))
                text = f"tl.where({a} > {zero}, {one}, tl.where({a} < {zero}, {minus}, {a}))"
            case "min" | "max":  # nan if either is
                less = "<" if op == "min" else ">"
                text = f"tl.where({b} != {b}, {b}, tl.where(({a} {less} {b}) | ({a} != {a}), {a}, {b}))"
            case _:
                raise NotImplementedError(f"the Triton backend has no {op}")
        return text

    def _elementary(self, op: str, name: str, precision: str) -> str:
        """The graph's own definition, in float64."""
        (definition,) = rewrite([Symbol(op, symbol("x"))])
        exact = precision == "float64"
        x = name if exact else self.let(f"{name}.to(tl.float64)")
        (value,) = self._graph([definition], {"x": x}, "float64", {})
        return value if exact else self.let(f"{value}.to(tl.{precision})")

    def _bits(self, op: str, x: str, precision: str) -> str:
        f, kind = _FORMATS[precision], f"tl.{precision}"
        match op:
            case "rint":  # what has no room for a fraction rounds to even when 2^fraction is added
                large = self.constant(2.0**f.fraction, precision)
                size = self.let(f"tl.abs({x})")
                whole = self.let(f"({size} + {large}) - {large}")
                zero, minus = self.constant(0.0, precision), self.constant(-1.0, precision)
                signed = self.let(f"tl.where({x} < {zero}, {whole} * {minus}, {whole})")
                return self.let(f"tl.where({size} < {large}, {signed}, {x})")
            case "pow2":
                return self.let(f"(({x}.to({f.signed}) + {f.bias}) << {f.fraction}).to({kind}, bitcast=True)")
            case "mantissa":
                low = self.let(f"{x}.to({f.signed}, bitcast=True) & {(1 << f.fraction) - 1}")
                return self.let(f"({low} | {f.bias << f.fraction}).to({kind}, bitcast=True)")
            case _:  # exponent
                field = self.let(f"({x}.to({f.unsigned}, bitcast=True) >> {f.fraction}).to({f.signed})")
                return self.let(f"({field} - {f.bias}).to({kind})")


def _number(value: float, precision: str) -> str:
    text = repr(value) if math.isfinite(value) else f'float("{value}")'
    if value == 0 and math.copysign(1, value) < 0:  # tl.full drops the sign
        return f"tl.full((), -1.0, tl.{precision}) * tl.full((), 0.0, tl.{precision})"
    return f"tl.full((), {text}, tl.{precision})"


class Pass(NamedTuple):
    """The source of a pass, and the graphs of the numbers that all elements of a tensor share, in order.

    source: HEADER and the kernel
        step(table, chunks, numbers, [sums, counts,] ALIGNED)
    for as many programs as there are chunks.  table[tensor]: the row of its numbers, then the address of each stream.
    chunks[program]: (tensor, first, last, period, -) as in `streams.Kernel`.  numbers[row]: the shared numbers, at
    least one column.  sums[program, term]: float64, written.  counts[tensor]: int32, added to, each histogram from its
    start on; bin 0 is left alone.  ALIGNED: whether all addresses and all sizes divide by 16, so that whole vectors are
    read.

    Where something is measured, there is a second kernel for as many programs as there are tensors:
        combine(sums, starts, out, TERMS, WIDTH)
    out[tensor, term]: sums of the programs starts[tensor] to starts[tensor + 1].  WIDTH: a power of 2, >= TERMS.
    """

    source: str
    host: list[Symbol]


def printed(
    precision: str, streams: Sequence[Stream], measured: Measured | None = None, starts: Sequence[int] = (0,)
) -> Pass:
    """The pass over these streams.

    precision: what is computed in, "float64" or "float32".  starts: where each histogram begins in a tensor's counts,
    and where they end.
    """
    written = [s.root for s in streams if s.root is not None]
    terms, places = (measured.terms, measured.places) if measured else ((), ())
    host, roots = split([*written, *terms, *places])
    parts = iter(roots)
    written, totals, places = ([next(parts) for _ in part] for part in (written, terms, places))
    everywhere = measured.everywhere if measured else 0
    lines = _kernel(precision, streams, len(host), written, totals, places, everywhere, starts)
    return Pass("\n".join([HEADER, *lines, *([_COMBINE] if measured else []), ""]), host)


def _kernel(
    precision: str,
    streams: Sequence[Stream],
    shared: int,
    written: Sequence[Symbol],
    terms: Sequence[Symbol],
    places: Sequence[Symbol],
    everywhere: int,
    starts: Sequence[int],
) -> list[str]:
    e = Emitter(precision)
    zero, one = e.constant(0.0), e.constant(1.0)
    results = "sums, counts, " if terms else ""
    head = [
        "",
        "@triton.jit",
        f"def step(table, chunks, numbers, {results}ALIGNED: tl.constexpr):",
        "    c = tl.program_id(0).to(tl.int64)",
        f"    chunk = chunks + c * {COLUMNS}",
        "    tensor = tl.load(chunk)",
        f"    first = tl.multiple_of(tl.load(chunk + 1), {BLOCK})",
        "    last = tl.load(chunk + 2)",
        f"    row = table + tensor * {1 + len(streams)}",
    ]
    for i, s in enumerate(streams):
        head.append(f"    p{i} = tl.load(row + {i + 1}).to(tl.pointer_type(tl.{_STORED.get(s.storage, s.storage)}))")
    head += ["    if ALIGNED:", "        last = tl.multiple_of(last, 16)"]
    head += [f"        p{i} = tl.multiple_of(p{i}, 16)" for i in range(len(streams))]
    head.append(f"    shared = numbers + tl.load(row) * {max(shared, 1)}")
    head += [f"    h{i} = tl.load(shared + {i})" for i in range(shared)]
    head.append(f"    lane = tl.arange(0, {BLOCK}).to(tl.int64)")
    for j in range(len(terms)):
        head.append(
            f"    t{j} = tl.zeros(({BLOCK},), tl.{precision})"
            if j < everywhere
            else f"    t{j} = tl.zeros((), tl.float64)"
        )
    if terms:
        head.append("    period = tl.load(chunk + 3)")
    loop = f"    for start in range(first, last, {BLOCK}):"
    e.indent = " " * 8
    e.line("at = start + lane")
    e.line("inside = at < last")
    inputs = {f"shared.{i}": f"h{i}" for i in range(shared)}
    for i, s in enumerate(streams):
        inputs[s.name] = _widened(e, s.storage, e.let(f"tl.load(p{i} + at, mask=inside, other=0)"))
    _write(e, streams, e.emit(written, inputs), inputs)
    tail: list[str] = []
    if terms:
        inputs["inside"] = e.let(f"tl.where(inside, {one}, {zero})")
        for j, value in enumerate(e.emit(terms[:everywhere], inputs)):
            e.line(f"t{j} = t{j} + {value}")
        e.line(f"if (start // {BLOCK}) % period == 0:")
        e.indent = " " * 12
        for j, value in enumerate(e.emit(terms[everywhere:], inputs), everywhere):
            spread = f"tl.broadcast_to({value}, ({BLOCK},))"  # a constant is one for each element
            e.line(f"t{j} = t{j} + tl.sum({spread}, axis=0).to(tl.float64)")
        for h, value in enumerate(e.emit(places, inputs)):
            place = e.let(f"{value}.to(tl.int32)")
            counted = e.let(f"counts + tensor * {starts[-1]} + {starts[h]} + {place}")
            e.line(f"tl.atomic_add({counted}, 1, mask=inside & ({place} > 0), sem='relaxed')")
        for j in range(len(terms)):
            total = f"tl.sum(t{j}, axis=0).to(tl.float64)" if j < everywhere else f"t{j}"
            tail.append(f"    tl.store(sums + c * {len(terms)} + {j}, {total})")
    return [*head[:4], *e.preamble(), *head[4:], loop, *e.lines, *tail]


def _write(e: Emitter, streams: Sequence[Stream], values: Sequence[str], inputs: dict[str, str]) -> None:
    """Store what is new, once everything has been read; new.<name> is the value as it was stored."""
    results = iter(values)
    for i, s in enumerate(streams):
        if s.root is None:
            continue
        value = next(results)
        if s.storage == "bfloat16":  # to nearest, of two the even one; every nan becomes the quiet one
            bits = e.let(f"tl.broadcast_to({value}, ({BLOCK},)).to(tl.uint32, bitcast=True)")
            nearest = e.let(f"({bits} + 32767 + (({bits} >> 16) & 1)) >> 16")
            stored = e.let(f"tl.where({value} == {value}, {nearest}, 32704).to(tl.uint16)")
        else:
            stored = value if s.storage == e.precision else e.let(f"{value}.to(tl.{s.storage})")
        e.line(f"tl.store(p{i} + at, {stored}, mask=inside)")
        inputs[f"new.{s.name}"] = _widened(e, s.storage, stored)


def _widened(e: Emitter, storage: str, name: str) -> str:
    """A value as it is stored, in the precision that is computed in."""
    if storage == "bfloat16":
        name, storage = e.let(f"({name}.to(tl.uint32) << 16).to(tl.float32, bitcast=True)"), "float32"
    return name if storage == e.precision else e.let(f"{name}.to(tl.{e.precision})")


_ROWS = 64
_COMBINE = f"""

@triton.jit
def combine(sums, starts, out, TERMS: tl.constexpr, WIDTH: tl.constexpr):
    tensor = tl.program_id(0).to(tl.int64)
    first = tl.load(starts + tensor)
    last = tl.load(starts + tensor + 1)
    term = tl.arange(0, WIDTH)
    total = tl.zeros(({_ROWS}, WIDTH), tl.float64)
    for start in range(first, last, {_ROWS}):
        at = start + tl.arange(0, {_ROWS})
        inside = (at[:, None] < last) & (term[None, :] < TERMS)
        total += tl.load(sums + at[:, None] * TERMS + term[None, :], mask=inside, other=0.0)
    tl.store(out + tensor * TERMS + term, tl.sum(total, axis=0), mask=term < TERMS)"""
