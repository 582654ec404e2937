"""The pictures of the steps themselves: size against mean and spread, factors and diagnostics over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from stepscope.report import style
from stepscope.report.panel import Panel, Range, limits
from stepscope.report.style import Look
from stepscope.theory import factors

__all__ = ["FACTORS", "Factor", "factor_panel", "layer_look", "layer_panel", "scatter_panel"]

_SMALL = (240.0, 185.0)


@dataclass(frozen=True)
class Factor:
    """A variance adaptation factor over time: its column, its name in the key, how it is drawn."""

    column: str
    label: str
    look: Look


# The hue says what the factor is for, the sign or the gradient itself: the same code as for the methods.
FACTORS = (
    Factor("factor_adam", "Adam: 1/√(1+η²), for sign m", Look(style.SIGN)),
    Factor("factor_exact", "optimal for the sign: erf(1/(√2 η))", Look(style.SIGN, (1.5, 2.5))),
    Factor("factor_svag", "SVAG: 1/(1+η²), for g", Look(style.PLAIN, (6, 3))),
    Factor("factor_msvag", "M-SVAG: 1/(1+ρη²), for m", Look(style.PLAIN)),
)


def scatter_panel(
    name: str, x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, *, theory: bool = False, small: bool = False
) -> Markup | None:
    """One dot per step, coloured from the first step to the last; both axes logarithmic.

    theory: also draw Adam's theoretical step 1/sqrt(1 + x^2), dotted.  None if no step has two positive values.
    """
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if not known.any():
        return None
    order = np.arange(len(x))[known]
    level = order * len(style.LEVELS) // len(x)
    panel = Panel(*_SMALL) if small else Panel()
    most, most_x = (4, 3) if small else (5, 5)
    range_x = limits(x[known], log=True) or (0.1, 10.0)
    curve_x = np.geomspace(*range_x, 60)
    curve_y = factors.adam_factor(curve_x)
    # The curve is shown as far as it stays near the dots: a mean spread of 10**6 would press them flat.
    near = curve_y[curve_y > y[known].min() / 3] if theory else ()
    panel.scale_y(limits([*y[known], *near], log=True, pad=0.08) or (0.1, 10.0), y_label, log=True, most=most)
    panel.scale_x(range_x, x_label, log=True, most=most_x)
    for number, colour in enumerate(style.LEVELS):
        chosen = order[level == number]
        if chosen.size:
            panel.dots(x[chosen], y[chosen], colour, 4.0 if small else 5.5)
    if theory:
        panel.line(curve_x, curve_y, style.INK, dashes=(2.5, 3))
    alt = f"{y_label} against {x_label}, one dot per recorded step"
    return panel.render(name, alt + (", with the theoretical curve." if theory else "."))


def factor_panel(name: str, steps: np.ndarray, columns: Mapping[str, np.ndarray], title: str) -> Markup | None:
    """The factors of one layer over time, mean over its coordinates; None if none was recorded."""
    shown = [factor for factor in FACTORS if np.isfinite(columns.get(factor.column, np.nan)).any()]
    if not shown:
        return None
    panel = Panel(*_SMALL)
    panel.scale_y((0, 1.03), title, most=4)
    panel.scale_x(_time(steps), "step", most=4)
    for factor in shown:
        panel.line(steps, columns[factor.column], factor.look.colour, dashes=factor.look.dashes)
    return panel.render(name, f"Variance adaptation factors over the steps: {title}.")


def layer_panel(
    name: str, steps: np.ndarray, layers: Sequence[tuple[str, np.ndarray]], title: str, *, log: bool, unit: float = 1.0
) -> Markup | None:
    """One line per layer (name, values) over time, coloured from the first layer to the last.

    unit: what the values are multiplied with.  None if there is nothing but zeros, which one sentence says better.
    """
    values = np.concatenate([series for _, series in layers]) * unit if layers else np.empty(0)
    if not np.any(np.isfinite(values) & (values != 0)):
        return None
    panel = Panel()
    panel.scale_y(limits(values, log=log) or (0.0, 1.0), title, log=log)
    panel.scale_x(_time(steps), "step")
    for number, (_, series) in enumerate(layers):
        look = layer_look(number, len(layers))
        panel.line(steps, series * unit, look.colour, dashes=look.dashes)
    return panel.render(name, f"{title} over the steps, one line per layer.")


def layer_look(number: int, count: int) -> Look:
    """The look of layer ``number`` of ``count``: neighbours differ in their dashes, too, and not in colour alone."""
    colour = style.DEPTHS[round(number * (len(style.DEPTHS) - 1) / max(count - 1, 1))]
    return Look(colour, (5, 2) if number % 2 else ())


def _time(steps: np.ndarray) -> Range:
    last = max(float(steps[-1]), 1.0)
    return -0.01 * last, 1.02 * last
