"""Claims of [balles2018, Sec. 1 and 2]: Adam as sign x factor, and when the sign is the better direction."""

# Long because Figure 2's grid of problems belongs together.

from functools import cache, partial
from typing import Any

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Band, Figure, Line, Panel, Points
from stepscope.experiments.claims.statistics import decide_above, mean_of, needed, sign_flip
from stepscope.simulate import dense
from stepscope.theory import factors, quadratic

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="balles2018")
D = 100
NOISE = (0.0, 0.1, 4.0)
STEPS = 100
PROBLEMS = 12
SPECTRA = {"well-conditioned": quadratic.mild_spectrum, "ill-conditioned": quadratic.structured_spectrum}


@_claim(
    "balles-adam-is-sign-times-factor",
    place="Eq. 7-9",
    statement="Without eps, Adam's m/sqrt(v) is the sign of m times 1/sqrt(1 + (v - m^2)/m^2).",
    threshold="equal to 1e-12 relative over 10^5 averages of 60 decades",
)
def _identity(random: Random) -> Finding:
    rng = random("averages")
    m = rng.choice((-1.0, 1.0), 100_000) * 10 ** rng.uniform(-30, 30, 100_000)
    v = m * m * 10 ** rng.uniform(-0.5, 6, 100_000)
    eta2 = (v - m * m) / (m * m)
    ours = np.sign(m) / np.sqrt(1 + eta2)
    worst = float(np.abs(ours / (m / np.sqrt(v)) - 1).max())
    negative = float((eta2 < 0).mean())
    parts = factors.adam_parts(m, v)
    apart = float(np.abs(parts.sign * parts.factor / (m / np.sqrt(v)) - 1).max())
    return Finding(
        decide(worst < 1e-12 and apart < 1e-12),
        f"largest relative difference {worst:.1g}; {negative:.0%} of these averages have v < m^2, possible with two betas, "
        "where the estimated variance is negative and the factor exceeds 1",
        n=100_000,
    )


@_claim(
    "balles-success-probability",
    place="Eq. 10",
    statement="For a normal gradient the sign is right with probability 1/2 + erf(|gradient|/(sqrt 2 sigma))/2.",
    threshold="Monte Carlo shares within 5 standard errors at five relative deviations",
)
def _success(random: Random) -> Finding:
    n, eta = 400_000, np.array([0.2, 0.5, 1.0, 2.0, 10.0])
    z = random("noise").standard_normal(n)
    seen = np.array([float((1 + e * z > 0).mean()) for e in eta])
    exact = np.asarray(factors.sign_success_probability(eta))
    error = np.sqrt(exact * (1 - exact) / n) + 1e-12
    heavy = random("heavy").standard_t(3, n) / np.sqrt(3)
    skew = (random("skew").exponential(1.0, n) - 1).astype(float)
    others = [float((1 + noise > 0).mean()) for noise in (heavy, skew)]
    return Finding(
        Verdict.HOLDS_IF if bool(np.all(np.abs(seen - exact) < 5 * error)) else Verdict.FAILS,
        f"largest deviation {float(np.abs((seen - exact) / error).max()):.1f} standard errors; at eta = 1 the formula gives "
        f"{exact[2]:.4f}, a Student t(3) gradient {others[0]:.4f}, a skewed (exponential) one {others[1]:.4f}",
        "normal gradients",
        n=n,
        error=float(error.max()),
        data={"eta": eta, "measured": seen, "formula": exact},
    )


@_claim(
    "balles-gradient-covariance",
    place="Sec. 2, model problem",
    statement="On the stochastic quadratic the gradient's covariance is nu^2 Q.",
    threshold="the Monte Carlo covariance is nearer to nu^2 Q than to nu^2 Q Q (Frobenius)",
    theirs="nu^2 Q",
)
def _covariance(random: Random) -> Finding:
    rng = random("problem")
    R = quadratic.haar_rotation(5, rng)
    Q = R @ np.diag([0.2, 0.5, 1.0, 2.0, 4.0]) @ R.T
    problem = dense.StochasticQuadratic(Q, 0.7)
    g = problem.gradient(np.zeros((5, 200_000)), rng.standard_normal((5, 200_000)))
    seen = np.cov(g)
    gaps = [float(np.linalg.norm(seen - 0.49 * c)) for c in (Q, Q @ Q)]
    return Finding(
        decide(gaps[0] < gaps[1]),
        f"distance to nu^2 Q {gaps[0]:.3g}, to nu^2 Q Q {gaps[1]:.2g}: g = Q(theta - x) has covariance nu^2 Q Q, as Eq. 13's "
        "own nu^2 sum lambda^3 needs",
        n=200_000,
    )


def _problem(rng: np.random.Generator, spectrum: str, rotated: bool) -> np.ndarray:
    values = SPECTRA[spectrum](rng, D)
    if not rotated:
        return np.diag(values)
    R = quadratic.haar_rotation(D, rng)
    return np.asarray((R * values) @ R.T)


@_claim(
    "balles-sgd-improvement",
    place="Eq. 13",
    statement="The expected improvement of an SGD step at its best step size.",
    threshold="Monte Carlo (4 x 10^4 draws) within 5 standard errors for 6 problems",
)
def _eq13(random: Random) -> Finding:
    rng = random("problems")
    worst = 0.0
    for nu in (0.1, 1.0, 4.0):
        for rotated in (False, True):
            Q = _problem(rng, "ill-conditioned", rotated)[:20, :20]
            theta = rng.standard_normal(20)
            grad = Q @ theta
            exact, step = float(quadratic.sgd_improvement(Q, grad, nu)), float(quadratic.sgd_step(Q, grad, nu))
            g = Q @ (theta[:, None] - nu * rng.standard_normal((20, 40_000)))
            moved = theta[:, None] - step * g
            gain = 0.5 * theta @ Q @ theta - 0.5 * np.einsum("db,db->b", moved, Q @ moved)
            worst = max(worst, abs(float(gain.mean()) - exact) / (float(gain.std()) / 200))
    return Finding(decide(worst < 5), f"largest deviation {worst:.1f} standard errors over 6 problems", n=40_000)


@_claim(
    "balles-sign-improvement-bound",
    place="Eq. 14",
    statement="The expected improvement of a sign step is at least the bound with p_diag.",
    threshold="the exact improvement is never below the bound on 72 random problems; tightness is the ratio bound/exact",
)
def _eq14(random: Random) -> Finding:
    rng = random("problems")
    ratios: dict[str, list[float]] = {}
    for spectrum in SPECTRA:
        for rotated in (False, True):
            for nu in NOISE:
                key = f"{spectrum}{', rotated' if rotated else ''}, nu {nu:g}"
                for _ in range(6):
                    Q = _problem(rng, spectrum, rotated)
                    grad = Q @ rng.standard_normal(D)
                    exact = float(quadratic.sign_improvement(Q, grad, nu))
                    ratios.setdefault(key, []).append(float(quadratic.sign_improvement_bound(Q, grad, nu)) / exact)
    every = np.concatenate(list(ratios.values()))
    means = {k: float(np.mean(v)) for k, v in ratios.items()}
    loosest = min(means, key=lambda k: means[k])
    return Finding(
        decide(bool(np.all(every <= 1 + 1e-12))),
        f"never below; equal for aligned problems, and on rotated ones the bound is as little as {means[loosest]:.2g} of the "
        f"exact value ({loosest})",
        n=len(every),
        data={"problem": list(means), "bound_over_exact": list(means.values())},
    )


@_claim(
    "balles-p-diag-range",
    place="Sec. 2.1, p_diag",
    statement="p_diag is 1 for an aligned problem and can be as small as 1/d.",
    threshold="both ends are attained, and no positive definite matrix of 300 random ones is below 1/d",
)
def _range(random: Random) -> Finding:
    rng = random("matrices")
    smallest = 1.0
    for _ in range(300):
        d = int(rng.integers(2, 30))
        A = rng.standard_normal((d, 1 + int(rng.integers(1, d))))
        smallest = min(smallest, float(quadratic.p_diag(A @ A.T)) * d)
    worst = float(quadratic.p_diag(np.ones((D, D))))
    return Finding(
        decide(smallest >= 1 - 1e-9 and abs(worst * D - 1) < 1e-9 and float(quadratic.p_diag(np.eye(D))) == 1),
        f"1/d for a constant matrix (rank one along the diagonal); smallest random value {smallest:.2f}/d",
        n=300,
    )


@_claim(
    "balles-p-diag-mean",
    place="Sec. 2.1, p_diag average",
    statement="Over random rotations p_diag is 1.57/d on average.",
    threshold="the mean over 60 rotations lies within 10 % of 1.57/d for each of Fig. 2's spectra at d = 100",
    theirs="1.57/d",
)
def _p_mean(random: Random) -> Finding:
    rng = random("rotations")
    found: dict[str, tuple[float, float]] = {}
    for name, spectrum in SPECTRA.items():
        values = spectrum(rng, D)
        seen = [
            float(quadratic.p_diag((R * values) @ R.T)) for R in (quadratic.haar_rotation(D, rng) for _ in range(60))
        ]
        found[name] = (float(np.mean(seen)), quadratic.expected_p_diag(values))
    one = np.zeros(D)
    one[0] = 1.0
    rank_one = quadratic.expected_p_diag(one)
    d = np.array([4, 10, 30, 100, 300])
    curves = {}
    for name, spectrum in SPECTRA.items():
        curves[name] = [quadratic.expected_p_diag(spectrum(np.random.default_rng(1), int(k))) for k in d]
    figure = Figure(
        [
            Panel(
                (
                    *(Points(d, c, name) for name, c in curves.items()),
                    Line(d, 1.57 / d, "1.57/d", accent=True),
                    Line(d, 1 / d, "1/d", accent=True),
                ),
                "p_diag of rotated problems",
                "d",
                "p_diag",
                x_log=True,
                y_log=True,
            )
        ],
        "Mean share of the diagonal over random rotations, for Fig. 2's spectra.",
        1,
    )
    good = all(abs(m * D / 1.57 - 1) < 0.1 for m, _ in found.values())
    return Finding(
        Verdict.HOLDS if good else Verdict.HOLDS_IF,
        "; ".join(f"{n}: {m:.4f} (theory {e:.4f}), {m * D / 1.57:.1f} times 1.57/d" for n, (m, e) in found.items())
        + f"; one non-zero eigenvalue: {rank_one * D:.3f}/d. In general it falls like 1/sqrt(d)",
        "" if good else "a spectrum with one dominant eigenvalue",
        n=60,
        figure=figure,
        data={"d": d, **curves},
    )


@cache
def _figure2() -> dict[tuple[str, bool, float], dict[str, np.ndarray]]:
    """Loss [step, problem] minus its minimum, relative to the start, of both methods; the same noise for both."""
    out: dict[tuple[str, bool, float], dict[str, np.ndarray]] = {}
    for spectrum in SPECTRA:
        for rotated in (False, True):
            for nu in NOISE:
                runs: dict[str, list[np.ndarray]] = {"SGD": [], "SSD": []}
                for i in range(PROBLEMS):
                    rng = np.random.default_rng([i, rotated, len(spectrum)])
                    Q = _problem(rng, spectrum, rotated)
                    theta = rng.standard_normal(D)
                    problem = dense.StochasticQuadratic(Q, nu)
                    floor = 0.5 * nu * nu * float(np.trace(Q))
                    for name, rule, size in (("SGD", "sgd", _sgd_step), ("SSD", "ssd", _sign_step)):
                        path = dense.run(rule, problem, start=theta, steps=STEPS, seed=i, step_size=size)
                        loss = path.loss[:, 0] - floor
                        runs[name].append(loss / loss[0])
                out[spectrum, rotated, nu] = {name: np.array(v).T for name, v in runs.items()}
    return out


def _sgd_step(problem: Any, theta: np.ndarray) -> np.ndarray:
    return np.array([float(quadratic.sgd_step(problem.Q, problem.gradient(theta, None)[:, 0], problem.nu))])


def _sign_step(problem: Any, theta: np.ndarray) -> np.ndarray:
    return np.array([float(quadratic.sign_step(problem.Q, problem.gradient(theta, None)[:, 0], problem.nu))])


def _figure2_picture() -> Figure:
    panels = []
    for (spectrum, rotated, nu), runs in _figure2().items():
        series: list[Any] = []
        for i, (name, loss) in enumerate(runs.items()):
            low, middle, high = np.quantile(np.maximum(loss, 1e-16), (0.1, 0.5, 0.9), axis=1)
            series += [
                Band(np.arange(STEPS + 1), low, high, colour=i),
                Line(np.arange(STEPS + 1), middle, name, colour=i),
            ]
        panels.append(
            Panel(series, f"{spectrum}{', rotated' if rotated else ''}, nu = {nu:g}", "step", "loss", y_log=True)
        )
    caption = f"Loss above its minimum, relative to the start: median and 10-90 % band over {PROBLEMS} random problems."
    return Figure(panels, caption, 3)


def _logs(spectrum: str, rotated: bool, nu: float) -> np.ndarray:
    """log10(SSD's / SGD's) loss at the end, per problem: positive where SGD is ahead."""
    runs = _figure2()[spectrum, rotated, nu]
    return np.asarray(np.log10(np.maximum(runs["SSD"][-1], 1e-300) / np.maximum(runs["SGD"][-1], 1e-300)))


_FIG2 = "balles-figure-2"


@_claim(
    "balles-fig2-noise-free-sgd",
    place="Fig. 2",
    family=_FIG2,
    statement="On the well-conditioned problem without noise gradient descent vastly outperforms the sign.",
    threshold="paired over 12 problems, both bases: SGD's final loss is at least 10 times smaller (lower end of the 95 % "
    "interval of log10 ratios above 1)",
)
def _fig2a(random: Random) -> Finding:
    m = mean_of(np.concatenate([_logs("well-conditioned", r, 0.0) for r in (False, True)]))
    return Finding(
        decide_above(m, 1.0),
        f"log10 of the ratio of final losses: {m}",
        n=m.n,
        error=m.error,
        interval=(m.low, m.high),
        p=m.p,
        figure=_figure2_picture(),
    )


@_claim(
    "balles-fig2-noise-evens-out",
    place="Fig. 2",
    family=_FIG2,
    statement="Noise evens out that difference.",
    threshold="at nu = 4 the mean log10 ratio is below 0.1 of the noise-free one",
)
def _fig2b(random: Random) -> Finding:
    free = mean_of(np.concatenate([_logs("well-conditioned", r, 0.0) for r in (False, True)]))
    noisy = mean_of(np.concatenate([_logs("well-conditioned", r, 4.0) for r in (False, True)]))
    verdict = decide(noisy.high < 0.1 * free.mean)
    return Finding(
        verdict,
        f"log10 ratio {free.mean:.2f} without noise, {noisy} at nu = 4",
        n=noisy.n,
        error=noisy.error,
        interval=(noisy.low, noisy.high),
        p=free.p,
    )


@_claim(
    "balles-fig2-orientation-mild",
    place="Fig. 2",
    family=_FIG2,
    statement="On the well-conditioned problem the orientation of the eigenbasis has little effect on the comparison.",
    threshold="rotating changes the log10 ratio by less than 20 % of its size without noise, and less than 0.1 with noise",
)
def _fig2c(random: Random) -> Finding:
    change = {
        nu: float(_logs("well-conditioned", True, nu).mean() - _logs("well-conditioned", False, nu).mean())
        for nu in NOISE
    }
    size = float(np.abs(_logs("well-conditioned", False, 0.0)).mean())
    good = abs(change[0.0]) < 0.2 * size and abs(change[4.0]) < 0.1
    return Finding(
        decide(good),
        f"log10 ratio changes by {change[0.0]:.2f} (of {size:.2f}) without noise, "
        f"{change[0.1]:.2f} at nu = 0.1, {change[4.0]:.2f} at nu = 4",
        n=PROBLEMS,
    )


@_claim(
    "balles-fig2-rotated-ill",
    place="Fig. 2",
    family=_FIG2,
    statement="On the ill-conditioned problem with a rotated basis both methods do about the same.",
    threshold="mean final losses within a factor 2 of each other at each noise level (95 % interval)",
)
def _fig2d(random: Random) -> Finding:
    means = [mean_of(_logs("ill-conditioned", True, nu)) for nu in NOISE]
    limit = float(np.log10(2))
    inside = [abs(m.low) < limit and abs(m.high) < limit for m in means]
    outside = [m.low > limit or m.high < -limit for m in means]
    verdict = Verdict.HOLDS if all(inside) else Verdict.FAILS if any(outside) else Verdict.UNDECIDED
    unclear = [needed(m, limit if m.mean > 0 else -limit) for m, good in zip(means, inside, strict=True) if not good]
    return Finding(
        verdict,
        "SSD's loss over SGD's: "
        + ", ".join(
            f"{10**m.mean:.2g} ({10**m.low:.2g} to {10**m.high:.2g}) at nu {nu:g}"
            for m, nu in zip(means, NOISE, strict=True)
        ),
        f"about {max(unclear)} problems would decide" if verdict is Verdict.UNDECIDED else "",
        n=PROBLEMS,
    )


@_claim(
    "balles-fig2-aligned-ill",
    place="Fig. 2",
    family=_FIG2,
    statement="On the ill-conditioned, axis-aligned problem the sign clearly outperforms gradient descent.",
    threshold="SSD's final loss is smaller by a factor 2 or more at each noise level (95 % interval of paired log ratios)",
)
def _fig2e(random: Random) -> Finding:
    means = [mean_of(-_logs("ill-conditioned", False, nu)) for nu in NOISE]
    verdicts = [decide_above(m, float(np.log10(2))) for m in means]
    verdict = (
        Verdict.HOLDS
        if all(v is Verdict.HOLDS for v in verdicts)
        else Verdict.HOLDS_IF
        if any(v is Verdict.HOLDS for v in verdicts)
        else Verdict.FAILS
    )
    at = ", ".join(f"{nu:g}" for nu, v in zip(NOISE, verdicts, strict=True) if v is Verdict.HOLDS)
    p = max(
        (
            sign_flip(-_logs("ill-conditioned", False, nu))
            for nu, v in zip(NOISE, verdicts, strict=True)
            if v is Verdict.HOLDS
        ),
        default=1.0,
    )
    return Finding(
        verdict,
        "SGD's loss over SSD's: "
        + ", ".join(f"{10**m.mean:.2g} at nu {nu:g}" for m, nu in zip(means, NOISE, strict=True))
        + f"; exact sign-flip p {p:.2g}",
        f"noise level {at}" if verdict is Verdict.HOLDS_IF else "",
        n=PROBLEMS,
        p=p,
    )


@_claim(
    "balles-summary-when-sign-helps",
    place="Sec. 2.1, summary",
    statement="The sign is the better direction on noisy, ill-conditioned, diagonally dominant problems.",
    threshold="the exact expected improvement of the sign exceeds SGD's in most of 24 states of that kind (after 20 steps "
    "of sign descent from a random start), and in less than half where any one of the three is missing",
)
def _summary(random: Random) -> Finding:
    rng = random("states")
    wins = {}
    for spectrum in SPECTRA:
        for rotated in (False, True):
            for nu in NOISE:
                better = 0
                for i in range(24):
                    problem = dense.StochasticQuadratic(_problem(rng, spectrum, rotated), nu)
                    start = rng.standard_normal(D)
                    theta = dense.run("ssd", problem, start=start, steps=20, seed=i, step_size=_sign_step).final
                    Q, grad = problem.Q, problem.gradient(theta, None)[:, 0]
                    better += float(quadratic.sign_improvement(Q, grad, nu)) > float(
                        quadratic.sgd_improvement(Q, grad, nu)
                    )
                wins[spectrum, rotated, nu] = better / 24
    all_three = wins["ill-conditioned", False, 4.0]
    missing = {
        "noise": wins["ill-conditioned", False, 0.0],
        "ill-conditioning": wins["well-conditioned", False, 4.0],
        "alignment": wins["ill-conditioned", True, 4.0],
    }
    good = all_three > 0.5 and all(v < 0.5 for v in missing.values())
    return Finding(
        Verdict.HOLDS if good else Verdict.HOLDS_IF if all_three > 0.5 else Verdict.FAILS,
        f"the sign wins in {all_three:.0%} of states with all three; without "
        + ", ".join(f"{k} in {v:.0%}" for k, v in missing.items())
        + f"; with less noise (nu = 0.1) and the other two in {wins['ill-conditioned', False, 0.1]:.0%}",
        "" if good else "they help, but not all three are needed",
        n=24,
    )
