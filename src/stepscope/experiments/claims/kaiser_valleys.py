"""Claims of [kaiser, Sec. 6]: the valleys, the printed step counts, and periodic orbits."""

# Long because the valleys' claims share their paths.

from functools import cache, partial
from typing import Any

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Levels, Line, Panel, Points
from stepscope.experiments.claims.variants import ADAGRAD_WITHOUT_ROOT, ADAM_UNCORRECTED, RMSPROP_AS_PRINTED
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import METHODS
from stepscope.simulate import Trajectory, find, run, sweep
from stepscope.simulate.landscapes import graph_of
from stepscope.theory.orbits import StepMap, adam_two_cycle

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="kaiser")

START = (0.5, 0.9)  # the paper names none; from here two of its four step counts are met exactly
LONG = 1_000_000
METHOD: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": ("sgd", {"lr": 1e-3}),
    "AdaGrad": ("adagrad", {"lr": 1e-3}),
    "RMSProp": ("rmsprop", {"lr": 1e-3, "alpha": 0.999}),
    "Adam": ("adam", {"lr": 1e-3}),
}
_GRID = np.round(np.concatenate([-np.arange(0.05, 1.01, 0.05)[::-1], np.arange(0.05, 1.01, 0.05)]), 2)


@cache
def _path(method: str, valley: str, dtype: str = "float64", steps: int = LONG, every: int = 100) -> Trajectory:
    rule, numbers = METHOD[method]
    return run(rule, valley, start=START, steps=steps, every=every, record=("theta", "loss"), dtype=dtype, **numbers)


def _entry(rule: Any, valley: str, start: Any, steps: int = 40_000, **numbers: Any) -> tuple[Any, Any]:
    """First entry into the ball of radius 1e-3, and the first step after which it is never left again."""
    result = sweep(rule, valley, start=start, steps=steps, observe=("first_inside", "last_outside"), **numbers)
    last = np.where(result.last_outside >= steps, -1, result.last_outside + 1)
    return result.first_inside, last


def _valley_figure(valley: str, caption: str) -> Figure:
    place = find(valley)
    x, y = np.linspace(-0.7, 0.7, 120), np.linspace(-0.3, 1.0, 120)
    loss = np.log10(place(NUMPY, *np.meshgrid(x, y)) + 1e-9)
    panels = []
    for i, method in enumerate(METHOD):
        path = _path(method, valley)
        marks = [len(path.steps) * q // 4 for q in (1, 2, 3)]
        panels.append(
            Panel(
                (
                    Levels(x, y, loss),
                    Line(path.theta[:, 0], path.theta[:, 1], method, colour=i),
                    Points(path.theta[marks, 0], path.theta[marks, 1], "quarters", colour=6),
                ),
                f"{method}, 10^6 steps",
                "x",
                "y",
                x_range=(-0.7, 0.7),
                y_range=(-0.3, 1.0),
            )
        )
    return Figure(panels, caption)


def _exact(theirs: int, rule: Any, valley: str, starts: Any, **numbers: Any) -> tuple[int, Any, Any]:
    first, last = _entry(rule, valley, starts, **numbers)
    return int(((first == theirs) | (last == theirs)).sum()), first, last


@_claim(
    "kaiser-smooth-adam-3113",
    place="Sec. 6, step counts",
    statement="On the smooth valley Adam first comes within 1e-3 of the origin after 3113 steps.",
    threshold="some start on the grid of multiples of 0.05 in [-1, 1]^2 gives 3113 as first entry or last exit, "
    "with or without bias correction, at the default numbers",
    theirs="3113",
)
def _adam_smooth(random: Random) -> Finding:
    x, y = (a.ravel() for a in np.meshgrid(_GRID, _GRID, indexing="ij"))
    hits, first, last = _exact(3113, "adam", "smooth_valley", (x, y))
    bare_hits, bare_first, bare_last = _exact(3113, ADAM_UNCORRECTED, "smooth_valley", (x, y))
    here = _entry("adam", "smooth_valley", START)
    bare = _entry(ADAM_UNCORRECTED, "smooth_valley", START)
    measured = (
        f"from (0.5, 0.9): first entry {int(here[0])}, last exit {int(here[1])}; without bias correction "
        f"{int(bare[0])} and {int(bare[1])}; 3113 at {hits + bare_hits} of {2 * len(x)} starts"
    )
    return Finding(
        decide(hits + bare_hits > 0),
        measured,
        n=len(x),
        data={
            "x": x,
            "y": y,
            "first": first,
            "last": last,
            "first_uncorrected": bare_first,
            "last_uncorrected": bare_last,
        },
    )


@_claim(
    "kaiser-smooth-rmsprop-1086",
    place="Sec. 6, step counts",
    statement="On the smooth valley RMSProp first comes within 1e-3 of the origin after 1086 steps.",
    threshold="first entry is exactly 1086 from a start of the grid, with decay 0.999 and no bias correction",
    theirs="1086",
)
def _rmsprop_smooth(random: Random) -> Finding:
    x, y = (a.ravel() for a in np.meshgrid(_GRID, _GRID, indexing="ij"))
    first, last = _entry("rmsprop", "smooth_valley", (x, y), lr=1e-3, alpha=0.999)
    share = float((first == 1086).mean())
    other = int(_entry("rmsprop", "smooth_valley", (0.9, 0.9), lr=1e-3, alpha=0.999)[0])
    return Finding(
        Verdict.HOLDS_IF if share > 0 else Verdict.FAILS,
        f"1086 exactly at {share:.1%} of the starts, (0.5, 0.9) and (0.9, 0.5) among them; {other} from (0.9, 0.9)",
        "the start's larger coordinate is 0.9 and the other one at most 0.8; decay 0.999",
        n=len(x),
        data={"x": x, "y": y, "first": first, "last": last},
    )


@_claim(
    "kaiser-sharp-adam-900",
    place="Sec. 6, step counts",
    statement="On the sharp valley Adam first comes within 1e-3 of the origin after 900 steps.",
    threshold="first entry is exactly 900 from a start of the grid, at the default numbers",
    theirs="900",
)
def _adam_sharp(random: Random) -> Finding:
    x, y = (a.ravel() for a in np.meshgrid(_GRID, _GRID, indexing="ij"))
    first, last = _entry("adam", "sharp_valley", (x, y))
    share = float((first == 900).mean())
    return Finding(
        Verdict.HOLDS_IF if share > 0 else Verdict.FAILS,
        f"900 exactly at {share:.1%} of the starts; last exit from (0.5, 0.9) "
        f"{int(_entry('adam', 'sharp_valley', START)[1])}",
        "the start's larger coordinate is 0.9: a step has length lr, and 0.9/lr = 900",
        n=len(x),
        data={"x": x, "y": y, "first": first, "last": last},
    )


@_claim(
    "kaiser-sharp-rmsprop-220",
    place="Sec. 6, step counts",
    statement="On the sharp valley RMSProp first comes within 1e-3 of the origin after 220 steps.",
    threshold="first entry or last exit is exactly 220 from a start of the grid, with decay 0.999, 0.99 or 0.9",
    theirs="220",
)
def _rmsprop_sharp(random: Random) -> Finding:
    x, y = (a.ravel() for a in np.meshgrid(_GRID, _GRID, indexing="ij"))
    hits = 0
    columns: dict[str, Any] = {"x": x, "y": y}
    for decay in (0.999, 0.99, 0.9):
        found, first, _ = _exact(220, "rmsprop", "sharp_valley", (x, y), lr=1e-3, alpha=decay)
        hits += found
        columns[f"first_{decay}"] = first
    first = columns["first_0.999"]
    large = np.maximum(np.abs(x), np.abs(y)) == 0.9
    return Finding(
        decide(hits > 0),
        f"220 at {hits} of {3 * len(x)} starts and decays; with 0.999 and a larger coordinate of 0.9 the first entry is "
        f"anything from {first[large].min()} to {first[large].max()}, 216 from (-0.75, 0.9)",
        n=len(x),
        data=columns,
    )


@_claim(
    "kaiser-equations-2-3-in-use",
    place="Eq. 2 and 3",
    statement="The equations of AdaGrad (without a root) and RMSProp (with 1 - beta1) are the ones the experiments use.",
    threshold="the printed forms reproduce 1086 steps (RMSProp) or reach the ball of 1e-3 in 10^6 steps (AdaGrad)",
)
def _printed(random: Random) -> Finding:
    printed, _ = _entry(RMSPROP_AS_PRINTED, "smooth_valley", START)
    usual, _ = _entry("rmsprop", "smooth_valley", START, lr=1e-3, alpha=0.999)
    steps = LONG
    bare = run(ADAGRAD_WITHOUT_ROOT, "smooth_valley", start=START, steps=steps, every=steps, record=("theta",))
    rooted = run("adagrad", "smooth_valley", start=START, lr=1e-3, steps=steps, every=steps, record=("theta",))
    return Finding(
        decide(int(printed) == 1086),
        f"RMSProp as printed enters after {int(printed)} steps, with 1 - beta2 after {int(usual)}; AdaGrad without the "
        f"root ends 10^6 steps at x = {bare.theta[-1, 0]:.3f} (its step has the unit 1/gradient, so a scaled loss moves it "
        f"otherwise), with the root at {rooted.theta[-1, 0]:.3g}",
    )


@_claim(
    "kaiser-equation-3-weights",
    place="Eq. 3",
    statement="RMSProp's average of squared gradients, with new squares weighted by 1 - beta1, is an average.",
    threshold="the weights of a long history sum to 1 to within 1e-9",
)
def _weights(random: Random) -> Finding:
    total = float(np.sum(0.1 * 0.999 ** np.arange(100_000)))
    return Finding(
        decide(abs(total - 1) < 1e-9),
        f"they sum to {total:.6g} at beta1 = 0.9, beta2 = 0.999: v is 100 times "
        "too large and steps are 10 times too short; with 1 - beta2 they sum to 1",
    )


@_claim(
    "kaiser-equation-2-units",
    place="Eq. 2",
    statement="AdaGrad divides the step by the sum of squared gradients.",
    threshold="the step does not change when the loss is multiplied by 4 (an adaptive step has no unit: Sec. 2.3)",
)
def _units(random: Random) -> Finding:
    ends = [
        float(run(ADAGRAD_WITHOUT_ROOT, f"{c}*x^2", start=(0.5,), steps=50, record=("theta",)).theta[-1, 0])
        for c in (1.0, 4.0)
    ]
    rooted = [
        float(run("adagrad", f"{c}*x^2", start=(0.5,), steps=50, lr=1e-3, eps=0.0, record=("theta",)).theta[-1, 0])
        for c in (1.0, 4.0)
    ]
    return Finding(
        decide(ends[0] == ends[1]),
        f"50 steps move x by {0.5 - ends[0]:.3g} and, with the loss times 4, by {0.5 - ends[1]:.3g}; with the root of the "
        f"sum both move {0.5 - rooted[0]:.3g} (difference {abs(rooted[0] - rooted[1]):.1g})",
    )


@_claim(
    "kaiser-smooth-first-quarter",
    place="Fig. 3",
    statement="On the smooth valley Adam and RMSProp are at the origin within the first quarter of 10^6 steps, "
    "SGD is not.",
    threshold="after 250,000 steps Adam and RMSProp are within 1e-3 of the origin and SGD is not",
)
def _quarter(random: Random) -> Finding:
    at = {m: float(np.hypot(*_path(m, "smooth_valley").theta[2500])) for m in METHOD}
    good = at["Adam"] < 1e-3 and at["RMSProp"] < 1e-3 < at["SGD"]
    figure = _valley_figure("smooth_valley", "The smooth valley x^2 + 1e-3 y^2: 10^6 steps of lr 1e-3 from (0.5, 0.9).")
    return Finding(
        decide(good),
        "distance after a quarter: " + ", ".join(f"{m} {v:.2g}" for m, v in at.items()),
        figure=figure,
        data={m: np.hypot(*_path(m, "smooth_valley").theta.T) for m in METHOD},
    )


@_claim(
    "kaiser-smooth-sgd-no-oscillation",
    place="Fig. 3",
    statement="SGD descends the smooth valley without oscillating.",
    threshold="no coordinate of its path changes sign",
)
def _sgd_smooth(random: Random) -> Finding:
    path = run("sgd", "smooth_valley", start=START, steps=20_000, lr=1e-3, record=("theta",)).theta
    changes = int((np.diff(np.sign(path), axis=0) != 0).sum())
    return Finding(
        decide(changes == 0), f"{changes} sign changes in 20,000 steps at lr 1e-3; lr times curvature is 0.002"
    )


@_claim(
    "kaiser-sharp-sgd-oscillates",
    place="Fig. 4",
    statement="On the sharp valley SGD oscillates about its starting point and gets nowhere.",
    threshold="after 10^6 steps y has moved by less than a quarter of the way and x still changes sign at each step",
)
def _sgd_sharp(random: Random) -> Finding:
    path = run("sgd", "sharp_valley", start=START, steps=LONG, lr=1e-3, every=LONG, record=("theta",)).theta[-1]
    moved = START[1] - float(path[1])
    figure = _valley_figure("sharp_valley", "The sharp valley |x| + 1e-4 |y|: 10^6 steps of lr 1e-3 from (0.5, 0.9).")
    return Finding(
        decide(moved < 0.25 * START[1] and abs(float(path[0])) < 2e-3),
        f"x reaches the wall after 500 steps and stays within one step of it ({float(path[0]):.1g}); y moves {moved:.3g} in "
        "10^6 steps, lr times the slope 1e-4 each",
        figure=figure,
        data={"x": _path("SGD", "sharp_valley").theta[:, 0], "y": _path("SGD", "sharp_valley").theta[:, 1]},
    )


@_claim(
    "kaiser-sharp-adagrad-flow",
    place="Fig. 4",
    statement="AdaGrad follows the gradient flow on the sharp valley and runs out of time.",
    threshold="after 10^6 steps AdaGrad is farther than 1e-3 from the origin; its path stays within 0.05 of the gradient "
    "flow's (straight to the wall, then along it)",
)
def _adagrad_sharp(random: Random) -> Finding:
    path = _path("AdaGrad", "sharp_valley").theta
    left = float(np.hypot(*path[-1]))
    # The flow moves x to 0 while y moves by 1e-4 of that: a straight line at y = 0.9, then along x = 0.
    off = np.minimum(np.abs(path[:, 1] - START[1]), np.abs(path[:, 0])).max()
    return Finding(
        decide(left > 1e-3 and off < 0.05),
        f"distance to the origin after 10^6 steps {left:.2g}, but its path leaves the flow's by up to {off:.2g}: its steps "
        "do not see that one slope is 10^4 times the other, and it goes along the diagonal",
        data={"x": path[:, 0], "y": path[:, 1]},
    )


@_claim(
    "kaiser-sharp-rmsprop-damped",
    place="Fig. 4",
    statement="RMSProp's oscillations on the sharp valley decay all the way, like those of an underdamped spring.",
    threshold="the largest |x| of successive hundreds of steps falls by a factor 10 before x first is 0, from the "
    "majority of random starts (decay 0.999, lr 1e-3)",
)
def _rmsprop_decay(random: Random) -> Finding:
    x = random("starts").uniform(-1, 1, 2000)
    numbers = {"lr": 1e-3, "alpha": 0.999}
    ends = {
        dtype: sweep(
            "rmsprop", "absolute", start=(x,), steps=20_000, dtype=dtype, observe=("theta", "amplitude"), **numbers
        )
        for dtype in ("float64", "extended")
    }
    rest = ends["float64"].theta[0] == 0
    fading, signs = 0, "-"
    for start in x[:200]:
        path = run("rmsprop", "absolute", start=(start,), steps=20_000, record=("theta",), **numbers).theta[:, 0]
        size = np.abs(path[5 * 100 :])
        zero = int(np.flatnonzero(size == 0)[0]) if (size == 0).any() else len(size)
        blocks = [size[i : i + 100].max() for i in range(0, zero - zero % 100, 100)]
        fading += bool(blocks) and blocks[-1] < 0.1 * 2e-3
        if zero < len(size) and signs == "-":
            signs = "".join("+" if v > 0 else "-" for v in path[500 + zero - 8 : 500 + zero])
    figure = Figure(
        [
            Panel(
                (
                    Line(
                        np.arange(3850, 3890),
                        run("rmsprop", "absolute", start=(0.5,), steps=3889, record=("theta",), **numbers).theta[
                            3850:, 0
                        ],
                    ),
                ),
                "RMSProp on |x| from 0.5",
                "step",
                "x",
            )
        ],
        "Steps keep the length lr until x lands on 0: their slowly changing lengths cancel in sign patterns like "
        "+--+ -++-, which kill ever higher differences.",
        1,
    )
    return Finding(
        decide(fading > 100),
        f"from {fading} of 200 starts; v stays near 1 where |gradient| is 1, so jumps keep the length lr. Then x lands on "
        f"exactly 0 from {rest.mean():.0%} of 2000 starts ({(ends['extended'].theta[0] == 0).mean():.0%} with a 64-bit "
        f"significand): the lengths of successive jumps cancel to high order (last signs {signs}); the others end in a "
        f"2-cycle of width {ends['float64'].amplitude[0][~rest].max():.2g}",
        n=len(x),
        figure=figure,
        data={"start": x, "x": ends["float64"].theta[0]},
    )


@_claim(
    "kaiser-sharp-adam-cycle",
    place="Fig. 5b",
    statement="Adam settles into a cycle of period 12 on the sharp valley.",
    threshold="w1 has period 12 after 10^6 steps from at least 95 % of 400 random starts in [-1, 1] (the coordinates of this "
    "valley do not meet, so w1 is Adam on |x|), or of the 40 starts of a grid of multiples of 0.05: then under that condition",
    theirs="12",
)
def _sharp_period(random: Random) -> Finding:
    result = sweep("adam", "absolute", start=(_GRID,), steps=LONG, observe=("period", "amplitude"))
    share = float((result.period == 12).mean())
    odd = random("starts").uniform(-1, 1, 400)
    other = sweep("adam", "absolute", start=(odd,), steps=LONG, observe=("period",))
    values, counts = np.unique(other.period, return_counts=True)
    common = np.argsort(-counts)[:4]
    said = ", ".join(f"{values[i] or 'none up to 64'} ({counts[i]})" for i in common)
    everywhere = float((other.period == 12).mean())
    rates = {}
    for lr in (1e-4, 1e-2, 0.1):
        rates[lr] = int(
            np.median(sweep("adam", "absolute", start=(_GRID,), lr=lr, steps=LONG, observe=("period",)).period)
        )
    tail = run("adam", "sharp_valley", start=START, steps=200_048, record=("theta",)).theta[-49:, 0]
    figure = Figure(
        [Panel((Line(np.arange(49), tail, "x from (0.5, 0.9)"),), "Adam on the sharp valley", "step", "x")],
        "The last 48 of 200,000 steps.",
        1,
    )
    return Finding(
        Verdict.HOLDS if everywhere >= 0.95 else Verdict.HOLDS_IF if share >= 0.95 else Verdict.FAILS,
        f"period 12 from {share:.0%} of the grid's starts, amplitude {result.amplitude.max():.2g}; from 400 random starts it is 12 in "
        f"{everywhere:.0%}, most often {said}, {len(values)} different ones in all; on the grid at other learning rates the median is "
        + ", ".join(f"{p} at {lr:g}" for lr, p in rates.items())
        + ". It is one of a continuum of cycles (a multiplier is 1), so which one depends on the start",
        "starts that are whole multiples of the learning rate" if share >= 0.95 > everywhere else "",
        n=len(odd),
        figure=figure,
        data={"start": odd, "period": other.period},
    )


@_claim(
    "kaiser-smooth-adam-period-2",
    place="Fig. 5a",
    statement="Adam ends in a cycle of period 2 on the smooth valley.",
    threshold="period 2 with an amplitude above 1e-9 from the majority of starts after 10^6 steps",
    theirs="2",
)
def _smooth_period(random: Random) -> Finding:
    grid = _GRID[1::4]
    x, y = (a.ravel() for a in np.meshgrid(grid, grid, indexing="ij"))
    result = sweep("adam", "smooth_valley", start=(x, y), steps=LONG, observe=("period", "amplitude"))
    share = float(((result.period == 2) & (result.amplitude[0] > 1e-9)).mean())
    path = run("adam", "smooth_valley", start=START, steps=60_000, every=10, record=("theta",))
    size = np.abs(path.theta[:, 0])
    burst = int(path.steps[np.flatnonzero((path.steps > 3000) & (size > 1e-4))[0]])
    figure = Figure(
        [
            Panel(
                (Line(path.steps, np.maximum(size, 1e-300), "|x|"),),
                "Adam on the smooth valley",
                "step",
                "|x|",
                y_log=True,
            )
        ],
        "Decay below any rounding, then bursts: v forgets faster than 2/lr.",
    )
    return Finding(
        decide(share > 0.5),
        f"period 2 from {share:.0%} of {len(x)} starts; instead x decays below 1e-100 and bursts (first above 1e-4 again at "
        f"step {burst}) when v has decayed so far that lr h/sqrt(v) exceeds (2 + 2 beta1)/(1 - beta1) = 38",
        n=len(x),
        figure=figure,
        data={"x": x, "y": y, "period": result.period},
    )


@_claim(
    "kaiser-adam-only-one-not-converging",
    place="Sec. 6, Fig. 5",
    statement="Adam is the only one of the four methods that converges in neither valley.",
    threshold="x converges (|x| < 1e-6 during the last 10^5 of 10^6 steps, extended exponent range) in at least one "
    "valley for each other method, and in none for Adam",
)
def _only_adam(random: Random) -> Finding:
    largest: dict[str, list[float]] = {}
    start = (0.5 + random("start").uniform(-1e-3, 1e-3), 0.9)  # no multiple of lr, so that no step lands on 0 by chance
    for method, (rule, numbers) in METHOD.items():
        largest[method] = []
        for valley in ("smooth_valley", "sharp_valley"):
            tail = run(rule, valley, start=start, steps=LONG, dtype="extended", record=("theta",), **numbers).theta
            largest[method].append(float(np.abs(tail[-100_000:, 0]).max()))
    settles = {m: [v < 1e-6 for v in pair] for m, pair in largest.items()}
    good = not any(settles["Adam"]) and all(any(settles[m]) for m in METHOD if m != "Adam")
    words = ", ".join(f"{m} {a:.1e}/{b:.1e}" for m, (a, b) in largest.items())
    return Finding(
        decide(good),
        f"largest |x| at the end, smooth/sharp: {words}; in float64 RMSProp seems to converge on the smooth valley, but "
        "only because it underflows to 0 there after 6,400 steps; on the sharp one it lands on 0",
    )


@_claim(
    "kaiser-rmsprop-faster-in-valleys",
    place="Sec. 6, conclusion",
    statement="RMSProp reaches the bottom of a valley sooner than Adam.",
    threshold="first entry into the ball of 1e-3 is earlier for RMSProp from at least 95 % of the grid's starts, "
    "in both valleys",
)
def _faster(random: Random) -> Finding:
    x, y = (a.ravel() for a in np.meshgrid(_GRID, _GRID, indexing="ij"))
    shares = []
    data: dict[str, Any] = {"x": x, "y": y}
    for valley in ("smooth_valley", "sharp_valley"):
        adam, _ = _entry("adam", valley, (x, y))
        rms, _ = _entry("rmsprop", valley, (x, y), lr=1e-3, alpha=0.999)
        sooner = np.where(rms < 0, 10**9, rms) < np.where(adam < 0, 10**9, adam)
        shares.append(float(sooner.mean()))
        data |= {f"adam_{valley}": adam, f"rmsprop_{valley}": rms}
    corrected = run("rmsprop", "smooth_valley", start=START, steps=4000, lr=1e-3, alpha=0.999, record=("theta",)).theta
    first = float(np.abs(corrected[1] - corrected[0]).max() / 1e-3)
    verdict = Verdict.HOLDS if min(shares) >= 0.95 else Verdict.HOLDS_IF if max(shares) >= 0.95 else Verdict.FAILS
    return Finding(
        verdict,
        f"sooner from {shares[0]:.0%} of the starts on the smooth and {shares[1]:.0%} on the sharp valley; its head start "
        f"is the missing bias correction (its first step is {first:.1f} lr long)",
        "on the smooth valley only" if verdict is Verdict.HOLDS_IF else "",
        n=len(x),
        data=data,
    )


@_claim(
    "kaiser-proposition-4",
    place="Prop. 4",
    statement="Adam has a 2-cycle where two points one step apart have opposite gradients, C and -C; the step is printed "
    "as lr C (1 - beta1)/((C^2 + eps)(1 + beta1)).",
    threshold="a 2-cycle exists on x^2 whose width is the printed one to within 1e-6",
)
def _prop4(random: Random) -> Finding:
    inputs, loss, _ = graph_of(find("x^2"))
    lr = 0.1
    at = StepMap(METHODS["adam"], loss, inputs, {"lr": lr})
    width = float(adam_two_cycle(lr, 0.9, 1.0))  # C/(C + eps) is 1 to 8 digits
    slope = width  # gradient of x^2 at width/2
    cycle = at.cycle([width / 2, -slope * 0.1 / 1.9, slope**2], 2)
    assert cycle is not None
    printed = lr * slope / (slope**2 + 1e-8) * 0.1 / 1.9
    grown = float(np.abs(cycle.multipliers[0]))
    small = StepMap(METHODS["adam"], loss, inputs, {"lr": lr, "beta1": 0.1})
    wide = float(adam_two_cycle(lr, 0.1, 1.0))
    attracting = small.cycle([wide / 2, -wide * 0.9 / 1.1, wide**2], 2)
    assert attracting is not None
    return Finding(
        Verdict.HOLDS_IF,
        f"a 2-cycle of width {cycle.amplitude[0]:.6g} on x^2 at lr 0.1; the printed width for its C = {slope:.4g} is "
        f"{printed:.4g}. It repels: its largest multiplier is {grown:.3f} in size, so no run ends in it; with beta1 = 0.1 the largest is {abs(attracting.multipliers[0]):.4f} and "
        "runs do",
        "with C/(C + eps) in the place of C/(C^2 + eps): sigma is C, not C^2",
        data={"multiplier": np.abs(cycle.multipliers)},
    )


@_claim(
    "kaiser-all-have-2-cycles",
    place="Sec. 6, after Prop. 4",
    statement="Every gradient method is open to 2-periodic oscillation.",
    threshold="a 2-cycle (residual below 1e-9) is found for SGD, momentum, RMSProp and AdaGrad on a quadratic",
)
def _all_cycle(random: Random) -> Finding:
    found: dict[str, str] = {}
    for name, numbers in (("sgd", {"lr": 1.0}), ("heavy_ball", {"lr": 1.9, "momentum": 0.9}), ("rmsprop", {"lr": 0.1})):
        inputs, loss, _ = graph_of(find("x^2"))
        at = StepMap(METHODS[name], loss, inputs, numbers)
        width = 0.1 if name == "rmsprop" else 1.0
        guess = [
            width / 2,
            *({"momentum_buffer": -width / 1.9, "square_avg": width**2}[s] for s in METHODS[name].state),
        ]
        cycle = at.cycle(guess, 2)
        found[name] = (
            "none" if cycle is None else f"width {cycle.amplitude[0]:.3g}, multiplier {abs(cycle.multipliers[0]):.3f}"
        )
    have = [name for name, text in found.items() if text != "none"]
    return Finding(
        Verdict.HOLDS_IF if len(have) == 3 else Verdict.FAILS,
        "; ".join(f"{n}: {t}" for n, t in found.items()) + "; AdaGrad has none: its sum of squares grows at each step",
        "not AdaGrad; SGD and momentum only at one step size, lr h = 2 and 2 (1 + momentum), and then as a continuum",
    )
