"""Claims of [balles2018, Sec. 3]: variance adaptation factors, what Adam's approximates, and SVAG's convergence."""

from functools import partial

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel, Points
from stepscope.experiments.claims.statistics import fitted_slope
from stepscope.theory import factors, rates

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="balles2018")


@_claim(
    "balles-lemma-1-gradient",
    place="Lemma 1, Eq. 15",
    statement="The factor p^2/(p^2 + sigma^2) brings a noisy vector nearest to its mean.",
    threshold="on a fine grid of factors the least expected distance lies at the formula (to the grid), for normal, skewed "
    "and two-point noise",
)
def _lemma_a(random: Random) -> Finding:
    rng, n = random("noise"), 200_000
    worst = 0.0
    grid = np.linspace(0, 1, 2001)
    for noise in (rng.standard_normal(n), rng.exponential(1, n) - 1, rng.choice((-1.0, 1.0), n)):
        for eta in (0.3, 1.0, 3.0):
            g = 1 + eta * noise
            distance = grid**2 * (g**2).mean() - 2 * grid * g.mean() + 1
            worst = max(worst, abs(grid[distance.argmin()] - float(factors.svag_factor(eta))))
    return Finding(
        decide(worst < 0.01), f"best factor off by at most {worst:.4f} (sampling error of n = {n}: 0.005)", n=n
    )


@_claim(
    "balles-lemma-1-sign",
    place="Lemma 1, Eq. 16",
    statement="The factor 2 rho - 1 brings the sign of a noisy vector nearest to the sign of its mean.",
    threshold="on a fine grid of factors the least expected distance lies at the formula (to the grid), for three kinds of "
    "noise",
)
def _lemma_b(random: Random) -> Finding:
    rng, n = random("noise"), 200_000
    worst = 0.0
    grid = np.linspace(-1, 1, 4001)
    for noise in (rng.standard_normal(n), rng.exponential(1, n) - 1, rng.standard_t(3, n)):
        for eta in (0.3, 1.0, 3.0):
            right = float((1 + eta * noise > 0).mean())
            distance = right * (1 - grid) ** 2 + (1 - right) * (1 + grid) ** 2
            worst = max(worst, abs(grid[distance.argmin()] - float(factors.best_sign_factor(right))))
    return Finding(decide(worst <= 5e-4), f"best factor off by at most {worst:.1g}, the grid's spacing", n=n)


@_claim(
    "balles-fig3-closely-approximates",
    place="Fig. 3",
    statement="Adam's factor 1/sqrt(1 + eta^2) closely approximates the best factor for a normal gradient's sign, "
    "erf(1/(sqrt 2 eta)).",
    threshold="within 0.05 of it for every eta, and within 10 % relative for eta <= 10",
)
def _fig3(random: Random) -> Finding:
    eta = np.geomspace(1e-3, 1e4, 200_001)
    best, adam, svag = (np.asarray(f(eta)) for f in (factors.exact_factor, factors.adam_factor, factors.svag_factor))
    gap = np.abs(best - adam)
    ratio = adam / best
    at = float(eta[gap.argmax()])
    limit = float(ratio[-1])
    x = np.linspace(0.01, 8, 400)
    figure = Figure(
        [
            Panel(
                (
                    Line(x, factors.exact_factor(x), "erf, best for the sign"),
                    Line(x, factors.adam_factor(x), "Adam's"),
                    Line(x, factors.svag_factor(x), "best for the gradient"),
                ),
                "Factors",
                "eta",
                "factor",
            ),
            Panel(
                (Line(eta, ratio, "Adam's / best"), Line(eta, np.full(len(eta), limit), "sqrt(pi/2)", accent=True)),
                "How close",
                "eta",
                "ratio",
                x_log=True,
            ),
        ],
        "Variance adaptation factors against the relative standard deviation, and the ratio of the first two.",
    )
    good = float(gap.max()) < 0.05 and float(np.abs(ratio[eta <= 10] - 1).max()) < 0.1
    return Finding(
        Verdict.HOLDS if good else Verdict.HOLDS_IF if float(gap.max()) < 0.1 else Verdict.FAILS,
        f"largest difference {gap.max():.4f} at eta = {at:.2f}; the ratio rises from {ratio.min():.3f} to sqrt(pi/2) = {limit:.4f}: "
        f"for very noisy coordinates Adam's factor is 25 % too long, which one step size cannot mend for all",
        "" if good else "as an absolute difference",
        figure=figure,
        data={"eta": eta[::100], "best": best[::100], "adam": adam[::100], "svag": svag[::100]},
    )


@_claim(
    "balles-sign-m-needs-rho",
    place="Sec. 3.1, caveat",
    statement="Adam applies that factor to the sign of the average, not of the gradient.",
    threshold="the best factor for sign m, with variance rho sigma^2, exceeds Adam's by more than 0.05 at eta = 1 and 3",
)
def _caveat(random: Random) -> Finding:
    eta = np.array([1.0, 3.0, 10.0])
    rho = 0.1 / 1.9
    best, adam = np.asarray(factors.exact_factor(np.sqrt(rho) * eta)), np.asarray(factors.adam_factor(eta))
    return Finding(
        decide(bool(np.all(best[:2] - adam[:2] > 0.05))),
        "best factor for sign m (beta 0.9) at eta 1, 3, 10: "
        + ", ".join(f"{b:.3f}" for b in best)
        + "; Adam's: "
        + ", ".join(f"{a:.3f}" for a in adam),
    )


@_claim(
    "balles-fig4",
    place="Fig. 4",
    statement="Scaling coordinates by 1/(1 + eta^2) shortens the noisier one, reduces the variance and biases the mean.",
    threshold="at gradient (2, 1) and sigma (1, 1.5): relative variances 0.25 and 2.25; total variance falls, the mean moves "
    "away, and the expected distance to the gradient falls",
    theirs="0.25 and 2.25",
)
def _fig4(random: Random) -> Finding:
    gradient, sigma = np.array([2.0, 1.0]), np.array([1.0, 1.5])
    eta2 = np.asarray(factors.relative_variance(gradient, sigma))
    gamma = 1 / (1 + eta2)
    g = gradient[:, None] + sigma[:, None] * random("noise").standard_normal((2, 400))
    s = gamma[:, None] * g
    before, after = float((sigma**2).sum()), float((gamma**2 * sigma**2).sum())
    distance = [float(np.mean(((v - gradient[:, None]) ** 2).sum(axis=0))) for v in (g, s)]
    figure = Figure(
        [
            Panel(
                (Points(v[0], v[1], label), Points([2.0], [1.0], "true gradient", colour=6)),
                title,
                "theta 1",
                "theta 2",
                x_range=(-2, 6),
                y_range=(-4, 6),
            )
            for v, label, title in ((g, "gradients", "Stochastic gradients"), (s, "scaled", "Variance-adapted"))
        ],
        "400 stochastic gradients around (2, 1), and the same scaled by 1/(1 + eta^2).",
    )
    good = bool(np.allclose(eta2, [0.25, 2.25])) and after < before and distance[1] < distance[0]
    return Finding(
        decide(good),
        f"relative variances {eta2[0]:g}, {eta2[1]:g}; factors {gamma[0]:.2f}, {gamma[1]:.3f}; total "
        f"variance {before:.2f} to {after:.2f}; squared distance {distance[0]:.2f} to {distance[1]:.2f}",
        n=400,
        figure=figure,
    )


def _svag_path(rng: np.random.Generator, h: float, sigma: float, steps: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean losses of idealised SVAG and of SGD with step size 1/h, theta_0 = 10."""
    a = np.full(n, 10.0)
    b = a.copy()
    out = np.empty((2, steps + 1))
    for t in range(steps + 1):
        out[:, t] = 0.5 * h * (a * a).mean(), 0.5 * h * (b * b).mean()
        z = rng.standard_normal(n)
        g = h * a
        a = a - g * g / (g * g + sigma**2) * (g + sigma * z) / h
        b = b - (h * b + sigma * z) / h
    return out[0], out[1]


@_claim(
    "balles-theorem-1",
    place="Theorem 1, Eq. 18",
    statement="Idealised SVAG with the constant step size 1/L converges like 1/t.",
    threshold="slope of log mean loss against log t between steps 100 and 10^4 in [-1.1, -0.9], on a noisy quadratic; SGD "
    "with the same step size stays above its noise floor",
)
def _theorem1(random: Random) -> Finding:
    n, steps = 4000, 10_000
    svag, sgd = _svag_path(random("noise"), 1.0, 1.0, steps, n)
    t = np.unique(np.geomspace(100, steps, 60).astype(int))
    slope, error = fitted_slope(np.log(t).tolist(), np.log(svag[t]).tolist())
    bound = np.asarray(rates.svag_error_bound(t, 1.0, 1.0, 0.0, 1.0, 50.0))
    floor = float(rates.sgd_floor(1.0, 1.0, 1.0))
    every = np.unique(np.geomspace(1, steps, 100).astype(int))
    figure = Figure(
        [
            Panel(
                (
                    Line(every, svag[every], "SVAG, exact factors"),
                    Line(every, sgd[every], "SGD"),
                    Line(
                        every,
                        rates.svag_error_bound(every, 1.0, 1.0, 0.0, 1.0, 50.0),
                        "Theorem 1, with constants",
                        accent=True,
                    ),
                ),
                "Constant step size 1/L",
                "step",
                "mean loss",
                x_log=True,
                y_log=True,
            )
        ],
        f"theta^2/2 with gradient noise of deviation 1, {n} repetitions.",
        1,
    )
    return Finding(
        decide(-1.1 <= slope <= -0.9 and bool(np.all(svag[t] < bound * 1.05)) and float(sgd[-1]) > 0.5 * floor),
        f"slope {slope:.3f} (error {error:.1g}); loss {svag[-1]:.2g} at step 10^4, bound {bound[-1]:.2g}; SGD stays at "
        f"{sgd[-1]:.3f} (exact floor {floor:.3f})",
        n=n,
        error=error,
        figure=figure,
        data={"t": every, "svag": svag[every], "sgd": sgd[every]},
    )


@_claim(
    "balles-theorem-1-estimated",
    place="Sec. 3.2, idealised version",
    statement="The convergence is a statement about exact factors only, not about estimated ones.",
    threshold="M-SVAG and SVAG with estimated factors and the same step size end above 10 times the idealised loss at 10^4 "
    "steps",
)
def _estimated(random: Random) -> Finding:
    from stepscope.simulate import sweep

    n = 4000
    ideal = float(_svag_path(random("noise"), 1.0, 1.0, 10_000, n)[0][-1])
    ends = {}
    for rule in ("svag", "msvag", "sgd"):
        theta = sweep(
            rule,
            "0.5*x^2",
            start=(np.full(n, 10.0),),
            steps=10_000,
            lr=1.0,
            noise="additive",
            sigma=1.0,
            seed=np.arange(n),
        ).theta[0]
        ends[rule] = float(0.5 * np.mean(theta**2))
    return Finding(
        decide(min(ends["svag"], ends["msvag"]) > 10 * ideal),
        f"exact factors {ideal:.2g}; estimated: SVAG "
        f"{ends['svag']:.3f}, M-SVAG {ends['msvag']:.3f}; SGD {ends['sgd']:.3f}",
        n=n,
    )


@_claim(
    "balles-theorem-1-variance-condition",
    place="Theorem 1, condition",
    statement="The condition on the variances allows them to grow with the squared gradient.",
    threshold="with sigma^2 = c |gradient|^2 + M for c = 3, M = 1 the slope is still in [-1.1, -0.9]",
)
def _condition(random: Random) -> Finding:
    rng, n, steps = random("noise"), 4000, 10_000
    a = np.full(n, 10.0)
    losses = np.empty(steps + 1)
    for step in range(steps + 1):
        losses[step] = 0.5 * (a * a).mean()
        variance = 3 * a * a + 1
        a = a - a * a / (a * a + variance) * (a + np.sqrt(variance) * rng.standard_normal(n))
    t = np.unique(np.geomspace(300, steps, 60).astype(int))
    slope, error = fitted_slope(np.log(t).tolist(), np.log(losses[t]).tolist())
    bound = float(rates.svag_error_bound(steps, 1.0, 1.0, 3.0, 1.0, 50.0))
    return Finding(
        decide(-1.1 <= slope <= -0.9),
        f"slope {slope:.3f} (error {error:.1g}); loss {losses[-1]:.2g}, bound {bound:.2g}",
        n=n,
        error=error,
    )
