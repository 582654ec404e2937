"""Claims of [kaiser, Sec. 2.3, 3, 4 and 5] about paths: units, flats and the saddle."""

from functools import partial
from typing import Any

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Levels, Line, Panel
from stepscope.experiments.claims.statistics import wilson
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.simulate import find, run, sweep
from stepscope.theory import bounds

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="kaiser")
METHOD: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("sgd", {}),
    "AdaGrad": ("adagrad", {}),
    "RMSProp": ("rmsprop", {"alpha": 0.999}),
    "Adam": ("adam", {}),
}
NUDGE = (0.01, 1.0)  # near the saddle's stable axis; the paper names no start


@_claim(
    "kaiser-steps-have-no-unit",
    place="Sec. 2.3",
    statement="A step of Adam carries no unit: it does not depend on the scale of the loss.",
    threshold="with eps = 0 the paths for a loss times 2^k are bit-equal for k = -30 ... 30; and rescaling the parameters "
    "by 2^k does not rescale the path",
)
def _unit(random: Random) -> Finding:
    powers = (-30, -7, 0, 9, 30)
    same = all(
        np.array_equal(
            run(
                "adam",
                f"{2.0**k!r}*((1-x)^2 + 100*(y-x^2)^2)",
                start=(-1.2, 1.0),
                steps=300,
                lr=1e-2,
                eps=0.0,
                record=("theta",),
            ).theta,
            run(
                "adam",
                "1.0*((1-x)^2 + 100*(y-x^2)^2)",
                start=(-1.2, 1.0),
                steps=300,
                lr=1e-2,
                eps=0.0,
                record=("theta",),
            ).theta,
        )
        for k in powers
    )
    stretched = run("adam", "(x/16)^2", start=(16.0,), steps=300, lr=1e-2, eps=0.0, record=("theta",)).theta / 16
    plain = run("adam", "x^2", start=(1.0,), steps=300, lr=1e-2, eps=0.0, record=("theta",)).theta
    small = run("adam", "1e-9*x^2", start=(1.0,), steps=300, lr=1e-2, record=("theta",)).theta
    return Finding(
        Verdict.HOLDS_IF if same else Verdict.FAILS,
        f"bit-equal for loss scales 2^-30 to 2^30; a parameter in units 16 times smaller needs 16 times the lr (after 300 "
        f"steps x is {float(stretched[-1, 0]):.3f} of its start against {float(plain[-1, 0]):.3f}); with eps = 1e-8 a loss "
        f"times 1e-9 slows the same run to {float(small[-1, 0]):.3f}",
        "eps = 0, or gradients far above eps",
        n=len(powers),
    )


@_claim(
    "kaiser-flat-only-adam-moves",
    place="Sec. 1 and 4",
    statement="On a flat every method but Adam stops at once.",
    threshold="on an exactly flat region SGD, AdaGrad and RMSProp move 0, Adam moves more than one step; methods with "
    "momentum count as other methods",
)
def _flat(random: Random) -> Finding:
    moved: dict[str, Any] = {}
    for name in ("sgd", "adagrad", "rmsprop", "heavy_ball", "msgd", "mssd", "msvag", "adam"):
        path = run(name, "flat", start=(0.0,), steps=6000, lr=1e-3, record=("theta", "g"))
        entered = int(np.flatnonzero(path["g"][:, 0] == 0)[0]) if (path["g"][:, 0] == 0).any() else -1
        moved[name] = float(path.theta[-1, 0] - path.theta[entered, 0]) / 1e-3 if entered >= 0 else float("nan")
    others = [n for n, v in moved.items() if v > 0 and n != "adam"]
    words = ", ".join(f"{n} {v:.3g}" for n, v in moved.items() if np.isfinite(v))
    return Finding(
        Verdict.HOLDS_IF if moved["adam"] > 1 and moved["sgd"] == moved["rmsprop"] == 0 else Verdict.FAILS,
        f"distance on the flat in units of lr after a slope of 1: {words}; so {', '.join(others)} cross too",
        "compared with methods without momentum; any average of gradients coasts",
    )


@_claim(
    "kaiser-ten-steps",
    place="Sec. 4, after Prop. 2",
    statement="On a flat Adam covers about ten of its largest steps.",
    threshold="the largest distance divided by the largest step lies in [9, 11]",
    theirs="73 lr = 10 steps of 7.3 lr",
)
def _ten(random: Random) -> Finding:
    ratio = float(bounds.flat_distance(0.9, 0.999) / bounds.max_step(0.9, 0.999))
    constant = run("adam", "flat", start=(0.0,), steps=6000, lr=1e-3, record=("theta", "g"))
    entered = int(np.flatnonzero(constant["g"][:, 0] == 0)[0])
    usual = float(constant.theta[-1, 0] - constant.theta[entered, 0]) / 1e-3
    return Finding(
        decide(9 <= ratio <= 11),
        f"{ratio:.2f} largest steps at most; after a constant slope, where every step is 1 lr, {usual:.1f} steps",
    )


@_claim(
    "kaiser-saddle-adam-best",
    place="Fig. 2a",
    statement="Near the saddle Adam escapes faster than SGD, AdaGrad and RMSProp.",
    threshold="over 2000 random starts (|x| log-uniform in [1e-4, 0.3], y in [0.5, 1]) at lr 1e-3, Adam first reaches "
    "|x| = 1 sooner than each other one in at least 95 % of the starts",
)
def _saddle(random: Random) -> Finding:
    rng = random("starts")
    n = 2000
    x, y = 10 ** rng.uniform(-4, np.log10(0.3), n), rng.uniform(0.5, 1.0, n)
    steps = 40_000
    out = {}
    for label, (rule, numbers) in METHOD.items():
        # |x| first exceeds the bound 1: y only shrinks, so it is x that does
        result = sweep(
            rule, "saddle", start=(x, y), steps=steps, lr=1e-3, bound=1.0, observe=("diverged_at",), **numbers
        )
        out[label] = np.where(result.diverged_at < 0, 10 * steps, result.diverged_at)
    shorter = {}
    for decay in (0.99, 0.9):
        other = sweep(
            "rmsprop", "saddle", start=(x, y), steps=steps, lr=1e-3, alpha=decay, bound=1.0, observe=("diverged_at",)
        )
        shorter[decay] = float((out["Adam"] < other.diverged_at).mean())
    wins = {m: int((out["Adam"] < out[m]).sum()) for m in METHOD if m != "Adam"}
    median = {m: int(np.median(v)) for m, v in out.items()}
    place = find("saddle")
    gx, gy = np.linspace(-0.2, 1.2, 100), np.linspace(-0.4, 1.1, 100)
    paths = []
    for i, (m, (rule, numbers)) in enumerate(METHOD.items()):
        theta = run(rule, "saddle", start=NUDGE, steps=1200, lr=1e-3, record=("theta",), **numbers).theta
        paths.append(Line(theta[:, 0], theta[:, 1], m, colour=i))
    figure = Figure(
        [
            Panel(
                (Levels(gx, gy, place(NUMPY, *np.meshgrid(gx, gy))), *paths),
                "1200 steps of lr 1e-3 from (0.01, 1)",
                "w1",
                "w2",
                x_range=(-0.2, 1.2),
                y_range=(-0.4, 1.1),
            )
        ],
        "The saddle (w2^2 - w1^2)/2. RMSProp without bias correction starts with steps of 31.6 lr.",
        1,
    )
    low = {m: wilson(w, n)[0] for m, w in wins.items()}
    high = {m: wilson(w, n)[1] for m, w in wins.items()}
    verdict = (
        Verdict.HOLDS
        if min(low.values()) >= 0.95
        else Verdict.FAILS
        if min(high.values()) < 0.95
        else Verdict.UNDECIDED
    )
    return Finding(
        verdict,
        "median steps to |w1| = 1: "
        + ", ".join(f"{m} {v}" for m, v in median.items())
        + "; Adam is sooner than "
        + ", ".join(f"{m} in {w / n:.1%}" for m, w in wins.items())
        + "; than RMSProp with decay "
        + ", ".join(f"{d:g} in {v:.1%}" for d, v in shorter.items())
        + ". RMSProp's missing bias correction makes its first steps up to 31.6 lr long",
        n=n,
        data={"x": x, "y": y, **out},
        figure=figure,
    )


@_claim(
    "kaiser-saddle-rmsprop-adagrad-alike",
    place="Fig. 2a, text",
    statement="AdaGrad and RMSProp take nearly the same path past the saddle, along the diagonal.",
    threshold="over the figure's 1200 steps the two paths, as curves, stay within 0.05 of each other",
)
def _alike(random: Random) -> Finding:
    a = run("adagrad", "saddle", start=NUDGE, steps=40_000, lr=1e-3, record=("theta",)).theta
    b = run("rmsprop", "saddle", start=NUDGE, steps=1200, lr=1e-3, alpha=0.999, record=("theta",)).theta
    b = b[b[:, 0] < min(a[-1, 0], 1.0)]
    gap = float(np.max(np.abs(np.interp(b[:, 0], a[:, 0], a[:, 1]) - b[:, 1])))
    diagonal = float(np.max(np.abs((a[a[:, 0] < 0.3][:, 0] - NUDGE[0]) - (NUDGE[1] - a[a[:, 0] < 0.3][:, 1]))))
    return Finding(
        decide(gap < 0.05),
        f"largest gap between the curves {gap:.2g}; AdaGrad leaves the diagonal by {diagonal:.2g} while |w1| < 0.3",
        data={"adagrad_x": a[::40, 0], "adagrad_y": a[::40, 1]},
    )


@_claim(
    "kaiser-constant-gradient-step",
    place="Sec. 3, expected step",
    statement="With a constant gradient Adam (without bias correction) moves each weight by lr (1 - beta1^t)/sqrt(1 - "
    "beta2^t) against the sign of its gradient, so steps lie at the corners of a hypercube.",
    threshold="the simulated step equals the formula to 1e-9 for 2000 steps, for gradients 1 and 1e-3; with bias "
    "correction it is lr to 1e-9",
)
def _corner(random: Random) -> Finding:
    from stepscope.experiments.claims.variants import ADAM_UNCORRECTED

    worst = 0.0
    for slope in (1.0, 1e-3):
        path = run(ADAM_UNCORRECTED, f"{slope}*x", start=(0.0,), steps=2000, lr=1.0, eps=0.0, record=("update",))
        t = path.steps + 1.0
        worst = max(worst, float(np.abs(-path["update"][:, 0] / ((1 - 0.9**t) / np.sqrt(1 - 0.999**t)) - 1).max()))
    full = run("adam", "x", start=(0.0,), steps=2000, lr=1.0, eps=0.0, record=("update",))["update"][:, 0]
    return Finding(
        decide(worst < 1e-9 and float(np.abs(full + 1).max()) < 1e-9),
        f"relative difference at most {worst:.1g}; with bias correction every step is lr",
    )


@_claim(
    "kaiser-constant-gradient-no-convergence",
    place="Sec. 3, convergence",
    statement="If the expected gradient were constant, Adam would not converge.",
    threshold="with a constant gradient the distance covered grows without bound (to 1e4 lr in 1e4 steps)",
)
def _no_convergence(random: Random) -> Finding:
    noisy = run(
        "adam", "x", start=(0.0,), steps=10_000, lr=1.0, noise="additive", sigma=3.0, record=("theta",), every=10_000
    )
    clean = run("adam", "x", start=(0.0,), steps=10_000, lr=1.0, record=("theta",), every=10_000)
    moved, slow = -float(clean.theta[-1, 0]), -float(noisy.theta[-1, 0])
    return Finding(
        Verdict.HOLDS_IF if moved > 9_999 else Verdict.FAILS,
        f"{moved:.0f} lr in 10^4 steps, {slow:.0f} with noise of three times the gradient; but such a loss is linear, has no "
        "minimum, and no method converges on it",
        "it says nothing about Adam: a constant expected gradient has nothing to converge to",
    )
