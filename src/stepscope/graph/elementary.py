"""Elementary functions in + - * / fma and a few bit operations, so that a kernel computes them on whole vectors.

Measured against 40-digit arithmetic with a fused multiply-add (tests/graph/test_elementary.py), in ulp of the result:
sin, cos 1.7 for |x| < 2^20; exp 1.0; log 1.0; tanh 2.0; erf 2.0. Beyond 2^20 the reduction of sin and cos loses
digits in proportion to |x| and from about 2^52 on the result is some number in [-1, 1]. All polynomials but that of
erf beyond 1 are Taylor's, and their coefficients are computed here.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from stepscope.graph.expression import SYMBOLS, Symbol, order, primitive

__all__ = ["ELEMENTARY", "rewrite"]

_k = SYMBOLS

# pi and log 2 in parts whose products with a whole number below 2^20 lose nothing that a later part does not restore.
_PI = (3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33)
_LOG2 = (0.6931471803691238, 1.9082149292705877e-10)

_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(11)]
_EXP = [1 / math.factorial(n + 2) for n in range(12)]
_LOG = [2 / (2 * n + 3) for n in range(10)]
_ERF = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(20)]
# exp(x^2) erfc(x) for x in [1, 6] in u = (x - 2)/(x + 2): interpolation at Chebyshev nodes in 40 digits, error 2e-17
_ERFC = [
    0.2553956763105057, -0.4271858474139585, 0.24165819424248763, -0.07897858101571269,
    0.0037328924016564484, 0.006997461739200575, -0.0008471431229415333, -0.0009819771114740715,
    4.355265359817883e-05, 0.00017436477257256738, 2.7560352756678313e-05, -2.7640727821912852e-05,
    -1.4166339069117108e-05, 1.859427387429402e-06, 4.146302183268488e-06, -2.22812957637235e-07,
]  # fmt: skip


def _tanh_series(count: int) -> list[float]:
    """Coefficients of x, x^3, ... of tanh, from tanh' = 1 - tanh^2."""
    c = [Fraction(1)]
    for n in range(1, count):
        square = sum((c[i] * c[n - 1 - i] for i in range(n)), Fraction(0))
        c.append(-square / (2 * n + 1))
    return [float(v) for v in c]


_TANH = _tanh_series(14)


def _polynomial(coefficients: Sequence[float], z: Symbol) -> Symbol:
    """Horner's scheme; coefficients from the constant one up."""
    total: Symbol | float = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = _k.fma(total, z, c)
    assert isinstance(total, Symbol)
    return total


def _rint(x: Symbol) -> Symbol:
    return primitive("rint", x)


def _half_turn(x: Symbol, count: Symbol) -> Symbol:
    """sin(x - count pi), for a result in [-pi/2, pi/2]."""
    r = _k.fma(-count, _PI[0], x)
    r = _k.fma(-count, _PI[1], r)
    r = _k.fma(-count, _PI[2], r)
    r = _k.max(_k.min(r, math.pi / 2), -math.pi / 2)  # of use only where |x| is too large to reduce
    z = r * r
    return _k.fma(_polynomial(_SIN[1:], z) * z, r, r)


def _odd(n: Symbol) -> Symbol:
    """1 for odd whole numbers, 0 for even ones."""
    return _k.abs(n - 2 * _rint(n * 0.5))


def _sin(x: Symbol) -> Symbol:
    n = _rint(x * (1 / math.pi))
    return _k.where(_k.abs(x) > 1e-8, _half_turn(x, n) * (1 - 2 * _odd(n)), x)


def _cos(x: Symbol) -> Symbol:
    n = _rint(x * (1 / math.pi) - 0.5)
    return _half_turn(x, n + 0.5) * (2 * _odd(n) - 1)


def _exp(x: Symbol) -> Symbol:
    n = _rint(x * (1 / math.log(2)))
    n = _k.where(n > -2044, _k.where(n < 2046, n, 2046.0), -2044.0)  # also for nan, which has no whole part
    r = _k.fma(-n, _LOG2[1], _k.fma(-n, _LOG2[0], x))
    value = 1 + _k.fma(r * r, _polynomial(_EXP, r), r)
    half = _rint(n * 0.5)
    value = value * primitive("pow2", half) * primitive("pow2", n - half)
    return _k.where(x > 709.782712893384, math.inf, _k.where(x < -745.1332191019412, 0.0, value))


def _log(x: Symbol) -> Symbol:
    tiny = x < 2.0**-1022
    normal = _k.where(tiny, x * 2.0**54, x)
    m, e = primitive("mantissa", normal), primitive("exponent", normal)
    upper = m > math.sqrt(2)
    m = _k.where(upper, 0.5 * m, m)
    e = _k.where(upper, e + 1, e) + _k.where(tiny, -54.0, 0.0)
    # log(1 + f) = f - f^2/2 + s (f^2/2 + R), s = f/(2 + f): the leading term f is exact
    f = m - 1
    s = f / (2 + f)
    z = s * s
    half = 0.5 * f * f
    small = s * (half + z * _polynomial(_LOG, z)) + e * _LOG2[1]
    value = e * _LOG2[0] + (f - (half - small))
    return _k.where(x > 0, _k.where(x < math.inf, value, x), _k.where(x >= 0, -math.inf, math.nan))


def _tanh(x: Symbol) -> Symbol:
    size = _k.abs(x)
    z = x * x
    near = _k.fma(_polynomial(_TANH[1:], z) * z, x, x)
    fade = _exp(-2 * size)
    far = _k.sign(x) * ((1 - fade) / (1 + fade))
    return _k.where(size < 1e-8, x, _k.where(size < 0.35, near, far))


def _erf(x: Symbol) -> Symbol:
    size = _k.abs(x)
    near = x * _polynomial(_ERF, x * x)
    clipped = _k.min(size, 6.0)
    u = (clipped - 2) / (clipped + 2)
    far = _k.sign(x) * (1 - _exp(-(clipped * clipped)) * _polynomial(_ERFC, u))
    return _k.where(size < 1, near, far)


_DEFINITIONS = {"sin": _sin, "cos": _cos, "exp": _exp, "log": _log, "tanh": _tanh, "erf": _erf}
ELEMENTARY = tuple(_DEFINITIONS)
"""The functions that `rewrite` spells out."""


def rewrite(roots: Sequence[Symbol]) -> list[Symbol]:
    """The same graphs with sin, cos, exp, log, tanh and erf spelled out for float64."""
    values: dict[int, Symbol] = {}
    for node in order(roots):
        if node.op in ("input", "const"):
            values[node.number] = node
            continue
        arguments = [values[a.number] for a in node.args]
        definition = _DEFINITIONS.get(node.op)
        values[node.number] = definition(*arguments) if definition else Symbol(node.op, *arguments)
    return [values[root.number] for root in roots]
