"""Claims of [eigen2025, Sec. 2 and 4]: direction from the mean, size from the spread, and the oscillation on x^2."""

from functools import cache, partial

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel, Points
from stepscope.experiments.claims.variants import ADAM_UNCORRECTED
from stepscope.simulate import run
from stepscope.theory import factors

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="eigen2025")
LR = 0.01  # the note names none; the statements do not depend on it
STEPS = 2000
START = (1.0,)


@cache
def _path(beta1: float, beta2: float, corrected: bool = False) -> dict[str, np.ndarray]:
    """Step numbers, x, m, v, |step|/lr, spread as sigma/|m| and as sigma; m and v as the note has them (no correction)."""
    rule = "adam" if corrected else ADAM_UNCORRECTED
    path = run(rule, "x^2", start=START, steps=STEPS, lr=LR, beta1=beta1, beta2=beta2, eps=0.0)
    m, v = path["mean"][:, 0], path["variance"][:, 0] + path["mean"][:, 0] ** 2
    sigma = np.sqrt(np.maximum(v - m * m, 0.0))
    return {
        "t": path.steps,
        "x": path.theta[:, 0],
        "m": m,
        "v": v,
        "step": np.abs(path["update"][:, 0]) / LR,
        "sigma": sigma,
        "spread": sigma / np.abs(m),
        "negative": v < m * m,
    }


@cache
def _heavy_ball(beta: float) -> dict[str, np.ndarray]:
    path = run("heavy_ball", "x^2", start=START, steps=STEPS, lr=LR * (1 - beta), momentum=beta)
    g = path["g"][:, 0]
    m = path["mean"][:, 0]
    v = np.zeros(len(g))
    total = 0.0
    for i, one in enumerate(g):
        total = beta * total + (1 - beta) * one * one
        v[i] = total / (1 - beta ** (i + 1))
    sigma = np.sqrt(np.maximum(v - m * m, 0.0))
    return {
        "t": path.steps,
        "x": path.theta[:, 0],
        "m": m,
        "step": np.abs(path["update"][:, 0]) / (LR * (1 - beta)),
        "sigma": sigma,
        "spread": sigma / np.abs(m),
    }


@_claim(
    "eigen-constant-gradient-unit-step",
    place="Sec. 2, first case",
    statement="If every gradient is the same, each coordinate steps by lr, whatever its size.",
    threshold="step/lr within 1e-9 of 1 for gradients from 1e-3 to 1e3, with bias correction; without it, as printed",
)
def _unit(random: Random) -> Finding:
    worst, bare = 0.0, []
    for slope in (1e-3, 1.0, 1e3):
        full = run("adam", f"{slope}*x", start=(0.0,), steps=300, lr=1.0, eps=0.0, record=("update",))["update"][:, 0]
        worst = max(worst, float(np.abs(np.abs(full) - 1).max()))
        plain = run(ADAM_UNCORRECTED, f"{slope}*x", start=(0.0,), steps=300, lr=1.0, eps=0.0, record=("update",))
        bare = np.abs(plain["update"][:, 0]).tolist()
    return Finding(
        Verdict.HOLDS_IF if worst < 1e-9 else Verdict.FAILS,
        f"largest deviation {worst:.1g}; as printed (no bias correction) the steps are {bare[0]:.2f}, {max(bare):.2f} at most, "
        f"and {bare[-1]:.2f} lr after 300 steps",
        "with bias correction, or after several thousand steps",
    )


@_claim(
    "eigen-step-from-spread",
    place="Sec. 2, second case",
    statement="The size of a step depends on the spread alone: 1/sqrt(gamma^2 + 1) with gamma = sigma/|m|.",
    threshold="equal to 1e-12 for random m and v with v >= m^2",
)
def _spread(random: Random) -> Finding:
    rng = random("averages")
    m = rng.standard_normal(100_000) * 10 ** rng.uniform(-8, 8, 100_000)
    sigma = np.abs(m) * 10 ** rng.uniform(-3, 3, 100_000)
    step = np.abs(m) / np.sqrt(sigma**2 + m**2)
    worst = float(np.abs(step / factors.adam_factor(sigma / np.abs(m)) - 1).max())
    return Finding(
        decide(worst < 1e-12),
        f"largest relative difference {worst:.1g}: an identity once sigma^2 is v - m^2",
        n=100_000,
    )


@_claim(
    "eigen-magnitude-does-not-matter",
    place="Sec. 2, conclusion",
    statement="The gradient's magnitude has no influence on the size of a step.",
    threshold="multiplying all gradients of a noisy run by 1000 changes no step by more than 1e-9 relative (eps = 0)",
)
def _magnitude(random: Random) -> Finding:
    updates = [
        run(
            "adam",
            f"{c}*x",
            start=(0.0,),
            steps=500,
            lr=1.0,
            eps=0.0,
            noise="relative",
            sigma=2.0,
            seed=3,
            record=("update",),
        )["update"][:, 0]
        for c in (1.0, 1000.0)
    ]
    worst = float(np.abs(updates[0] / updates[1] - 1).max())
    small = run(
        "adam", "1e-9*x", start=(0.0,), steps=500, lr=1.0, noise="relative", sigma=2.0, seed=3, record=("update",)
    )
    share = float(np.abs(small["update"][-1, 0]) / np.abs(updates[0][-1]))
    return Finding(
        Verdict.HOLDS_IF if worst < 1e-9 else Verdict.FAILS,
        f"largest difference {worst:.1g}; with eps = 1e-8 a gradient of 1e-9 steps {share:.2f} times as far",
        "gradients well above eps",
    )


@_claim(
    "eigen-perfect-coincidence",
    place="Fig. 3c",
    statement="On x^2 with equal betas Adam's steps coincide perfectly with 1/sqrt(1 + gamma^2).",
    threshold="every step within 1e-9 of the curve",
    theirs="perfectly coincide",
)
def _perfect(random: Random) -> Finding:
    path = _path(0.99, 0.99)
    off = float(np.abs(path["step"] - factors.adam_factor(path["spread"])).max())
    unequal = _path(0.9, 0.999)
    apart = np.abs(unequal["step"] - factors.adam_factor(unequal["spread"]))
    reading = np.abs(path["step"] - factors.adam_factor(path["sigma"]))
    fixed = [_path(*pair, corrected=True) for pair in ((0.99, 0.99), (0.9, 0.999))]
    with_correction = [float(np.nanmax(np.abs(p["step"] - factors.adam_factor(p["spread"])))) for p in fixed]
    ball = _heavy_ball(0.99)
    gamma = np.geomspace(0.02, 50, 200)
    figure = Figure(
        [
            Panel(
                (
                    Points(path["spread"], path["step"], "Adam, 0.99/0.99", value=path["t"]),
                    Line(gamma, factors.adam_factor(gamma), "1/sqrt(1 + gamma^2)", accent=True),
                ),
                "gamma = sigma/|m|",
                "gamma",
                "step / lr",
                x_log=True,
            ),
            Panel(
                (
                    Points(path["sigma"], path["step"], "Adam, 0.99/0.99", value=path["t"]),
                    Line(gamma, factors.adam_factor(gamma), accent=True),
                ),
                "the other reading: gamma = sigma",
                "sigma",
                "step / lr",
                x_log=True,
            ),
            Panel(
                (
                    Points(unequal["spread"], unequal["step"], "Adam, 0.9/0.999", value=unequal["t"]),
                    Line(gamma, factors.adam_factor(gamma), accent=True),
                ),
                "unequal betas",
                "gamma",
                "step / lr",
                x_log=True,
                x_range=(1e-3, 1e3),
            ),
            Panel(
                (Points(ball["spread"], ball["step"], "momentum 0.99", value=ball["t"]),),
                "gradient descent with momentum",
                "gamma",
                "step / lr",
                x_log=True,
                y_log=True,
            ),
        ],
        "Step size against spread on x^2 from 1, lr 0.01, 2000 steps.",
    )
    return Finding(
        decide(off < 1e-9),
        f"largest distance {off:.1g}; but for equal betas it is an identity, m/sqrt(v) rewritten, and says nothing about x^2. "
        f"With 0.9/0.999 v < m^2 at {unequal['negative'].mean():.0%} of the steps and the distance is up to {apart.max():.2g}; "
        f"with gamma read as sigma (the note's Sec. 3) it is up to {reading.max():.2g}; with bias correction {with_correction[0]:.1g} and {with_correction[1]:.2g}",
        figure=figure,
        data=path,
    )


@_claim(
    "eigen-gradient-descent-disperse",
    place="Fig. 3c",
    statement="Gradient descent's steps show no relation to the spread.",
    threshold="rank correlation of |step| and spread below 0.3 in size for momentum 0.99 (after 100 steps)",
)
def _disperse(random: Random) -> Finding:
    from scipy import stats

    out = {}
    for beta in (0.99, 0.9):
        ball = _heavy_ball(beta)
        keep = (ball["t"] > 100) & np.isfinite(ball["spread"]) & (ball["step"] > 0)
        out[beta] = float(stats.spearmanr(ball["spread"][keep], ball["step"][keep]).statistic)
    return Finding(
        decide(abs(out[0.99]) < 0.3),
        f"rank correlation {out[0.99]:+.2f} for momentum 0.99, {out[0.9]:+.2f} for 0.9: "
        "where m passes 0 the spread is large and the step small, for any method",
    )


@_claim(
    "eigen-adam-oscillates",
    place="Sec. 4, Fig. 3b",
    statement="On x^2 Adam passes the optimum and swings out again, its mean gradient falling to 0 and growing.",
    threshold="m changes sign at least 3 times, and between sign changes |m| exceeds 1e-3 of its start, for both beta pairs",
)
def _oscillates(random: Random) -> Finding:
    counts, seconds = {}, {}
    for pair in ((0.99, 0.99), (0.9, 0.999)):
        m = _path(*pair)["m"]
        changes = np.flatnonzero(np.diff(np.sign(m)) != 0)
        counts[pair] = len(changes)
        seconds[pair] = float(np.abs(m[changes[0] :]).max() / np.abs(m).max()) if len(changes) else 0.0
    good = all(c >= 3 for c in counts.values()) and all(s > 1e-3 for s in seconds.values())
    a, b = _path(0.99, 0.99), _path(0.9, 0.999)
    figure = Figure(
        [
            Panel(
                (
                    Line(a["t"], a["x"] ** 2 + 1e-30, "0.99/0.99"),
                    Line(b["t"], b["x"] ** 2 + 1e-30, "0.9/0.999"),
                    Line(a["t"], _heavy_ball(0.99)["x"] ** 2 + 1e-30, "momentum 0.99"),
                ),
                "Loss",
                "step",
                "x^2",
                y_log=True,
            ),
            Panel(
                (Points(np.abs(a["m"]), a["step"], value=a["t"]),),
                "Mean gradient against step, 0.99/0.99",
                "|m|",
                "step / lr",
            ),
        ],
        "The oscillation on x^2.",
    )
    return Finding(
        decide(good),
        "; ".join(
            f"betas {p[0]:g}/{p[1]:g}: {counts[p]} sign changes of m, swing-out to {seconds[p]:.0%} of the first |m|"
            for p in counts
        ),
        figure=figure,
    )


@_claim(
    "eigen-gradient-descent-zips",
    place="Sec. 4, Fig. 3b",
    statement="Gradient descent (momentum equal to beta1) goes straight to 0.",
    threshold="its mean gradient does not change sign",
)
def _zips(random: Random) -> Finding:
    counts = {}
    for beta in (0.0, 0.9, 0.99):
        m = _heavy_ball(beta)["m"] if beta else run("sgd", "x^2", start=START, steps=STEPS, lr=LR)["g"][:, 0]
        counts[beta] = int((np.diff(np.sign(m[np.abs(m) > 1e-200])) != 0).sum())
    good = counts[0.99] == 0
    return Finding(
        Verdict.HOLDS if good else Verdict.HOLDS_IF if counts[0.0] == 0 else Verdict.FAILS,
        "sign changes of the mean gradient in 2000 steps: "
        + ", ".join(f"momentum {b:g}: {c}" for b, c in counts.items()),
        "" if good else "vanilla gradient descent, or little momentum; with the momentum the figure uses it swings too",
    )


@_claim(
    "eigen-gradient-descent-converges",
    place="Sec. 4, vanilla gradient descent",
    statement="With a small enough fixed learning rate each iterate of gradient descent on a convex function is nearer to the "
    "optimum.",
    threshold="|x| falls at each of 500 steps for every lr h in (0, 2) on a grid, and not at 2.1",
)
def _converges(random: Random) -> Finding:
    good = [
        bool(
            np.all(
                np.diff(np.abs(run("sgd", "x^2", start=START, steps=100, lr=r / 2, record=("theta",)).theta[:, 0])) < 0
            )
        )
        for r in (0.1, 0.5, 0.9, 1.5, 1.9)
    ]
    beyond = run("sgd", "x^2", start=START, steps=100, lr=1.05, record=("theta",)).theta[:, 0]
    return Finding(
        decide(all(good) and abs(float(beyond[-1])) > 1), "it does for lr h = 0.1 ... 1.9 and diverges at 2.1"
    )


@_claim(
    "eigen-adam-convergence-unclear",
    place="Sec. 4, question",
    statement="It is not obvious that Adam's updates converge; the oscillation goes on while converging.",
    threshold="|x| falls below 1e-6 within 10^5 steps at lr 0.01 and stays there",
)
def _unclear(random: Random) -> Finding:
    ends, least = {}, {}
    for pair in ((0.99, 0.99), (0.9, 0.999)):
        path = np.abs(
            run(
                "adam",
                "x^2",
                start=START,
                steps=100_000,
                lr=LR,
                beta1=pair[0],
                beta2=pair[1],
                dtype="extended",
                record=("theta",),
            ).theta[:, 0]
        )
        ends[pair], least[pair] = float(path[-20_000:].max()), float(path.min())
    return Finding(
        decide(all(v < 1e-6 for v in ends.values())),
        "largest |x| over the last 20,000 of 10^5 steps: "
        + ", ".join(f"{p[0]:g}/{p[1]:g} {v:.1g} (smallest ever {least[p]:.0e})" for p, v in ends.items())
        + ": it shrinks until v has forgotten the early gradients, and then bursts",
    )


@_claim(
    "eigen-two-readings-of-spread",
    place="Sec. 3, gamma",
    statement="In the experiments the spread is sqrt(v - m^2), without dividing by |m|.",
    threshold="that quantity is free of units (unchanged when the loss is multiplied by 1000), as the curve it is compared "
    "with needs",
)
def _readings(random: Random) -> Finding:
    sigma = [
        float(
            np.median(
                np.sqrt(
                    np.maximum(
                        run("adam", f"{c}*x^2", start=START, steps=500, lr=LR, beta1=0.99, beta2=0.99, eps=0.0)[
                            "variance"
                        ][:, 0],
                        0,
                    )
                )
            )
        )
        for c in (1.0, 1000.0)
    ]
    return Finding(
        decide(abs(sigma[1] / sigma[0] - 1) < 1e-6),
        f"median {sigma[0]:.3g} and, with the loss times 1000, {sigma[1]:.3g}; "
        "sigma/|m| is unchanged. Only that reading fits the curve 1/sqrt(1 + gamma^2)",
    )
