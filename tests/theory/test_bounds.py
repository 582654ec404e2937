"""The largest step and distance of Adam: against many digits, Adam itself, a general optimizer, and printed claims."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import optimize
from tests.tolerances import EPS64

from stepscope.theory import bounds

decays = st.one_of(st.floats(1e-6, 1 - 1e-6), st.floats(1e-8, 1e-2).map(lambda x: 1 - x))
mild = st.floats(0.05, 0.97)
epsilons = st.floats(-3, 1).map(lambda x: 10.0**x)
seeds = st.integers(0, 2**32 - 1)


def adam(gradients: np.ndarray, beta1: float, beta2: float, corrected: bool = True, eps: float = 0.0) -> np.ndarray:
    """Every step of Adam in units of lr, by its recursion; 0/0 is no step."""
    m = v = 0.0
    steps = []
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1.0, 1.0)
        denominator = (v / c2) ** 0.5 + eps
        steps.append(m / c1 / denominator if denominator > 0 else 0.0)
    return np.array(steps)


def kappa(beta1: float, beta2: float) -> float:
    return beta1 / beta2**0.5


@given(beta1=decays, beta2=decays, t=st.integers(1, 10**5), corrected=st.booleans())
@example(beta1=0.5, beta2=0.25, t=10, corrected=False)  # beta1^2 = beta2 exactly
@example(beta1=0.9, beta2=0.9**2, t=1000, corrected=True)  # and up to rounding
@example(beta1=0.99, beta2=0.99, t=1000, corrected=True)
def test_the_largest_step_matches_fifty_digits(beta1: float, beta2: float, t: int, corrected: bool) -> None:
    """Some ten roundings, none amplified for r = beta1^2/beta2 <= 1: measured 2.7 EPS, bound 6.  For r > 1 the power
    r^t turns the rounding of t log r into a relative error: measured 0.72 (12 + t log r) EPS.
    """
    with mpmath.workdps(50):
        b1, b2 = mpmath.mpf(beta1), mpmath.mpf(beta2)
        r = b1 * b1 / b2
        total = mpmath.mpf(t) if r == 1 else (1 - r**t) / (1 - r)
        exact = (1 - b1) / mpmath.sqrt(1 - b2) * mpmath.sqrt(total)
        if corrected:
            exact *= mpmath.sqrt(1 - b2**t) / (1 - b1**t)
        assume(exact < 1e300)
        ours = float(bounds.max_step(beta1, beta2, t, bias_correction=corrected))
        bound = 6 if r <= 1 else 12 + t * float(mpmath.log(r))
        assert abs(ours / exact - 1) < bound * EPS64


@given(beta1=mild, beta2=mild, t=st.integers(1, 40), corrected=st.booleans(), eps=st.just(0.0) | epsilons)
def test_the_maximising_gradients_attain_the_largest_step(beta1, beta2, t, corrected, eps) -> None:
    """Adam's recursion over t <= 40 gradients: at most 3 t roundings of positive terms, 120 EPS, and as many again for
    powers and exponentials of numbers up to t log(20).
    """
    g = bounds.maximising_gradients(beta1, beta2, t, bias_correction=corrected, eps=eps)
    largest = float(bounds.max_step(beta1, beta2, t, bias_correction=corrected, eps=eps, largest_gradient=1.0))
    assert np.max(g) == pytest.approx(1.0, rel=4 * EPS64)
    assert adam(g, beta1, beta2, corrected, eps)[-1] == pytest.approx(largest, rel=300 * EPS64)


@given(beta1=mild, beta2=mild, t=st.integers(1, 40), corrected=st.booleans(), eps=st.just(0.0) | epsilons, seed=seeds)
def test_no_other_gradients_make_a_larger_step(beta1, beta2, t, corrected, eps, seed) -> None:
    """Gradients near the best ones come closest to a violation.  Rounding as above."""
    rng = np.random.default_rng(seed)
    best = bounds.maximising_gradients(beta1, beta2, t, bias_correction=corrected, eps=eps)
    largest = bounds.max_step(
        beta1, beta2, np.arange(1, t + 1), bias_correction=corrected, eps=eps, largest_gradient=1.0
    )
    for g in (rng.uniform(-1, 1, t), np.clip(best * (1 + 0.1 * rng.normal(size=t)), -1, 1), np.ones(t), -best):
        assert np.all(np.abs(adam(g, beta1, beta2, corrected, eps)) <= largest * (1 + 300 * EPS64))


@settings(max_examples=25)
@given(beta1=mild, beta2=mild, t=st.integers(1, 8), corrected=st.booleans(), eps=epsilons, flat=st.booleans())
def test_a_general_optimizer_finds_nothing_better_under_epsilon(beta1, beta2, t, corrected, eps, flat) -> None:
    """L-BFGS-B from three starts, for the step and for the distance over 1500 zero gradients (0.97^1500 = 1e-20).

    An optimizer can only lose digits, not win: 1e-11 is for the rounding of 1500 terms.  That it comes near shows that
    the comparison means something; where it is stuck in a corner it may fall short by more than 1 %, rarely by 10 %.
    """
    ages, later = np.arange(t - 1, -1, -1.0), np.arange(1.0, 1501.0) if flat else np.zeros(1)
    fall1, fall2 = (1 - beta1) * beta1**later, (1 - beta2) * beta2**later
    if corrected:
        fall1, fall2 = fall1 / (1 - beta1 ** (t + later)), fall2 / (1 - beta2 ** (t + later))

    def loss(g: np.ndarray) -> float:
        m, v = beta1**ages @ g, beta2**ages @ g**2
        return -float(np.sum(m * fall1 / (np.sqrt(v * fall2) + eps)))

    rng = np.random.default_rng(0)
    found = max(
        -optimize.minimize(loss, rng.uniform(0.1, 1, t), bounds=[(0, 1)] * t, method="L-BFGS-B").fun for _ in range(3)
    )
    function = bounds.flat_distance if flat else bounds.max_step
    ours = float(function(beta1, beta2, t, bias_correction=corrected, eps=eps, largest_gradient=1.0))
    assert 0.9 * ours <= found <= ours * (1 + 1e-11)
    attained = bounds.maximising_gradients(beta1, beta2, t, bias_correction=corrected, eps=eps, flat=flat)
    assert -loss(attained) == pytest.approx(ours, rel=1e-11)


@given(beta1=decays, beta2=decays, t=st.integers(1, 10**4))
def test_the_corrected_maximum_never_falls_with_t_and_starts_at_one(beta1: float, beta2: float, t: int) -> None:
    """So the supremum is the limit, attained by no t unless beta1 = beta2.  Rounding as in the first test."""
    first, now, later = bounds.max_step(beta1, beta2, [1, t, t + 1])
    assert first == pytest.approx(1.0, abs=6 * EPS64)
    assume(later < np.inf)
    slack = 1 + (24 + 2 * t * max(0.0, 2 * np.log(beta1) - np.log(beta2))) * EPS64
    assert now * slack >= 1
    assert now <= later * slack
    assert bounds.max_step(beta1, beta1, t) == pytest.approx(1.0, abs=6 * EPS64)


@given(beta1=decays, beta2=decays, t=st.integers(1, 1000) | st.just(np.inf))
def test_the_printed_bound_is_the_supremum_with_and_without_bias_correction(beta1, beta2, t) -> None:
    """Also where the lemma its proof rests on fails.  The printed form against the limit: 3 + 3 EPS."""
    assume(beta1 * beta1 < beta2)
    bound = float(bounds.kaiser_step_bound(beta1, beta2))
    for corrected in (True, False):
        assert float(bounds.max_step(beta1, beta2, t, bias_correction=corrected)) <= bound * (1 + 8 * EPS64)
        limit = float(bounds.max_step(beta1, beta2, bias_correction=corrected))
        assert limit == pytest.approx(bound, rel=8 * EPS64)


def test_the_papers_numbers() -> None:
    """Printed as 7.3 and 73, for the step and for the distance with the step onto the flat."""
    assert round(float(bounds.max_step(0.9, 0.999)), 2) == 7.27
    assert round(float(bounds.kaiser_flat_bound(0.9, 0.999))) == 73
    assert round(float(bounds.flat_distance(0.9, 0.999, entry_step=True))) == 73
    assert round(float(bounds.flat_distance(0.9, 0.999)), 1) == 65.8


@pytest.mark.parametrize("corrected", [True, False])
def test_steps_grow_without_bound_where_beta2_is_not_above_beta1_squared(corrected: bool) -> None:
    t = np.array([1.0, 4.0, 100.0])
    even = bounds.max_step(0.5, 0.25, t, bias_correction=False)
    np.testing.assert_allclose(even, 0.5 / 0.75**0.5 * np.sqrt(t), rtol=4 * EPS64)  # r = 1 exactly: sqrt(t)
    assert bounds.max_step(0.5, 0.25, bias_correction=corrected) == np.inf
    assert bounds.max_step(0.9, 0.5, bias_correction=corrected) == np.inf
    ratio = np.divide(*bounds.max_step(0.9, 0.5, [401, 400], bias_correction=corrected))
    assert ratio == pytest.approx(0.9 / 0.5**0.5, rel=1e-12)  # r^(1/2); what r^t has lost to rounding is 200 EPS


def test_without_memory_there_is_little_to_bound() -> None:
    """beta1 = 0: only the newest gradient moves; beta2 = 0: only the newest is divided by."""
    np.testing.assert_array_equal(bounds.max_step(0.0, 0.0, [1, 5, np.inf]), 1.0)
    assert bounds.max_step(0.0, 0.75, 3, bias_correction=False) == 2.0
    assert bounds.max_step(0.9, 0.0, [1, 2]).tolist() == [1.0, np.inf]
    np.testing.assert_array_equal(bounds.maximising_gradients(0.0, 0.9, 3), [0, 0, 1])
    np.testing.assert_array_equal(bounds.maximising_gradients(0.9, 0.0, 3), [1, 0, 0])
    assert bounds.flat_distance(0.0, 0.9) == 0
    assert bounds.flat_distance(0.0, 0.75, bias_correction=False, entry_step=True) == 2.0
    assert bounds.max_step(0.0, 0.75, 5, eps=1.0, largest_gradient=2.0, bias_correction=False) == 1.0  # 2/(2/2 + 1)
    assert bounds.flat_distance(0.0, 0.9, 5, eps=1.0, largest_gradient=2.0) == 0


@given(beta1=mild, beta2=mild, t=st.integers(1, 200) | st.just(np.inf), eps=epsilons, more=st.floats(1, 100))
def test_epsilon_shortens_steps_and_larger_gradients_overcome_it(beta1, beta2, t, eps, more) -> None:
    """Only eps/bound matters; from below to the value without eps as it goes to 0.  1e-12: sums in logarithms, where
    numbers up to 1000 lose 1e-13.
    """
    free = float(bounds.max_step(beta1, beta2, t))
    held, freer = (float(bounds.max_step(beta1, beta2, t, eps=eps, largest_gradient=bound)) for bound in (1.0, more))
    assert held <= freer * (1 + 1e-12) <= free * (1 + 2e-12)
    assert freer == pytest.approx(
        float(bounds.max_step(beta1, beta2, t, eps=eps / more, largest_gradient=1)), rel=1e-12
    )
    assert float(bounds.max_step(beta1, beta2, t, eps=eps)) == free  # no bound on the gradients: eps does not matter
    # Against an overwhelming eps all gradients are as large as they may be: v = m = 1.
    assert float(bounds.max_step(beta1, beta2, t, eps=1e9, largest_gradient=1)) == pytest.approx(1e-9, rel=2e-9)


def test_a_tiny_epsilon_costs_little() -> None:
    """eps = 1e-8 against gradients to 1: first order in eps/sqrt(v) with sqrt(v) ~ 0.05."""
    step = float(bounds.max_step(0.9, 0.999, eps=1e-8, largest_gradient=1.0))
    assert 0 < float(bounds.max_step(0.9, 0.999)) / step - 1 < 1e-6


@given(beta1=decays, beta2=decays, t=st.integers(1, 10**5))
@example(beta1=0.9, beta2=0.95, t=1)
def test_the_bias_factor_stays_below_one_exactly_where_its_first_value_does(beta1, beta2, t) -> None:
    """beta2 >= beta1 (2 - beta1), not beta1^2 < beta2.  Near equality rounding of 4 EPS may decide either way."""
    first, here = bounds.bias_factor(beta1, beta2, [1, t])
    largest = float(bounds.largest_bias_factor(beta1, beta2))
    assert here <= largest * (1 + 4 * EPS64)
    assert largest == max(first, 1.0)
    assume(abs(first - 1) > 4 * EPS64)
    assert bool(bounds.bias_factor_at_most_one(beta1, beta2)) == (first < 1)


def test_the_printed_induction_fails_though_beta2_exceeds_beta1_squared() -> None:
    assert 0.9**2 < 0.95
    assert not bounds.bias_factor_at_most_one(0.9, 0.95)
    assert float(bounds.bias_factor(0.9, 0.95, 1)) == pytest.approx(5**0.5, rel=8 * EPS64)  # 1 - 0.95 rounds


@given(beta1=decays, beta2=decays)
def test_the_bias_factor_ends_at_one(beta1: float, beta2: float) -> None:
    assert bounds.bias_factor(beta1, beta2, np.inf) == 1


def coast(m: float, v: float, beta1: float, beta2: float, t: float, corrected: bool, eps: float) -> mpmath.mpf:
    """The drift term by term in 25 digits."""
    x, y, square = (mpmath.mpf(value) for value in (beta1, beta2, v))
    first1, first2 = (1 - x**t, 1 - y**t) if corrected else (1, 1)
    total, j = mpmath.mpf(0), 0
    while True:
        j += 1
        then1, then2 = (1 - x ** (t + j), 1 - y ** (t + j)) if corrected else (1, 1)
        term = m * x**j * first1 / then1 / (mpmath.sqrt(square * y**j * first2 / then2) + mpmath.mpf(eps))
        total += term
        if term < 1e-21 * (1 - x) * total and (eps or term < 1e-21 * (1 - x / mpmath.sqrt(y)) * total):
            return total


@settings(max_examples=40, deadline=None)
@given(
    beta1=st.floats(0.05, 0.9), beta2=mild, t=st.integers(1, 300), corrected=st.booleans(), eps=st.just(0.0) | epsilons
)
def test_drift_is_the_sum_of_all_later_steps(beta1, beta2, t, corrected, eps) -> None:
    """Pairwise sums of positive terms with ~10 roundings each: measured 7 EPS, bound 40."""
    assume(eps > 0 or beta1**2 < 0.95 * beta2)
    ours = float(bounds.drift(0.5, 0.7, beta1, beta2, t, bias_correction=corrected, eps=eps))
    with mpmath.workdps(25):
        exact = coast(0.5, 0.7, beta1, beta2, t, corrected, eps)
        assert abs(ours / exact - 1) < 40 * EPS64
    assert float(bounds.drift(-0.5, 0.7, beta1, beta2, t, bias_correction=corrected, eps=eps)) == -ours


@given(beta1=st.floats(0.05, 0.9), beta2=st.floats(0.3, 0.97), t=st.integers(1, 60), corrected=st.booleans())
def test_the_farthest_flat_crossing_is_attained_by_the_largest_step(beta1, beta2, t, corrected) -> None:
    """Adam's own recursion over the maximising gradients and 500 zeros (more would underflow: 0.3^500 = 1e-261).

    What is left after them is kappa^500 < 1e-13 of it; each step has had up to 1500 roundings, 3e-13, mostly random.
    """
    assume(kappa(beta1, beta2) < 0.94)
    g = bounds.maximising_gradients(beta1, beta2, t, bias_correction=corrected)
    steps = adam(np.concatenate([g, np.zeros(500)]), beta1, beta2, corrected)[t - 1 :]
    entry, rest = steps[0], np.sum(steps[1:])
    assert rest == pytest.approx(float(bounds.flat_distance(beta1, beta2, t, bias_correction=corrected)), rel=1e-12)
    assert entry + rest == pytest.approx(
        float(bounds.flat_distance(beta1, beta2, t, bias_correction=corrected, entry_step=True)), rel=1e-12
    )


@given(beta1=st.floats(0.05, 0.95), beta2=st.floats(0.05, 0.999), t=st.integers(1, 300), seed=seeds)
def test_no_history_coasts_farther(beta1, beta2, t, seed) -> None:
    """And every finite history, corrected or not, stays below the limit.  1e-12: chunks of 4096 terms, summed."""
    assume(kappa(beta1, beta2) < 0.985)
    g = np.random.default_rng(seed).normal(size=min(t, 20))
    ages = np.arange(len(g) - 1, -1, -1.0)
    limit = float(bounds.flat_distance(beta1, beta2))
    for corrected in (True, False):
        most = float(bounds.flat_distance(beta1, beta2, len(g), bias_correction=corrected))
        m, v = (1 - beta1) * beta1**ages @ g, (1 - beta2) * beta2**ages @ g**2
        if corrected:
            m, v = m / (1 - beta1 ** len(g)), v / (1 - beta2 ** len(g))
        far = float(bounds.drift(m, v, beta1, beta2, len(g), bias_correction=corrected))
        assert abs(far) <= most * (1 + 1e-12)
        assert float(bounds.flat_distance(beta1, beta2, t, bias_correction=corrected)) <= limit * (1 + 1e-12)


@given(beta1=decays, beta2=decays)
def test_the_printed_flat_bound_counts_the_step_before_the_flat(beta1: float, beta2: float) -> None:
    """Kaiser's sum begins with g_0 itself, made where the gradient was not 0; the flat's own part is kappa of it.

    Both forms divide by 1 - kappa, once rounded: 20 EPS.
    """
    assume(beta1 * beta1 < 0.999999 * beta2)
    printed = float(bounds.kaiser_flat_bound(beta1, beta2))
    assert float(bounds.flat_distance(beta1, beta2, entry_step=True)) == pytest.approx(printed, rel=20 * EPS64)
    own = float(bounds.flat_distance(beta1, beta2))
    assert own == pytest.approx(kappa(beta1, beta2) * printed, rel=20 * EPS64)


def test_flats_are_crossed_forever_where_steps_have_no_bound() -> None:
    assert bounds.flat_distance(0.5, 0.25, 5) == np.inf
    assert bounds.flat_distance(0.9, 0.5) == np.inf
    assert bounds.drift(1.0, 1.0, 0.9, 0.5) == np.inf
    assert bounds.drift(0.0, 0.0, 0.9, 0.5) == 0
    assert 0 < bounds.flat_distance(0.9, 0.5, 5, eps=1e-8, largest_gradient=1.0) < np.inf  # eps ends it


@given(beta1=mild, beta2=mild, age=st.integers(0, 50), t=st.integers(52, 400), corrected=st.booleans())
def test_a_lone_gradient_counts_less_with_age_exactly_where_beta1_squared_is_below_beta2(
    beta1, beta2, age, t, corrected
) -> None:
    """A lone gradient's step by Adam's recursion (3 t roundings), and its order in age."""
    g = np.zeros(t)
    g[t - 1 - age] = 3.0
    ours, older = bounds.single_gradient_step([age, age + 1], beta1, beta2, t, bias_correction=corrected)
    assert adam(g, beta1, beta2, corrected)[-1] == pytest.approx(float(ours), rel=6 * t * EPS64)
    assume(abs(beta1 * beta1 / beta2 - 1) > 1e-12)
    assert (older < ours) == (beta1 * beta1 < beta2)


@given(beta1=mild, beta2=mild, t=st.integers(1, 8), corrected=st.booleans(), eps=st.just(0.0) | epsilons, seed=seeds)
def test_sensitivity_is_the_derivative(beta1, beta2, t, corrected, eps, seed) -> None:
    """Against mpmath's numerical derivative in 40 digits; some 20 roundings, and its two terms may cancel."""
    g = np.random.default_rng(seed).normal(size=t)
    ours = bounds.step_sensitivity(g, beta1, beta2, bias_correction=corrected, eps=eps)
    with mpmath.workdps(40):
        x, y = mpmath.mpf(beta1), mpmath.mpf(beta2)
        c1, c2 = (1 - x**t, 1 - y**t) if corrected else (1, 1)

        def step(*history: mpmath.mpf) -> mpmath.mpf:
            m = sum((1 - x) * x ** (t - 1 - i) * value for i, value in enumerate(history)) / c1
            v = sum((1 - y) * y ** (t - 1 - i) * value**2 for i, value in enumerate(history)) / c2
            return m / (mpmath.sqrt(v) + mpmath.mpf(eps))

        largest = float(np.max(np.abs(ours)) + 1 / np.max(np.abs(g)))
        for i in range(t):
            order = tuple(int(i == j) for j in range(t))
            exact = mpmath.diff(step, tuple(mpmath.mpf(value) for value in g), order)
            assert abs(ours[i] - exact) < 100 * EPS64 * largest
    if eps == 0:  # the step does not depend on the history's scale
        assert abs(ours @ g) < 100 * EPS64 * float(np.abs(ours) @ np.abs(g) + 1)


def test_a_larger_newest_gradient_can_shrink_the_step() -> None:
    """Against reading [kaiser, Prop. 3] as a statement on derivatives: a gradient that stands out damps itself."""
    g = np.ones(21)
    assert bounds.step_sensitivity(g, 0.9, 0.999)[-1] > 0
    g[-1] = 100.0
    assert bounds.step_sensitivity(g, 0.9, 0.999)[-1] < 0
    steps = [adam(np.append(g[:-1], last), 0.9, 0.999)[-1] for last in (100.0, 110.0)]
    assert steps[1] < steps[0]


def test_sensitivity_keeps_coordinates_apart_and_survives_tiny_gradients() -> None:
    g = np.random.default_rng(0).normal(size=(6, 3))
    g[:, 1] *= 1e-200  # whose squares vanish
    g[:, 2] = 0.0
    both = bounds.step_sensitivity(g, 0.9, 0.99, eps=1e-300)
    np.testing.assert_allclose(both[:, 0], bounds.step_sensitivity(g[:, 0], 0.9, 0.99), rtol=1e-14)
    weights = 0.1 * 0.9 ** np.arange(5, -1, -1) / (1 - 0.9**6)
    np.testing.assert_allclose(both[:, 2], weights / 1e-300, rtol=1e-14)
    scaled = bounds.step_sensitivity(g[:, 1] * 2.0**600, 0.9, 0.99) * 2.0**600
    np.testing.assert_allclose(both[:, 1], scaled, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.max_step(1.0, 0.9), "beta1 must lie in"),
        (lambda: bounds.max_step(0.9, -0.1), "beta2 must lie in"),
        (lambda: bounds.max_step(0.9, 0.9, 0), "counts samples"),
        (lambda: bounds.max_step(0.9, 0.9, eps=-1.0), "eps must be"),
        (lambda: bounds.max_step(0.9, 0.9, largest_gradient=0.0), "largest_gradient must be"),
        (lambda: bounds.max_step(0.9, 0.0, eps=1.0, largest_gradient=1.0), "beta2 > 0"),
        (lambda: bounds.maximising_gradients(0.9, 0.9, 3, largest_gradient=np.inf), "finite"),
        (lambda: bounds.maximising_gradients(0.9, 0.9, np.inf), "infinitely many"),
        (lambda: bounds.kaiser_step_bound(0.5, 0.25), "beta1\\^2 < beta2"),
        (lambda: bounds.kaiser_flat_bound(0.9, [0.999, 0.5]), "beta1\\^2 < beta2"),
        (lambda: bounds.drift(1.0, 0.0, 0.9, 0.99), "v must be"),
        (lambda: bounds.drift(1.0, 1.0, 1 - 1e-9, 1 - 1e-12, 1), "terms count"),
        (lambda: bounds.single_gradient_step(3, 0.9, 0.999, 3), "age"),
        (lambda: bounds.single_gradient_step(1, 0.9, 0.0), "beta2 = 0"),
        (lambda: bounds.step_sensitivity([0.0, 0.0], 0.9, 0.999), "no derivative"),
        (lambda: bounds.step_sensitivity(1.0, 0.9, 0.999), "shape"),
    ],
)
def test_what_has_no_bound_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
