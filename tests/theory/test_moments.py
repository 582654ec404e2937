"""Moments of exponential averages against simulation, and their domain."""

import numpy as np
import pytest

from stepscope.theory import moments


def test_rho_matches_simulation() -> None:
    """Sample variance of n normals has standard error sqrt(2/(n-1)) of itself; 5 of them, one false alarm in 10^6."""
    beta, t, n = 0.9, 20, 100_000
    g = np.random.default_rng(0).normal(size=(t, n))
    measured = np.var(moments.ema_weights(beta, t) @ g, ddof=1)
    expected = float(moments.rho(beta, t))
    assert abs(measured - expected) < 5 * expected * (2 / (n - 1)) ** 0.5


def test_corrected_variance_is_unbiased() -> None:
    """The mean of n estimates of relative deviation below 2 (t = 5) has standard error < 2/sqrt(n); 5 of them."""
    beta, t, n, sigma = 0.9, 5, 200_000, 3.0
    g = 7.0 + sigma * np.random.default_rng(1).normal(size=(t, n))
    w = moments.ema_weights(beta, t)
    raw = w @ g**2 - (w @ g) ** 2
    corrected = np.mean(moments.corrected_variance(raw, beta, t))
    assert abs(corrected / sigma**2 - 1) < 5 * 2 / n**0.5
    assert abs(np.mean(raw) / sigma**2 - 1) > 0.1  # the uncorrected estimate is biased, and the test would see it


def test_there_is_nothing_to_correct_in_one_sample() -> None:
    assert moments.corrected_variance([0.0], 0.9, 1) == 0
    assert moments.corrected_variance([0.0], 0.0, 5) == 0


@pytest.mark.parametrize(("beta", "t"), [(1.0, 3), (-0.1, 3), (float("nan"), 3), (0.9, 0), (0.9, 1.5)])
def test_outside_the_domain_is_refused(beta: float, t: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in|counts samples"):
        moments.rho(beta, t)
