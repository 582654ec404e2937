"""The in-kernel normals: their distribution, their independence, and the same bits everywhere."""

import numpy as np
from scipy import stats

from stepscope.simulate import run, sweep
from stepscope.simulate.noise import keys, normals

N = 200_000


def draws(count=2, t=0, seeds=N):
    return np.stack(normals(keys(np.arange(seeds)), t, count)).astype(float)


def test_kernel_and_numpy_draw_the_same_bits():
    """SGD with lr 1 on a flat formula adds up the noise itself: theta_1 = theta_0 - z."""
    kernel = sweep(
        "sgd", "0*x + 0*y", start=(0.0, 0.0), lr=1.0, steps=1, noise="additive", sigma=1.0, seed=np.arange(999)
    )
    np.testing.assert_array_equal(-kernel.theta, draws(2, 0, 999))


def test_they_are_normal():
    """Kolmogorov-Smirnov on 4e5 draws, moments within 5 standard errors (one false alarm in 10^6 each); fixed seeds."""
    z = draws().ravel()
    n = len(z)
    assert stats.kstest(z, "norm").pvalue > 1e-6
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(z**power) - mean) < 5 * np.sqrt(variance / n)
    assert 4.0 < np.abs(z).max() < 6.8


def test_nothing_is_correlated():
    """Across coordinates, steps, neighbouring seeds; a sample correlation of n pairs has standard error 1/sqrt(n)."""
    a, b, c = draws(4, 0), draws(4, 1), draws(4, 2)
    limit = 5 / np.sqrt(N)
    for x, y in [(a[0], a[1]), (a[0], a[2]), (a[0], b[0]), (a[1], b[0]), (a[0], c[0]), (a[0, 1:], a[0, :-1])]:
        for f in (lambda v: v, np.square, np.abs):
            assert abs(np.corrcoef(f(x), f(y))[0, 1]) < limit


def test_one_seed_over_many_steps_is_normal_too():
    path = run("sgd", "0*x", start=(0.0,), lr=1.0, steps=100_000, noise="additive", sigma=1.0, seed=5)
    z = -np.diff(path.theta[:, 0])
    assert stats.kstest(z, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 5 / np.sqrt(len(z))


def test_every_rule_meets_the_same_noise():
    a = run("sgd", "0*x", start=(0.0,), lr=1.0, steps=50, noise="additive", sigma=1.0, seed=3, record=("g",))["g"]
    b = run("adam", "0*x", start=(0.0,), lr=0.1, steps=50, noise="additive", sigma=1.0, seed=3, record=("g",))["g"]
    np.testing.assert_array_equal(a, b)
