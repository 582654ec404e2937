"""Problems with dense matrices: gradients, noise, reproducibility, the classification example."""

import numpy as np
import pytest

from stepscope.errors import UserError
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import METHODS
from stepscope.simulate import dense
from stepscope.theory import quadratic

RNG = np.random.default_rng(0)


def problems():
    R = quadratic.haar_rotation(6, RNG)
    Q = R @ np.diag([0.1, 0.5, 1.0, 2.0, 4.0, 9.0]) @ R.T
    X, y = RNG.standard_normal((12, 6)), RNG.choice((-1.0, 1.0), 12)
    return [dense.StochasticQuadratic(Q, 0.0, RNG.standard_normal(6)), dense.LeastSquares(X, y), dense.Logistic(X, y)]


@pytest.mark.parametrize("problem", problems(), ids=lambda p: type(p).__name__)
def test_the_gradient_is_the_loss_s_derivative(problem):
    """Central differences with step 1e-5 of a smooth function: error of order 1e-10 plus rounding 1e-11."""
    theta = RNG.standard_normal((problem.dims, 3))
    g = problem.gradient(theta, None)
    for i in range(problem.dims):
        up, down = theta.copy(), theta.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        np.testing.assert_allclose(g[i], (problem.loss(up) - problem.loss(down)) / 2e-5, rtol=1e-6, atol=1e-8)


def test_noise_has_the_covariance_of_the_data():
    """Q x with x of variance nu^2 I: nu^2 Q Q. Entries of a sample covariance have a standard error of about sqrt(2/n)
    of the diagonal; 6 of them."""
    problem = dense.StochasticQuadratic(np.array([[2.0, 0.5], [0.5, 1.0]]), 0.7)
    n = 200_000
    g = problem.gradient(np.ones((2, n)), RNG.standard_normal((2, n)))
    exact = 0.49 * problem.Q @ problem.Q
    np.testing.assert_allclose(np.cov(g), exact, atol=6 * np.sqrt(2 / n) * exact.max())
    np.testing.assert_allclose(g.mean(axis=1), problem.Q @ np.ones(2), atol=6 * np.sqrt(exact.max() / n))


@pytest.mark.parametrize("rule", ["sgd", "adam", "msvag", "ssd"])
def test_a_run_is_the_rule_in_a_loop(rule):
    problem = problems()[1]
    method = METHODS[rule]
    theta, state = np.zeros((6, 1)), {name: np.zeros((6, 1)) for name in method.state}
    with np.errstate(all="ignore"):
        for t in range(1, 31):
            g = problem.X.T @ (problem.X @ theta - problem.y[:, None]) / 12
            theta, state = method.update(
                NUMPY, g, theta, state, {**method.defaults, "lr": 0.01}, method.step_scalars(t, method.defaults)
            )
    np.testing.assert_array_equal(dense.run(rule, problem, steps=30, lr=0.01).final, theta)


def test_a_repetition_does_not_depend_on_its_neighbours():
    problem = dense.StochasticQuadratic(np.diag([1.0, 3.0]), 1.0)
    many = dense.run("adam", problem, start=[1.0, 1.0], steps=40, repeats=7, seed=4, lr=0.1)
    few = dense.run("adam", problem, start=[1.0, 1.0], steps=40, repeats=2, seed=4, lr=0.1)
    np.testing.assert_array_equal(many.final[:, :2], few.final)
    other = dense.run("adam", problem, start=[1.0, 1.0], steps=40, repeats=2, seed=5, lr=0.1)
    assert not np.array_equal(other.final, few.final)


def test_wrong_arguments_are_named():
    problem = problems()[0]
    with pytest.raises(UserError, match="did you mean 'adam'"):
        dense.run("adan", problem, steps=1)
    with pytest.raises(UserError, match="shape"):
        dense.run("adam", problem, start=np.zeros(5), steps=1)
    with pytest.raises(UserError, match="did you mean 'beta1'"):
        dense.run("adam", problem, steps=1, beta_1=0.5)


def test_the_classification_instance_fulfils_its_assumption():
    for n in (10, 31):
        X, y = dense.wilson_instance(n, RNG)
        s = np.sign(X.T @ y)
        assert np.all(s != 0)
        assert np.ptp((X @ s) / y) == 0
    with pytest.raises(ValueError, match="more than half"):
        dense.wilson_instance(10, RNG, share=0.3)


def test_the_margin_solution_has_the_widest_margin():
    """No random direction has a wider one; and all its margins are at least 1."""
    X = RNG.standard_normal((20, 4)) + 1.2
    y = np.where(X.sum(axis=1) > 4.8, 1.0, -1.0)
    X = X - 1.2
    y = np.sign(X @ np.array([1.0, 2.0, -1.0, 0.5]))
    theta = dense.max_margin(X, y)
    best = dense.margins(theta, X, y).min()
    assert np.min(y * (X @ theta)) >= 1 - 1e-6
    others = RNG.standard_normal((4, 20_000))
    assert (y[:, None] * (X @ others) / np.linalg.norm(others, axis=0)).min(axis=0).max() <= best + 1e-6
    with pytest.raises(UserError, match="no plane"):
        dense.max_margin(np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))


def test_the_least_norm_solution_interpolates():
    X, y = RNG.standard_normal((5, 9)), RNG.standard_normal(5)
    theta = dense.least_norm(X, y)
    np.testing.assert_allclose(X @ theta, y, atol=1e-12)
    off = RNG.standard_normal(9)
    off -= X.T @ np.linalg.solve(X @ X.T, X @ off)
    assert abs(theta @ off) < 1e-10
