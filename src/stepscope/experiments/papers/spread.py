"""[eigen2025, Fig. 1 and 2]: on CIFAR-10, the size of Adam's and SGD's steps against mean gradient and spread.

One dot a step: absolute values averaged within each layer, then across the two conv and the two fc weights. The step is
the weights after less those before, in units of the step size. Unstated and ours: widths (see `problems.eigen`), length,
and the step sizes, of which three are tried for each method; shown is the one with the smallest final training loss.
The note's Adam divides m by sqrt(v) without bias correction, everybody's corrects both: both are trained. The averages
that are shown are corrected throughout. Beside SGD, which keeps no v, stand averages of its gradients with beta1.
"""
# ruff: noqa: E501
# Long because it is one figure with its sentences.

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stepscope.errors import UserError
from stepscope.experiments.claims.claim import Finding, Verdict
from stepscope.experiments.claims.figure import Figure, Line, Panel, Points, Series
from stepscope.experiments.papers.curves import fractional, so_far
from stepscope.experiments.papers.experiment import SCHEMA, Experiment, Extent, Sentence, Stored
from stepscope.theory import factors

if TYPE_CHECKING:
    from stepscope.experiments.executor import Executor
    from stepscope.experiments.progress import Progress
    from stepscope.experiments.shipping import Parcel

__all__ = ["EXPERIMENTS", "figure", "gather", "train"]

BATCHES: Final = {16: "eigen-16", 100: "eigen"}
LAYERS: Final = ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight")
COLUMNS: Final = {
    "mean": "momentum_abs_mean",
    "step": "update_abs_mean_per_lr",
    "sigma": "sigma_mean",
    "spread": "spread_mean",
    "spread_median": "spread_median",
}
"""What is kept of each layer. sigma: sqrt(v - m^2), as Section 3 prints gamma; spread: sigma/|m|, as Section 2 has it."""
METHODS: Final = ("adam", "adam_printed", "sgd")
RATES: Final = {"adam": (1e-3, 3e-4, 3e-3), "adam_printed": (1e-3,), "sgd": (0.1, 0.03, 0.3)}
"""Step sizes, the likeliest first: trials are done in that order, so that what an interrupted run leaves can be drawn.
SGD's are those without momentum, to be multiplied with 1 - beta1: torch's momentum adds gradients up."""
DOTS: Final = 400  # of a run that are kept
START: Final = 0.1  # share of the steps that counts as the start of training
RELATED: Final = 0.3  # a rank correlation below that is "little relation"
DIGITS: Final = 4

Array = NDArray[np.float64]


def _betas(id: str) -> tuple[float, float]:
    return (0.99, 0.99) if id == "eigen2025_fig1" else (0.9, 0.999)


def _rates(id: str) -> dict[str, tuple[float, ...]]:
    beta1, _ = _betas(id)
    return {**RATES, "sgd": tuple(round(rate * (1 - beta1), 6) for rate in RATES["sgd"])}


def train(
    experiment: Experiment, profile: str, folder: Path, executor: "Executor | None", progress: "Progress | None"
) -> Stored:
    """Train both methods on both batch sizes with each step size, recording every step, and keep the dots."""
    from stepscope.experiments.papers.campaign import run_all
    from stepscope.experiments.papers.fraction import reduced
    from stepscope.experiments.shipping import fingerprint, pack
    from stepscope.experiments.trial import Trial

    extent, (beta1, beta2) = experiment.extent(profile), _betas(experiment.id)
    options: Mapping[str, tuple[tuple[str, Any], ...]] = {
        "adam": (("betas", (beta1, beta2)),),
        "adam_printed": (("betas", (beta1, beta2)), ("bias_correction", False)),
        "sgd": (("momentum", beta1),),
    }
    planned: list[tuple[tuple[int, int], tuple[Trial, Parcel]]] = []
    for batch, name in BATCHES.items():
        steps = _steps(extent, batch)
        problem = reduced(name, max(1, steps // 20), extent.evaluated)
        mark = fingerprint(problem, problem.data())
        parcel = pack(problem, mark)
        for method in extent.methods:
            for rank, lr in enumerate(extent.grid[method]):
                for seed in range(extent.seeds):
                    # The decay of the averages that are recorded beside a method without its own.
                    trial = Trial(
                        mark, _TRAINED[method], lr, None, seed, steps, batch, max(1, steps // 20), 0, ("train", "test"),
                        record_every=1 if seed == 0 else 0, options=options[method], record_beta=beta1,
                    )  # fmt: skip
                    planned.append(((seed, rank), (trial, parcel)))
    trials = [pair for _, pair in sorted(planned, key=lambda one: one[0])]
    settings = {"problem": "eigen", "experiment": experiment.id, "profile": profile,
                "trials": sorted(trial.id for trial, _ in trials)}  # fmt: skip
    run_all(trials, settings, folder / "runs", executor, progress)
    return gather(experiment, profile, folder)


def gather(experiment: Experiment, profile: str, folder: Path) -> Stored:
    """What the finished runs in a folder left, in the order of batch size, method, step size and seed."""
    extent = experiment.extent(profile)
    settings = folder / "runs" / "dissect.json"
    if settings.is_file() and json.loads(settings.read_text("utf-8"))["profile"] != profile:
        raise UserError(f"{folder} holds a run of another profile than {profile}: name it with --profile.")
    names = {trained: method for method, trained in _TRAINED.items()}
    found = []
    for file in sorted((folder / "runs" / "trials").glob("[!.]*/result.json")):
        result = json.loads(file.read_text("utf-8"))
        config = result["config"]
        if result["status"] != "failed":
            key = (config["batch_size"], names[config["method"]], config["lr"], config["seed"])
            found.append((key, result, file.parent / "run"))
    order = list(BATCHES), list(METHODS)
    found.sort(key=lambda one: (order[0].index(one[0][0]), order[1].index(one[0][1]), *one[0][2:]))
    arms = [_arm(*key, result, run) for key, result, run in found]
    return {
        "schema": SCHEMA,
        "experiment": experiment.id,
        "profile": profile,
        "extent": so_far(extent.note, len(arms), _planned(extent)),
        "steps": extent.steps,
        "arms": arms,
    }


def _planned(extent: Extent) -> int:
    return len(BATCHES) * extent.seeds * sum(len(extent.grid[method]) for method in extent.methods)


def _steps(extent: Extent, batch: int) -> int:
    """As many passes over the training images for either batch size."""
    return max(2, extent.steps * max(BATCHES) // batch)


def _arm(batch: int, method: str, lr: float, seed: int, result: Mapping[str, Any], run: Path) -> dict[str, Any]:
    rows = result["evaluations"]
    found: dict[str, Any] = {"batch": batch, "method": method, "lr": lr, "seed": seed, "status": result["status"]}
    found |= {
        name: [_rounded(row[name]) for row in rows] for name in ("step", "train_loss", "test_loss", "test_metric")
    }
    if seed == 0:
        found["dots"] = {name: [_rounded(x) for x in values] for name, values in _dots(run).items()}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _dots(run: Path) -> dict[str, list[float]]:
    """Averages over the layers by step, thinned to DOTS steps."""
    from stepscope import store

    table = store.Run(run).table(*COLUMNS.values(), "loss")
    layer, steps = np.asarray(table["layer"].to_pylist()), table["step"].to_numpy()
    wanted = np.isin(layer, LAYERS)
    reached = np.unique(steps[wanted])
    if len(reached) > DOTS:
        reached = reached[np.linspace(0, len(reached) - 1, DOTS).round().astype(int)]
    found: dict[str, list[float]] = {"step_number": reached.tolist()}
    for name, column in COLUMNS.items():
        values = table[column].to_numpy(zero_copy_only=False).astype(float)
        found[name] = [float(np.mean(values[wanted & (steps == step)])) for step in reached]
    losses = table["loss"].to_numpy(zero_copy_only=False).astype(float)
    run_rows = layer == ""
    by_step = dict(zip(steps[run_rows].tolist(), losses[run_rows].tolist(), strict=True))
    found["loss"] = [by_step.get(step, math.nan) for step in reached.tolist()]
    return found


# --- reading what is kept ---------------------------------------------------------------------------------------------


def _best(stored: Stored, batch: int, method: str) -> Mapping[str, Any] | None:
    """The recorded run of the step size with the smallest final training loss."""
    runs = [arm for arm in stored["arms"] if (arm["batch"], arm["method"], arm["seed"]) == (batch, method, 0)]
    stable = [arm for arm in runs if arm["status"] == "ok" and arm["train_loss"][-1] is not None]
    return min(stable, key=lambda arm: arm["train_loss"][-1]) if stable else None


def _column(arm: Mapping[str, Any], name: str, after: float = 0.0) -> Array:
    """Values of the dots behind a share of the steps."""
    steps = np.asarray(arm["dots"]["step_number"], float)
    values = np.asarray([math.nan if x is None else x for x in arm["dots"][name]], float)
    kept: Array = values[steps > after * steps[-1]]
    return kept


def _ranked(x: Array, y: Array) -> float:
    """Spearman's rank correlation, of the steps where both are finite."""
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < 3:
        return math.nan
    a, b = (np.argsort(np.argsort(values[good])).astype(float) for values in (x, y))
    return float(np.corrcoef(a, b)[0, 1])


def _off_curve(arm: Mapping[str, Any], spread: str) -> float:
    """Median |log2| of the ratio of the step and 1/sqrt(1 + spread^2), after the start."""
    theory = factors.adam_factor(_column(arm, spread, START))
    with np.errstate(all="ignore"):
        return float(np.nanmedian(np.abs(np.log2(_column(arm, "step", START) / theory))))


def figure(stored: Stored) -> Figure:
    """A row for each batch size and method: a curve, then mean gradient and both spreads against the step."""
    panels: list[Panel] = []
    for batch in BATCHES:
        arms = {method: arm for method in _NAMES if (arm := _best(stored, batch, method)) is not None}
        for method, (column, words, log) in zip(_NAMES, _CURVES, strict=True):
            panels.append(Panel(_curves(arms, column), f"batch {batch}", "step", words, y_log=log))
            title = f"{_NAMES[method]}, batch {batch}"
            if method not in arms:  # keeps its place
                panels += [Panel([], f"{title}: no run", words, "") for words in _AGAINST.values()]
            else:
                panels += [_scatter(arms[method], method, title, name, words) for name, words in _AGAINST.items()]
    experiment = EXPERIMENTS[stored["experiment"]]
    beta1, beta2 = _betas(stored["experiment"])
    extent = f" {stored['extent']}." if stored["extent"] else ""
    return Figure(
        panels,
        f"{experiment.title} [eigen2025, {experiment.place}]: beta1 = {beta1:g}, beta2 = {beta2:g}; a dot for each step that "
        "is kept, its colour the step's number. Both readings of the spread are drawn. Step sizes are those with "
        "the smallest final training loss of those tried, three but for Adam as printed: the step m/sqrt(v) without bias "
        f"correction. The averages that are shown are corrected.{extent}",
        columns=4,
    )


_NAMES: Final = {"adam": "Adam", "adam_printed": "Adam as printed", "sgd": "SGD"}
_TRAINED: Final = {"adam": "adam", "adam_printed": "sign_m:adam:two_emas", "sgd": "sgd"}
_CURVES: Final = (
    ("train_loss", "training loss", True),
    ("step", "mean |step| / lr", True),
    ("test_metric", "test accuracy", False),
)
_AGAINST: Final = {"mean": "mean gradient |m|", "spread": "spread sigma/|m|", "sigma": "spread sqrt(v - m²)"}


def _curves(arms: Mapping[str, Mapping[str, Any]], column: str) -> list[Series]:
    """A line for each method over the steps: of its evaluations, or of the dots' size of step."""
    found: list[Series] = []
    for place, (name, arm) in enumerate(arms.items()):
        x, y = (arm["dots"]["step_number"], arm["dots"]["step"]) if column == "step" else (arm["step"], arm[column])
        found.append(Line(x, y, f"{_NAMES[name]}, lr {arm['lr']:g}", colour=place))
    return found


def _scatter(arm: Mapping[str, Any], method: str, title: str, name: str, words: str) -> Panel:
    """A dot for each step, its size against one of the columns; for Adam with the theory's curve."""
    x = _column(arm, name)
    series: list[Series] = [Points(x, _column(arm, "step"), value=_column(arm, "step_number"))]
    if name != "mean" and method != "sgd" and (x > 0).any():
        grid = np.geomspace(np.nanmin(x[x > 0]), np.nanmax(x), 100)
        series.append(Line(grid, factors.adam_factor(grid), "1/sqrt(1 + x²)", accent=True))
    return Panel(series, title, words, "mean |step| / lr", x_log=True, y_log=True)


# --- the sentences ----------------------------------------------------------------------------------------------------


Number = Callable[[Mapping[str, Any]], float]


def _each(
    stored: Stored, methods: Sequence[str], number: Number | Sequence[Number], holds: Callable[..., bool], said: str
) -> Finding:
    """A number of each method's run, on either batch size: holds for both, for neither, or is undecided."""
    texts, outcomes = [], []
    numbers = [number] * len(methods) if callable(number) else number
    for batch in BATCHES:
        arms = [arm for arm in (_best(stored, batch, method) for method in methods) if arm is not None]
        there = {arm["method"] for arm in stored["arms"] if arm["batch"] == batch and arm["seed"] == 0}
        if not there.issuperset(methods):
            return Finding(Verdict.CANNOT, f"batch {batch}: not trained yet", "a run of it")
        if len(arms) < len(methods):
            return Finding(Verdict.UNDECIDED, f"batch {batch}: no stable run", "a stable step size")
        values = [number(arm) for arm, number in zip(arms, numbers, strict=True)]
        texts.append(
            f"batch {batch}: " + ", ".join(f"{_NAMES[m]} {v:.2g}" for m, v in zip(methods, values, strict=True))
        )
        outcomes.append(holds(*values))
    verdict = Verdict.HOLDS if all(outcomes) else Verdict.FAILS if not any(outcomes) else Verdict.UNDECIDED
    condition = "the two batch sizes disagree" if verdict is Verdict.UNDECIDED else ""
    return Finding(verdict, f"{said}: {'; '.join(texts)}", condition)


def _mean_and_step(arm: Mapping[str, Any]) -> float:
    return _ranked(_column(arm, "mean", START), _column(arm, "step", START))


def _spread_and_step(arm: Mapping[str, Any]) -> float:
    return _ranked(_column(arm, "spread", START), _column(arm, "step", START))


def _shrinking(arm: Mapping[str, Any]) -> float:
    """Mean step over the last tenth of the steps, to that over the tenth behind the start."""
    step = _column(arm, "step", START)
    tenth = max(1, len(step) // 9)
    return float(np.nanmean(step[-tenth:]) / np.nanmean(step[:tenth]))


def _see_saw(arm: Mapping[str, Any]) -> float:
    """Rank correlation of the changes of step and spread from dot to dot."""
    return _ranked(np.diff(_column(arm, "spread", START)), np.diff(_column(arm, "step", START)))


def _sentences(id: str) -> tuple[Sentence, ...]:
    short = id.removeprefix("eigen2025_")

    def one(name: str, statement: str, threshold: str, test: Callable[[Stored], Finding]) -> Sentence:
        return Sentence(
            f"eigen-{short}-{name}",
            f"Fig. {short[-1]}",
            statement,
            threshold,
            lambda stored: fractional(test(stored), stored),
        )

    both = ("adam", "sgd")
    if short == "fig1":
        return (
            one("no-relation-to-mean", "With equal betas there is little relation between mean gradient and step for Adam, after the start.",
                f"|rank correlation| below {RELATED} after the first tenth of the steps, on both batch sizes",
                lambda s: _each(s, ("adam",), _mean_and_step, lambda a: abs(a) < RELATED, "rank correlation of mean gradient and step")),
            one("sgd-step-is-mean", "SGD's step corresponds directly to the mean gradient.",
                "rank correlation above 0.9, on both batch sizes",
                lambda s: _each(s, ("sgd",), _mean_and_step, lambda a: a > 0.9, "rank correlation of mean gradient and step")),
            one("on-the-curve", "Against spread, Adam's step follows the curve 1/sqrt(1 + gamma^2) closely, SGD's is more diffuse.",
                "rank correlation of spread and step below -0.9 for Adam and nearer 0 for SGD, on both batch sizes",
                lambda s: _each(s, both, _spread_and_step, lambda a, b: a < -0.9 and abs(b) < abs(a), "rank correlation of spread and step")),
            one("which-spread", "The spread of the figure is sqrt(v - m^2), as Section 3 prints it, and not sigma/|m|.",
                "Adam's steps lie nearer to the curve in that reading: median |log2| of their ratio, on both batch sizes",
                lambda s: _each(s, ("adam", "adam"), (partial(_off_curve, spread="sigma"), partial(_off_curve, spread="spread")), lambda a, b: a < b, "distance to the curve with sqrt(v - m^2), with sigma/|m|")),
            one("steps-do-not-shrink", "Later in training SGD's steps become consistently smaller, Adam's do not.",
                "mean step of the last tenth to that behind the first tenth: Adam's ratio is the larger one, on both batch sizes",
                lambda s: _each(s, both, _shrinking, lambda a, b: a > b, "late steps in units of early ones")),
            one("oscillation", "Steps grow when the spread falls and shrink when it rises, in a cycle.",
                "rank correlation of their changes below -0.5 for Adam, on both batch sizes",
                lambda s: _each(s, ("adam",), _see_saw, lambda a: a < -0.5, "rank correlation of the changes of spread and step")),
        )  # fmt: skip
    return (
        one("spread-still-visible", "With the usual betas the relation between spread and step is still visible.",
            f"rank correlation below -{RELATED} for Adam, on both batch sizes",
            lambda s: _each(s, ("adam",), _spread_and_step, lambda a: a < -RELATED, "rank correlation of spread and step")),
        one("mean-matters-more", "With the usual betas the mean gradient has more influence on the step than with equal ones.",
            "|rank correlation| of mean gradient and step exceeds the limit of little relation, on both batch sizes",
            lambda s: _each(s, ("adam",), _mean_and_step, lambda a: abs(a) >= RELATED, "rank correlation of mean gradient and step")),
        one("steps-do-not-shrink", "Later in training SGD's steps become consistently smaller, Adam's do not.",
            "mean step of the last tenth to that behind the first tenth: Adam's ratio is the larger one, on both batch sizes",
            lambda s: _each(s, both, _shrinking, lambda a, b: a > b, "late steps in units of early ones")),
    )  # fmt: skip


def _profiles(id: str) -> dict[str, Extent]:
    rates = _rates(id)
    words = "20 % of the passes, 1 seed, evaluated on 1000 images"
    return {
        "paper": Extent(4000, 3, 200, None, METHODS, grid=rates),
        "small": Extent(800, 1, 40, 1000, METHODS, grid=rates, note=f"A fraction of ten passes: {words}"),
        "smoke": Extent(4, 1, 2, 60, METHODS, grid={m: tried[:1] for m, tried in rates.items()},
                        note="A fraction of ten passes: 4 steps on batches of 100"),
    }  # fmt: skip


_TITLES: Final = {"eigen2025_fig1": ("Fig. 1", "Equal betas"), "eigen2025_fig2": ("Fig. 2", "The usual betas")}
EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    id: Experiment(id, "eigen2025", place, f"{words} on CIFAR-10", _profiles(id), train, figure, _sentences(id), gather)
    for id, (place, words) in _TITLES.items()
}
