"""Claims of [kaiser, Sec. 2.2 and 3]: Adam's averages under noise."""

from functools import partial

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel, Points
from stepscope.theory import moments

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="kaiser")
N = 200_000


def _averages(rng: np.random.Generator, steps: int, n: int, beta: float = 0.9, correlation: float = 0.0) -> np.ndarray:
    """m_1 .. m_T [T, n] of an average that began at 0, of unit normal noise with autocorrelation c^lag."""
    m, noise = np.zeros(n), rng.standard_normal(n)
    out = np.empty((steps, n))
    for t in range(steps):
        m = beta * m + (1 - beta) * noise
        out[t] = m
        noise = correlation * noise + np.sqrt(1 - correlation**2) * rng.standard_normal(n)
    return out


@_claim(
    "kaiser-averages-explicit",
    place="Sec. 2.2, sums",
    statement="Both averages are sums over the gradients' history with geometric weights.",
    threshold="the sum equals the recursion to 1e-13 for random gradients",
)
def _explicit(random: Random) -> Finding:
    g = random("gradients").standard_normal(300)
    m = 0.0
    for one in g:
        m = 0.9 * m + 0.1 * one
    total = 0.1 * float(np.sum(g * 0.9 ** np.arange(299, -1, -1)))
    return Finding(
        decide(abs(m - total) < 1e-13),
        f"difference {abs(m - total):.1g} after 300 gradients (the printed sum for "
        "sigma carries a stray second gradient sign)",
    )


@_claim(
    "kaiser-mean-of-average",
    place="Sec. 3, E[g_T]",
    statement="The average's mean is the same weighted sum of the true gradients.",
    threshold="Monte Carlo mean of m_T within 5 standard errors of it, for a drifting gradient",
)
def _mean(random: Random) -> Finding:
    steps = 50
    true = np.sin(np.arange(steps) / 7)
    weights = 0.1 * 0.9 ** np.arange(steps - 1, -1, -1)
    m = weights @ (true[:, None] + random("noise").standard_normal((steps, N // 4)))
    error = float(m.std() / np.sqrt(m.size))
    exact = float(weights @ true)
    return Finding(
        decide(abs(m.mean() - exact) < 5 * error),
        f"{m.mean():.5f} against {exact:.5f} (standard error {error:.1g})",
        n=m.size,
        error=error,
    )


@_claim(
    "kaiser-variance-formula",
    place="Sec. 3, Var[g_T]",
    statement="The average's variance is (1 - beta1)^2 times the mean square of the weighted noise.",
    threshold="Monte Carlo variance within 5 standard errors of the closed form at steps 1, 10, 100",
)
def _variance(random: Random) -> Finding:
    m = _averages(random("noise"), 100, N // 10)
    at = np.array([1, 10, 100])
    seen, exact = m[at - 1].var(axis=1), np.asarray(moments.uncorrected_rho(0.9, at))
    errors = exact * np.sqrt(2 / (m.shape[1] - 1))
    return Finding(
        decide(bool(np.all(np.abs(seen - exact) < 5 * errors))),
        "measured " + ", ".join(f"{v:.5f}" for v in seen) + "; closed form " + ", ".join(f"{v:.5f}" for v in exact),
        n=m.shape[1],
        error=float(errors.max()),
    )


@_claim(
    "kaiser-variance-vanishes",
    place="Sec. 3, limit",
    statement="With independent noise the variance of Adam's average tends to zero as the run goes on.",
    threshold="the variance at step 1000 is below that at step 10",
)
def _vanishes(random: Random) -> Finding:
    n = 20_000
    m = _averages(random("noise"), 1000, n)
    variance = m.var(axis=1)
    error = float(variance[-1] * np.sqrt(2 / (n - 1)))
    floor = float(moments.noise_floor(0.9))
    t = np.arange(1, 1001)
    figure = Figure(
        [
            Panel(
                (
                    Points(t[::10], variance[::10], "measured"),
                    Line(t, moments.uncorrected_rho(0.9, t), "without correction"),
                    Line(t, moments.rho(0.9, t), "bias-corrected"),
                    Line(t, 0.01 / np.sqrt(t), "1/sqrt(T)", accent=True),
                ),
                "Variance of the average, per noise variance",
                "step",
                "Var m",
                x_log=True,
                y_log=True,
            )
        ],
        "The uncorrected average's variance rises to (1 - beta1)/(1 + beta1) = 0.0526 and stays there.",
        1,
    )
    return Finding(
        decide(variance[-1] < variance[9]),
        f"it rises from {variance[0]:.4f} at the first step to {variance[9]:.4f} at the 10th and {variance[-1]:.4f} +- "
        f"{error:.1g} at the 1000th; the limit is (1 - beta1)/(1 + beta1) = {floor:.4f}. The central limit theorem speaks of "
        "equal weights, and these are not",
        n=n,
        error=error,
        figure=figure,
        data={"step": t, "variance": variance},
    )


@_claim(
    "kaiser-variance-rate",
    place="Sec. 3, rate",
    statement="The variance decays like 1/sqrt(T).",
    threshold="the slope of log variance against log T over steps 10 to 1000 lies in [-0.6, -0.4]",
)
def _rate(random: Random) -> Finding:
    t = np.unique(np.geomspace(10, 1000, 40).astype(int))
    slopes = [
        float(np.polyfit(np.log(t), np.log(np.asarray(f(0.9, t))), 1)[0])
        for f in (moments.uncorrected_rho, moments.rho)
    ]
    return Finding(
        decide(-0.6 <= slopes[0] <= -0.4),
        f"slope {slopes[0]:+.3f} (bias-corrected {slopes[1]:+.3f}); the variance "
        f"of a plain mean of T samples has slope -1, its standard deviation -0.5",
    )


@_claim(
    "kaiser-variance-slower-than-bias",
    place="Sec. 3, comparison",
    statement="The noise decays more slowly than the bias, which dies out exponentially.",
    threshold="at step 1000 the bias beta1^t is below the noise's deviation",
)
def _slower(random: Random) -> Finding:
    bias, noise = 0.9**1000, float(np.sqrt(moments.uncorrected_rho(0.9, 1000)))
    return Finding(
        Verdict.HOLDS_IF,
        f"bias {bias:.1g}, deviation {noise:.3f} at step 1000",
        "true of the bias; the noise does not decay at all",
    )


@_claim(
    "kaiser-dependent-batches",
    place="Sec. 3, dependence",
    statement="Noise that depends on past noise lengthens the time until the average is free of noise.",
    threshold="the variance at step 1000 is larger with autocorrelation 0.5^lag than with none, by 5 standard errors",
)
def _dependent(random: Random) -> Finding:
    n = 20_000
    seen = [float(_averages(random(f"c{c}"), 300, n, correlation=c)[-1].var()) for c in (0.0, 0.5, -0.5)]
    exact = [float(moments.noise_floor(0.9, c)) for c in (0.0, 0.5, -0.5)]
    error = seen[1] * np.sqrt(2 / n)
    return Finding(
        Verdict.HOLDS_IF if seen[1] - seen[0] > 5 * error else Verdict.FAILS,
        f"variance that remains: independent {seen[0]:.4f}, positive correlation {seen[1]:.4f}, negative {seen[2]:.4f} (exact "
        f"{exact[0]:.4f}, {exact[1]:.4f}, {exact[2]:.4f})",
        "it raises the level that remains; and noise that alternates lowers it",
        n=n,
        error=error,
    )


@_claim(
    "kaiser-bias-correction-proof",
    place="Sec. 3, bias correction",
    statement="Bias correction is right only if the expected gradient does not change.",
    threshold="for a constant gradient the corrected average is unbiased to 1e-12; for a drifting one it is not",
)
def _proof(random: Random) -> Finding:
    t = np.arange(1, 60)
    weights = np.asarray(moments.ema_weights(0.9, 59))
    constant, drifting = float(weights @ np.ones(59)), float(weights @ t) - 59.0
    return Finding(
        decide(abs(constant - 1) < 1e-12 and abs(drifting) > 1),
        f"constant gradient: {constant - 1:.0e} off; "
        f"gradient growing by 1 a step: {drifting:.2f} behind (the printed sum has beta1^T for beta1^(T-t))",
    )


@_claim(
    "kaiser-no-noise-early",
    place="Sec. 3, conclusion",
    statement="Noise reduction by averaging is of little importance early in training.",
    threshold="the average's noise relative to one gradient's, bias-corrected, is above one half at step 5",
)
def _early(random: Random) -> Finding:
    rho = np.sqrt(np.asarray(moments.rho(0.9, [1, 5, 10, 30])))
    return Finding(
        decide(rho[1] > 0.5),
        "deviation relative to one gradient at steps 1, 5, 10, 30: "
        + ", ".join(f"{v:.2f}" for v in rho)
        + "; most of the reduction that will ever happen has happened by step 20",
    )
