"""The LLVM backend, operation by operation, against NumPy: scalars, vectors and 80-bit numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.graph.expression import FUNCTIONS, SYMBOLS, evaluate, symbol
from stepscope.graph.llvm import FORMATS
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.simulate.engine import execute
from stepscope.simulate.program import Program

A, B = symbol("theta.0"), symbol("theta.1")
SPECIAL = [0.0, -0.0, 1.0, -1.5, 2.0**-1074, 1e308, math.inf, -math.inf, math.nan]
PAIRS = np.array(list(itertools.product(SPECIAL, SPECIAL))).T
# One operation each; & and comparisons through where, fma with exact products so that one rounding and two agree.
OPERATIONS = {
    "+": A + B, "-": A - B, "*": A * B, "/": A / B, "neg": -A, "sqrt": SYMBOLS.sqrt(A), "abs": SYMBOLS.abs(A),
    "sign": SYMBOLS.sign(A), "min": SYMBOLS.min(A, B), "max": SYMBOLS.max(A, B), "fma": SYMBOLS.fma(A, 1.0, B),
    "<": SYMBOLS.where(A < B, 1.0, 0.0), "<=": SYMBOLS.where(A <= B, 1.0, 0.0), ">": SYMBOLS.where(A > B, 1.0, 0.0),
    ">=": SYMBOLS.where(A >= B, 1.0, 0.0), "&": SYMBOLS.where((A > 0) & (B > 0), A, B),
}  # fmt: skip


def compiled(root, a, b, precision="float64"):
    program = Program(2, {"theta.0": root, "theta.1": B}, {}, {}, {}, (), {}, 0)
    start = {"theta.0": np.atleast_1d(a), "theta.1": np.atleast_1d(b)}
    return execute(program, start, {}, np.zeros(1, np.int64), 1, precision=precision).carried["theta.0"]


def _single(root):
    """The operation as scalar code, compiled once."""
    program = Program(2, {"theta.0": root, "theta.1": B}, {}, {}, {}, (), {}, 0)
    none = np.zeros(1, np.int64)
    return lambda x, y: execute(program, {"theta.0": np.array([x]), "theta.1": np.array([y])}, {}, none, 1).carried[
        "theta.0"
    ][0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_numpy_s_on_special_values(name):
    """As vectors, one lane at a time, and (where both have it) in 80 bits."""
    a, b = PAIRS
    with np.errstate(all="ignore"):
        theirs = np.broadcast_to(evaluate([OPERATIONS[name]], {"theta.0": a, "theta.1": b}, NUMPY)[0], a.shape)
    np.testing.assert_array_equal(compiled(OPERATIONS[name], a, b), theirs)
    one = _single(OPERATIONS[name])
    ones = [one(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(ones, theirs)
    finite = (
        np.isfinite(a) & np.isfinite(b) & np.isfinite(theirs) & (np.abs(theirs) < 1e300) & (np.abs(theirs) > 1e-300)
    )
    wide = compiled(OPERATIONS[name], a, b, "extended")
    np.testing.assert_allclose(wide[finite].astype(float), theirs[finite], rtol=2.0**-52)


def test_every_operation_has_a_case():
    transcendental = {"exp", "log", "sin", "cos", "tanh", "erf"}  # test_elementary.py
    assert set(FUNCTIONS) - transcendental - {"where"} <= set(OPERATIONS)


@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos", "tanh", "erf"])
@pytest.mark.parametrize("precision", ["float32", "extended"])
def test_other_formats_call_the_library(name, precision):
    """The C library's functions, within a few ulp of the format."""
    x = np.linspace(0.1, 3, 150)
    ours = compiled(getattr(SYMBOLS, name)(A), x.astype(np.float32), x, precision)
    x = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(
        ours.astype(float), getattr(NUMPY, name)(x), rtol=1e-6 if precision == "float32" else 1e-15, atol=1e-15
    )


@given(st.floats(allow_nan=False))
def test_an_80_bit_constant_is_the_number(value):
    """Decoded here from its digits: sign and exponent, then 64 bits of significand."""
    digits = FORMATS["extended"].literal(value)
    head, significand = int(digits[3:7], 16), int(digits[7:], 16)
    exponent = (head & 0x7FFF) - 16383
    sign = -1.0 if head >> 15 else 1.0
    if (head & 0x7FFF) == 0x7FFF:
        assert value == sign * math.inf
    else:
        from fractions import Fraction

        exact = Fraction(significand) * Fraction(2) ** (exponent - 63) if significand else Fraction(0)
        assert exact * int(sign) == Fraction(value)
        assert math.copysign(1, value) == sign
