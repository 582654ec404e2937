"""Welford averages against exact arithmetic, and the noise ratios against their definition and a simulation."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import averages

BETAS = [0.1, 0.5, 0.9, 0.99, 0.999, 1 - 2.0**-30]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("t", [2, 3, 10, 1000, 10**6])
def test_scalars_match_fifty_digits(beta: float, t: int) -> None:
    """Each is ~8 roundings; beta^t itself is good to t |log beta| ulps where it still matters: 30 EPS."""
    with mpmath.workdps(50):
        b = mpmath.mpf(beta)
        rho = (1 - b) * (1 + b**t) / ((1 + b) * (1 - b**t))
        exact = [(1 - b) / (1 - b**t), rho, rho / (1 - rho), 1 / (1 - rho)]
        functions = [averages.ema_weight, averages.noise_ratio, averages.noise_odds, averages.variance_correction]
        for function, value in zip(functions, exact, strict=True):
            assert abs(function(beta, t) / value - 1) < 30 * EPS64, function.__name__


@given(beta=st.floats(0, 1, exclude_max=True))
def test_a_single_sample_has_no_variance(beta: float) -> None:
    """At t = 1 rho = 1 and v - m^2 is identically 0: both conversions are 0 by definition."""
    assert averages.ema_weight(beta, 1) == 1
    assert averages.noise_ratio(beta, 1) == pytest.approx(1, abs=4 * EPS64)
    assert averages.noise_odds(beta, 1) == averages.variance_correction(beta, 1) == 0
    assert averages.noise_odds(0.0, 7) == averages.variance_correction(0.0, 7) == 0


def test_noise_ratio_is_the_sum_of_squared_weights() -> None:
    """The variance of sum w_i x_i is sum w_i^2; 300 squares of relative error ~300 EPS each: 1e-12."""
    for beta in (0.3, 0.9, 0.99):
        weights = averages.ema_weight(beta, 300) * beta ** np.arange(300)
        assert averages.noise_ratio(beta, 300) == pytest.approx(float(np.sum(weights**2)), rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), beta=st.sampled_from([0.0, *BETAS[:-1]]), offset=st.sampled_from([0.0, 1e3]))
def test_welford_is_the_weighted_mean_and_variance(seed: int, beta: float, offset: float) -> None:
    """Against the two-pass definition in 40 digits. Each step rounds a few times relative to |g| <= 1e3 + 6; S, a sum
    of squares of gaps, is good to the gaps' own error: 40 * 1e3 EPS absolute over sigma ~ 1."""
    g = offset + np.random.default_rng(seed).normal(size=40)
    m = S = np.zeros(())
    for t, x in enumerate(g, start=1):
        m, S = averages.welford(NUMPY, x, m, S, averages.ema_weight(beta, t))
    with mpmath.workdps(40):
        w = [mpmath.mpf(beta) ** (39 - i) for i in range(40)]
        mean = sum(a * mpmath.mpf(float(x)) for a, x in zip(w, g, strict=True)) / sum(w)
        variance = sum(a * (mpmath.mpf(float(x)) - mean) ** 2 for a, x in zip(w, g, strict=True)) / sum(w)
        assert abs(float(m - mean)) < 100 * EPS64 * (1 + offset)
        assert abs(float(S - variance)) < 1000 * EPS64 * (1 + offset)
    assert S >= 0


@given(g=st.floats(-1e30, 1e30), beta=st.sampled_from(BETAS))
def test_constant_gradient_has_exactly_no_variance(g: float, beta: float) -> None:
    """The textbook v - m^2 invents some here; Welford's gap is exactly 0, and so is S."""
    m = S = np.zeros(())
    for t in range(1, 30):
        m, S = averages.welford(NUMPY, np.float64(g), m, S, averages.ema_weight(beta, t))
        assert m == g
        assert S == 0


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_lerp_is_exact_at_both_ends(weight: float) -> None:
    assert averages.lerp(NUMPY, 3.0, 3.0, weight) == 3.0
    assert averages.lerp(NUMPY, 1e8, 1e-8, 1.0) == 1e-8
    assert averages.lerp(NUMPY, 1e8, 1e-8, 0.0) == 1e8
