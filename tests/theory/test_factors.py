"""The factors, Lemma 1 and Adam's parts against many digits and simulation."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.theory import factors, moments


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


reals = st.floats(-1e100, 1e100).filter(lambda x: abs(x) > 1e-100)
sizes = st.floats(1e-100, 1e100)
probabilities = st.floats(0, 1)


@given(gradient=reals, sigma=sizes)
def test_relative_deviation_and_success_follow_from_their_definition(gradient: float, sigma: float) -> None:
    """One division: exact rounding; Phi at a rounded argument, in [1/2, 1]: 2 EPS."""
    eta = float(factors.relative_deviation(gradient, sigma))
    assert eta == sigma / abs(gradient)
    assert float(factors.relative_variance(gradient, sigma)) == eta * eta
    with mpmath.workdps(40):
        exact = mpmath.ncdf(abs(mpmath.mpf(gradient)) / mpmath.mpf(sigma))
        assert abs(float(factors.success_probability(gradient, sigma)) - exact) < 2 * EPS64


@given(gradient=reals, sigma=sizes, grow=st.floats(1, 10))
def test_success_falls_with_noise_and_ignores_the_sign_of_the_gradient(gradient, sigma, grow) -> None:
    calm, noisy = factors.success_probability([gradient, -gradient], [sigma, grow * sigma])
    assert 0.5 <= noisy <= calm <= 1


def test_limits_of_success_probability() -> None:
    assert factors.success_probability([2.0, 0.0, 0.0], [0.0, 0.0, 1.0]).tolist() == [1.0, 1.0, 0.5]


@given(gamma=st.floats(-3, 3), gradient=st.floats(-1e3, 1e3), sigma=st.floats(1e-3, 1e3))
def test_svag_factor_minimises_the_distance_to_the_gradient(gamma, gradient, sigma) -> None:
    """Lemma 1, Eq. 15; distances of positive terms carry 8 EPS, the rounded minimiser costs only its square."""
    eta = factors.relative_deviation(gradient, sigma)
    least = float(factors.gradient_distance(factors.svag_factor(eta), gradient, sigma))
    assert least <= float(factors.gradient_distance(gamma, gradient, sigma)) * (1 + 16 * EPS64)
    if abs(gradient) > 1e-100:  # smaller squares vanish
        g2, s2 = gradient**2, sigma**2
        assert least == pytest.approx(s2 / (1 + s2 / g2), rel=16 * EPS64)


@given(gamma=st.floats(-3, 3), success=probabilities)
def test_twice_success_minus_one_minimises_the_distance_to_the_sign(gamma: float, success: float) -> None:
    """Lemma 1, Eq. 16; near success 0 or 1 the distance is ~ 1 - success plus the minimiser's rounding squared."""
    best = factors.best_sign_factor(success)
    least = float(factors.sign_distance(best, success))
    assert least <= float(factors.sign_distance(gamma, success)) * (1 + 16 * EPS64) + EPS64**2
    assert least == pytest.approx(4 * success * (1 - success), rel=16 * EPS64, abs=EPS64**2)


@given(eta=st.floats(1e-3, 1e3))
def test_best_sign_factor_of_a_normal_gradient_is_the_exact_factor(eta: float) -> None:
    """2 success - 1 cancels: absolute error 4 EPS."""
    best = float(factors.best_sign_factor(factors.sign_success_probability(eta)))
    assert best == pytest.approx(float(factors.exact_factor(eta)), abs=4 * EPS64)


def test_lemma_1_distances_match_simulation() -> None:
    """The mean of n squares; standard error from the sample itself; 5 of them, one false alarm in 10^6."""
    n, gradient, sigma = 400_000, -1.5, 2.0
    g = gradient + sigma * np.random.default_rng(5).normal(size=n)
    success = factors.success_probability(gradient, sigma)
    for gamma in (0.3, 1.0):
        for squares, expected in (
            ((gamma * g - gradient) ** 2, factors.gradient_distance(gamma, gradient, sigma)),
            ((gamma * np.sign(g) - np.sign(gradient)) ** 2, factors.sign_distance(gamma, success)),
        ):
            assert abs(np.mean(squares) - expected) < 5 * np.std(squares) / n**0.5


@given(m=reals, v=sizes)
def test_adam_is_sign_times_factor(m: float, v: float) -> None:
    """A root and a quotient: 2 EPS; as the form of Eq. 8, whose 1 + eta^2 may have cancelled: 8 EPS of its terms."""
    parts = factors.adam_parts(m, v)
    with mpmath.workdps(60):
        exact = mpmath.mpf(m) / mpmath.sqrt(mpmath.mpf(v))
        assert abs(float(parts.sign * parts.factor) / exact - 1) < 2 * EPS64
        relative = mpmath.mpf(v) / mpmath.mpf(m) ** 2 - 1
        assert abs(float(parts.relative_variance) - relative) < 6 * EPS64 * (1 + abs(relative))
    assert float(parts.sign * parts.factor) == pytest.approx(float(factors.adam_update(m, v)), rel=2 * EPS64)
    eta2 = float(parts.relative_variance)
    if eta2 >= 0:
        assert float(parts.factor) == pytest.approx(float(factors.adam_factor(eta2**0.5)), rel=8 * EPS64)
    else:
        assert parts.factor >= 1  # the second average fell behind: beta1 != beta2 only


@given(m=reals)
def test_a_gradient_that_never_changes_is_certain_exactly(m: float) -> None:
    """sqrt(m^2) = |m| in IEEE arithmetic while the square neither over- nor underflows."""
    parts = factors.adam_parts(m, m * m)
    assert (parts.relative_variance, parts.factor, parts.sign) == (0, 1, np.sign(m))


def test_no_average_is_no_update() -> None:
    parts = factors.adam_parts([0.0, 0.0], [1.0, 0.0])
    assert parts.factor.tolist() == parts.sign.tolist() == [0.0, 0.0]
    assert parts.relative_variance.tolist() == [np.inf, np.inf]
    assert factors.adam_update([0.0, 0.0], [1.0, 0.0]).tolist() == [0.0, 0.0]


@given(
    beta1=st.floats(0, 0.999),
    beta2=st.floats(0.1, 0.9999),
    t=st.integers(1, 30),
    eps=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_forms_of_adam_make_the_same_step(beta1, beta2, t, eps, seed) -> None:
    """Eq. 4 of [kaiser] against Eq. 4-6 of [balles2018] from a history: t <= 30 terms and 10 operations, 60 EPS of
    the sizes of the terms.
    """
    g = np.random.default_rng(seed).normal(size=t)
    ages = np.arange(t - 1, -1, -1.0)
    w1, w2 = (1 - beta1) * beta1**ages, (1 - beta2) * beta2**ages
    m, v = w1 @ g, w2 @ g**2
    c1, c2 = moments.bias_correction(beta1, t), moments.bias_correction(beta2, t)
    ours = float(factors.adam_update_from_raw(m, v, beta1, beta2, t, eps))
    theirs = float(factors.adam_update(m * c1, v * c2, eps))
    scale = float(factors.adam_update((w1 @ np.abs(g)) * c1, v * c2, eps))
    assert abs(ours - theirs) <= 60 * EPS64 * scale


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factors.relative_deviation(0.0, 0.0), "undefined"),
        (lambda: factors.relative_deviation(1.0, -1.0), "sigma must be"),
        (lambda: factors.success_probability(float("nan"), 1.0), "finite"),
        (lambda: factors.sign_distance(1.0, 1.5), "probability"),
        (lambda: factors.adam_parts(1.0, 0.0), "infinite"),
        (lambda: factors.adam_parts(1.0, -1.0), "negative"),
        (lambda: factors.adam_update(1.0, 0.0), "infinite"),
        (lambda: factors.adam_update(1.0, 1.0, eps=-1.0), "eps"),
        (lambda: factors.adam_update(float("inf"), 1.0), "finite"),
        (lambda: factors.adam_update_from_raw(1.0, 1.0, 1.0, 0.9, 3), "must lie in"),
    ],
)
def test_what_has_no_value_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
