"""Moments of exponential averages against fifty digits, simulation and each other, and their domain."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.theory import moments

decays = st.one_of(st.floats(1e-10, 1 - 1e-10), st.floats(1e-10, 1e-2).map(lambda x: 1 - x))
samples = st.integers(1, 10**6)


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


@given(beta=decays, t=samples)
def test_bias_correction_and_noise_match_fifty_digits(beta: float, t: int) -> None:
    """log, product, expm1 and a quotient round by 1/2 to 1 ulp each, none amplified: measured 1.4 EPS, bound 3.

    The noise ratios have two to four more operations: measured 2.2 EPS, bound 6.
    """
    with mpmath.workdps(50):
        b = mpmath.mpf(beta)
        p = b**t
        floor = (1 - b) / (1 + b)
        assert abs(float(moments.bias_correction(beta, t)) * (1 - p) - 1) < 3 * EPS64
        assert abs(float(moments.uncorrected_rho(beta, t)) / (floor * (1 - p * p)) - 1) < 6 * EPS64
        assert abs(float(moments.rho(beta, t)) / (floor * (1 + p) / (1 - p)) - 1) < 6 * EPS64


@given(beta=decays, t=samples)
def test_correction_makes_the_noise_fall_to_the_floor_and_its_absence_makes_it_rise_there(beta: float, t: int) -> None:
    """Not to 0 [kaiser, Sec. 3].  Neighbouring values may round to an order reversed by 6 EPS."""
    floor, slack = float(moments.noise_floor(beta)), 1 + 6 * EPS64
    now, later = (float(moments.rho(beta, n)) for n in (t, t + 1))
    assert floor <= later * slack
    assert later <= now * slack <= slack**2
    rising, risen = (float(moments.uncorrected_rho(beta, n)) for n in (t, t + 1))
    assert (1 - beta) ** 2 <= rising * slack
    assert rising <= risen * slack <= floor * slack**2
    assert moments.rho(beta, np.inf) == pytest.approx(floor, rel=4 * EPS64)
    assert moments.uncorrected_rho(beta, np.inf) == pytest.approx(floor, rel=4 * EPS64)


def reference(g: np.ndarray, var: np.ndarray, beta: float, corrected: bool, r: np.ndarray) -> tuple[float, float]:
    """Mean w'g and variance w' C w of the last average, from the whole covariance matrix C."""
    t = len(g)
    w = (1 - beta) * beta ** np.arange(t - 1, -1, -1.0) / (1 - beta**t if corrected else 1.0)
    lag = np.abs(np.subtract.outer(np.arange(t), np.arange(t)))
    covariance = np.sqrt(np.outer(var, var)) * np.where(lag < len(r), r[np.minimum(lag, len(r) - 1)], 0.0)
    return float(w @ g), float(w @ covariance @ w)


@given(
    beta=st.floats(0, 0.999),
    c=st.floats(-1, 1),
    t=st.integers(1, 30),
    corrected=st.booleans(),
    listed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_average_moments_are_those_of_the_whole_covariance_matrix(beta, c, t, corrected, listed, seed) -> None:
    """Both sides sum t^2 <= 900 products with errors of a few EPS of the sum of their sizes: 1000 EPS of that sum."""
    rng = np.random.default_rng(seed)
    g, var = rng.normal(size=t), rng.exponential(size=t)
    r = c ** np.arange(t, dtype=float)
    if listed:  # a moving average of two numbers: r_1 = c/2, 0 beyond
        r = np.array([1.0, c / 2])
    mean, variance = moments.average_moments(g, var, beta, corrected=corrected, correlation=r if listed else c)
    expected_mean, expected_variance = reference(g, var, beta, corrected, r)
    sizes = reference(np.abs(g), var, beta, corrected, np.abs(r))
    assert abs(mean[-1] - expected_mean) <= 1000 * EPS64 * sizes[0]
    assert abs(variance[-1] - expected_variance) <= 1000 * EPS64 * sizes[1]


@given(beta=st.floats(0.01, 0.999), t=st.integers(1, 200))
def test_constant_independent_noise_leaves_rho(beta: float, t: int) -> None:
    """t steps of a recursion that forgets: its rounding errors add up to at most min(t, 1/(1 - beta)) <= 200 EPS."""
    for corrected, form in ((True, moments.rho), (False, moments.uncorrected_rho)):
        _, variance = moments.average_moments(np.zeros(t), 2.0, beta, corrected=corrected)
        np.testing.assert_allclose(variance, 2.0 * form(beta, np.arange(1, t + 1)), rtol=400 * EPS64)


@given(beta=st.floats(0, 0.99), c=st.floats(-0.99, 1))
def test_long_averages_reach_the_floor_of_correlated_noise(beta: float, c: float) -> None:
    """After 5000 samples beta^t < 1e-21.  Negative correlation cancels down to (1-beta)(1-|c|) ~ 1e-4 of the terms."""
    _, variance = moments.average_moments(np.zeros(5000), 1.0, beta, correlation=c, corrected=False)
    assert variance[-1] == pytest.approx(float(moments.noise_floor(beta, c)), rel=1e-11)


@given(beta=decays, c=st.floats(-1, 1), more=st.floats(0, 1))
def test_the_floor_rises_with_correlation_up_to_the_noise_itself(beta: float, c: float, more: float) -> None:
    low, high = moments.noise_floor(beta, [c, c + more * (1 - c)])
    assert low <= high * (1 + 8 * EPS64)  # six roundings a side
    assert high <= 1 + 8 * EPS64


def test_average_moments_match_simulation_of_correlated_noise() -> None:
    """Standard errors of a mean and a variance over n runs; 5 of them, one false alarm in 10^6.  Seed fixed."""
    rng, n, beta, c = np.random.default_rng(2), 100_000, 0.8, 0.7
    g, sigma = np.array([1.0, -2.0, 0.5, 3.0]), np.array([1.0, 0.5, 2.0, 1.5])
    z = np.empty((4, n))
    z[0] = rng.normal(size=n)
    for i in range(1, 4):
        z[i] = c * z[i - 1] + (1 - c * c) ** 0.5 * rng.normal(size=n)
    m = moments.ema_weights(beta, 4) @ (g[:, None] + sigma[:, None] * z)
    mean, variance = moments.average_moments(g, sigma**2, beta, correlation=c)
    assert abs(np.mean(m) - mean[-1]) < 5 * (variance[-1] / n) ** 0.5
    assert abs(np.var(m, ddof=1) / variance[-1] - 1) < 5 * (2 / (n - 1)) ** 0.5


def test_square_average_moments_match_simulation() -> None:
    """As above; a sum of squares has kurtosis below 15 here, so a variance's relative error is < sqrt(14/n)."""
    rng, n, beta = np.random.default_rng(3), 200_000, 0.9
    g, sigma = np.array([1.0, -2.0, 0.5]), np.array([1.0, 0.5, 2.0])
    v = moments.ema_weights(beta, 3) @ (g[:, None] + sigma[:, None] * rng.normal(size=(3, n))) ** 2
    mean, variance = moments.square_average_moments(g, sigma**2, beta)
    assert abs(np.mean(v) - mean[-1]) < 5 * (variance[-1] / n) ** 0.5
    assert abs(np.var(v, ddof=1) / variance[-1] - 1) < 5 * (14 / n) ** 0.5


def test_average_moments_work_on_every_coordinate_alone() -> None:
    g, var = np.random.default_rng(4).uniform(size=(2, 7, 3, 2))
    mean, variance = moments.average_moments(g, var, 0.9, correlation=0.3)
    one_mean, one_variance = moments.average_moments(g[:, 1, 0], var[:, 1, 0], 0.9, correlation=0.3)
    np.testing.assert_array_equal(mean[:, 1, 0], one_mean)  # the same operations in the same order: tolerance zero
    np.testing.assert_array_equal(variance[:, 1, 0], one_variance)


@pytest.mark.parametrize(("beta", "t"), [(1.0, 3), (-0.1, 3), (float("nan"), 3), (0.9, 0), (0.9, 1.5)])
def test_outside_the_domain_is_refused(beta: float, t: float) -> None:
    for function in (moments.rho, moments.bias_correction, moments.uncorrected_rho, moments.ema_weights):
        with pytest.raises(ValueError, match=r"must lie in|counts samples"):
            function(beta, t)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments.average_moments([1.0], -1.0, 0.9), "variances"),
        (lambda: moments.average_moments(1.0, 1.0, 0.9), "shape"),
        (lambda: moments.average_moments([1.0], 1.0, 0.9, correlation=1.1), "correlation"),
        (lambda: moments.average_moments([1.0], 1.0, 0.9, correlation=[0.5]), "lag 0"),
        # Three numbers cannot all be opposite to each other.
        (lambda: moments.average_moments([1.0] * 3, 1.0, 0.9, correlation=[1.0, -1.0, -1.0]), "no noise has"),
        (lambda: moments.noise_floor(0.9, 2.0), "correlation"),
        (lambda: moments.ema_weights(0.9, float("inf")), "infinitely many"),
    ],
)
def test_impossible_noise_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
