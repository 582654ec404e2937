"""Beyond the papers: phase diagrams, the stability boundary, basins, and how the ranking of methods changes."""

from functools import partial

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Map, Panel
from stepscope.experiments.claims.variants import ADAM_UNCORRECTED
from stepscope.rules import METHODS
from stepscope.simulate import find, run, sweep
from stepscope.simulate.landscapes import graph_of
from stepscope.theory.orbits import StepMap, preconditioned_limit

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="stepscope")
PHASES = ("converges", "underflows", "2-cycle", "longer cycle", "no cycle", "diverges")


def _phase(result: object) -> np.ndarray:
    """Number in PHASES of each trajectory. Convergence is not concluded from a path that underflowed."""
    period, size = result["period"], np.abs(result["theta"]).max(axis=0)  # type: ignore[index]
    small = (size < 1e-6) & (result["amplitude"].max(axis=0) < 1e-6)  # type: ignore[index]
    phase = np.where(period == 2, 2, np.where(period > 2, 3, 4))
    phase = np.where(small, 0, phase)
    phase = np.where(small & (result["underflow_at"] >= 0), 1, phase)  # type: ignore[index]
    return np.where(result["diverged_at"] >= 0, 5, phase)  # type: ignore[index]


_SEEN = ("theta", "period", "amplitude", "diverged_at", "underflow_at")


@_claim(
    "beyond-phase-lr-curvature",
    place="phase diagram, lr x curvature",
    statement="On a quadratic (eps = 0) what Adam does depends on the learning rate only through the scale of the start, and the "
    "curvature does not matter at all.",
    threshold="with eps = 0 paths for curvatures 2^-12 ... 2^12 are the same bits after 10^4 steps wherever nothing underflows",
)
def _curvature(random: Random) -> Finding:
    lr, h = np.geomspace(1e-4, 3, 96), np.geomspace(1e-4, 1e4, 64)
    maps = [
        _phase(
            sweep(
                "adam",
                "parabola",
                start=(1.0,),
                lr=lr[:, None],
                h=h[None, :],
                steps=20_000,
                eps=eps,
                observe=_SEEN,
                max_period=32,
            )
        )
        for eps in (0.0, 1e-8)
    ]
    # powers of two only: others round differently, and after a burst rounding decides
    exact = sweep(
        "adam",
        "parabola",
        start=(1.0,),
        lr=lr[:, None],
        h=2.0 ** np.arange(-12, 13, 4.0)[None, :],
        steps=10_000,
        eps=0.0,
        observe=("theta", "underflow_at"),
    )
    clean = (exact.underflow_at < 0).all(axis=1)
    ends = exact.theta[0][clean]
    same = bool(clean.any()) and np.array_equal(ends, np.broadcast_to(ends[:, :1], ends.shape), equal_nan=True)
    figure = Figure(
        [
            Panel(
                (Map(h, lr, m, names=PHASES),),
                f"Adam on h x^2/2, eps = {eps:g}",
                "curvature h",
                "lr",
                x_log=True,
                y_log=True,
            )
            for m, eps in zip(maps, (0.0, 1e-8), strict=True)
        ],
        "What 20,000 steps from x = 1 end in. Underflow to 0 is an outcome of its own: nothing can be concluded from it.",
    )
    shares = {name: float((maps[1] == i).mean()) for i, name in enumerate(PHASES)}
    return Finding(
        decide(same),
        "outcomes with eps = 1e-8: "
        + ", ".join(f"{n} {s:.0%}" for n, s in shares.items() if s > 0)
        + f"; with eps = 0 {'all' if same else 'not all'} of the {int(clean.sum())} rates without underflow end in the same bits",
        figure=figure,
        data={"lr": np.repeat(lr, len(h)), "h": np.tile(h, len(lr)), "phase": maps[1].ravel()},
    )


@_claim(
    "beyond-phase-betas",
    place="phase diagram, lr x beta1 x beta2",
    statement="The region where Adam settles on |x| and on x^2 depends on both betas.",
    threshold="none: a picture (share of each outcome over a 64 x 64 grid of betas at two learning rates)",
)
def _betas(random: Random) -> Finding:
    b1, b2 = 1 - np.geomspace(1, 0.01, 64), 1 - np.geomspace(0.5, 1e-4, 64)
    panels, words, data = [], [], {}
    for place in ("parabola", "absolute"):
        for lr in (1e-3, 0.1):
            result = sweep(
                "adam",
                place,
                start=(0.7,),
                lr=lr,
                beta1=b1[None, :],
                beta2=b2[:, None],
                steps=20_000,
                observe=_SEEN,
                max_period=32,
            )
            phase = _phase(result)
            capped = np.where(phase == 0, 0, np.clip(result["period"], 0, 32))
            panels.append(
                Panel(
                    (Map(1 - b1, 1 - b2, capped, "period (0: none or converged)"),),
                    f"{place}, lr {lr:g}",
                    "1 - beta1",
                    "1 - beta2",
                    x_log=True,
                    y_log=True,
                )
            )
            shares = ", ".join(
                f"{n} {float((phase == i).mean()):.0%}" for i, n in enumerate(PHASES) if (phase == i).any()
            )
            words.append(f"{place} at {lr:g}: {shares}")
            data[f"{place} {lr:g}"] = phase.ravel()
    return Finding(
        Verdict.INDICATES,
        "; ".join(words),
        "a description, not a test",
        figure=Figure(panels, "Period after 20,000 steps."),
        data=data,
    )


@_claim(
    "beyond-stability-boundary",
    place="stability boundary",
    statement="The minimum of a quadratic is stable under Adam exactly when lr h/eps < (2 + 2 beta1)/(1 - beta1).",
    threshold="multipliers of the minimum and simulation (from 1e-12 off it) agree with the formula at 1 % on either side, for six "
    "beta1",
)
def _boundary(random: Random) -> Finding:
    inputs, loss, _ = graph_of(find("x^2"))
    good, rows = True, []
    for beta1 in (0.0, 0.3, 0.6, 0.9, 0.95, 0.99):
        limit = float(preconditioned_limit(beta1))
        for side in (0.99, 1.01):
            eps = 1.0
            lr = side * limit * eps / 2
            at = StepMap(METHODS["adam"], loss, inputs, {"lr": lr, "beta1": beta1, "eps": eps})
            # v enters quadratically: at the minimum its own multiplier is beta2, and theta, m decide
            J = at.jacobian([1e-120, 0.0, 1e-200])[:2, :2]
            radius = float(np.abs(np.linalg.eigvals(J)).max())
            end = sweep(ADAM_UNCORRECTED, "x^2", start=(1e-12,), lr=lr, beta1=beta1, eps=eps, steps=20_000).theta
            grows = float(np.abs(end[0]))
            stable = radius < 1
            good &= stable == (side < 1) and (grows < 1e-12) == stable
            rows.append((beta1, side, radius, grows))
    beta = np.linspace(0, 0.99, 100)
    figure = Figure(
        [
            Panel(
                (
                    Line(beta, preconditioned_limit(beta), "Adam, frozen v"),
                    Line(beta, 2 * (1 + beta), "momentum (lr h)"),
                ),
                "Stability limits",
                "beta1",
                "lr h / (sqrt v + eps)",
                y_log=True,
            )
        ],
        "Largest stable step in units of the inverse curvature.",
        1,
    )
    return Finding(
        decide(good),
        "; ".join(f"beta1 {b:g}, {s:g} of the limit: radius {r:.4f}" for b, s, r, _ in rows[6:10])
        + "; with eps = 0 no step size makes the minimum stable, since v fades with the gradient",
        n=len(rows),
        figure=figure,
        data={"beta1": [r[0] for r in rows], "side": [r[1] for r in rows], "radius": [r[2] for r in rows]},
    )


@_claim(
    "beyond-burst-time",
    place="stability boundary, bursts",
    statement="A burst of Adam on a quadratic begins when lr h/sqrt(v) crosses (2 + 2 beta1)/(1 - beta1), which v's decay predicts.",
    threshold="from 5 random starts in [0.8, 5] on x^2 at lr 1e-3 in extended range |x| grows tenfold within 2000 steps after the "
    "crossing and not before it",
)
def _burst(random: Random) -> Finding:
    rows, good = [], True
    for start in random("starts").uniform(0.8, 5, 5):
        path = run(
            "adam",
            "x^2",
            start=(float(start),),
            steps=60_000,
            lr=1e-3,
            dtype="extended",
            record=("theta", "exp_avg_sq"),
        )
        root = np.sqrt(path["exp_avg_sq"][:, 0].astype(np.float64))
        crossing = int(np.flatnonzero(2e-3 / root > 38)[0])
        size = np.log10(np.abs(path.theta[:, 0].astype(np.longdouble)) + np.longdouble(1e-4900)).astype(float)
        least = int(np.argmin(size[: crossing + 2000]))
        grown = least + int(np.flatnonzero(size[least:] > size[least] + 1)[0])
        good &= crossing - 500 < grown < crossing + 2000
        rows.append((float(start), crossing, grown))
    return Finding(
        decide(good),
        "; ".join(f"from {s:.2f}: crossing at {c}, ten times the smallest size at {g}" for s, c, g in rows),
        n=5,
    )


@_claim(
    "beyond-basins",
    place="basin maps",
    statement="Which of Himmelblau's four minima is found depends on the method, not only on the start.",
    threshold="SGD, momentum and Adam disagree on at least 5 % of a 160 x 160 grid of starts",
)
def _basins(random: Random) -> Finding:
    place = find("himmelblau")
    x, y = np.linspace(-5, 5, 160), np.linspace(-5, 5, 160)
    minima = np.array(place.minima)
    found = {}
    for name, numbers in (
        ("sgd", {"lr": 0.005}),
        ("heavy_ball", {"lr": 0.002}),
        ("rmsprop", {"lr": 0.01}),
        ("adam", {"lr": 0.05}),
    ):
        theta = sweep(name, "himmelblau", start=(x[None, :], y[:, None]), steps=4000, **numbers).theta
        gaps = np.linalg.norm(theta[None] - minima[:, :, None, None], axis=1)
        found[name] = np.where(gaps.min(axis=0) < 0.1, gaps.argmin(axis=0), 4)
    differ = float(np.mean((found["sgd"] != found["adam"]) | (found["sgd"] != found["heavy_ball"])))
    names = ("(3, 2)", "(-2.8, 3.1)", "(-3.8, -3.3)", "(3.6, -1.8)", "none")
    figure = Figure(
        [Panel((Map(x, y, m, names=names),), name, "x", "y", scale="equal") for name, m in found.items()],
        "The minimum of Himmelblau's function reached from each start in 4000 steps.",
    )
    return Finding(
        decide(differ >= 0.05),
        f"they disagree on {differ:.0%} of the starts",
        n=x.size * y.size,
        figure=figure,
        data={k: v.ravel() for k, v in found.items()},
    )


@_claim(
    "beyond-steps-to-target",
    place="distribution of steps to target",
    statement="The order of methods by the steps they need on the valleys does not depend on the start.",
    threshold="RMSProp is sooner than Adam within 1e-3 from at least 99 % of 4000 random starts in each valley",
)
def _steps(random: Random) -> Finding:
    rng = random("starts")
    x, y = rng.uniform(-1, 1, (2, 4000))
    panels, shares, data = [], [], {"x": x, "y": y}
    for valley in ("smooth_valley", "sharp_valley"):
        lines, firsts = [], {}
        for name, numbers in (
            ("adam", {}),
            ("rmsprop", {"alpha": 0.999}),
            ("rmsprop", {"alpha": 0.9}),
            ("msvag", {"lr": 0.1}),
        ):
            label = name + (f" {numbers['alpha']}" if "alpha" in numbers else "")
            first = sweep(
                name, valley, start=(x, y), steps=10_000, observe=("first_inside",), **{"lr": 1e-3, **numbers}
            ).first_inside
            firsts[label] = np.where(first < 0, 10**6, first)
            data[f"{valley} {label}"] = first
            lines.append(Line(np.sort(firsts[label]), np.linspace(0, 1, len(x)), label))
        panels.append(Panel(lines, valley, "steps to within 1e-3", "share of starts", x_log=True, x_range=(10, 10_000)))
        shares.append(float((firsts["rmsprop 0.999"] < firsts["adam"]).mean()))
    return Finding(
        decide(min(shares) >= 0.99),
        f"sooner from {shares[0]:.1%} (smooth) and {shares[1]:.1%} (sharp)",
        n=4000,
        figure=Figure(panels, "Steps to the bottom over random starts, lr 1e-3 (M-SVAG 0.1)."),
        data=data,
    )


@_claim(
    "beyond-ranking",
    place="ranking against noise, conditioning, rotation",
    statement="On two-dimensional quadratics Adam loses its lead over momentum SGD as the problem is rotated, and gains as it gets "
    "worse conditioned.",
    threshold="log10 of the ratio of final losses (each at its best of 24 rates, median of 32 starts) is higher for Adam at 45 degrees "
    "than at 0 for condition 1000, and lower at condition 1000 than at 1, without noise",
)
def _ranking(random: Random) -> Finding:
    rng = random("starts")
    angle0 = rng.uniform(0, 2 * np.pi, 32)
    start = (np.cos(angle0), np.sin(angle0))
    kappas, angles, sigmas = np.geomspace(1, 1e4, 9), np.linspace(0, np.pi / 4, 7), (0.0, 0.01, 0.3)
    rates = np.geomspace(1e-5, 1, 24)
    maps = []
    for sigma in sigmas:
        best = {}
        for name in ("msgd", "adam"):
            loss = sweep(
                name,
                "ellipse",
                start=(start[0], start[1]),
                kappa=kappas[:, None, None, None],
                angle=angles[None, :, None, None],
                lr=rates[None, None, :, None],
                steps=300,
                noise="additive",
                sigma=sigma,
                seed=np.arange(32),
                observe=("loss",),
            ).loss
            middle = np.median(np.where(np.isfinite(loss), loss, np.inf), axis=-1)
            best[name] = np.maximum(middle.min(axis=-1), 1e-30)
        maps.append(np.log10(best["adam"] / best["msgd"]))
    panels = [
        Panel(
            (Map(np.degrees(angles), kappas, m, "log10 loss Adam / M-SGD"),),
            f"noise {s:g}",
            "rotation (degrees)",
            "condition number",
            y_log=True,
        )
        for m, s in zip(maps, sigmas, strict=True)
    ]
    free = maps[0]
    rotated, conditioned = float(free[6, -1] - free[6, 0]), float(free[6, 0] - free[0, 0])
    verdict = (
        Verdict.HOLDS
        if rotated > 0 and conditioned < 0
        else Verdict.HOLDS_IF
        if rotated > 0 or conditioned < 0
        else Verdict.FAILS
    )
    part = "rotation" if rotated > 0 else "conditioning"
    return Finding(
        verdict,
        f"without noise, condition 1000: turning by 45 degrees changes the log10 ratio by {rotated:+.1f}; condition 1 to "
        f"1000 by {conditioned:+.1f}; with noise 0.3 the ratio stays within {float(np.abs(maps[2]).max()):.1f}",
        f"{part} only" if verdict is Verdict.HOLDS_IF else "",
        n=32,
        figure=Figure(
            panels, "Who is ahead after 300 steps, each at its best rate: blue and below 0 where Adam is.", 3
        ),
        data={f"noise {s:g}": m.ravel() for m, s in zip(maps, sigmas, strict=True)},
    )
