"""The grid: what its points are made of, which of them coincide, and other papers' methods, transcribed here."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import POINTS
from tests.tolerances import EPS64

from stepscope.errors import UserError
from stepscope.graph.expression import trace
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import CHOICES, METHODS, Point, Rule, compose

SEEDS = st.integers(0, 2**32 - 1)


def samples(seed: int, steps: int = 40, size: int = 4) -> np.ndarray:
    """Gradients whose signal and noise differ by coordinate: [step, coordinate]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=size) * 10.0 ** rng.integers(-2, 3, size) + rng.normal(size=(steps, size))


def of(point: Point) -> Rule:
    chosen: dict[str, Any] = {part: getattr(point, part) for part in CHOICES}
    return compose(**chosen, bias_correction=point.bias_correction)


def run(rule: Rule, gradients: np.ndarray, **numbers: float) -> np.ndarray:
    """theta after every step from 0: [step, coordinate]. The variance within a batch is 0.5."""
    hyper = {**rule.defaults, **numbers}
    theta = np.zeros(gradients.shape[1])
    state: Mapping[str, Any] = {name: np.zeros_like(theta) for name in rule.state}
    path = []
    for t, g in enumerate(gradients, start=1):
        if "batch_variance" in state:
            state = {**state, "batch_variance": np.full_like(theta, 0.5)}
        theta, state = rule.update(NUMPY, g, theta, state, hyper, rule.step_scalars(t, hyper))
        path.append(theta)
    return np.array(path)


def test_the_covering_points_cover() -> None:
    for one, other in itertools.combinations(CHOICES, 2):
        met = {(getattr(point, one), getattr(point, other)) for point in POINTS}
        assert met == set(itertools.product(CHOICES[one], CHOICES[other])), (one, other)


@pytest.mark.parametrize("point", POINTS, ids=str)
@given(seed=SEEDS)
def test_a_view_multiplies_back_to_the_step(point: Point, seed: int) -> None:
    """-lr direction base factor = theta_new - theta from theta = 0: the same products, up to 4 of them, in another
    order: 8 EPS. Masked steps are exactly 0 in both. Factors are at most 1, but for Adam's root of two averages."""
    rule = of(replace(point, decay="none"))
    hyper, gradients = rule.defaults, samples(seed, steps=12)
    state: Mapping[str, Any] = {name: np.zeros(4) for name in rule.state}
    for t, g in enumerate(gradients, start=1):
        if "batch_variance" in state:
            state = {**state, "batch_variance": np.full(4, 0.5)}
        scalars = rule.step_scalars(t, hyper)
        view = rule.view(NUMPY, g, state, hyper, scalars)
        delta, state = rule.update(NUMPY, g, np.zeros(4), state, hyper, scalars)
        np.testing.assert_allclose(
            -hyper["lr"] * view.direction * view.base * view.factor, delta, rtol=8 * EPS64, atol=0
        )
        assert np.all(view.factor >= 0)
        assert np.all(np.isfinite(delta))
        if (point.factor, point.variance) != ("adam", "two_emas"):
            assert np.all(view.factor <= 1 + EPS64)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_zero_gradients_move_nothing(point: Point) -> None:
    """Whatever is divided by 0 there is no step, no nan and no warning, without an epsilon as well."""
    rule = of(replace(point, decay="none"))
    hyper = {**rule.defaults, **({"eps": 0.0} if "eps" in rule.defaults else {})}
    state: Mapping[str, Any] = {name: np.zeros(2) for name in rule.state}
    theta = np.array([1.0, -2.0])
    with np.errstate(all="raise"):
        for t in (1, 2, 3):
            theta, state = rule.update(NUMPY, np.zeros(2), theta, state, hyper, rule.step_scalars(t, hyper))
    assert np.array_equal(theta, [1.0, -2.0])


def test_equal_choices_are_one_rule() -> None:
    """Kernels are kept by rule: a rule made twice would be compiled twice."""
    assert compose("sign_m", "erf") is compose(factor="erf", direction="sign_m", variance="ema")
    assert METHODS["msvag"].update is not None
    assert compose("m", "svag_rho", name="msvag", source="[balles2018, Alg. 1, Eq. 25]") is METHODS["msvag"]


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (
            {"direction": "sign m"},
            "unknown direction 'sign m': did you mean 'sign_m'.* Known: g, m, nesterov, sign_g,",
        ),
        ({"factor": "erf_roh"}, "unknown factor 'erf_roh': did you mean 'erf_rho'"),
        ({"variance": "window"}, "unknown variance 'window': .*Known: batch, belief, ema, ema_raw, two_emas"),
        ({"base": "tensor_rms"}, "no base 'tensor_rms': .* a rule sees one coordinate"),
        ({"mask": 3}, "mask must be one of cautious, none, got 3"),
        ({"beta9": 0.5}, "unknown number of m 'beta9': .*Known: beta, lr"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_named(choices: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        compose(**choices)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_point_is_what_its_name_says(point: Point) -> None:
    assert Point.parse(str(point)) == replace(point, bias_correction=True)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(UserError, match="at most 6 parts"):
        Point.parse("m:one:ema:none:none:none:none")


def test_nothing_is_kept_that_is_not_needed() -> None:
    kept = {str(point): compose(*str(point).split(":")).state for point in map(Point.parse, ("g", "sign_g", "sign_m"))}
    assert kept == {"g": (), "sign_g": (), "sign_m": ("m",)}
    assert compose("g", "svag", "batch").state == ("batch_variance",)
    assert compose("m", "svag_rho", "batch").state == ("m", "batch_variance")
    assert compose("m", "one", "two_emas").state == ("exp_avg",)
    assert compose("g", base="adagrad").state == ("sum",)


# --- points that coincide ---------------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_without_memory_averages_are_gradients(seed: int) -> None:
    """beta = 0: m = g exactly and the variance of one sample is 0, so all factors are 1: bit for bit."""
    g = samples(seed)
    for factor in ("one", "svag", "svag_rho", "adam", "erf", "nsr"):
        assert np.array_equal(run(compose("m", factor), g, beta=0.0), run(compose("g"), g))
        assert np.array_equal(run(compose("sign_m", factor), g, beta=0.0), run(compose("sign_g"), g))
    assert np.array_equal(run(compose("nesterov"), g, beta=0.0, blend=0.0), run(compose("g"), g))
    # torch's SGD rounds once: theta of up to 1e4 after 40 steps, an ulp a step
    np.testing.assert_allclose(run(METHODS["sgd"], g, lr=0.1), run(compose("g"), g), rtol=40 * EPS64, atol=1e-13)


@given(seed=SEEDS, beta=st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99]))
def test_the_weight_of_the_relative_variance_leads_from_factor_one_to_adams_root(seed: int, beta: float) -> None:
    """lambda = 0 and 1: exactly 1 eta^2, or 0 of it. m is not 0 here."""
    g = samples(seed)
    for direction in ("m", "sign_m", "nesterov"):
        nsr = compose(direction, "nsr")
        assert np.array_equal(
            run(nsr, g, beta=beta, lambda_=0.0), run(compose(direction), g, beta=beta, lr=nsr.defaults["lr"])
        )
        assert np.array_equal(run(nsr, g, beta=beta, lambda_=1.0), run(compose(direction, "adam"), g, beta=beta))


@given(seed=SEEDS)
def test_small_weights_of_the_relative_variance_approach_factor_one(seed: int) -> None:
    """1/sqrt(1 + x) >= 1 - x/2: each of 5 steps misses lr lambda eta^2 / 2 at most. Samples in [1, 3]: eta^2 < 2."""
    g = 2.0 + np.tanh(samples(seed, steps=5))
    ends = run(compose("sign_m", "nsr"), g, lambda_=1e-6), run(compose("sign_m"), g)
    assert np.abs(ends[0] - ends[1]).max() <= 5 * 1e-6 * 1e-3


@given(seed=SEEDS, beta=st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_adam_is_a_point_and_with_equal_betas_another_one(seed: int, beta: float) -> None:
    """theta -= lr m/sqrt(v) is sign(m) / sqrt(1 + (v - m^2)/m^2)  [balles2018, Eq. 7-8].

    A step is at most 10 lr and rounds ~10 times; an m of cancelling gradients of up to 1e3 has lost up to
    1e3 / 1e-3 of its digits in either form, and v - m^2 no more: 40 steps of lr = 1e-3, 1e-12.
    """
    g = samples(seed)
    adam = run(METHODS["adam"], g, beta1=beta, beta2=beta, eps=0.0)
    for point in (
        compose("sign_m", "adam", "two_emas"),
        compose("m", "one", "two_emas", "root_v"),
    ):
        numbers = {"beta1": beta, "beta2": beta} | ({"eps": 0.0} if "eps" in point.defaults else {})
        np.testing.assert_allclose(run(point, g, **numbers), adam, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run(compose("sign_m", "adam", "ema_raw"), g, beta=beta), adam, rtol=0, atol=1e-12)


@given(seed=SEEDS)
def test_adams_own_betas_make_the_same_point(seed: int) -> None:
    """beta1 = 0.9, beta2 = 0.999 and eps: v < m^2 happens, the factor exceeds 1, and the step is still Adam's."""
    g = samples(seed) * np.linspace(0.1, 3, 40)[:, None]
    np.testing.assert_allclose(
        run(compose("m", "one", "two_emas", "root_v"), g), run(METHODS["adam"], g), rtol=0, atol=1e-14
    )
    np.testing.assert_allclose(
        run(compose("sign_m", "adam", "two_emas"), g), run(METHODS["adam"], g, eps=0.0), rtol=0, atol=1e-12
    )


def test_a_variance_below_zero_counts_as_none() -> None:
    """Gradients that grow: v < m^2 with Adam's betas. Lemma 1's factors are then 1, not above."""
    g = np.geomspace(1e-3, 1e3, 60)[:, None]
    rule = compose("m", "svag_rho", "two_emas")
    state: Mapping[str, Any] = {name: np.zeros(1) for name in rule.state}
    seen = []
    for t, sample in enumerate(g, start=1):
        scalars = rule.step_scalars(t, rule.defaults)
        view = rule.view(NUMPY, sample, state, rule.defaults, scalars)
        state = rule.update(NUMPY, sample, np.zeros(1), state, rule.defaults, scalars)[1]
        seen.append((float(view.variance[0]), float(view.factor[0])))
    assert min(variance for variance, _ in seen) < 0
    assert all(factor == 1 for variance, factor in seen if variance <= 0)
    assert all(factor < 1 for variance, factor in seen if variance > 0)


@given(seed=SEEDS)
def test_eq_22_is_all_that_ema_and_ema_raw_differ_in(seed: int) -> None:
    """The weight of Adam's root that undoes the correction: lambda = 1 - rho(t), one step at a time."""
    g, beta = samples(seed, steps=20), 0.9
    corrected, raw = compose("sign_m", "nsr"), compose("sign_m", "adam", "ema_raw")
    state: Mapping[str, Any] = {name: np.zeros(4) for name in corrected.state}
    for t, sample in enumerate(g, start=1):
        rho = (1 - beta) * (1 + beta**t) / ((1 + beta) * (1 - beta**t))
        hyper = {**corrected.defaults, "lambda_": 1 - rho}
        a, _ = corrected.update(NUMPY, sample, np.zeros(4), state, hyper, corrected.step_scalars(t, hyper))
        b, state = raw.update(NUMPY, sample, np.zeros(4), state, hyper, raw.step_scalars(t, hyper))
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=0)


@given(seed=SEEDS)
def test_centered_and_plain_rmsprop_are_points_whose_averages_start_at_zero(seed: int) -> None:
    """torch forms v - m^2, which cancels: m^2/(v - m^2) < 100 here, sqrt halves it; 40 steps of up to 10 lr."""
    g = samples(seed) * 0.1 + np.random.default_rng(seed).normal(size=(40, 4))
    options = {"variance": "ema_raw", "bias_correction": False}
    plain = run(compose("g", base="root_v", **options), g, beta=0.99, lr=0.01)
    np.testing.assert_allclose(plain, run(METHODS["rmsprop"], g), rtol=1e-12, atol=1e-13)
    centered = run(compose("g", base="deviation", **options), g, beta=0.9, lr=0.01)
    theirs = run(METHODS["rmsprop_centered"], g, alpha=0.9)
    if np.isfinite(theirs).all():
        np.testing.assert_allclose(centered, theirs, rtol=1e-6, atol=1e-8)


@given(seed=SEEDS)
def test_centered_rmsprop_is_its_paper(seed: int) -> None:
    """Graves 2013, Eq. 38-41 with our letters, and torch's place for eps."""
    g = samples(seed) * 0.01 + np.random.default_rng(seed).normal(size=(40, 4))
    v = m = b = theta = np.zeros(4)
    path = []
    for sample in g:
        v, m = 0.9 * v + 0.1 * sample**2, 0.9 * m + 0.1 * sample
        b = 0.5 * b + sample / (np.sqrt(v - m**2) + 1e-8)
        theta = theta - 0.01 * b
        path.append(theta)
    ours = run(METHODS["rmsprop_centered_momentum"], g, alpha=0.9, momentum=0.5)
    np.testing.assert_allclose(ours, path, rtol=1e-9, atol=1e-11)


@given(seed=SEEDS)
def test_adagrad_is_a_point(seed: int) -> None:
    g = samples(seed)
    ours = run(compose("g", base="adagrad"), g, lr=0.01, eps=1e-10)
    np.testing.assert_allclose(ours, run(METHODS["adagrad"], g), rtol=1e-13, atol=1e-15)


# --- other papers' methods, line by line ------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_adabelief_is_its_paper(seed: int) -> None:
    """Zhuang et al. 2020, Algorithm 2: (g - m)^2 with the raw m that g has entered, and eps twice."""
    g, alpha, beta1, beta2, eps = samples(seed), 1e-3, 0.9, 0.999, 1e-8
    m = s = theta = np.zeros(4)
    path = []
    for t, sample in enumerate(g, start=1):
        m = beta1 * m + (1 - beta1) * sample
        s = beta2 * s + (1 - beta2) * (sample - m) ** 2 + eps
        m_hat, s_hat = m / (1 - beta1**t), s / (1 - beta2**t)
        theta = theta - alpha * m_hat / (np.sqrt(s_hat) + eps)
        path.append(theta)
    # g - m loses up to 1e2 of its digits where the signal is a hundred times the noise
    np.testing.assert_allclose(run(METHODS["adabelief"], g), path, rtol=1e-11, atol=1e-13)


@given(seed=SEEDS, beta1=st.sampled_from([0.0, 0.5, 0.9, 0.95]), beta2=st.sampled_from([0.5, 0.9, 0.99]))
def test_lion_is_its_paper(seed: int, beta1: float, beta2: float) -> None:
    """Chen et al. 2023, Algorithm 2. Signs agree unless the blend rounds across 0, which no seed does here."""
    g, m, theta, path = samples(seed), np.zeros(4), np.zeros(4), []
    for sample in g:
        theta = theta - 1e-4 * np.sign(beta1 * m + (1 - beta1) * sample)
        m = beta2 * m + (1 - beta2) * sample
        path.append(theta)
    ours = run(METHODS["lion"], g, beta=beta2, blend=beta1 / beta2)
    np.testing.assert_allclose(ours, path, rtol=0, atol=1e-16)


@given(seed=SEEDS)
def test_lion_with_its_average_corrected_is_the_sign_of_nesterov(seed: int) -> None:
    """The average's start is all that differs: from steps on whose signs are certain, both step alike."""
    rng = np.random.default_rng(seed)
    g = 1.0 + 0.1 * rng.normal(size=(50, 4))
    assert np.array_equal(run(METHODS["lion"], g), run(compose("sign_nesterov"), g, lr=1e-4, beta=0.99))


@given(seed=SEEDS)
def test_grams_is_its_paper(seed: int) -> None:
    """Cao et al. 2024, Algorithm 1: the size of Adam's step, the sign of the gradient."""
    g, m, v, theta, path = samples(seed), np.zeros(4), np.zeros(4), np.zeros(4), []
    for t, sample in enumerate(g, start=1):
        m, v = 0.9 * m + 0.1 * sample, 0.999 * v + 0.001 * sample**2
        size = np.abs(m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        theta = theta - 1e-3 * np.sign(sample) * size
        path.append(theta)
    np.testing.assert_allclose(run(METHODS["grams"], g), path, rtol=1e-11, atol=1e-14)


@given(seed=SEEDS, beta=st.sampled_from([0.0, 0.5, 0.9]))
def test_signum_is_its_paper_and_m_ssd(seed: int, beta: float) -> None:
    """Bernstein et al. 2018, Algorithm 2; correcting the average's bias changes no sign."""
    g, m, theta, path = samples(seed), np.zeros(4), np.zeros(4), []
    for sample in g:
        m = beta * m + (1 - beta) * sample
        theta = theta - 1e-3 * np.sign(m)
        path.append(theta)
    np.testing.assert_allclose(run(METHODS["signum"], g, beta=beta), path, rtol=0, atol=1e-15)
    assert np.array_equal(run(METHODS["signum"], g, beta=beta), run(METHODS["mssd"], g, beta=beta))


@given(seed=SEEDS)
def test_cautious_adam_is_its_paper_without_the_rescaling(seed: int) -> None:
    """Liang et al. 2024, Algorithm 1, phi = 1 where u g > 0; phi d/(|phi|_0 + 1) is a mean over a tensor, left out."""
    g, m, v, theta, path = samples(seed), np.zeros(4), np.zeros(4), np.zeros(4), []
    for t, sample in enumerate(g, start=1):
        m, v = 0.9 * m + 0.1 * sample, 0.999 * v + 0.001 * sample**2
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        theta = theta - 1e-3 * u * (u * sample > 0)
        path.append(theta)
    ours = run(compose("m", "one", "two_emas", "root_v", "cautious"), g)
    np.testing.assert_allclose(ours, path, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("direction", ["g", "sign_g"])
@given(seed=SEEDS)
def test_a_gradient_is_never_masked(direction: str, seed: int) -> None:
    g = samples(seed)
    assert np.array_equal(run(compose(direction, mask="cautious"), g), run(compose(direction), g))


@given(seed=SEEDS, variance=st.floats(1e-3, 1e3))
def test_svag_within_the_batch_is_g_cubed_over_g_squared_plus_s(seed: int, variance: float) -> None:
    """[balles2018, Eq. 17 and Sec. D]: gamma = g^2/(g^2 + s), without momentum and without memory."""
    rule, g = compose("g", "svag", "batch"), samples(seed, steps=1)[0]
    ours, _ = rule.update(NUMPY, g, np.zeros(4), {"batch_variance": np.full(4, variance)}, rule.defaults, {})
    np.testing.assert_allclose(ours, -0.1 * g**3 / (g**2 + variance), rtol=1e-14)


def test_msvag_within_the_batch_shrinks_by_the_variance_of_its_average() -> None:
    """gamma = m^2/(m^2 + rho s) with rho of Eq. 21, at every step."""
    rule, g = compose("m", "svag_rho", "batch"), samples(7, steps=10)
    state: Mapping[str, Any] = {"m": np.zeros(4), "batch_variance": np.zeros(4)}
    for t, sample in enumerate(g, start=1):
        weights = 0.9 ** np.arange(t)[::-1]
        m = (weights[:, None] * g[:t]).sum(0) / weights.sum()
        rho = (weights**2).sum() / weights.sum() ** 2
        s = 0.1 * t
        delta, state = rule.update(
            NUMPY,
            sample,
            np.zeros(4),
            {**state, "batch_variance": np.full(4, s)},
            rule.defaults,
            rule.step_scalars(t, rule.defaults),
        )
        np.testing.assert_allclose(delta, -0.1 * m**3 / (m**2 + rho * s), rtol=1e-12)


@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_decay_is_where_it_says(decay: str) -> None:
    rule = compose("m", decay=decay)
    hyper = {**rule.defaults, "weight_decay": 0.5}
    theta, _ = rule.update(
        NUMPY, np.array([0.3]), np.array([2.0]), {"m": np.zeros(1)}, hyper, rule.step_scalars(1, hyper)
    )
    expected = 2.0 - 0.1 * (0.3 + 0.5 * 2.0) if decay == "l2" else 2.0 * (1 - 0.1 * 0.5) - 0.1 * 0.3
    assert math.isclose(theta[0], expected, rel_tol=4 * EPS64)


def test_parts_of_ones_own_join_the_others() -> None:
    def halved(k: Any, x: Any) -> Any:
        return 1 / (1 + x * x)

    rule = compose("sign_m", halved, name="mine", lr=0.5)
    assert (rule.name, rule.defaults["lr"], rule.state) == ("mine", 0.5, ("m", "S"))
    assert {"g", "state.S"} <= {
        node for node in map(repr, _inputs(rule)) if not node.startswith(("hyper", "scalars", "theta"))
    }
    assert np.isfinite(run(rule, samples(3))).all()


def _inputs(rule: Rule) -> list[Any]:
    from stepscope.graph.expression import order

    return [node for node in order(trace(rule).roots) if node.op == "input"]
