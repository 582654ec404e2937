"""The step-by-step part of the page: for one recorded run the pictures of its layers, with what they leave out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from stepscope.report import layers, stepfigures, style, text
from stepscope.theory import factors

__all__ = ["Detail", "Diagnostic", "Figure", "Pane", "pane"]


@dataclass(frozen=True)
class Detail:
    """How much a page shows. Less keeps a page about a very large model small.

    layers: with pictures of their own.  dots: in a picture.  rows: of a heatmap.  pages: tables of a layer or block,
    with lines of so many points.  data: whether to enclose what can be left out.
    """

    layers: int
    dots: int
    data: bool = True
    rows: int = 64
    pages: int = 32
    points: int = 60


@dataclass(frozen=True)
class Figure:
    """A picture and what the text under it says."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Diagnostic:
    """A column over time.  kind: "log" | "share" (0 to 1, shown in percent)."""

    column: str
    title: str
    kind: str
    meaning: str
    nothing: str


DIAGNOSTICS = (
    Diagnostic(
        "sign_agreement",
        "signs that agree, %",
        "share",
        "Share of coordinates whose gradient g has the sign of its average m: near 100 % the direction is certain. As "
        "m contains g, pure noise gives more than 50 %: 64 % with β = 0.9. Counted, no estimate involved.",
        "no coordinate’s gradient agreed in sign with its average",
    ),
    Diagnostic(
        "update_to_weight",
        "update / weight, log scale",
        "log",
        "‖update‖ / ‖weights‖ of the layer. A rough guide is 10⁻³: far above, a layer is rewritten within a few "
        "hundred steps; far below, it hardly moves. No unit; weight decay included.",
        "no layer moved",
    ),
    Diagnostic(
        "variance_negative_share",
        "coordinates with v < m², %",
        "share",
        "Where v < m² the variance estimate v − m² is negative, which no variance is. It happens when m and v are "
        "averaged over different spans (β₁ ≠ β₂); with one β it cannot happen.",
        "v ≥ m² for every coordinate at every recorded step: the variance estimate was never negative",
    ),
    Diagnostic(
        "epsilon_dominated_share",
        "coordinates ruled by ε, %",
        "share",
        "Share of coordinates with √v ≤ ε, where Adam’s small constant, not the spread, sets the step and "
        "the theory no longer describes it. Methods without ε have none.",
        "ε never ruled a step (or the method has none)",
    ),
)


@dataclass
class Pane:
    """Everything about the steps of one run; lists are empty where nothing was recorded."""

    key: str
    label: str
    note: str = ""
    agreement: str = ""
    first: int = 0
    last: int = 0
    average: list[Figure] = field(default_factory=list)
    momentum: list[Figure] = field(default_factory=list)
    spread: list[Figure] = field(default_factory=list)
    factors: list[Figure] = field(default_factory=list)
    diagnostics: list[tuple[Diagnostic, Markup | None]] = field(default_factory=list)
    legend: list[tuple[str, style.Look]] = field(default_factory=list)
    other_spread: list[Figure] = field(default_factory=list)
    other_factors: list[Figure] = field(default_factory=list)
    others: int = 0
    weights: list[str] = field(default_factory=list)
    left_out: int = 0


def pane(key: str, label: str, steps: layers.Steps | None, detail: Detail, *, unit_steps: bool, adam: bool) -> Pane:
    """The pictures of one run.

    key: unique among the panes.  unit_steps: steps have the length lr x factor (the method takes the sign), so that the
    theoretical curve is comparable.  adam: the theory claims to predict them, so say how well it does.
    """
    result = Pane(key, label)
    if steps is None:
        result.note = "No recorded steps: this arm has no finished run, or nothing was recorded."
        return result
    result.first, result.last = int(steps.steps[0]), int(steps.steps[-1])
    result.weights = list(steps.weights)
    result.others = len(steps.others)
    shown = layers.evenly(result.weights, detail.layers)
    result.left_out = len(result.weights) - len(shown)
    kept = layers.thin(len(steps.steps), detail.dots)
    result.average = [*_averages(key, steps, kept, unit_steps)]
    if adam:
        result.agreement = _agreement(steps, shown)
    few = layers.thin(len(steps.steps), detail.dots // 2)
    for number, name in enumerate(shown):
        _layer(result, f"{key}w{number}", name, steps.weights[name], steps.steps, few, unit_steps)
    for number, name in enumerate(layers.evenly(list(steps.others), detail.layers)):
        series = steps.others[name]
        result.other_spread += _scatter(f"{key}b{number}s", name, series, few, "spread_median", unit_steps)
        result.other_factors += _factors(f"{key}b{number}f", name, series, steps.steps, few)
    result.diagnostics = [*_diagnostics(key, steps, shown, kept)]
    result.legend = [(name, stepfigures.layer_look(number, len(shown))) for number, name in enumerate(shown)]
    return result


@dataclass(frozen=True)
class Average:
    """A picture of all layers together: ``column`` against ``step``.  theory: what the caption says of the curve."""

    column: str
    label: str
    step: str
    step_label: str
    caption: str
    theory: str = ""


THEORY = "1/\N{WORD JOINER}√(1+γ²)"
AVERAGES = (
    Average(
        "momentum_abs_mean",
        "mean |m|",
        "update_abs_mean_per_lr",
        "mean |update| / lr",
        "Against the average gradient. If steps followed the gradient’s size, the dots would lie on a rising line.",
    ),
    Average(
        "spread_median",
        "median γ = σ/|m|",
        "update_abs_median_per_lr",
        "median |update| / lr",
        "Against the spread γ, medians over the coordinates and then over the layers: the reading that converges.",
        f"Dotted: the theoretical step {THEORY}.",
    ),
    Average(
        "sigma_mean",
        "mean σ = √(v − m²)",
        "update_abs_mean_per_lr",
        "mean |update| / lr",
        "Against σ itself, as in Eigen’s Section 3.",
        "σ has the gradient’s unit: the dotted curve 1/\N{WORD JOINER}√(1+σ²) is flat where gradients are far below 1.",
    ),
    Average(
        "spread_mean",
        "mean γ = σ/|m|",
        "update_abs_mean_per_lr",
        "mean |update| / lr",
        "Against γ averaged over the coordinates, as in Eigen’s Section 2. ⚠ This mean has no finite expectation: a "
        "few coordinates with m near 0 decide it. Trust the median.",
        f"Dotted: {THEORY}.",
    ),
)


def _averages(key: str, steps: layers.Steps, kept: np.ndarray, unit_steps: bool) -> Iterator[Figure]:
    count = len(steps.steps)
    for item in AVERAGES:
        over_layers = layers.middle if item.column == "spread_median" else layers.average
        x, beyond = _within_reach(over_layers(steps.weights, item.column, count)[kept])
        y = over_layers(steps.weights, item.step, count)[kept]
        caption = [item.caption, item.theory] if unit_steps else [item.caption]
        caption += [f"Dots at the edge that belong further out: {beyond}."] if beyond else []
        picture = stepfigures.scatter_panel(
            f"{key}-{item.column}",
            x,
            y,
            item.label + ", log scale",
            item.step_label + ", log scale",
            theory=bool(item.theory) and unit_steps,
        )
        if picture is not None:
            yield Figure(picture, " ".join(filter(None, caption)))


def _within_reach(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Positive values more than a decade beyond the 10 % or 90 % quantile moved to there, and how many those are.

    Otherwise a first step without any spread, or a mean without expectation, would press the rest flat.
    """
    known = x[np.isfinite(x) & (x > 0)]
    if not known.size:
        return x, 0
    low, high = np.quantile(known, [0.1, 0.9]) * [0.1, 10]
    return np.where(x > 0, np.clip(x, low, high), x), int(((known < low) | (known > high)).sum())


def _agreement(steps: layers.Steps, shown: Sequence[str]) -> str:
    """How near each layer's median steps are to the theoretical ones, in one sentence."""
    found = []
    for name in shown:
        series = steps.weights[name]
        if "update_abs_median_per_lr" in series and "spread_median" in series:
            step, spread = series["update_abs_median_per_lr"], series["spread_median"]
            known = np.isfinite(step) & np.isfinite(spread) & (step > 0)
            if known.any():
                ratio = float(np.median(step[known] / factors.adam_factor(spread[known])))
                found.append(f"{name} {text.factor(ratio)}")
    return f"Measured over theoretical step {THEORY}, median over the steps: {', '.join(found)}." if found else ""


def _layer(
    result: Pane, key: str, name: str, series: layers.Series, steps: np.ndarray, few: np.ndarray, unit_steps: bool
) -> None:
    result.momentum += _scatter(f"{key}m", name, series, few, "momentum_abs_mean", unit_steps)
    result.spread += _scatter(f"{key}s", name, series, few, "spread_median", unit_steps)
    result.factors += _factors(f"{key}f", name, series, steps, few)


def _scatter(
    key: str, name: str, series: layers.Series, kept: np.ndarray, column: str, unit_steps: bool
) -> Iterator[Figure]:
    spread = column == "spread_median"
    y_column = "update_abs_median_per_lr" if spread else "update_abs_mean_per_lr"
    if column in series and y_column in series:
        picture = stepfigures.scatter_panel(
            key,
            series[column][kept],
            series[y_column][kept],
            "median γ" if spread else "mean |m|",
            f"{name}: step / lr",
            theory=spread and unit_steps,
            small=True,
        )
        if picture is not None:
            yield Figure(picture, name)


def _factors(key: str, name: str, series: layers.Series, steps: np.ndarray, kept: np.ndarray) -> Iterator[Figure]:
    columns = {column: values[kept] for column, values in series.items()}
    picture = stepfigures.factor_panel(key, steps[kept], columns, name)
    if picture is not None:
        yield Figure(picture, name)


def _diagnostics(
    key: str, steps: layers.Steps, shown: Sequence[str], kept: np.ndarray
) -> Iterator[tuple[Diagnostic, Markup | None]]:
    for diagnostic in DIAGNOSTICS:
        column: Mapping[str, np.ndarray] = {
            name: steps.weights[name][diagnostic.column][kept]
            for name in shown
            if diagnostic.column in steps.weights[name]
        }
        if any(np.isfinite(values).any() for values in column.values()):
            unit = 100.0 if diagnostic.kind == "share" else 1.0
            yield (
                diagnostic,
                stepfigures.layer_panel(
                    f"{key}-{diagnostic.column}",
                    steps.steps[kept],
                    list(column.items()),
                    diagnostic.title,
                    log=diagnostic.kind == "log",
                    unit=unit,
                ),
            )
