"""The pictures of a dissection's outcome: curves, intervals, tuning. Plain data in, inline SVG out."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from stepscope.report import style, text
from stepscope.report.panel import Panel, Range, limits
from stepscope.report.style import Look
from stepscope.report.summary import Arm, Curve, Effect, Measure

__all__ = ["CELL_LOOKS", "EFFECT_NAMES", "curve_panel", "forest_panel", "run_panel", "tuning_panel"]

EFFECT_NAMES = {
    "sign": "taking the sign",
    "variance_adaptation": "variance adaptation",
    "interaction": "interaction of the two",
}
_WIDE = 2.2
_MARKS = 7  # along a curve


def curve_panel(name: str, curves: Sequence[Curve], measure: Measure, *, log: bool) -> Markup:
    """Mean over seeds against the step, with a band of one standard deviation to each side."""
    panel = Panel(height=290)
    scale = measure.scale
    label = measure.name + (f", {measure.unit}" if measure.unit else "") + (", log scale" if log else "")
    methods = ", ".join(curve.arm.label for curve in curves)
    alt = f"{label} against the step for {methods}; the values are in the JSON data."
    bounds = _curve_bounds(curves, scale, log=log, zoom=measure.higher_is_better)
    if bounds is None:  # a log axis without a positive value
        panel.text(200, 130, "no value above 0", anchor="middle", colour=style.SOFT)
        return panel.render(name, alt)
    panel.scale_y(bounds, label, log=log)
    last = max(float(curve.steps[-1]) for curve in curves)
    panel.scale_x((-0.01 * last, 1.02 * max(last, 1)), "step")
    for curve in curves:
        mean, deviation = curve.mean * scale, curve.deviation * scale
        # Where the band reaches down to zero, a log axis shows it down to the axis' lower end.
        low, high = ((np.maximum(side, bounds[0]) if log else side) for side in (mean - deviation, mean + deviation))
        panel.band(curve.steps, low, high, curve.arm.look.colour)
    for curve in curves:
        mean, look = curve.mean * scale, curve.arm.look
        panel.line(curve.steps, mean, look.colour, width=_WIDE, dashes=look.dashes)
        some = np.unique(np.linspace(0, len(mean) - 1, min(_MARKS, len(mean))).round().astype(int))
        some = some[(mean[some] >= bounds[0]) & (mean[some] <= bounds[1])]
        panel.marks(curve.steps[some], mean[some], look)
    return panel.render(name, alt)


def _curve_bounds(curves: Sequence[Curve], scale: float, *, log: bool, zoom: bool) -> Range | None:
    """The range of the means, on a linear axis with their bands.

    zoom: leave out the first quarter of the training, where an accuracy climbs from chance: the methods differ later.
    """
    edges = []
    for curve in curves:
        shown = curve.steps >= 0.25 * curve.steps[-1] if zoom else np.full(len(curve.steps), True)
        sides = (0,) if log else (-1, 1)
        edges += [(curve.mean + side * curve.deviation)[shown] * scale for side in sides]
    return limits(np.concatenate(edges), log=log)


_LINE, _GAP = 24.0, 30.0  # px a line of the forest plot, and above each of its groups
CELL_LOOKS = (Look(style.INK, (), "o"), Look(style.INK, (), "D", filled=False))
"""Of the effects: with the first Adam cell, and with the other one."""


def forest_panel(name: str, rows: Sequence[Effect], outcome: Measure, labels: Mapping[str, str]) -> Markup:
    """Estimates with their 95 % intervals: one group per effect, one line per Adam cell (``labels``: cell -> label)."""
    ratio = rows[0].ratio
    scale, neutral = (1.0, 1.0) if ratio else (outcome.difference_scale, 0.0)
    cells = [cell for cell in labels if any(row.adam_cell == cell for row in rows)]
    groups = [effect for effect in EFFECT_NAMES if any(row.effect == effect for row in rows)]
    panel = Panel(height=66 + len(groups) * (_GAP + _LINE * len(cells)), left=108, right=144)
    unit = f" in {outcome.difference_unit}" if outcome.difference_unit else ""
    title = f"{outcome.name}: " + ("factor, log scale" if ratio else f"difference{unit}")
    panel.title(title)
    bounds = _forest_bounds(rows, scale, neutral)
    panel.scale_x(bounds, log=ratio, most=4)
    panel.count_y_in_px()
    panel.line([neutral, neutral], [panel.bottom, panel.top], style.INK, width=1.4)
    left, right = "better", "worse"
    if not ratio and outcome.higher_is_better:
        left, right = right, left
    middle = float(panel.x(neutral))
    panel.text(middle - 6, 8, f"← {left}", anchor="end", colour=style.SOFT)
    panel.text(middle + 6, 8, f"{right} →", colour=style.SOFT)
    y = panel.top + 4
    for effect in groups:
        y -= _GAP
        panel.text(2, y + 8, EFFECT_NAMES[effect], bold=True)
        for number, cell in enumerate(cells):
            y -= _LINE
            panel.text(2, y + 8, labels[cell], colour=style.SOFT)
            for row in rows:
                if (row.effect, row.adam_cell) == (effect, cell):
                    _interval(panel, row, outcome, y + 12, CELL_LOOKS[min(number, 1)], bounds)
    return panel.render(name, f"Effects on the {title}, with 95 % intervals; the numbers are in the table.")


def _interval(panel: Panel, row: Effect, outcome: Measure, y: float, look: Look, bounds: Range) -> None:
    def form(value: float) -> str:
        return text.factor(value) if row.ratio else outcome.difference(value, unit=False)

    scale = 1.0 if row.ratio else outcome.difference_scale
    end = panel.width - 2
    if row.estimate is None:
        panel.text(end, y - 4, "not known", anchor="end", colour=style.SOFT)
        return
    words = form(row.estimate)
    if row.low is not None and row.high is not None:
        words += f" [{form(row.low).lstrip('×')}, {form(row.high).lstrip('×')}]"
        low, high = row.low * scale, row.high * scale
        panel.line([max(low, bounds[0]), min(high, bounds[1])], [y, y], style.INK, width=_WIDE)
        for edge, marker, beyond in ((bounds[0], "<", low < bounds[0]), (bounds[1], ">", high > bounds[1])):
            if beyond:
                panel.marks([edge], [y], Look(style.INK, (), marker))
    panel.marks([row.estimate * scale], [y], look, size=7.5)
    panel.text(end, y - 4, words, anchor="end")


def _forest_bounds(rows: Sequence[Effect], scale: float, neutral: float) -> Range:
    """The range of the intervals; one that reaches far beyond all estimates (two seeds) is cut and gets an arrow."""
    ratio = rows[0].ratio
    estimates = [row.estimate * scale for row in rows if row.estimate is not None] + [neutral]
    ends = [value * scale for row in rows for value in (row.low, row.high) if value is not None]
    reach = 20 if ratio else 5 * max(abs(value) for value in estimates)
    least = min(estimates) / reach if ratio else min(estimates) - reach
    most = max(estimates) * reach if ratio else max(estimates) + reach
    cut = [min(max(value, least), most) for value in ends] if reach else []
    return limits([*estimates, *cut], log=ratio, pad=0.08) or (0.5, 2.0)


_RING = Look(style.INK, (), "o", filled=False, ground="none")
_NOT_FINE = {"unstable": Look(style.INK, (), "^")}
_FAILED = Look(style.INK, (), "x")


def tuning_panel(name: str, arm: Arm, score: Measure, bounds: Range | None) -> Markup:
    """Score against step size; the chosen one is ringed, trials that did not end well stand at the lower edge.

    bounds: the range of scores, the same for all methods.  The score is stored as "higher is better".
    """
    panel = Panel(330, 230)
    turn = score.scale if score.higher_is_better else -score.scale
    low, high = bounds or (0.0, 1.0)
    panel.scale_y((low, high), score.name + (f", {score.unit}" if score.unit else ""), most=4)
    steps = [trial["lr"] for trial in arm.tuning]
    panel.scale_x(limits(steps, log=True, pad=0.1) or (0.1, 1.0), "step size lr, log scale", log=True, most=4)
    fine = [trial for trial in arm.tuning if trial.get("status") == "ok" and trial.get("score") is not None]
    x, y = np.array([trial["lr"] for trial in fine]), np.array([trial["score"] * turn for trial in fine])
    panel.line(x, y, arm.look.colour, width=_WIDE, dashes=arm.look.dashes)
    inside = (y >= low) & (y <= high)
    panel.marks(x[inside], y[inside], arm.look)
    for trial in arm.tuning:
        if trial.get("status") != "ok":
            panel.marks([trial["lr"]], [low + 0.05 * (high - low)], _NOT_FINE.get(str(trial.get("status")), _FAILED))
    panel.marks(x[x == arm.lr], y[x == arm.lr], _RING, size=15)
    alt = f"{score.name} against the step size of {arm.label}; chosen: {text.compact(arm.lr)}."
    return panel.render(name, alt)


PAIR_LOOKS = (Look(style.PLAIN), Look(style.SIGN, (6, 3)))
"""Of two runs that are compared."""


def pair_panel(name: str, title: str, steps: np.ndarray, first: np.ndarray, second: np.ndarray) -> Markup:
    """One value of two runs against the step, on a log axis where `run_panel` has one."""
    panel = Panel(left=60)
    both = np.r_[first[np.isfinite(first)], second[np.isfinite(second)]]
    log = bool(both.size and both.min() > 0 and both.max() > 10 * both.min())
    if bounds := limits(both, log=log):
        panel.scale_y(bounds, title + (", log scale" if log else ""), log=log)
        panel.scale_x((min(float(steps[0]), 0.0), 1.02 * max(float(steps[-1]), 1)), "step")
        for values, look in zip((first, second), PAIR_LOOKS, strict=True):
            known = np.isfinite(values)
            panel.line(steps[known], values[known], look.colour, dashes=look.dashes)
    return panel.render(name, f"{title} of both runs against the step.")


def run_panel(name: str, title: str, steps: np.ndarray, values: np.ndarray) -> Markup:
    """One value of a run against the step; a positive value that spans more than a decade gets a log axis."""
    panel = Panel(left=60)  # room for the numbers of any value there is
    known = np.isfinite(values)  # values may be noted at some steps only: the line goes on between them
    steps, values = steps[known], values[known]
    log = bool(values.size and values.min() > 0 and values.max() > 10 * values.min())
    if bounds := limits(values, log=log):
        panel.scale_y(bounds, title + (", log scale" if log else ""), log=log)
        panel.scale_x((min(float(steps[0]), 0.0), 1.02 * max(float(steps[-1]), 1)), "step")
        panel.line(steps, values, style.PLAIN)
    return panel.render(name, f"{title} against the step.")
