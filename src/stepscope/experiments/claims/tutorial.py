"""Claims of [tutorial]: its listings, its comparison table, and what it says of step sizes."""

# Long because its claims are short and of one document.

from functools import cache, partial
from typing import Any

import numpy as np

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict, claim, decide
from stepscope.experiments.claims.figure import Figure, Line, Panel
from stepscope.experiments.claims.statistics import decide_above, mean_of
from stepscope.rules import METHODS
from stepscope.simulate import LANDSCAPES, run, sweep
from stepscope.theory import moments

__all__ = ["CLAIMS"]

CLAIMS: list[Claim] = []
_claim = partial(claim, CLAIMS, paper="tutorial")
FOUR: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("sgd", {}),
    "momentum": ("heavy_ball", {}),
    "RMSProp": ("rmsprop", {"alpha": 0.999}),
    "Adam": ("adam", {}),
}
PLACES = (
    "ellipse",
    "ravine",
    "smooth_valley",
    "rosenbrock",
    "beale",
    "himmelblau",
    "booth",
    "styblinski_tang",
    "line_fit",
    "logistic",
    "bumps",
)
RATES = np.geomspace(1e-6, 10, 141)
STEPS = 1000


def _listing(alpha: float = 0.001, steps: int = 1000, tolerance: float = 1e-7) -> tuple[float, int]:
    """The first listing, transcribed: minimise theta^2 from 5; the end, and the step at which it says it converged (0: never)."""
    theta, m, v = 5.0, 0.0, 0.0
    for t in range(1, steps + 1):
        g = 2 * theta
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        theta = theta - alpha / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) * (m / (1 - 0.9**t))
        if abs(g) < tolerance:
            return float(theta), t
    return float(theta), 0


@_claim(
    "tutorial-listing-1",
    place="Python implementation, first listing",
    statement="Adam with its defaults minimises theta^2 from 5, converging at step 817 to 0.00000001.",
    threshold="run as printed (alpha 0.001, at most 1000 steps) it says so at step 817",
    theirs="step 817, 0.00000001",
)
def _listing1(random: Random) -> Finding:
    end, step = _listing()
    long_end, long_step = _listing(steps=100_000)
    alphas = np.round(np.geomspace(1e-3, 10, 4001), 12)
    stops = np.array([_listing(float(a))[1] for a in alphas[::10]])
    hits = alphas[::10][stops == 817]
    return Finding(
        decide(step == 817),
        f"after 1000 steps theta = {end:.4f} and nothing is printed: 1000 steps of at most about 0.001 cannot cover 5. With more "
        f"steps it stops at {long_step} (theta = {long_end:.1g}); of 401 alphas from 0.001 to 10, {len(hits)} stop at 817",
        data={"alpha": alphas[::10], "stop": stops},
    )


def _regression(alpha: float = 0.01, epochs: int = 200) -> list[tuple[int, float, float, float]]:
    """The second listing, transcribed: (epoch, loss, w, b) at each 50th epoch."""
    X = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    y = 2 * X + 1
    p, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    rows = []
    for t in range(1, epochs + 1):
        error = p[0] * X + p[1] - y
        g = np.array([2 / 5 * np.dot(error, X), 2 / 5 * np.sum(error)])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - alpha / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) * (m / (1 - 0.9**t))
        if t % 50 == 0:
            rows.append((t, float(np.mean(error**2)), float(p[0]), float(p[1])))
    return rows


@_claim(
    "tutorial-listing-2",
    place="Python implementation, second listing",
    statement="Linear regression with alpha 0.01 is at loss 0.000042 after 50 epochs and exact after 100.",
    threshold="the printed loss at epoch 50 is met to its digits, and (w, b) = (2.0000, 1.0000) at epoch 100",
    theirs="loss 0.000042, w 1.9953, b 1.0044 at epoch 50; 2.0000, 1.0000 at 100",
)
def _listing2(random: Random) -> Finding:
    rows = _regression()
    first, second, last = rows[0], rows[1], rows[-1]
    alphas = np.geomspace(0.01, 3, 400)
    near = [float(a) for a in alphas if abs(_regression(float(a), 50)[0][1] - 4.2e-5) < 5e-6]
    engine = run("adam", "line_fit", start=(0.0, 0.0), steps=200, lr=0.01, record=("theta",)).theta[-1]
    return Finding(
        decide(f"{first[1]:.6f}" == "0.000042" and f"{second[2]:.4f}" == "2.0000"),
        f"epoch 50: loss {first[1]:.3f}, w {first[2]:.4f}, b {first[3]:.4f}; epoch 100: w {second[2]:.4f}, b {second[3]:.4f}; epoch "
        f"200: loss {last[1]:.4f}, w {last[2]:.4f}, b {last[3]:.4f} (the engine agrees to {abs(float(engine[0]) - last[2]):.0e}); the "
        f"printed loss at epoch 50 is met by {len(near)} of 400 alphas in [0.01, 3]",
        data={
            "epoch": [r[0] for r in rows],
            "loss": [r[1] for r in rows],
            "w": [r[2] for r in rows],
            "b": [r[3] for r in rows],
        },
    )


@_claim(
    "tutorial-recovers-fast",
    place="Python implementation, conclusion",
    statement="Adam fits that line cleanly and fast compared with plain gradient descent, which needs a tuned learning rate.",
    threshold="Adam (alpha 0.01) reaches loss 1e-3 in fewer steps than gradient descent at the same rate",
)
def _fast(random: Random) -> Finding:
    steps = {}
    for name, lr in (("adam", 0.01), ("sgd", 0.01), ("sgd", 0.08)):
        loss = run(name, "line_fit", start=(0.0, 0.0), steps=5000, lr=lr, record=("loss",)).loss
        steps[f"{name} {lr:g}"] = int(np.flatnonzero(loss < 1e-3)[0]) if (loss < 1e-3).any() else -1
    return Finding(
        decide(0 <= steps["adam 0.01"] < steps["sgd 0.01"]),
        "steps to loss 1e-3: " + ", ".join(f"{k}: {v}" for k, v in steps.items()),
    )


@_claim(
    "tutorial-worked-example",
    place="Worked example",
    statement="On theta^2 Adam's first steps are consistent and controlled: each about alpha, whatever the gradient.",
    threshold="the first five steps from 5 are within 1 % of alpha, for a loss of theta^2 and of 1000 theta^2",
)
def _worked(random: Random) -> Finding:
    steps = [
        np.diff(run("adam", f, start=(5.0,), steps=5, lr=1e-3, record=("theta",)).theta[:, 0]) / 1e-3
        for f in ("x^2", "1000*x^2")
    ]
    worst = max(float(np.abs(np.abs(s) - 1).max()) for s in steps)
    return Finding(
        decide(worst < 0.01), f"steps {', '.join(f'{s:.4f}' for s in steps[0])} alpha; largest deviation {worst:.1g}"
    )


@_claim(
    "tutorial-too-large",
    place="Fixed rate, overshooting",
    statement="With too large a learning rate gradient descent oscillates for ever around the minimum and the loss never falls.",
    threshold="on theta^2 the loss never falls for every rate above the stability limit 1",
)
def _large(random: Random) -> Finding:
    ends = {}
    for lr in (0.9, 1.0, 1.1):
        loss = run("sgd", "x^2", start=(5.0,), steps=200, lr=lr, record=("loss",)).loss
        ends[lr] = float(loss[-1] / loss[0])
    return Finding(
        Verdict.HOLDS_IF,
        f"loss after 200 steps over the first: {ends[0.9]:.1g} at rate 0.9 (overshoots each step and converges), {ends[1.0]:.3g} at "
        f"1, {ends[1.1]:.1g} at 1.1 (diverges)",
        "exactly at the rate 2/h; below it overshooting converges, above it the loss explodes",
    )


@_claim(
    "tutorial-too-small",
    place="Fixed rate, crawling",
    statement="With too small a rate thousands of iterations hardly move the parameter.",
    threshold="at rate 1e-5 on theta^2, 1000 iterations cover less than 5 % of the way",
)
def _small(random: Random) -> Finding:
    left = float(run("sgd", "x^2", start=(5.0,), steps=1000, lr=1e-5, record=("theta",)).theta[-1, 0]) / 5
    adam = float(run("adam", "x^2", start=(5.0,), steps=1000, lr=1e-5, record=("theta",)).theta[-1, 0]) / 5
    return Finding(
        decide(1 - left < 0.05), f"{1 - left:.1%} of the way; Adam at the same rate {1 - adam:.1%}: it crawls too"
    )


@_claim(
    "tutorial-ravine",
    place="Fixed rate, ravine",
    statement="On a ravine no single rate suits both directions.",
    threshold="with condition number 1000, gradient descent at its best single rate needs more than 10 times the steps that two "
    "rates, one per direction, need",
)
def _ravine(random: Random) -> Finding:
    rates = np.geomspace(1e-4, 2.1e-3, 300)
    result = sweep(
        "sgd", "ellipse", start=(1.0, 1.0), lr=rates, kappa=1000.0, steps=20_000, tol=1e-3, observe=("first_inside",)
    )
    best = int(result.first_inside[result.first_inside >= 0].min())
    rotated = sweep(
        "adam",
        "ellipse",
        start=(1.0, 0.3),
        kappa=1000.0,
        angle=np.array([0.0, np.pi / 4]),
        lr=0.03,
        steps=20_000,
        observe=("first_inside",),
    ).first_inside
    return Finding(
        decide(best > 10),
        f"best single rate: {best} steps to within 1e-3, against 1 with a rate per direction; Adam at "
        f"0.03 needs {int(rotated[0])} on an aligned ravine and {int(rotated[1])} on one at 45 degrees",
    )


@cache
def _sensitivity() -> dict[str, np.ndarray]:
    """Loss above the best known, over the start's, [landscape, rate] after 1000 steps; nan: diverged."""
    out = {}
    for name, (rule, numbers) in FOUR.items():
        rows = []
        for place in PLACES:
            loss = sweep(rule, place, lr=RATES, steps=STEPS, observe=("loss",), **numbers).loss
            first = float(run("sgd", place, steps=0, record=("loss",)).loss[0])
            rows.append((np.where(np.isfinite(loss), loss, np.nan), first))
        out[name] = np.array([np.append(loss, first) for loss, first in rows])
    floor = np.nanmin(np.stack([v[:, :-1] for v in out.values()]), axis=(0, 2))
    return {name: np.maximum(v[:, :-1] - floor[:, None], 0) / (v[:, -1] - floor)[:, None] for name, v in out.items()}


def _decades(loss: np.ndarray, target: float = 1e-2) -> np.ndarray:
    """Decades of rates [landscape] that come within `target` of the best."""
    spacing = float(np.log10(RATES[1] / RATES[0]))
    return np.asarray((loss <= target).sum(axis=1) * spacing)


@_claim(
    "tutorial-less-sensitive",
    place="Summary, sensitivity",
    statement="Adam makes training dramatically less sensitive to the learning rate.",
    threshold="over 11 landscapes the range of rates that end within 1 % of the best loss after 1000 steps is at least one decade "
    "wider for Adam than for SGD with momentum (paired mean, 95 % interval)",
)
def _sensitive(random: Random) -> Finding:
    curves = _sensitivity()
    width = {name: _decades(v) for name, v in curves.items()}
    m = mean_of(width["Adam"] - width["momentum"])
    figure = Figure(
        [
            Panel(
                [Line(RATES, np.maximum(curves[name][i], 1e-16), name, colour=j) for j, name in enumerate(FOUR)],
                place,
                "rate",
                "loss above best / start",
                x_log=True,
                y_log=True,
                y_range=(1e-16, 10),
            )
            for i, place in enumerate(PLACES)
        ],
        "Loss after 1000 steps against the learning rate, above the best any method reached, relative to the start.",
        3,
    )
    return Finding(
        decide_above(m, 1.0),
        "mean width in decades: "
        + ", ".join(f"{n} {float(w.mean()):.2f}" for n, w in width.items())
        + f"; Adam minus momentum: {m}",
        n=m.n,
        error=m.error,
        interval=(m.low, m.high),
        figure=figure,
        data={"landscape": list(PLACES), **width},
    )


@_claim(
    "tutorial-same-default",
    place="Summary, default",
    statement="The same default, 0.001, works well across a wide variety of tasks.",
    threshold="on at least 9 of 11 landscapes Adam at 0.001 ends 1000 steps within 1 % of the best loss",
)
def _default(random: Random) -> Finding:
    at = int(np.argmin(np.abs(RATES - 1e-3)))
    shares = {name: v[:, at] for name, v in _sensitivity().items()}
    good = int((shares["Adam"] <= 1e-2).sum())
    others = {name: int((v <= 1e-2).sum()) for name, v in shares.items() if name != "Adam"}
    long = 0
    for place in PLACES:
        end = sweep("adam", place, lr=1e-3, steps=100_000, observe=("loss",)).loss
        floor = LANDSCAPES[place].minima
        best = float(run("sgd", place, start=floor[0], steps=0, record=("loss",)).loss[0]) if floor else float(end)
        first = float(run("sgd", place, steps=0, record=("loss",)).loss[0])
        long += float(end) - best <= 1e-2 * (first - best)
    return Finding(
        decide(good >= 9),
        f"on {good} of 11 (SGD {others['SGD']}, momentum {others['momentum']}, RMSProp "
        f"{others['RMSProp']}): steps of 0.001 cover at most 1 in 1000 steps, so what counts is how far away the minimum is; "
        f"with 100,000 steps on {long}",
        n=11,
    )


@_claim(
    "tutorial-no-manual-tuning",
    place="Comparison, text",
    statement="All four at the same rate: adaptive methods need no manual tuning.",
    threshold="there is a rate at which Adam and RMSProp end within 1 % of the best on at least 10 of 11 landscapes",
)
def _tuning(random: Random) -> Finding:
    counts = {name: (v <= 1e-2).sum(axis=0) for name, v in _sensitivity().items()}
    most = {name: (int(c.max()), float(RATES[c.argmax()])) for name, c in counts.items()}
    return Finding(
        decide(most["Adam"][0] >= 10 and most["RMSProp"][0] >= 10),
        "best single rate: " + ", ".join(f"{n} {r:.2g} serves {c} of 11" for n, (c, r) in most.items()),
        n=11,
    )


@_claim(
    "tutorial-memory-column",
    place="Comparison table, memory",
    statement="SGD keeps nothing, momentum a direction, RMSProp a magnitude, Adam both.",
    threshold="the rules' state per coordinate counts 0, 1, 1, 2",
)
def _memory(random: Random) -> Finding:
    counts = [len(METHODS[rule].state) for rule, _ in FOUR.values()]
    return Finding(
        decide(counts == [0, 1, 1, 2]),
        f"numbers per coordinate: {counts}; momentum's buffer holds a size too, not a direction alone",
    )


@_claim(
    "tutorial-fixed-step-column",
    place="Comparison table, step size",
    statement="SGD's and momentum's steps have a fixed size, the others' an adaptive one.",
    threshold="|step| of SGD is the same at each step of a run",
)
def _fixed(random: Random) -> Finding:
    steps = np.abs(run("sgd", "x^2", start=(5.0,), steps=50, lr=0.1, record=("update",))["update"][:, 0])
    adam = np.abs(run("adam", "x^2", start=(5.0,), steps=50, lr=0.1, record=("update",))["update"][:, 0])
    return Finding(
        decide(float(np.ptp(steps)) == 0),
        f"SGD's steps on theta^2 fall from {steps[0]:.2f} to {steps[-1]:.2g}, Adam's stay "
        f"between {adam.min():.3f} and {adam.max():.3f}: it is the multiplier that is fixed",
    )


@_claim(
    "tutorial-rmsprop-non-stationary",
    place="Comparison table, RMSProp",
    statement="RMSProp is good for non-stationary problems.",
    threshold="when x is thrown back to 0.7 and the curvature changes a hundredfold after 500 steps, RMSProp at its best rate "
    "returns to within 1e-2 sooner than SGD and AdaGrad at theirs (the rate must settle the first half too)",
)
def _nonstationary(random: Random) -> Finding:
    rates = np.geomspace(1e-3, 1, 25)
    found: dict[str, list[int]] = {}
    for rule, numbers in (("sgd", {}), ("adagrad", {}), ("rmsprop", {"alpha": 0.99}), ("adam", {})):
        settled = sweep(
            rule, "parabola", start=(1.0,), lr=rates, steps=500, tol=1e-2, observe=("last_outside",), **numbers
        )
        usable = rates[settled.last_outside < 500]
        found[rule] = [
            min((_recovery(rule, numbers, float(lr), 500, h) for lr in usable), default=_NEVER) for h in (200.0, 0.02)
        ]
    good = [all(found["rmsprop"][i] < found[r][i] for r in ("sgd", "adagrad")) for i in (0, 1)]
    return Finding(
        Verdict.HOLDS if all(good) else Verdict.HOLDS_IF if any(good) else Verdict.FAILS,
        "steps to return when the curvature grows (shrinks) a hundredfold: "
        + ", ".join(f"{r} {_said(a)} ({_said(b)})" for r, (a, b) in found.items()),
        "where the curvature " + ("grows" if good[0] else "shrinks") if any(good) and not all(good) else "",
    )


_NEVER = 10**9


def _said(steps: int) -> str:
    return str(steps) if steps < _NEVER else "not within 2000"


def _recovery(rule: str, numbers: dict[str, Any], lr: float, steps: int, h: float) -> int:
    """Steps until x, put back to 0.7 after `steps` steps at curvature 2, is within 1e-2 for good at curvature h (of 2000)."""
    from stepscope.graph.numpy_namespace import NUMPY

    method = METHODS[rule]
    hyper = {**method.defaults, **numbers, "lr": lr}
    x, state = np.array([1.0]), {name: np.zeros(1) for name in method.state}
    outside = 0
    for t in range(1, steps + 2001):
        if t == steps + 1:
            x = np.array([0.7])
        x, state = method.update(NUMPY, (2.0 if t <= steps else h) * x, x, state, hyper, method.step_scalars(t, hyper))
        if t > steps and not abs(float(x[0])) <= 1e-2:
            outside = t - steps
    return outside if outside < 2000 else _NEVER


@_claim(
    "tutorial-sparse-features",
    place="When to use Adam, sparse features",
    statement="Adam suits sparse features, whose gradients are rare and large.",
    threshold="on a quadratic with one coordinate whose gradient is seen in 1 of 100 steps, Adam at its best rate reaches a loss "
    "below SGD's at its best rate (paired over 40 seeds, 95 % interval)",
)
def _sparse(random: Random) -> Finding:
    rng = random("masks")
    rates = np.geomspace(1e-3, 3, 40)
    seeds = 40
    masks = rng.random((2000, seeds)) < 0.01
    noise = 0.3 * rng.standard_normal((2, 2000, seeds))
    final = {}
    for rule in ("sgd", "adam", "adagrad"):
        losses = np.array([_sparse_run(rule, float(lr), masks, noise) for lr in rates])  # [rate, seed]
        best = int(np.argmin(np.where(np.isfinite(losses).all(axis=1), losses.mean(axis=1), np.inf)))
        final[rule] = losses[best]
    m = mean_of(np.log(final["sgd"] / final["adam"]))
    return Finding(
        decide_above(m, 0.0),
        "mean final loss at the best rate: "
        + ", ".join(f"{k} {float(v.mean()):.3g}" for k, v in final.items())
        + f"; log ratio SGD/Adam {m}",
        n=seeds,
        error=m.error,
        interval=(m.low, m.high),
        p=m.p,
    )


def _sparse_run(rule: str, lr: float, masks: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Mean loss over the last 200 of 2000 steps, by seed: x dense, y seen only where the mask is set."""
    from stepscope.graph.numpy_namespace import NUMPY

    method = METHODS[rule]
    hyper = {**method.defaults, "lr": lr}
    theta = np.ones((2, masks.shape[1]))
    state: dict[str, Any] = {name: np.zeros_like(theta) for name in method.state}
    total = np.zeros(masks.shape[1])
    for t in range(1, len(masks) + 1):
        g = theta + noise[:, t - 1]
        g[1] *= masks[t - 1]
        theta, state = method.update(NUMPY, g, theta, state, hyper, method.step_scalars(t, hyper))
        if t > len(masks) - 200:
            total += 0.5 * (theta * theta).sum(axis=0) / 200
    return total


@_claim(
    "tutorial-bias-trace",
    place="Bias correction trace",
    statement="The factor 1/(1 - beta^t) approaches 1 and vanishes as t grows; it matters only in the early steps.",
    threshold="within 1 % of 1 after 50 steps for both betas",
)
def _trace(random: Random) -> Finding:
    t = np.arange(1, 6001)
    a, b = np.asarray(moments.bias_correction(0.9, t)), np.asarray(moments.bias_correction(0.999, t))
    first = [int(t[np.flatnonzero(v < 1.01)[0]]) for v in (a, b)]
    figure = Figure(
        [
            Panel(
                (Line(t, a, "beta 0.9"), Line(t, b, "beta 0.999")),
                "Bias correction",
                "step",
                "1/(1 - beta^t)",
                x_log=True,
                y_log=True,
            )
        ],
        "The second average's correction is of use for thousands of steps.",
        1,
    )
    return Finding(
        Verdict.HOLDS_IF if first[0] <= 50 else Verdict.FAILS,
        f"below 1.01 after {first[0]} steps (0.9) and {first[1]} (0.999)",
        "beta = 0.9; not for beta2 = 0.999",
        figure=figure,
    )


@_claim(
    "tutorial-large-gradient-small-step",
    place="Adaptive scale",
    statement="Parameters with consistently large gradients take smaller steps than those with small ones.",
    threshold="with constant gradients of 1000 and 0.001, the first parameter's steps are smaller",
)
def _larger(random: Random) -> Finding:
    path = np.abs(run("adam", "1000*x + 0.001*y", start=(0.0, 0.0), steps=100, lr=1.0, record=("update",))["update"])
    ratio = float(path[:, 0].mean() / path[:, 1].mean())
    return Finding(
        decide(ratio < 0.999),
        f"both take steps of the same length (ratio {ratio:.6f}): the size of the gradient cancels, it "
        "is variation that shortens steps",
    )


@_claim(
    "tutorial-adam-combines",
    place="Comparison, conclusion",
    statement="Adam is momentum and RMSProp under one roof, with bias correction on top.",
    threshold="with beta1 = 0 Adam is RMSProp but for bias correction, bit for bit after undoing it; with beta2 -> v constant it is "
    "momentum: the step is m/const",
)
def _combines(random: Random) -> Finding:
    from stepscope.experiments.claims.variants import ADAM_UNCORRECTED

    a = run(ADAM_UNCORRECTED, "rosenbrock", start=(-1.2, 1.0), steps=500, lr=1e-3, beta1=0.0, record=("theta",)).theta
    b = run("rmsprop", "rosenbrock", start=(-1.2, 1.0), steps=500, lr=1e-3, alpha=0.999, record=("theta",)).theta
    gap = float(np.abs(a - b).max())
    return Finding(decide(gap < 1e-12), f"without bias correction and with beta1 = 0 the paths differ by {gap:.1g}")


@_claim(
    "tutorial-reference-5",
    place="References",
    statement="Its fifth reference is the paper by Wilson et al. on adaptive methods' generalisation, arXiv:1705.08292.",
    threshold="title as in the bibliography of [balles2018]",
    theirs="The marginal value of momentum for small learning rate SGD",
)
def _reference(random: Random) -> Finding:
    printed = "The marginal value of momentum for small learning rate SGD".lower()
    cited = "The marginal value of adaptive gradient methods in machine learning".lower()
    return Finding(
        decide(printed == cited),
        "Wilson et al. (2017) wrote 'The marginal value of adaptive gradient methods in machine "
        "learning'; the printed title is another paper's",
    )
