"""Claims of [kaiser, Sec. 4 and 5]: how long a step can be, how far Adam coasts, and what old gradients weigh."""

from functools import partial

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Map, Panel
from stepscope.simulate import run, sweep
from stepscope.theory import bounds

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="kaiser")


def _adam(gradients: np.ndarray, beta1: float = 0.9, beta2: float = 0.999, corrected: bool = True) -> np.ndarray:
    """|m| / sqrt(v) after each gradient, by Adam's recursion itself."""
    m = v = 0.0
    out = []
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        bias = (1 - beta1**t) / np.sqrt(1 - beta2**t) if corrected else 1.0
        out.append(abs(m) / np.sqrt(v) / bias)
    return np.array(out)


@_claim(
    "kaiser-proposition-1",
    place="Prop. 1",
    statement="No step of Adam is longer than lr sqrt(beta2)(1 - beta1)/sqrt((1 - beta2)(beta2 - beta1^2)), 7.3 lr at "
    "the default numbers.",
    threshold="over 2000 random histories (heavy tails) no step exceeds the bound by 1e-9; the maximising history comes "
    "within 1 % of it",
    theirs="7.3 lr",
)
def _prop1(random: Random) -> Finding:
    bound = float(bounds.kaiser_step_bound(0.9, 0.999))
    rng = random("histories")
    worst = max(_adam(rng.standard_t(0.7, 60)).max() for _ in range(2000))
    best = np.array([float(bounds.max_step(0.9, 0.999, t)) for t in (1, 10, 100, 1000, 10_000)])
    history = bounds.maximising_gradients(0.9, 0.999, 5000)
    attained = float(_adam(np.asarray(history))[-1])
    t = np.unique(np.geomspace(1, 20_000, 120).astype(int))
    curves = [bounds.max_step(0.9, 0.999, t, bias_correction=c) for c in (True, False)]
    figure = Figure(
        [
            Panel(
                (
                    Line(t, curves[0], "with bias correction"),
                    Line(t, curves[1], "without"),
                    Line(t, np.full(len(t), bound), "Prop. 1", accent=True),
                ),
                "Largest possible step",
                "step",
                "in lr",
                x_log=True,
            )
        ],
        "The largest step any gradients can cause, for each step number.",
        1,
    )
    return Finding(
        decide(worst <= bound + 1e-9 and attained > 0.99 * bound),
        f"bound {bound:.4f} lr; largest of 2000 random histories {worst:.3f}, the maximising one reaches {attained:.4f} at "
        f"step 5000; with bias correction the first step can be {best[0]:.3g} lr, the 10th {best[1]:.3f}, the 100th {best[2]:.3f}",
        n=2000,
        figure=figure,
        data={"t": t, "corrected": curves[0], "uncorrected": curves[1]},
    )


@_claim(
    "kaiser-bias-factor-induction",
    place="Prop. 1, proof",
    statement="sqrt(1 - beta2^t)/(1 - beta1^t) never exceeds 1, by induction from beta2 > beta1^2.",
    threshold="it holds for every t <= 10^4 on a grid of beta1, beta2 with beta2 > beta1^2",
)
def _induction(random: Random) -> Finding:
    b = np.linspace(0.005, 0.995, 199)
    beta1, beta2 = np.meshgrid(b, b)
    largest = bounds.largest_bias_factor(beta1, beta2)
    allowed = beta2 > beta1**2
    broken = allowed & (largest > 1 + 1e-12)
    known = bounds.bias_factor_at_most_one(beta1, beta2)
    clear = allowed & (np.abs(beta2 - beta1 * (2 - beta1)) > 1e-9)
    agree = bool(np.all((largest <= 1 + 1e-12)[clear] == known[clear]))
    figure = Figure(
        [
            Panel(
                (
                    Map(
                        b, b, np.where(allowed, np.where(broken, 2, 1), 0), names=("beta2 <= beta1^2", "holds", "fails")
                    ),
                ),
                "Is the bias factor at most 1?",
                "beta1",
                "beta2",
                scale="equal",
            )
        ],
        "It holds exactly where beta2 >= beta1 (2 - beta1).",
        1,
    )
    return Finding(
        Verdict.HOLDS_IF,
        f"it fails on {broken.sum() / allowed.sum():.0%} of the grid: (0.9, 0.95) starts at "
        f"{float(bounds.bias_factor(0.9, 0.95, 1)):.2f}; the induction step needs 1 - beta1 factors it does not have",
        "beta2 >= beta1 (2 - beta1), i.e. the case t = 1, which the defaults fulfil"
        + ("" if agree else "; (the closed condition disagrees with the grid)"),
        n=int(allowed.sum()),
        figure=figure,
    )


@_claim(
    "kaiser-proposition-1-range",
    place="Prop. 1, side condition",
    statement="The step bound does not depend on how long Adam has run.",
    threshold="it stays finite as t grows, on the whole square of beta1, beta2 in (0, 1)",
)
def _range(random: Random) -> Finding:
    steps = np.array([float(bounds.max_step(0.9, 0.8, t)) for t in (10, 100, 1000)])
    history = np.asarray(bounds.maximising_gradients(0.9, 0.8, 200))
    seen = float(_adam(history / history.max(), 0.9, 0.8)[-1])
    return Finding(
        Verdict.HOLDS_IF,
        f"for (0.9, 0.8) the largest step is {steps[0]:.3g}, {steps[1]:.3g}, {steps[2]:.3g} lr after 10, 100, 1000 steps "
        f"(a simulated history of 200 gradients reaches {seen:.3g})",
        "beta1^2 < beta2; otherwise steps can grow without bound",
    )


@_claim(
    "kaiser-proposition-2",
    place="Prop. 2",
    statement="On a flat Adam moves at most lr beta2 (1 - beta1)/((sqrt(beta2) - beta1) sqrt((1 - beta2)(beta2 - beta1^2))).",
    threshold="the largest distance is below the printed bound, and within 1 % of it (a sharp bound)",
    theirs="73 lr",
)
def _prop2(random: Random) -> Finding:
    printed = float(bounds.kaiser_flat_bound(0.9, 0.999))
    true = float(bounds.flat_distance(0.9, 0.999))
    history = np.asarray(bounds.maximising_gradients(0.9, 0.999, 4000))
    gradients = np.append(history, np.zeros(3000))
    m = v = moved = 0.0
    for g in gradients:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if g == 0:
            moved += abs(m) / np.sqrt(v)
    return Finding(
        Verdict.HOLDS_IF,
        f"the supremum on the flat itself is {true:.2f} lr (a simulated maximising history coasts {moved:.2f}); the printed "
        f"{printed:.2f} also counts the step that was made on the slope",
        "as a bound; it is not attained, the sharp one is beta1/sqrt(beta2) times it",
    )


@_claim(
    "kaiser-proposition-2-lipschitz",
    place="Prop. 2, side condition",
    statement="The distance bound needs a Lipschitz loss.",
    threshold="the bound changes when gradients are unbounded",
)
def _lipschitz(random: Random) -> Finding:
    scales = [
        float(bounds.flat_distance(0.9, 0.999)),
        float(bounds.flat_distance(0.9, 0.999, eps=1e-8, largest_gradient=1e-6)),
    ]
    return Finding(
        Verdict.FAILS,
        f"only ratios of gradients enter, so no bound on them is needed ({scales[0]:.2f} lr for any); a bound G only matters "
        f"with eps, which can only shorten the distance (G = 100 eps: {scales[1]:.2f} lr)",
    )


@_claim(
    "kaiser-proposition-3",
    place="Prop. 3",
    statement="A gradient moves Adam the more the more recent it is.",
    threshold="with one non-zero gradient the step falls with its age, for all beta1^2 < beta2; and in a general history "
    "the newest gradient's growth lengthens the step",
)
def _prop3(random: Random) -> Finding:
    ages = np.arange(400)
    single = np.asarray(bounds.single_gradient_step(ages, 0.9, 0.999))
    falls = bool(np.all(np.diff(single) < 0))
    rng = random("histories")
    shrinks = 0
    for _ in range(500):
        history = np.abs(rng.standard_t(2, 100))
        base = _adam(history)[-1]
        history[-1] *= 1.01
        shrinks += _adam(history)[-1] < base
    bump = np.append(np.ones(200), 30.0)
    slope = float(np.asarray(bounds.step_sensitivity(bump, 0.9, 0.999))[-1])
    t = np.arange(120)
    grown = [_adam(np.append(np.ones(200), [c]))[-1] for c in np.geomspace(0.1, 1000, 60)]
    figure = Figure(
        [
            Panel((Line(t, single[:120]),), "One gradient, all others 0", "its age", "step in lr", y_log=True),
            Panel(
                (Line(np.geomspace(0.1, 1000, 60), grown),),
                "200 gradients of 1, then one more",
                "size of the newest",
                "step in lr",
                x_log=True,
            ),
        ],
        "Left: the proof's case. Right: the newest gradient first lengthens the step, then shortens it.",
    )
    return Finding(
        Verdict.HOLDS_IF if falls else Verdict.FAILS,
        f"it holds for a single gradient; among 500 random positive histories a 1 % larger newest gradient shortens the step "
        f"in {shrinks / 5:.0f} %; after 200 gradients of 1 its derivative at 30 is {slope:.2g}",
        "a history that is 0 but for one gradient, and beta1^2 < beta2",
        n=500,
        figure=figure,
    )


@_claim(
    "kaiser-growing-gradients-favoured",
    place="Sec. 5, after Prop. 3",
    statement="At the saddle Adam steps more along the coordinate whose gradient grows than along the one whose gradient "
    "shrinks.",
    threshold="on the saddle |update of w1| > |update of w2| at each of the steps 50 to 500, for 200 random starts",
)
def _favoured(random: Random) -> Finding:
    rng = random("starts")
    bad = 0
    for _ in range(200):
        start = (10 ** rng.uniform(-3, -0.5), rng.uniform(0.6, 1.0))
        update = np.abs(run("adam", "saddle", start=start, steps=500, lr=1e-3, record=("update",))["update"][50:])
        bad += bool(np.any(update[:, 0] <= update[:, 1]))
    return Finding(decide(bad == 0), f"violated from {bad} of 200 starts", n=200)


@_claim(
    "kaiser-adam-equation-4",
    place="Eq. 4",
    statement="Adam's update can be written with uncorrected averages, a factor sqrt(1 - beta2^t)/(1 - beta1^t) and "
    "eps sqrt(1 - beta2^t).",
    threshold="equal to the original form to 1e-12 relative, for random averages and t",
)
def _eq4(random: Random) -> Finding:
    from stepscope.theory import factors

    rng = random("averages")
    worst = 0.0
    for t in (1, 2, 10, 1000):
        m, v = rng.standard_normal(1000) * (1 - 0.9**t), rng.gamma(1.0, 1.0, 1000) * (1 - 0.999**t)
        ours = factors.adam_update(m / (1 - 0.9**t), v / (1 - 0.999**t), 1e-3)
        theirs = m / (np.sqrt(v) + 1e-3 * np.sqrt(1 - 0.999**t)) * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        worst = max(worst, float(np.abs(ours / theirs - 1).max()))
    return Finding(decide(worst < 1e-12), f"largest relative difference {worst:.1g} over 4000 cases", n=4000)


@_claim(
    "kaiser-bias-correction-negligible",
    place="Eq. 5",
    statement="For long runs bias correction does not matter.",
    threshold="leaving it out changes the first entry into the smooth valley's ball of 1e-3 by less than 10 %",
)
def _negligible(random: Random) -> Finding:
    from stepscope.experiments.claims.variants import ADAM_UNCORRECTED

    counts = [
        int(sweep(rule, "smooth_valley", start=(0.5, 0.9), steps=10_000, observe=("first_inside",)).first_inside)
        for rule in ("adam", ADAM_UNCORRECTED)
    ]
    late = abs(1 - float(bounds.bias_factor(0.9, 0.999, 10_000)))
    return Finding(
        decide(abs(counts[0] / counts[1] - 1) < 0.1),
        f"{counts[0]} steps with it, {counts[1]} without: the factor is 0.32 at the first step, 0.15 at the 12th, and "
        f"within {late:.1g} of 1 only after 10^4 steps, longer than these runs need",
    )
