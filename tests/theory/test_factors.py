"""The factors against mpmath and a simulation of Lemma 1."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.theory import factors


@given(eta=st.floats(1e-8, 1e100))
def test_factors_match_fifty_digits(eta: float) -> None:
    """A square, a root or two and a division: 4 EPS; erf at a rounded argument x: relative condition <= 1, 6 EPS."""
    with mpmath.workdps(50):
        e = mpmath.mpf(eta)
        for ours, exact in (
            (factors.adam_factor(eta), 1 / mpmath.sqrt(1 + e * e)),
            (factors.svag_factor(eta), 1 / (1 + e * e)),
            (factors.exact_factor(eta), mpmath.erf(1 / (mpmath.sqrt(2) * e))),
        ):
            assert abs(float(ours) / exact - 1) < 6 * EPS64


@given(eta=st.floats(0, 1e300))
def test_factors_shrink_in_order(eta: float) -> None:
    """All lie in [0, 1]; the gradient's factor is the square of Adam's, hence never above it (to 2 EPS)."""
    adam, svag = float(factors.adam_factor(eta)), float(factors.svag_factor(eta))
    assert 0 <= svag <= adam * (1 + 2 * EPS64) <= 1 + 2 * EPS64
    assert svag == pytest.approx(adam**2, rel=8 * EPS64, abs=1e-300)
    assert 0 <= float(factors.exact_factor(eta)) <= 1


@pytest.mark.parametrize("eta", [0.3, 1.0, 3.0])
def test_sign_success_probability_matches_simulation(eta: float) -> None:
    """A share of n = 10^6 has standard error sqrt(p(1-p)/n) <= 5e-4; 5 of them: one false alarm in 10^6. Seed fixed."""
    n = 10**6
    g = 1 + eta * np.random.default_rng(0).normal(size=n)
    assert abs(np.mean(g > 0) - factors.sign_success_probability(eta)) < 5 * 0.5 / n**0.5


@pytest.mark.parametrize("function", [factors.adam_factor, factors.svag_factor, factors.exact_factor])
@pytest.mark.parametrize("eta", [-1.0, float("nan"), [1.0, -1e-9]])
def test_undefined_eta_is_refused(function, eta) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        function(eta)
