"""Trajectories and sweeps: what they report against plain loops, and what must not change it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.errors import UserError
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import METHODS
from stepscope.simulate import engine, find, kernel, run, sweep
from stepscope.simulate.program import build

NAMES = sorted(METHODS)


def naive(rule, gradient, start, steps, **numbers):
    """The points of a plain Python loop over the rule, one coordinate at a time."""
    method = METHODS[rule]
    hyper = method.defaults | numbers
    theta = [float(x) for x in start]
    state = [dict.fromkeys(method.state, 0.0) for _ in theta]
    path = [list(theta)]
    with np.errstate(all="ignore"):
        for t in range(1, steps + 1):
            g = gradient(theta)
            for i in range(len(theta)):
                x, s = method.update(NUMPY, g[i], theta[i], state[i], hyper, method.step_scalars(t, hyper))
                theta[i], state[i] = float(x), {k: float(v) for k, v in s.items()}
            path.append(list(theta))
    return np.array(path)


def valley(theta):
    return [2 * theta[0], 2e-3 * theta[1]]


@pytest.mark.parametrize("rule", NAMES)
def test_a_path_is_the_rule_in_a_loop(rule):
    """fma rounds once in a kernel and twice in Python: a few ulp a step, which 200 contracting steps do not amplify."""
    ours = run(rule, "smooth_valley", start=(0.9, -0.4), steps=200, lr=1e-3).theta
    np.testing.assert_allclose(ours, naive(rule, valley, (0.9, -0.4), 200, lr=1e-3), rtol=1e-11, atol=200 * EPS64)


@pytest.mark.parametrize("rule", NAMES)
def test_kernel_and_interpreter_agree(rule, monkeypatch: pytest.MonkeyPatch):
    """The same graphs with another evaluator; tolerance as above."""
    wanted = {"start": (np.linspace(-1, 1, 40), 0.3), "steps": 100, "lr": np.geomspace(1e-3, 1e-2, 40),
              "observe": ("theta", "loss", "min_loss", "first_inside", "last_outside"), "tol": 0.2}  # fmt: skip
    fast = sweep(rule, "smooth_valley", **wanted)
    monkeypatch.setattr(kernel, "available", lambda: False)
    slow = sweep(rule, "smooth_valley", **wanted)
    for name in ("theta", "loss", "min_loss"):
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-9, atol=1e-13)
    for name in ("first_inside", "last_outside"):
        np.testing.assert_array_equal(fast[name], slow[name])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_neither_threads_nor_neighbours_change_a_bit(dtype):
    """A lane alone, in a full block, in a padded one, with 1 or 3 threads: the same noise and the same numbers."""
    x, seeds = np.linspace(-1, 1, 150), np.arange(150) * 7
    wanted = {"steps": 50, "noise": "additive", "sigma": 0.3, "dtype": dtype, "lr": 0.01}
    whole = sweep("adam", "himmelblau", start=(x, 0.5), seed=seeds, threads=1, **wanted).theta
    np.testing.assert_array_equal(
        sweep("adam", "himmelblau", start=(x, 0.5), seed=seeds, threads=3, **wanted).theta, whole
    )
    some = [3, 149, 40]
    part = sweep("adam", "himmelblau", start=(x[some], 0.5), seed=seeds[some], **wanted).theta
    np.testing.assert_array_equal(part, whole[:, some])
    alone = run("adam", "himmelblau", start=(x[3], 0.5), seed=int(seeds[3]), **wanted).theta[-1]
    np.testing.assert_array_equal(alone, whole[:, 3])


def test_numbers_that_differ_inside_a_block_give_the_same_bits():
    """beta1 and beta2 on a grid with one start each are gathered lane by lane; alone they are one number per block."""
    beta1, beta2 = np.linspace(0, 0.99, 7)[:, None], np.linspace(0.5, 0.9999, 9)[None, :]
    grid = sweep("adam", "smooth_valley", start=(1.0, 1.0), steps=300, beta1=beta1, beta2=beta2).theta
    for i, j in [(0, 0), (3, 5), (6, 8)]:
        alone = run("adam", "smooth_valley", start=(1.0, 1.0), steps=300, beta1=beta1[i, 0], beta2=beta2[0, j])
        np.testing.assert_array_equal(grid[:, i, j], alone.theta[-1])


def test_every_observer_says_what_the_stored_path_says():
    x = np.concatenate([np.linspace(-3, 3, 41), [1e9]])
    result = sweep(
        "heavy_ball", "smooth_valley", start=(x, 0.0), steps=300, lr=np.where(np.arange(42) % 2, 0.05, 2.5), tol=0.1,
        bound=1e6, observe=("theta", "loss", "min_loss", "max_abs", "first_inside", "last_outside", "diverged_at"),
    )  # fmt: skip
    for lane in range(len(x)):
        path = run("heavy_ball", "smooth_valley", start=(x[lane], 0.0), steps=300, lr=[2.5, 0.05][lane % 2])
        inside = np.hypot(*path.theta.T) <= 0.1
        beyond = np.abs(path.theta).max(axis=1) > 1e6
        assert result["loss"][lane] == path.loss[-1]
        assert result["min_loss"][lane] == path.loss.min()
        assert result["max_abs"][lane] == np.abs(path.theta).max()
        assert result["first_inside"][lane] == (np.flatnonzero(inside)[0] if inside.any() else -1)
        assert result["last_outside"][lane] == (np.flatnonzero(~inside)[-1] if (~inside).any() else -1)
        assert result["diverged_at"][lane] == (np.flatnonzero(beyond)[0] if beyond.any() else -1)


def test_a_period_is_found_and_chaos_has_none():
    """SGD on a parabola at lr h = 2 flips sign for ever (period 2), below it converges, above it diverges."""
    result = sweep(
        "sgd", "parabola", start=(0.7,), lr=np.array([0.5, 1.0, 1.1]), steps=20, observe=("period", "amplitude")
    )
    assert result["period"].tolist()[1:] == [2, 0]
    assert result["amplitude"][0, 1] == 1.4


def test_underflow_is_noticed_and_the_wider_format_goes_on():
    """SGD that halves a point leaves the range of float64, not that of 80-bit numbers."""
    narrow = sweep("sgd", "parabola", start=(1.0,), lr=0.25, steps=2000, observe=("underflow_at", "theta"))
    # x halves each step: 2^-1022 is the smallest normal number, so step 1023 is the first below it.
    assert int(narrow.underflow_at) == 1023
    assert float(narrow.theta[0]) == 0.0
    wide = run("sgd", "parabola", start=(1.0,), lr=0.25, steps=2000, dtype="extended", record=("theta",))
    assert wide.theta[-1, 0] == np.longdouble(2.0) ** -2000


def test_a_flushing_thread_does_not_flush_the_simulation():
    """torch can make the processor treat subnormal numbers as 0; a simulation keeps IEEE arithmetic."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        flushed = run("sgd", "parabola", start=(1.0,), lr=0.25, steps=1050, record=("theta",)).theta[-1, 0]
    finally:
        torch.set_flush_denormal(False)
    assert flushed == 2.0**-1050


def test_numpy_refuses_a_flushing_thread(monkeypatch: pytest.MonkeyPatch):
    """The interpreter cannot set the processor's mode, so it says what to do instead of computing something else."""
    monkeypatch.setattr(kernel, "available", lambda: False)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        with pytest.raises(UserError, match="set_flush_denormal"):
            run("sgd", "parabola", start=(1.0,), lr=0.25, steps=5, record=("theta",))
    finally:
        torch.set_flush_denormal(False)


def test_shifted_gradients_make_the_stochastic_quadratic():
    """g = Q (theta - sigma z): covariance sigma^2 Q Q. Entries of n = 2e5 draws within 6 standard errors."""
    n = 200_000
    step = sweep(
        "sgd", "x^2 + x*y + 2*y^2", start=(1.0, -1.0), lr=1.0, steps=1, noise="shift", sigma=0.7, seed=np.arange(n)
    )
    g = np.array([[1.0], [-1.0]]) - step.theta
    Q = np.array([[2.0, 1.0], [1.0, 4.0]])
    exact = 0.49 * Q @ Q
    np.testing.assert_allclose(np.cov(g), exact, atol=6 * np.sqrt(2 / n) * exact.max())
    np.testing.assert_allclose(g.mean(axis=1), Q @ [1.0, -1.0], atol=6 * np.sqrt(exact.max() / n))


def test_records_thin_out_without_changing():
    full = run("msvag", "rosenbrock", steps=103)
    thin = run("msvag", "rosenbrock", steps=103, every=10)
    assert thin.steps.tolist() == [*range(0, 103, 10), 103]
    for name, values in full.columns.items():
        np.testing.assert_array_equal(thin[name], values[thin.steps])


def test_the_recorded_parts_multiply_to_the_step():
    """theta moves by -lr direction base factor: a handful of roundings of numbers below 1."""
    for rule in ("adam", "msvag", "rmsprop", "adadelta", "adam_one_beta"):
        path = run(
            rule,
            "rosenbrock",
            start=(-1.2, 1.0),
            steps=50,
            lr=1e-3,
            record=("theta", "update", "direction", "factor", "base"),
        )
        product = -1e-3 * path["direction"] * path["base"] * path["factor"]
        np.testing.assert_allclose(path["update"], product, rtol=1e-9, atol=64 * EPS64)
        np.testing.assert_allclose(np.diff(path.theta, axis=0), path["update"][:-1], rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(lr=st.floats(1e-4, 1e-2), scale=st.integers(-20, 20))
def test_adam_without_eps_ignores_the_scale_of_the_loss(lr, scale):
    """Powers of two round exactly, so the paths are the same bits.   [kaiser, Sec. 2.3]"""
    plain = run("adam", "a*(x**2 + 1e-3*y**2)".replace("a", "1.0"), start=(1.0, 1.0), steps=60, lr=lr, eps=0.0)
    scaled = run("adam", f"{2.0**scale!r}*(x**2 + 1e-3*y**2)", start=(1.0, 1.0), steps=60, lr=lr, eps=0.0)
    np.testing.assert_array_equal(plain.theta, scaled.theta)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "adm"}, "did you mean 'adam'"),
        ({"landscape": "smoth_valley"}, "did you mean 'smooth_valley'"),
        ({"start": (1.0,)}, "has 2 variables"),
        ({"lr": -1.0}, "lr must lie in"),
        ({"beta3": 0.5}, "did you mean 'beta1'|did you mean 'beta2'"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"record": ("spred",)}, "no column 'spred'"),
        ({"noise": "addtive"}, "did you mean 'additive'"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"order": "fast"}, "torch"),
        ({"every": 0}, "every must be 1 or more"),
        ({"lr": [1e-3, 1e-2]}, "use sweep"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"steps": 10**9}, "record each `every`-th step only"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    wanted = {"rule": "adam", "landscape": "smooth_valley", "steps": 5} | arguments
    with pytest.raises(UserError, match=message):
        run(wanted.pop("rule"), wanted.pop("landscape"), **wanted)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="do not broadcast"):
        sweep("adam", "smooth_valley", start=(np.zeros(3), 0.0), lr=np.full(4, 1e-3))


def test_simulating_loads_no_torch():
    code = (
        "import sys; from stepscope import simulate; simulate.run('adam', 'smooth_valley', steps=3); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_is_built_once():
    place = find("smooth_valley")
    assert build(METHODS["adam"], place, ("theta",)) is build(METHODS["adam"], find("smooth_valley"), ("theta",))
    assert find("x^2 + y^2") is find("x^2 + y^2")


def test_lanes_keep_their_places_when_sorted():
    """Many lrs in random order, few lanes each: blocks are sorted and padded inside, the caller's order comes back."""
    rng = np.random.default_rng(0)
    lrs = rng.choice([1e-3, 1e-2, 0.1], size=500)
    result = sweep("sgd", "parabola", start=(np.arange(500.0),), lr=lrs, steps=1).theta[0]
    np.testing.assert_allclose(result, np.arange(500.0) * (1 - 2 * lrs), rtol=4 * EPS64)
    assert engine.DTYPES


def test_kernels_that_are_dropped_leave_the_others_whole(monkeypatch: pytest.MonkeyPatch):
    """Each engine frees its own code generator; one that was shared would be freed under the others."""
    monkeypatch.setattr(kernel, "_KEPT", 3)
    monkeypatch.setattr(kernel, "_kernels", {})
    for i in range(12):
        assert run("sgd", f"{i + 1}*x^2", start=(1.0,), lr=0.1 / (i + 1), steps=1, record=("theta",)).theta[
            -1, 0
        ] == pytest.approx(0.8)
    assert len(kernel._kernels) == 3


def test_extended_numbers_are_interpreted_where_they_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch):
    compiled = run("adam", "smooth_valley", start=(1.0, 1.0), steps=50, dtype="extended", record=("theta",)).theta
    monkeypatch.setattr(kernel, "on_x86", lambda: False)
    interpreted = run("adam", "smooth_valley", start=(1.0, 1.0), steps=50, dtype="extended", record=("theta",)).theta
    np.testing.assert_allclose(interpreted.astype(float), compiled.astype(float), rtol=1e-14)
