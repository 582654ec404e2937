"""Periodic orbits: against simulation, finite differences and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepscope.graph.expression import SYMBOLS, symbol
from stepscope.rules import METHODS
from stepscope.simulate import run
from stepscope.theory.orbits import StepMap, adam_two_cycle, heavy_ball_limit, preconditioned_limit

X, Y = symbol("x"), symbol("y")
PARABOLA = X * X


@pytest.mark.parametrize("rule", sorted(METHODS))
def test_the_jacobian_is_the_derivative_of_the_step(rule):
    """Central differences at a point away from every kink; the step's second derivatives are of order 1e3 at most."""
    at = StepMap(METHODS[rule], X * X + 0.3 * X * Y + SYMBOLS.cos(Y), [X, Y], {"lr": 0.05})
    rng = np.random.default_rng(0)
    z = np.abs(rng.standard_normal(len(at.names))) + 0.3
    z += [4.0 * name.endswith("square_avg") for name in at.names]  # v > m^2, without which centered RMSProp is NaN
    ours = at.jacobian(z)
    for j in range(len(z)):
        step = np.zeros(len(z))
        step[j] = 1e-6
        np.testing.assert_allclose(ours[:, j], (at.step(z + step) - at.step(z - step)) / 2e-6, rtol=1e-5, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(beta1=st.floats(0.1, 0.95), lr=st.floats(1e-3, 1.0), eps=st.sampled_from([0.0, 1e-8]))
def test_adam_s_two_cycle_on_a_parabola_is_where_the_formula_says(beta1, lr, eps):
    at = StepMap(METHODS["adam"], PARABOLA, [X], {"lr": lr, "beta1": beta1, "eps": eps})
    width = float(adam_two_cycle(lr, beta1, 1.0))
    slope = width  # 2 x at x = width/2
    cycle = at.cycle([width / 2, -slope * (1 - beta1) / (1 + beta1), slope**2], 2)
    assert cycle is not None
    assert cycle.period == 2
    exact = float(adam_two_cycle(lr, beta1, slope, eps))
    assert cycle.amplitude[0] == pytest.approx(exact, rel=1e-5)  # its gradient is not quite the guess's where eps > 0


@pytest.mark.parametrize(("beta1", "stable"), [(0.05, True), (0.1, True), (0.5, False), (0.9, False)])
def test_adam_s_two_cycle_repels_unless_beta1_is_small(beta1, stable):
    """Followed by simulation: a disturbance of 1e-3 has shrunk a hundredfold or grown after 60,000 steps."""
    at = StepMap(METHODS["adam"], PARABOLA, [X], {"lr": 0.1, "beta1": beta1})
    width = float(adam_two_cycle(0.1, beta1, 1.0))
    cycle = at.cycle([width / 2, -width * (1 - beta1) / (1 + beta1), width**2], 2)
    assert cycle.stable is stable
    start = np.concatenate([cycle.points[0], cycle.states[0].ravel()])
    end = at.settle(start * (1 + 1e-3), 60_000)
    assert (np.abs(end[0] - start[0]) < 1e-5 * width) is np.bool_(stable)


def test_a_disturbance_grows_by_the_leading_multiplier():
    """Adam's 2-cycle repels: a small disturbance grows by |multiplier| each round, after transients."""
    at = StepMap(METHODS["adam"], PARABOLA, [X], {"lr": 0.1})
    width = float(adam_two_cycle(0.1, 0.9, 1.0))
    cycle = at.cycle([width / 2, -width * 0.1 / 1.9, width**2], 2)
    start = np.concatenate([cycle.points[0], cycle.states[0].ravel()])
    z = start + np.array([1e-9, 0.0, 0.0])
    sizes = []
    for _ in range(110):
        z = at.settle(z, 2)
        sizes.append(float(np.linalg.norm(z - start)))
    growth = (sizes[109] / sizes[29]) ** (1 / 80)
    assert growth == pytest.approx(abs(cycle.multipliers[0]), rel=0.02)  # complex pair: the size beats


def test_rmsprop_s_two_cycle_attracts():
    at = StepMap(METHODS["rmsprop"], PARABOLA, [X], {"lr": 0.1})
    cycle = at.cycle([0.05, 0.01], 2)
    assert cycle is not None
    assert cycle.stable
    end = at.settle([0.04, 0.02], 8000)
    assert abs(end[0]) == pytest.approx(abs(cycle.points[0, 0]), rel=1e-6)


@pytest.mark.parametrize(("rule", "hyper", "limit"), [("sgd", {}, 2.0), ("heavy_ball", {"momentum": 0.7}, 3.4)])
def test_two_cycles_of_descent_live_exactly_at_the_stability_limit(rule, hyper, limit):
    """h = 2: at lr h = limit every amplitude is a cycle (multiplier 1), a little off it only the minimum remains."""
    at = StepMap(METHODS[rule], PARABOLA, [X], {"lr": limit / 2, **hyper})
    guess = [0.3, *([-0.6 / 1.7] if METHODS[rule].state else [])]
    cycle = at.cycle(guess, 2)
    assert cycle is not None
    assert cycle.period == 2
    assert abs(cycle.multipliers[0]) == pytest.approx(1.0, abs=1e-9)
    below = StepMap(METHODS[rule], PARABOLA, [X], {"lr": 0.45 * limit, **hyper}).cycle(guess, 2)
    assert below is None or np.abs(below.points).max() < 1e-9


def test_limits_match_the_frozen_map():
    """Eigenvalues of theta, m with v fixed reach -1 at the limit."""
    for beta1 in (0.0, 0.5, 0.9):
        k = float(preconditioned_limit(beta1))
        J = np.array([[1 - (1 - beta1) * k, -beta1 * k], [1 - beta1, beta1]])  # of (theta, m) with lr h/sqrt(v) = k
        assert np.abs(np.linalg.eigvals(J)).max() == pytest.approx(1.0, abs=1e-6)
    assert float(heavy_ball_limit(0.9)) == pytest.approx(3.8)


def test_domain_errors():
    with pytest.raises(ValueError, match="beta1"):
        preconditioned_limit(1.0)
    with pytest.raises(ValueError, match="gradient_size"):
        adam_two_cycle(0.1, 0.9, 0.0)
    with pytest.raises(ValueError, match="lr must lie"):
        StepMap(METHODS["adam"], PARABOLA, [X], {"lr": -1.0})


def test_the_twelve_cycle_of_adam_on_a_wall():
    """|x| at lr 1e-3: twelve steps bring a simulated path back. Between kinks the map is linear, so the cycle is one of
    a continuum and has a multiplier 1; v forgets with beta2^12, and so does a disturbance of it.
    """
    path = run(
        "adam", "absolute", start=(0.5,), steps=200_000, every=200_000, record=("theta", "exp_avg", "exp_avg_sq")
    )
    before = run("adam", "absolute", start=(0.5,), steps=199_999, every=199_999, record=("exp_avg", "exp_avg_sq"))
    at = StepMap(METHODS["adam"], SYMBOLS.abs(X), [X], {"lr": 1e-3})
    z = np.array([path.theta[-1, 0], before["exp_avg"][-1, 0], before["exp_avg_sq"][-1, 0]])
    cycle = at.cycle(z, 12)
    assert cycle is not None
    assert cycle.period == 12
    assert not cycle.stable
    sizes = sorted(abs(cycle.multipliers))
    assert sizes[-1] == pytest.approx(1.0, abs=1e-6)
    assert sizes[-2] == pytest.approx(0.999**12, abs=1e-6)
    start = np.concatenate([cycle.points[0], cycle.states[0].ravel()])
    assert at.settle(start, 12)[0] == pytest.approx(start[0], abs=1e-12)
    assert at.settle(start, 5)[0] != pytest.approx(start[0], abs=1e-6)


def test_simulation_leads_to_rmsprop_s_cycle():
    at = StepMap(METHODS["rmsprop"], PARABOLA, [X], {"lr": 0.1})
    (cycle,) = at.cycles_from([(1.0,)], settle=6000)
    assert cycle is not None
    assert cycle.period == 2
    assert cycle.stable
    assert cycle.amplitude[0] == pytest.approx(0.1, rel=1e-5)  # lr, but for eps


def test_where_nothing_comes_back_no_cycle_is_found():
    assert StepMap(METHODS["sgd"], PARABOLA, [X], {"lr": 1.2}).cycles_from([(1.0,)], settle=50) == [None]
