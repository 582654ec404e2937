"""Standard normals from a counter: the same for a key, a step and a coordinate, whatever the order of computation.

64 random bits come from the counter-based generator Squares [Widynski 2020, squares64], keyed by a hash of the seed;
32 of them make a radius and 32 an angle, which give two normals [Box & Muller 1958] in float32 arithmetic. The
normals are rounded to 24 bits, and none is larger than 6.8 in size (the true share beyond that is 1e-11). No product is
fused with a sum, so that every machine and the NumPy form below give the same bits.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.graph.llvm import Emitter

__all__ = ["emit_normals", "keys", "normals"]

# log(1 + f) = f + f^2 q(f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], q a least-squares fit at Chebyshev nodes (error of
# the log 4e-8); sin and cos of pi a for |a| <= 1/2 in z = a^2 are Taylor's (errors 6e-8, 6e-9). float32 rounds at 6e-8.
_LOG = (-0.50000703, 0.33334726, -0.24956773, 0.19902954, -0.17389093, 0.16239445, -0.097314648)
_SIN = tuple((-1) ** n * math.pi ** (2 * n + 1) / math.factorial(2 * n + 1) for n in range(6))
_COS = tuple((-1) ** n * math.pi ** (2 * n) / math.factorial(2 * n) for n in range(7))

_MASK = (1 << 64) - 1


def keys(seed: ArrayLike) -> NDArray[np.uint64]:
    """The generator's key of each seed: its splitmix64 hash [Steele et al. 2014], made odd."""
    z = np.asarray(seed).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) | np.uint64(1))


def _squares(key: NDArray[np.uint64], counter: int) -> NDArray[np.uint64]:
    def turned(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return np.asarray((x >> np.uint64(32)) | (x << np.uint64(32)))

    with np.errstate(over="ignore"):
        y = key * np.uint64(counter & _MASK)
        z = y + key
        x = turned(y * y + y)
        x = turned(x * x + z)
        x = turned(x * x + y)
        last = x * x + z
        x = turned(last)
        return np.asarray(last ^ ((x * x + y) >> np.uint64(32)))


def _polynomial(coefficients: tuple[float, ...], z: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.full_like(z, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * z + np.float32(c)
    return total


def normals(key: NDArray[np.uint64], t: int, count: int) -> list[NDArray[np.float32]]:
    """The `count` standard normals of step t (from 0) for each key: what the compiled kernels compute."""
    out: list[NDArray[np.float32]] = []
    pairs = (count + 1) // 2
    one, two = np.float32(1), np.float32(2)
    for pair in range(pairs):
        bits = _squares(key, t * pairs + pair)
        high = (bits >> np.uint64(32)).astype(np.uint32).astype(np.float32)
        low = bits.astype(np.uint32).view(np.int32).astype(np.float32)
        u = high * np.float32(2.0**-32) + np.float32(2.0**-33)
        mantissa, exponent = np.frexp(u)
        above = mantissa > np.float32(math.sqrt(0.5))
        f = np.where(above, mantissa, mantissa * two) - one
        e = np.where(above, exponent, exponent - 1).astype(np.float32)
        log = e * np.float32(math.log(2)) + (f * f * _polynomial(_LOG, f) + f)
        radius = np.sqrt(np.maximum(log * np.float32(-2), np.float32(0)))
        a = low * np.float32(2.0**-32)
        s, c = a * _polynomial(_SIN, a * a), _polynomial(_COS, a * a)
        out += [radius * (one - s * s * two), radius * (s * c * two)]
    return out[:count]


def emit_normals(e: Emitter, key: str, t: str, count: int) -> list[str]:
    """Instructions for the `count` normals of step t (an i64) with the keys in `key` (i64, with lanes)."""
    whole, single, half = e.type_of(True, "i64"), e.type_of(True, "float"), e.type_of(True, "i32")

    def integer(value: int) -> str:
        return e.spread(str(value), "i64")

    def number(value: float) -> str:
        bits = np.float64(np.float32(value)).view(np.uint64)
        return e.spread(f"0x{int(bits):016X}", "float")

    def op(name: str, kind: str, a: str, b: str) -> str:
        return e.let(f"{name} {kind} {a}, {b}")

    def times(a: str, b: str) -> str:
        return op("fmul", single, a, b)

    def plus(a: str, b: str) -> str:
        return op("fadd", single, a, b)

    def square_plus(x: str, y: str) -> str:
        return op("add", whole, op("mul", whole, x, x), y)

    def turned(x: str) -> str:
        up, down = op("shl", whole, x, integer(32)), op("lshr", whole, x, integer(32))
        return op("or", whole, up, down)

    def polynomial(coefficients: tuple[float, ...], z: str) -> str:
        total = number(coefficients[-1])
        for c in coefficients[-2::-1]:
            total = plus(times(total, z), number(c))
        return total

    out: list[str] = []
    pairs = (count + 1) // 2
    first = e.let(f"mul i64 {t}, {pairs}")
    for pair in range(pairs):
        counter = e.spread(e.let(f"add i64 {first}, {pair}"), "i64")
        y = op("mul", whole, key, counter)
        z = op("add", whole, y, key)
        x = turned(square_plus(y, y))
        x = turned(square_plus(x, z))
        x = turned(square_plus(x, y))
        last = square_plus(x, z)
        bits = op("xor", whole, last, op("lshr", whole, square_plus(turned(last), y), integer(32)))
        high = e.let(f"trunc {whole} {op('lshr', whole, bits, integer(32))} to {half}")
        low = e.let(f"trunc {whole} {bits} to {half}")
        u = plus(times(e.let(f"uitofp {half} {high} to {single}"), number(2.0**-32)), number(2.0**-33))
        # u = m 2^e with m in [sqrt(1/2), sqrt(2)), from the bits of u
        shift = e.spread(str(0x3F3504F4), "i32")  # the first float32 above sqrt(1/2)
        raw = op("sub", half, e.let(f"bitcast {single} {u} to {half}"), shift)
        exponent = e.let(f"sitofp {half} {op('ashr', half, raw, e.spread('23', 'i32'))} to {single}")
        kept = op("and", half, raw, e.spread(str((1 << 23) - 1), "i32"))
        mantissa = e.let(f"bitcast {half} {op('add', half, kept, shift)} to {single}")
        f = op("fsub", single, mantissa, number(1.0))
        tail = plus(times(times(f, f), polynomial(_LOG, f)), f)
        log = plus(times(exponent, number(math.log(2))), tail)
        square = times(log, number(-2.0))
        negative = e.let(f"fcmp olt {single} {square}, {number(0.0)}")
        square = e.let(f"select {e.type_of(True, 'i1')} {negative}, {single} {number(0.0)}, {single} {square}")
        suffix = f"v{e.width}f32" if e.width > 1 else "f32"
        radius = e.call(f"llvm.sqrt.{suffix}", single, (single, square))
        a = times(e.let(f"sitofp {half} {low} to {single}"), number(2.0**-32))
        aa = times(a, a)
        s, c = times(a, polynomial(_SIN, aa)), polynomial(_COS, aa)
        cosine = op("fsub", single, number(1.0), times(times(s, s), number(2.0)))
        sine = times(times(s, c), number(2.0))
        out += [times(radius, cosine), times(radius, sine)]
    if e.number.llvm == "float":
        return out[:count]
    return [e.let(f"fpext {single} {z} to {e.type_of(True)}") for z in out[:count]]
