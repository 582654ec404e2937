"""Claims of [balles2018, Sec. 4 and 5]: estimating the variance, M-SVAG's details, and the generalisation example."""

from functools import partial
from typing import Any

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel
from stepscope.rules import METHODS, parts
from stepscope.rules.compose import compose
from stepscope.simulate import dense, run, sweep
from stepscope.theory import moments

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="balles2018")
N = 100_000


def _corrected(g: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected averages m, v [n] of gradients [t, n]."""
    w = np.asarray(moments.ema_weights(beta, len(g)))
    return w @ g, w @ (g * g)


@_claim(
    "balles-assumption-1",
    place="Assumption 1, Eq. 19",
    statement="The averages estimate the gradient and its second moment at the current step.",
    threshold="bias of m and v below 1 % of their true values, for a stationary and for a slowly drifting gradient",
)
def _assumption(random: Random) -> Finding:
    beta, t = 0.9, 200
    bias = {}
    for name, rate in (("stationary", 0.0), ("drift of 1 % a step", 0.01), ("sign change every 20 steps", None)):
        true = np.cos(np.pi * np.arange(t) / 20) if rate is None else np.exp(-rate * np.arange(t))
        w = np.asarray(moments.ema_weights(beta, t))
        bias[name] = (float(w @ true / true[-1] - 1), float(w @ (true**2 + 1) / (true[-1] ** 2 + 1) - 1))
    good = all(abs(b) < 0.01 for b in bias["stationary"])
    return Finding(
        Verdict.HOLDS_IF if good else Verdict.FAILS,
        "relative bias of m, v (noise deviation 1): "
        + "; ".join(f"{k} {a:+.1%}, {b:+.1%}" for k, (a, b) in bias.items()),
        "the gradient changes little over 1/(1 - beta) steps, as the paper says",
    )


@_claim(
    "balles-noise-of-average",
    place="Eq. 20 and 21",
    statement="E[m^2] is the squared gradient plus rho(beta, t) times the variance.",
    threshold="Monte Carlo within 5 standard errors at their t = 0, 1, 5, 50 for beta 0.5, 0.9, 0.99",
)
def _eq20(random: Random) -> Finding:
    rng, worst = random("noise"), 0.0
    for beta in (0.5, 0.9, 0.99):
        g = 0.7 + 1.3 * rng.standard_normal((51, N // 5))
        for t in (0, 1, 5, 50):
            m, _ = _corrected(g[: t + 1], beta)
            exact = 0.49 + float(moments.rho(beta, t + 1)) * 1.69
            worst = max(worst, abs(float((m * m).mean()) - exact) / (float((m * m).std()) / np.sqrt(m.size)))
    return Finding(decide(worst < 5), f"largest deviation {worst:.1f} standard errors of 12 cases", n=N // 5)


@_claim(
    "balles-variance-estimate",
    place="Eq. 22",
    statement="(v - m^2)/(1 - rho) estimates the variance without bias.",
    threshold="Monte Carlo mean within 5 standard errors of the variance for a constant gradient; its bias stated for a "
    "drifting one",
)
def _eq22(random: Random) -> Finding:
    rng, worst = random("noise"), 0.0
    drift = {}
    for t in (2, 10, 100):
        noise = rng.standard_normal((t, N // 5))
        m, v = _corrected(0.5 + noise, 0.9)
        s = (v - m * m) / (1 - float(moments.rho(0.9, t)))
        worst = max(worst, abs(float(s.mean()) - 1) / (float(s.std()) / np.sqrt(s.size)))
        m, v = _corrected(0.5 + 0.1 * np.arange(t)[:, None] + noise, 0.9)
        drift[t] = float(((v - m * m) / (1 - float(moments.rho(0.9, t)))).mean())
    return Finding(
        Verdict.HOLDS_IF if worst < 5 else Verdict.FAILS,
        f"largest deviation {worst:.1f} standard errors; when the gradient grows by a tenth of sigma each step the estimate is "
        + ", ".join(f"{v:.2f} at t = {t}" for t, v in drift.items())
        + " times the variance",
        "a stationary gradient",
        n=N // 5,
    )


@_claim(
    "balles-equal-betas",
    place="Sec. 4.1, equal constants",
    statement="Different constants for the two averages are implausible for a variance estimate.",
    threshold="with beta1 = beta2, v - m^2 is never negative; with 0.9/0.999 it is, for a gradient of 0.5 or 3 sigma",
)
def _equal(random: Random) -> Finding:
    rng = random("noise")
    shares = {}
    for size in (0.5, 3.0):
        g = size + rng.standard_normal((400, 5000))
        (m, v), (_, slow) = _corrected(g, 0.9), _corrected(g, 0.999)
        shares[size] = (float((v - m * m < -1e-12).mean()), float((slow - m * m < -1e-12).mean()))
    return Finding(
        decide(all(a == 0 < b for a, b in shares.values())),
        "; ".join(
            f"gradient {k:g} sigma: negative in {a:.1%} of cases with equal, {b:.1%} with unequal betas"
            for k, (a, b) in shares.items()
        ),
        n=5000,
    )


@_claim(
    "balles-factor-estimate-biased",
    place="Eq. 23",
    statement="The estimated factor m^2/(m^2 + s) is not an unbiased estimate of the exact one.",
    threshold="its Monte Carlo mean differs from 1/(1 + eta^2) by more than 5 standard errors at some eta of 0.5, 2, 10",
)
def _eq23(random: Random) -> Finding:
    rng, out = random("noise"), {}
    for eta in (0.5, 2.0, 10.0):
        m, v = _corrected(1 + eta * rng.standard_normal((100, 20_000)), 0.9)
        s = (v - m * m) / (1 - float(moments.rho(0.9, 100)))
        gamma = m * m / (m * m + s)
        out[eta] = (float(gamma.mean()), 1 / (1 + eta * eta), float(gamma.std() / np.sqrt(gamma.size)))
    biased = any(abs(a - b) > 5 * e for a, b, e in out.values())
    return Finding(
        decide(biased), "; ".join(f"eta {k:g}: mean {a:.4f}, exact {b:.4f}" for k, (a, b, _) in out.items()), n=20_000
    )


@_claim(
    "balles-partial-corrections-destabilise",
    place="Sec. 4.2",
    statement="Partial bias corrections of the estimated factor destabilise.",
    threshold="replacing m^2 by the less biased m^2 - rho s (not below 0) in M-SVAG raises the mean final loss on noisy "
    "quadratics (lr h = 0.1 and 1) or makes the factor exceed 1",
)
def _partial(random: Random) -> Finding:
    def corrected_factor(k: Any, x: Any) -> Any:
        """m^2 without its bias, m^2 - rho s, over m^2 - rho s + rho s: 1 - x for x = rho s / m^2, cut at 0."""
        return k.max(1 - x, 0.0)

    rule = compose("m", parts.Factor(corrected_factor, of_average=True), name="msvag_unbiased")
    n, out = 2000, {}
    for lr in (0.1, 1.0):
        ends = []
        for one in (METHODS["msvag"], rule):
            theta = sweep(
                one,
                "0.5*x^2",
                start=(np.full(n, 5.0),),
                steps=3000,
                lr=lr,
                noise="additive",
                sigma=1.0,
                seed=np.arange(n),
            ).theta[0]
            ends.append(float(0.5 * np.mean(theta**2)))
        out[lr] = ends
    worse = [b > a for a, b in out.values()]
    return Finding(
        Verdict.INDICATES if all(worse) else Verdict.FAILS,
        "mean final loss without and with it: "
        + "; ".join(f"lr h {k:g}: {a:.3g}, {b:.3g}" for k, (a, b) in out.items()),
        "the paper names no correction; this is the first-order one",
        n=n,
    )


@_claim(
    "balles-factor-for-average",
    place="Eq. 24 and 25",
    statement="The best factor for the average has rho times the gradient's relative variance.",
    threshold="among factors 1/(1 + c eta^2) the expected squared distance of gamma m to the gradient is least at c = rho, to "
    "2 %, for a stationary gradient",
)
def _eq24(random: Random) -> Finding:
    rho = float(moments.rho(0.9, 200))
    eta = 4.0
    m, _ = _corrected(1 + eta * random("noise").standard_normal((200, 50_000)), 0.9)
    c = np.linspace(0.2, 3, 1401) * rho
    gamma = 1 / (1 + c * eta**2)
    distance = gamma**2 * (m * m).mean() - 2 * gamma * m.mean() + 1
    best = float(c[distance.argmin()] / rho)
    return Finding(decide(abs(best - 1) < 0.02), f"least at c = {best:.3f} rho (eta = 4, n = 50,000)", n=50_000)


@_claim(
    "balles-rho-at-start",
    place="Sec. 4.4, rho(beta, 0)",
    statement="Eq. 22 is undefined at t = 0 because rho(beta, 0) = 0.",
    threshold="Eq. 21 gives 0 at t = 0",
    theirs="rho(beta, 0) = 0",
)
def _start(random: Random) -> Finding:
    value = (1 - 0.9) * (1 + 0.9) / ((1 + 0.9) * (1 - 0.9))
    return Finding(
        decide(value == 0),
        f"Eq. 21 gives {value:.0f} at t = 0; it is 1 - rho that is 0 there, and Eq. 22 divides by it",
    )


@_claim(
    "balles-first-step-is-sgd",
    place="Sec. 4.4, first step",
    statement="M-SVAG's first step is an SGD step.",
    threshold="bit-equal to SGD's from 100 random points",
)
def _first(random: Random) -> Finding:
    x = random("starts").standard_normal(100)
    a = sweep("msvag", "rosenbrock", start=(x, x[::-1].copy()), steps=1, lr=1e-3).theta
    b = sweep("msgd", "rosenbrock", start=(x, x[::-1].copy()), steps=1, lr=1e-3).theta
    c = sweep("sgd", "rosenbrock", start=(x, x[::-1].copy()), steps=1, lr=1e-3).theta
    gap = float(np.abs(a - c).max())
    return Finding(
        decide(bool(np.array_equal(a, b)) and gap < 1e-12),
        f"bit-equal to M-SGD's; within {gap:.1g} of SGD's (which rounds once less)",
        n=100,
    )


@_claim(
    "balles-zero-over-zero",
    place="Sec. 4.4, division by zero",
    statement="A division by zero happens only where m = v = 0, and then nothing is to be done.",
    threshold="M-SVAG on a function with an exactly flat coordinate stays there and yields no nan in 1000 steps",
)
def _zero(random: Random) -> Finding:
    path = run("msvag", "x^2 + 0*y", start=(1.0, 0.5), steps=1000, lr=0.1, record=("theta", "factor"))
    crossing = run("msvag", "x", start=(1.0,), steps=4, lr=0.1, noise="relative", sigma=0.0, record=("theta",))
    fine = bool(np.all(path.theta[:, 1] == 0.5) and np.isfinite(path.theta).all() and np.isfinite(crossing.theta).all())
    return Finding(
        decide(fine), "y stays exactly, no nan; with m = 0 and v > 0 the factor is 0 as well (m passing through 0)"
    )


def _wilson(random: Random) -> tuple[np.ndarray, np.ndarray]:
    return dense.wilson_instance(20, random("labels"))


def _off(theta: np.ndarray, direction: np.ndarray) -> float:
    """Sine of the angle between a point and a direction."""
    unit = direction / np.linalg.norm(direction)
    size = float(np.linalg.norm(theta))
    return float(np.linalg.norm(theta - unit * float(unit @ theta))) / size if size > 0 else 0.0


@_claim(
    "balles-lemma-2-instance",
    place="Lemma 2, assumption",
    statement="There are instances X, y with X sign(X'y) = c y and no zero in X'y.",
    threshold="a constructed instance fulfils both exactly",
)
def _instance(random: Random) -> Finding:
    X, y = _wilson(random)
    s = np.sign(X.T @ y)
    ratio = (X @ s) / y
    return Finding(
        decide(bool(np.all(X.T @ y != 0) and np.ptp(ratio) == 0)),
        f"n = {len(y)}, d = {X.shape[1]}, c = {ratio[0]:g}: one "
        "feature is the label, two are constant, and each example has features of its own",
        n=len(y),
    )


@_claim(
    "balles-lemma-2",
    place="Lemma 2",
    statement="From 0, full-batch AdaGrad, Adam and RMSProp stay proportional to sign(X'y) on such instances.",
    threshold="sine of the angle to it below 1e-9 at 1, 10, 100, 1000 steps with eps = 0; and what eps = 1e-8 does",
)
def _lemma2(random: Random) -> Finding:
    X, y = _wilson(random)
    problem, s = dense.LeastSquares(X, y), np.sign(X.T @ y)
    angles: dict[tuple[str, float], list[float]] = {}
    for rule in ("adagrad", "adam", "rmsprop"):
        for eps in (0.0, 1e-8):
            path = dense.run(rule, problem, steps=1000, every=1, keep=True, lr=1e-3, eps=eps).theta[:, :, 0]
            angles[rule, eps] = [_off(path[t], s) for t in (1, 10, 100, 1000)]
    worst = max(max(v) for (_, e), v in angles.items() if e == 0)
    with_eps = {r: max(v) for (r, e), v in angles.items() if e > 0}
    return Finding(
        Verdict.HOLDS_IF if worst < 1e-9 else Verdict.FAILS,
        f"largest sine {worst:.1g} with eps = 0; with eps = 1e-8 "
        + ", ".join(f"{r} {v:.1g}" for r, v in with_eps.items())
        + ", since eps weighs more on small gradients",
        "eps = 0",
        n=len(y),
    )


@_claim(
    "balles-lemma-3",
    place="Lemma 3",
    statement="Sign descent stays proportional to sign(X'y) too.",
    threshold="sine of the angle below 1e-12 for 1000 steps, with sign(0) = 0 and with sign(0) = 1, also at the step where the "
    "gradient vanishes",
)
def _lemma3(random: Random) -> Finding:
    X, y = _wilson(random)
    problem, s = dense.LeastSquares(X, y), np.sign(X.T @ y)
    c = float((X @ s)[0] / y[0])
    out = {}
    for one in (0.0, 1.0):
        theta, worst = np.zeros(len(s)), 0.0
        for _ in range(10):  # lr such that 4 steps reach the solution exactly, where the gradient is 0
            g = X.T @ (X @ theta - y) / len(y)
            theta = theta - np.where(g == 0, one, np.sign(g)) / (4 * c)
            worst = max(worst, _off(theta, s))
        out[one] = worst
    long = dense.run("ssd", problem, steps=1000, lr=1.03e-3, keep=True).theta[:, :, 0]
    usual = max(_off(p, s) for p in long[1:])
    return Finding(
        Verdict.HOLDS_IF if usual < 1e-12 else Verdict.FAILS,
        f"sine at most {usual:.1g} over 1000 ordinary steps; where a step lands on the solution, sign(0) = 0 keeps it "
        f"({out[0.0]:.1g}) and the paper's sign(0) = 1 does not ({out[1.0]:.2g})",
        "sign(0) = 0, or no step that lands on a zero gradient",
        n=len(y),
    )


@_claim(
    "balles-msvag-escapes",
    place="Sec. 5, M-SVAG",
    statement="M-SVAG's iterates are not proportional to sign(X'y) in general.",
    threshold="sine of the angle above 0.01 at its first and 1000th step on the same instance",
)
def _escapes(random: Random) -> Finding:
    X, y = _wilson(random)
    s = np.sign(X.T @ y)
    path = dense.run("msvag", dense.LeastSquares(X, y), steps=3000, lr=0.1, keep=True).theta[:, :, 0]
    at = [_off(path[t], s) for t in (1, 1000, 3000)]
    return Finding(
        decide(at[0] > 0.01 and at[1] > 0.01), f"sine {at[0]:.2f} at the first step, {at[1]:.2f} at the 1000th"
    )


@_claim(
    "balles-max-margin",
    place="Sec. 5, non-adaptive methods",
    statement="On this problem class the non-adaptive methods converge to the max-margin solution.",
    threshold="gradient descent on the least-squares loss ends within an angle of 1e-3 of the hard-margin solution, on the "
    "instance and on 20 random separable problems",
)
def _max_margin(random: Random) -> Finding:
    X, y = _wilson(random)
    rng = random("problems")
    angles, norms = [], []
    for i in range(21):
        A, b = (X, y) if i == 0 else (rng.standard_normal((15, 30)), rng.choice((-1.0, 1.0), 15))
        rate = 1.0 / (np.linalg.norm(A, 2) ** 2 / len(b))
        end = dense.run("sgd", dense.LeastSquares(A, b), steps=20_000, every=20_000, lr=rate).final[:, 0]
        angles.append(_off(end, dense.max_margin(A, b)))
        norms.append(_off(end, dense.least_norm(A, b)))
    ends = {
        rule: _off(
            dense.run(rule, dense.LeastSquares(X, y), steps=20_000, every=20_000, lr=lr).final[:, 0],
            dense.max_margin(X, y),
        )
        for rule, lr in (("msgd", 0.05), ("msvag", 0.05), ("adam", 1e-3))
    }
    figure = Figure(
        [
            Panel(
                (
                    Line(np.arange(20), np.sort(angles[1:]), "to the max-margin solution"),
                    Line(np.arange(20), np.sort(norms[1:]), "to the least-norm solution"),
                ),
                "20 random separable problems",
                "problem",
                "sine of angle",
            )
        ],
        "Where gradient descent on the least-squares loss ends.",
        1,
    )
    good = sum(a < 1e-3 for a in angles)
    return Finding(
        decide(good == 21),
        f"within the angle on {good} of 21 problems (the instance: sine {angles[0]:.2g}; random ones: {min(angles[1:]):.2g} to "
        f"{max(angles[1:]):.2g}). It converges to the least-norm solution of X theta = y (sine at most {max(norms):.1g}), which "
        f"is the max-margin one only if all examples are support vectors. Others on the instance: "
        + ", ".join(f"{r} {v:.2g}" for r, v in ends.items()),
        n=21,
        figure=figure,
        data={"sine_to_max_margin": angles, "sine_to_least_norm": norms},
    )
