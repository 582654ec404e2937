"""Rates: the bound against its own derivation step by step, exact one-step values, and simulation."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.theory import rates

positive = st.floats(-3, 3).map(lambda x: 10.0**x)
shares = st.floats(0.001, 1)
not_negative = st.just(0.0) | positive
seeds = st.integers(0, 2**32 - 1)


@given(mu=positive, share=shares, c_v=not_negative, M_v=not_negative, error=positive, t=st.integers(0, 200))
def test_the_bound_starts_at_the_error_falls_and_lies_above_its_recursion(mu, share, c_v, M_v, error, t) -> None:
    """t steps of some 10 roundings each that add up: 10 (t + 1) EPS.  mu/share can round below mu: L = max."""
    L = max(mu / share, mu)
    bound = rates.svag_error_bound(np.arange(t + 1), mu, L, c_v, M_v, error)
    recursion = rates.svag_error_recursion(t, mu, L, c_v, M_v, error)
    assert bound[0] == pytest.approx(error, rel=8 * EPS64)
    assert recursion[0] == error
    assert np.all(np.diff(bound) < 0)
    assert np.all(np.diff(recursion) <= 0)
    assert np.all(recursion >= 0)
    assert np.all(recursion <= bound * (1 + 10 * (np.arange(t + 1) + 1) * EPS64))


@given(mu=positive, share=shares, c_v=not_negative, M_v=not_negative, error=positive)
def test_one_step_of_the_recursion_matches_fifty_digits(mu, share, c_v, M_v, error) -> None:
    """Positive terms, 1 - mu/L rounded: it is added to c_v and M_v, and alone only where both are 0, when it is exact
    up to the rounding of mu/L, which costs EPS/(1 - mu/L) of it.
    """
    L = max(mu / share, mu)
    ours = float(rates.svag_error_recursion(1, mu, L, c_v, M_v, error)[1])
    with mpmath.workdps(50):
        m, l, c, v, e = map(mpmath.mpf, (mu, L, c_v, M_v, error))
        fall = (2 * m * m / l) * e * e / (2 * m * (1 + c) * e + v)
        assert abs(ours - (e - fall)) < 12 * EPS64 * (e - fall) + 2 * EPS64 * fall


@given(mu=positive, share=shares, c_v=not_negative, error=positive, t=st.integers(0, 50))
def test_without_a_floor_of_noise_errors_fall_geometrically(mu, share, c_v, error, t) -> None:
    """M_v = 0: by 1 - mu/(L(1 + c_v)) a step; 10 roundings each, and those of 1 - mu/L where c_v is 0."""
    L = 2 * mu / share
    recursion = rates.svag_error_recursion(t, mu, L, c_v, 0.0, error)
    ratio = 1 - mu / (L * (1 + c_v))
    np.testing.assert_allclose(recursion, error * ratio ** np.arange(t + 1), rtol=40 * (t + 1) * EPS64)


def test_the_recursion_forgets_its_start() -> None:
    """t e_t -> L M_v/(2 mu^2); the next term is of order log(t)/t."""
    for error, c_v in ((0.1, 0.0), (1e4, 3.0)):
        last = rates.svag_error_recursion(20_000, 1.0, 2.0, c_v, 5.0, error)[-1]
        assert last * 20_000 == pytest.approx(2 * 5 / 2, rel=0.02)


@given(h=positive, sigma=positive, square=positive)
def test_one_step_on_a_parabola_attains_the_theorem(h: float, sigma: float, square: float) -> None:
    """mu = L = h, c_v = 0, M_v = sigma^2: then every inequality of the derivation is an equality.  20 roundings."""
    exact = float(rates.svag_square_after_step(square, h, sigma, 1 / h))
    y = (h * sigma**-1) ** 2 * square
    assert exact == pytest.approx((sigma / h) ** 2 * y / (1 + y), rel=20 * EPS64)
    step = rates.svag_error_recursion(1, h, h, 0.0, sigma**2, h * square / 2)
    assert step[1] == pytest.approx(h * exact / 2, rel=20 * EPS64)


@given(seed=seeds, d=st.integers(1, 8), c_v=not_negative)
def test_no_step_on_a_diagonal_quadratic_is_worse_than_the_theorem(seed: int, d: int, c_v: float) -> None:
    """Exact expectation coordinate by coordinate against the bound from mu, L and the noise at that point."""
    rng = np.random.default_rng(seed)
    h, theta, M_v = 10 ** rng.uniform(-2, 2, d), rng.normal(size=d), rng.exponential()
    share = rng.dirichlet(np.ones(d))
    sigma = np.sqrt(share * (c_v * np.sum((h * theta) ** 2) + M_v))  # the assumption holds with equality
    after = rates.svag_square_after_step(theta**2, h, sigma, 1 / np.max(h))
    bound = rates.svag_error_recursion(1, np.min(h), np.max(h), c_v, M_v, np.sum(h * theta**2) / 2)[1]
    assert np.sum(h * after) / 2 <= bound * (1 + 40 * EPS64)


def test_simulated_svag_keeps_below_the_bound_where_sgd_stays_on_its_floor() -> None:
    """n runs in three dimensions with the same step size 1/L; 5 standard errors from the samples.  Seed fixed.

    SGD's floor is 0.75 here, and SVAG must be below half of it in the end, so that the contrast is not empty.
    """
    rng, n, steps = np.random.default_rng(0), 4000, 400
    h, sigma, start = np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.5, 1.5]), np.array([1.0, -2.0, 1.0])
    L, M_v, first = 2.0, float(np.sum(sigma**2)), float(np.sum(h * start**2) / 2)
    bound = rates.svag_error_bound(np.arange(steps + 1), 0.5, L, 0.0, M_v, first)
    svag, sgd = np.tile(start, (n, 1)), np.tile(start, (n, 1))
    for t in range(1, steps + 1):
        noise = sigma * rng.normal(size=(n, 3))
        gradient = h * svag
        gamma = gradient**2 / (gradient**2 + sigma**2)
        svag = svag - gamma * (gradient + noise) / L
        sgd = sgd - (h * sgd + noise) / L
        error, other = (h * svag**2).sum(1) / 2, (h * sgd**2).sum(1) / 2
        if t in (1, 3, 10, 30, 100, steps):
            assert np.mean(error) - 5 * np.std(error) / n**0.5 < bound[t]
            expected = float(np.sum(rates.sgd_error(t, h, sigma, 1 / L, h * start**2 / 2)))
            assert abs(np.mean(other) - expected) < 5 * np.std(other) / n**0.5
    assert np.mean(error) < 0.5 * np.mean(other)
    assert np.sum(rates.sgd_floor(h, sigma, 1 / L)) == pytest.approx(expected, rel=1e-6)  # (1 - 0.25)^800 = 0


@pytest.mark.parametrize(("square", "h", "sigma", "lr"), [(1.0, 1.0, 1.0, 1.0), (0.3, 2.0, 1.5, 0.7)])
def test_one_svag_step_matches_simulation(square: float, h: float, sigma: float, lr: float) -> None:
    """A mean of n squares, 5 standard errors from the sample.  Seed fixed."""
    n, theta = 400_000, square**0.5
    gamma = (h * theta) ** 2 / ((h * theta) ** 2 + sigma**2)
    after = (theta - lr * gamma * (h * theta + sigma * np.random.default_rng(1).normal(size=n))) ** 2
    expected = rates.svag_square_after_step(square, h, sigma, lr)
    assert abs(np.mean(after) - expected) < 5 * np.std(after) / n**0.5


@given(h=positive, sigma=not_negative, share=st.floats(0.001, 1.999), error=not_negative, t=st.integers(0, 1000))
def test_sgd_error_matches_fifty_digits_and_its_recursion(h, sigma, share, error, t) -> None:
    """q = 1 - lr h and 2 - lr h cancel where lr h is near 1 or 2: an EPS of lr h over them, 2t times in q^(2t).  The
    power's own part cannot exceed e^-1 per unit of exponent, so 20 EPS (1 + 1/(2 - lr h)) of the sum of both terms,
    plus 4 t EPS/|1 - lr h| of what is left of the start.
    """
    lr = share / h
    ours = float(rates.sgd_error(t, h, sigma, lr, error))
    with mpmath.workdps(50):
        c, s, a, e = map(mpmath.mpf, (h, sigma, lr, error))
        power = (1 - a * c) ** (2 * t)
        floor = a * s * s / (2 * (2 - a * c))
        exact = power * e + (1 - power) * floor
        loose = 20 * (1 + 1 / (2 - share)) * exact
        loose += 8 * t * (e + floor) * power / abs(1 - a * c) if power < 1 and a * c != 1 else 0
        assert abs(ours - exact) <= EPS64 * loose + mpmath.mpf(10) ** -300
        step = (1 - a * c) ** 2 * exact + a**2 * c * s * s / 2
        following = power * (1 - a * c) ** 2
        assert abs(step - (following * e + (1 - following) * floor)) < mpmath.mpf(10) ** -40 * (1 + step)


@given(h=positive, sigma=positive, share=st.floats(0.001, 1.9), more=st.floats(1.01, 1.05))
def test_the_floor_is_where_sgd_ends_and_grows_with_the_step_size(h, sigma, share, more) -> None:
    """Rounding of 2 - lr h >= 0.005: 1e-12."""
    floor = float(rates.sgd_floor(h, sigma, share / h))
    assert float(rates.sgd_error(np.inf, h, sigma, share / h, 7.0)) == pytest.approx(floor, rel=1e-12)
    assert float(rates.sgd_error(5, h, sigma, share / h, floor)) == pytest.approx(floor, rel=1e-12)
    assert floor < float(rates.sgd_floor(h, sigma, share * more / h))


def test_a_whole_step_ends_on_the_floor_at_once() -> None:
    """lr h = 1: the contraction is exactly 0, also at t = 0 where 0^0 = 1."""
    assert rates.sgd_error([0, 1, 2, np.inf], 2.0, 2.0, 0.5, 9.0).tolist() == [9.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rates.svag_rate_constants(2.0, 1.0, 0.0, 1.0, 1.0), "0 < mu <= L"),
        (lambda: rates.svag_rate_constants(0.0, 1.0, 0.0, 1.0, 1.0), "0 < mu <= L"),
        (lambda: rates.svag_error_bound(1, 1.0, 1.0, -1.0, 1.0, 1.0), "c_v and M_v"),
        (lambda: rates.svag_error_bound(-1, 1.0, 1.0, 1.0, 1.0, 1.0), "counts steps"),
        (lambda: rates.svag_error_bound(1, 1.0, 1.0, 1.0, 1.0, 0.0), "initial_error"),
        (lambda: rates.svag_error_recursion(float("inf"), 1.0, 1.0, 1.0, 1.0, 1.0), "infinitely many"),
        (lambda: rates.svag_square_after_step(-1.0, 1.0, 1.0, 1.0), "square"),
        (lambda: rates.svag_square_after_step(1.0, 0.0, 1.0, 1.0), "h must"),
        (lambda: rates.sgd_floor(1.0, 1.0, 2.0), "diverges"),
        (lambda: rates.sgd_floor(1.0, 1.0, 0.0), "lr must"),
        (lambda: rates.sgd_error(1, 1.0, 1.0, 1.0, -1.0), "initial_error"),
    ],
)
def test_what_has_no_rate_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
