# ruff: noqa: E501 -- tables read better in long lines
"""The polynomials against 40-digit arithmetic, run as vectors of the kernel that uses them."""

import mpmath
import numpy as np
import pytest

from stepscope.graph.elementary import rewrite
from stepscope.graph.expression import SYMBOLS, evaluate, symbol
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.simulate.engine import execute
from stepscope.simulate.program import Program

mpmath.mp.dps = 40
RNG = np.random.default_rng(0)

SAMPLES = {
    "sin": [RNG.uniform(-10, 10, 3000), RNG.uniform(-(2**20), 2**20, 3000), np.pi * np.arange(-500, 500), 10.0 ** RNG.uniform(-300, 0, 500)],
    "exp": [RNG.uniform(-1, 1, 3000), RNG.uniform(-740, 709, 3000), RNG.uniform(-745, -700, 300)],
    "log": [RNG.uniform(0.5, 2, 3000), 10.0 ** RNG.uniform(-323, 308, 3000), 1 + RNG.uniform(-1e-6, 1e-6, 500)],
    "tanh": [RNG.uniform(-1, 1, 3000), RNG.uniform(-25, 25, 2000), 10.0 ** RNG.uniform(-300, 0, 500)],
    "erf": [RNG.uniform(-2, 2, 3000), RNG.uniform(-7, 7, 2000), 10.0 ** RNG.uniform(-300, 0, 500)],
}  # fmt: skip
SAMPLES["cos"] = SAMPLES["sin"]
# In ulp of the result; measured here: sine and cosine 1.61, the others below 1.0, 1.0, 1.9 and 1.4. A subnormal exponential is rounded twice.
BOUND = {"sin": 1.7, "cos": 1.7, "exp": 1.1, "log": 1.0, "tanh": 2.0, "erf": 2.0}


def compiled(name: str, x: np.ndarray) -> np.ndarray:
    """The function as a kernel computes it, in blocks of lanes."""
    theta = symbol("theta.0")
    program = Program(1, {"theta.0": getattr(SYMBOLS, name)(theta)}, {}, {}, {}, (), {}, 0)
    return execute(program, {"theta.0": x}, {}, np.zeros(1, np.int64), 1).carried["theta.0"]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_kernel_is_within_the_stated_ulps(name):
    x = np.concatenate(SAMPLES[name])
    exact = [getattr(mpmath, name)(mpmath.mpf(float(v))) for v in x]
    ours = compiled(name, x)
    worst = max(
        float(abs(mpmath.mpf(float(y)) - e)) / max(np.spacing(abs(float(e))), 5e-324)
        for y, e in zip(ours, exact, strict=True)
    )
    assert worst <= BOUND[name]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_special_values(name):
    """Signed zeros, infinities, nan, and the ends of the range, as NumPy has them (which has no erf)."""
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e308, -1e308, 710.0, -746.0])
    from scipy.special import erf

    with np.errstate(all="ignore"):
        theirs = (erf if name == "erf" else getattr(np, name))(special)
        ours = compiled(name, special)
    plain = (
        np.ones(len(special), bool)
        if name not in ("sin", "cos")
        else np.abs(np.nan_to_num(special, posinf=0, neginf=0)) < 1e300
    )
    np.testing.assert_allclose(ours[plain], theirs[plain], rtol=4e-16, atol=0)
    assert np.all(np.abs(ours[~plain]) <= 1)
    if name in ("sin", "tanh", "erf"):
        assert np.array_equal(np.signbit(ours[:2]), [False, True])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_numpy_computes_the_same_definition(name):
    """Without a fused multiply-add an argument near 1000 is reduced with errors up to 1000 ulp of 1."""
    x = np.concatenate(SAMPLES[name])
    x = x[np.abs(x) < 700]
    root = rewrite([getattr(SYMBOLS, name)(symbol("x"))])
    with np.errstate(all="ignore"):
        theirs = compiled(name, x)
        np.testing.assert_allclose(evaluate(root, {"x": x}, NUMPY)[0], theirs, rtol=1e-14, atol=3e-13)
