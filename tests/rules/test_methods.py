"""The rules against transcriptions of the papers' algorithms, and on every kind of number they promise to run on."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.namespaces import MPMATH
from tests.tolerances import EPS64

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import TORCH
from stepscope.rules import METHODS, Rule, decayed

NAMES = sorted(METHODS)
STEPS = 40


def samples(seed: int, steps: int = STEPS, size: int = 3) -> np.ndarray:
    """Gradients with signal and noise of different size per coordinate: [step, coordinate]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=size) * 10.0 ** rng.integers(-3, 3, size) + rng.normal(size=(steps, size))


def run(rule: Rule, gradients: Any, theta: Any, k: Any, **changes: float) -> list[Any]:
    """theta after every step."""
    hyper = {**rule.defaults, **changes}
    state: Mapping[str, Any] = dict.fromkeys(rule.state, theta * 0)
    path = []
    for t, g in enumerate(gradients, start=1):
        theta, state = rule.update(k, g, theta, state, hyper, rule.step_scalars(t, hyper))
        path.append(theta)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_runs_alike_on_numpy_torch_and_mpmath(name: str) -> None:
    """Against 50 digits: a float64 step of ~20 operations at |theta| <= 4 adds under 20 EPS; 40 steps, 1000 EPS.

    The erf's argument is the worst conditioned; a bound of 1e-12 leaves it a factor 5.
    """
    rule, gradients = METHODS[name], samples(1)
    start = np.array([1.0, -0.5, 0.25])
    with mpmath.workdps(50):
        exact = np.array(
            [
                [float(x) for x in run(rule, [mpmath.mpf(g) for g in gradients[:, i]], mpmath.mpf(start[i]), MPMATH)]
                for i in range(3)
            ]
        ).T
    by_numpy = np.array(run(rule, gradients, start, NUMPY))
    by_torch = torch.stack(run(rule, torch.tensor(gradients), torch.tensor(start), TORCH)).numpy()
    np.testing.assert_allclose(by_numpy, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(by_torch, exact, rtol=0, atol=1e-12)


# --- Algorithm 1 and 2 of Dissecting Adam, line by line ---------------------------------------------------------------


def algorithm1(gradients: np.ndarray, alpha: float, beta: float, theta: float, *, momentum: bool) -> list[float]:
    """[balles2018, Alg. 1 with Sec. 4.4], t from 0 as printed; momentum=False is SVAG, [Eq. 23]."""
    m_raw = v_raw = 0.0
    path = []
    for t, g in enumerate(gradients):
        m_raw = beta * m_raw + (1 - beta) * g
        v_raw = beta * v_raw + (1 - beta) * g**2
        m, v = m_raw / (1 - beta ** (t + 1)), v_raw / (1 - beta ** (t + 1))
        rho = (1 - beta) * (1 + beta ** (t + 1)) / ((1 + beta) * (1 - beta ** (t + 1)))
        s = 0.0 if t == 0 or beta == 0 else (v - m**2) / (1 - rho)
        noise = rho * s if momentum else s
        gamma = m**2 / (m**2 + noise) if m != 0 else 0.0
        theta -= alpha * gamma * (m if momentum else g)
        path.append(theta)
    return path


@pytest.mark.parametrize("momentum", [True, False], ids=["msvag", "svag"])
@given(seed=st.integers(0, 2**32 - 1), beta=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99]))
def test_svag_is_the_papers_algorithm(momentum: bool, seed: int, beta: float) -> None:
    """200 random steps in float64.

    The transcription's v - m^2 cancels: with |m| up to 1000 sigma its relative error reaches 2 EPS (1 + m^2/sigma^2) of
    sigma^2, which enters gamma with weight sigma^2/(m^2 + sigma^2): some EPS of gamma per step whatever the ratio. The
    averages' errors of a few EPS last 1/(1 - beta) <= 100 steps. 200 steps of |alpha m| <= 60: 1e-10 of the path is
    a hundred times the error seen (1e-12).
    """
    rule = METHODS["msvag" if momentum else "svag"]
    gradients = samples(seed, steps=200, size=1)[:, 0]
    ours = np.array(run(rule, gradients, 0.5, NUMPY, beta=beta))
    paper = np.array(algorithm1(gradients, rule.defaults["lr"], beta, 0.5, momentum=momentum))
    np.testing.assert_allclose(ours, paper, rtol=1e-10, atol=1e-10)


@given(seed=st.integers(0, 2**32 - 1), beta=st.sampled_from([0.0, 0.3, 0.9, 0.99]))
def test_msgd_and_mssd_are_algorithm_2(seed: int, beta: float) -> None:
    """Averages of 40 samples differ by a few EPS; the signs agree unless m rounds across 0, which no seed does here."""
    gradients = samples(seed, size=1)[:, 0]
    theta_sgd = theta_ssd = 0.5
    m_raw, sgd, ssd = 0.0, [], []
    for t, g in enumerate(gradients):
        m_raw = beta * m_raw + (1 - beta) * g
        theta_sgd -= 0.1 * m_raw / (1 - beta ** (t + 1))
        theta_ssd -= 1e-3 * math.copysign(m_raw != 0, m_raw)
        sgd.append(theta_sgd)
        ssd.append(theta_ssd)
    np.testing.assert_allclose(run(METHODS["msgd"], gradients, 0.5, NUMPY, beta=beta), sgd, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(run(METHODS["mssd"], gradients, 0.5, NUMPY, beta=beta), ssd, rtol=0, atol=1e-15)


def test_first_step_of_variance_adapted_methods_is_that_of_their_base() -> None:
    """[balles2018, Sec. 4.4]: s_0 = 0, so the factor is exactly 1. One subtraction each: equal bit for bit."""
    g, theta = samples(3, steps=1), np.array([1.0, -0.5, 0.25])
    for adapted, base in (("msvag", "msgd"), ("svag", "msgd"), ("adam_erf", "mssd"), ("adam_one_beta", "mssd")):
        lr = {"lr": 0.01}
        assert np.array_equal(
            run(METHODS[adapted], g, theta, NUMPY, **lr)[0], run(METHODS[base], g, theta, NUMPY, **lr)[0]
        )


@given(seed=st.integers(0, 2**32 - 1))
def test_without_memory_msvag_is_sgd(seed: int) -> None:
    """beta = 0: m = g exactly and rho/(1 - rho) S = 0, so every step is theta - lr g, bit for bit."""
    gradients, theta = samples(seed), np.array([1.0, -0.5, 0.25])
    path = run(METHODS["msvag"], gradients, theta, NUMPY, beta=0.0)
    for g, after in zip(gradients, path, strict=True):
        theta = theta - 0.1 * g
        assert np.array_equal(after, theta)


@pytest.mark.parametrize("name", ["msgd", "mssd", "svag", "msvag", "adam_erf", "adam_erf_uncorrected", "adam_one_beta"])
def test_zero_gradients_move_nothing(name: str) -> None:
    """m = v = 0 is no update and no nan, without an epsilon   [balles2018, Sec. 4.4]."""
    theta = np.array([1.0, -0.5, 0.25])
    with np.errstate(all="raise"):
        for after in run(METHODS[name], np.zeros((5, 3)), theta, NUMPY):
            assert np.array_equal(after, theta)


@pytest.mark.parametrize("scale", [1e-25, 1e-30, 1e-36])
def test_underflow_of_the_square_does_not_stop_a_float32_step(scale: float) -> None:
    """Below 1e-19 the square of a float32 is 0. The update must still be the average's (the variance is beyond float32,
    so the factor is 1), to float32 rounding of an average of 10: 10 * 2^-24 < 1e-6."""
    g = torch.full((10, 4), scale, dtype=torch.float32) * torch.tensor([1.0, -1.0, 2.0, 0.5])
    for name in ("msvag", "svag"):
        theta = run(METHODS[name], g, torch.zeros(4), TORCH, lr=1.0)[-1].double().numpy()
        np.testing.assert_allclose(theta, -10 * g[0].double().numpy(), rtol=1e-6, atol=1e-44)


def test_noise_of_a_tiny_gradient_is_still_seen_while_it_is_representable() -> None:
    """m = 1e-25, S = 1e-30 in float32: m^2 underflows, the ratio 1e20 does not; the factor is 1/(1 + odds 1e20)."""
    m, S = torch.tensor([1e-25]), torch.tensor([1e-30])
    from stepscope.rules import parts

    factor = parts.shrink(TORCH, parts.svag_factor, m, S)
    assert factor.item() == pytest.approx(1e-20, rel=1e-5)


@given(k=st.integers(-60, 60), seed=st.integers(0, 2**32 - 1))
def test_factors_ignore_the_unit_of_the_loss(k: int, seed: int) -> None:
    """A power of two rescales every intermediate exactly: tolerance zero."""
    c, gradients = 2.0**k, samples(seed)
    for name in ("svag", "msvag", "adam_erf", "adam_one_beta"):
        rule = METHODS[name]
        views = []
        for unit in (1.0, c):
            state: dict[str, Any] = {"m": np.zeros(3), "S": np.zeros(3)}
            for t, g in enumerate(unit * gradients, start=1):
                scalars = rule.step_scalars(t, rule.defaults)
                view = rule.view(NUMPY, g, state, rule.defaults, scalars)
                state = rule.update(NUMPY, g, np.zeros(3), state, rule.defaults, scalars)[1]
            views.append(view)
        assert np.array_equal(views[0].factor, views[1].factor)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
def test_view_multiplies_back_to_the_update(name: str, seed: int) -> None:
    """-lr direction base factor = theta_new - theta.

    theta = 0 makes the update itself the stored number. Both sides round ~6 operations once each, Adam's factor
    through sqrt(v_hat) twice more: 10 EPS, relative.
    """
    rule, gradients = METHODS[name], samples(seed)
    state: dict[str, Any] = {s: np.zeros(3) for s in rule.state}
    for t, g in enumerate(gradients, start=1):
        scalars = rule.step_scalars(t, rule.defaults)
        view = rule.view(NUMPY, g, state, rule.defaults, scalars)
        delta, state = rule.update(NUMPY, g, np.zeros(3), state, rule.defaults, scalars)
        back = -rule.defaults["lr"] * view.direction * view.base * view.factor
        # NAdam takes two steps that may cancel: they are below 10 lr each.
        atol = 100 * EPS64 * rule.defaults["lr"] if name == "nadam" else 0
        np.testing.assert_allclose(back, delta, rtol=10 * EPS64, atol=atol)
        assert np.all(view.factor >= 0)
        # Averages with two decay rates can lie below the newest square, and some factors hold the gradient's unit.
        if name in ("msgd", "ssd", "mssd", "svag", "msvag", "adam_erf", "adam_erf_uncorrected", "adam_one_beta"):
            assert np.all(view.factor <= 1)


def test_adam_with_one_beta_shrinks_by_the_relative_variance() -> None:
    """[balles2018, Eq. 7-9]: for eps = 0 the view's factor is 1/sqrt(1 + (v - m^2)/m^2).

    v - m^2 cancels digits: with m^2 / (v - m^2) up to 1e3^2 the right side is good to 1e6 EPS ~ 3e-10."""
    rule = METHODS["adam"]
    hyper = {**rule.defaults, "beta1": 0.9, "beta2": 0.9, "eps": 0.0}
    state: dict[str, Any] = {s: np.zeros(3) for s in rule.state}
    for t, g in enumerate(samples(5), start=1):
        scalars = rule.step_scalars(t, hyper)
        view = rule.view(NUMPY, g, state, hyper, scalars)
        state = rule.update(NUMPY, g, np.zeros(3), state, hyper, scalars)[1]
        assert view.mean is not None
        np.testing.assert_allclose(view.factor, 1 / np.sqrt(1 + view.variance / view.mean**2), rtol=1e-9)


def test_decoupled_decay_shrinks_the_weights_and_nothing_else() -> None:
    """theta (1 - lr wd) is stepped from: the update from 0 is that without decay, exactly."""
    rule, g = METHODS["msvag"], np.array([0.3])
    decaying = decayed(rule, decoupled=True)
    hyper = {**rule.defaults, "weight_decay": 0.5}
    scalars = rule.step_scalars(1, hyper)
    state = {"m": np.zeros(1), "S": np.zeros(1)}
    assert decaying.update(NUMPY, g, np.array([2.0]), state, hyper, scalars)[0] == 2.0 * 0.95 - 0.1 * 0.3


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_legal_and_outliers_are_named(name: str) -> None:
    rule = METHODS[name]
    rule.check(rule.defaults)
    rule.check({**rule.defaults, "lr": 0.0})
    for h in rule.hyper:
        if h.low > -math.inf:
            with pytest.raises(ValueError, match=f"{h.name} must lie in"):
                rule.check({**rule.defaults, h.name: h.low - 1e-9})
        with pytest.raises(ValueError, match=f"{h.name} must lie in"):
            rule.check({**rule.defaults, h.name: math.nan})


@pytest.mark.parametrize("rule", METHODS.values(), ids=lambda rule: rule.name)
@given(st.lists(st.floats(0.0, 0.999), min_size=2, max_size=2))
def test_step_scalars_change_in_one_direction_and_end(rule, betas):
    """From t = 2 on, to rounding (4 ulp of neighbours); tables of them rely on it to end where a value is final."""
    for one in rule.scalars.values():
        values = [one.value(t, *betas[: len(one.needs)]) for t in (2, 3, 4, 7, 20, 100, 1000, 10**5, 10**9)]
        slack = [4 * 2.0**-52 * max(abs(a), abs(b)) for a, b in itertools.pairwise(values)]
        rises = [b - a > s for (a, b), s in zip(itertools.pairwise(values), slack, strict=True)]
        falls = [a - b > s for (a, b), s in zip(itertools.pairwise(values), slack, strict=True)]
        assert not (any(rises) and any(falls))
