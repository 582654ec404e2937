"""Draws the figures of claims: PDF, SVG and PNG files."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import LogFormatterSciNotation

from stepscope.experiments.claims.figure import Band, Figure, Levels, Line, Map, Panel

__all__ = ["draw", "write_figure"]

# Okabe & Ito's colours, and with each a dash pattern and a marker, so that nothing hangs on colour alone.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (5, 1, 1, 1)),
    (0, (8, 2)),
    (0, (3, 1)),
    "-",
    (0, (1, 2)),
)
_MARKERS = "osD^vPX*"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "svg.hashsalt": "stepscope",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "figure.dpi": 150,
}
_WIDTH, _HEIGHT = 3.9, 2.9  # inches of a panel


def _limits(panel: Panel, axes: Any) -> None:
    for axis, is_log in (("x", panel.x_log), ("y", panel.y_log)):
        if is_log:
            getattr(axes, f"set_{axis}scale")("log")
            # Within a decade every second label would lie on the next one.
            getattr(axes, f"{axis}axis").set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.15)))
            axes.tick_params(axis=axis, which="minor", labelsize=6.5)
    if panel.x_range:
        axes.set_xlim(panel.x_range)
    if panel.y_range:
        axes.set_ylim(panel.y_range)
    if panel.scale == "equal":
        axes.set_aspect("equal", adjustable="box")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.set_title(panel.title, loc="left")


def _map(one: Map, axes: Any) -> None:
    values = np.asarray(one.values, np.float64)
    x, y = np.asarray(one.x, np.float64), np.asarray(one.y, np.float64)
    if one.names:
        count = len(one.names)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.02, 0.98, count))
        scale: Any = matplotlib.colors.BoundaryNorm(np.arange(count + 1) - 0.5, count)
        picture = axes.pcolormesh(
            x, y, values, cmap=matplotlib.colors.ListedColormap(colours), norm=scale, shading="nearest", rasterized=True
        )
        bar = axes.figure.colorbar(picture, ax=axes, ticks=np.arange(count))
        bar.ax.set_yticklabels(one.names)
    else:
        finite = values[np.isfinite(values) & ((values > 0) if one.log else True)]
        low, high = (finite.min(), finite.max()) if finite.size else (1.0, 2.0)
        norm = (
            matplotlib.colors.LogNorm(low, max(high, low * 1.01)) if one.log else matplotlib.colors.Normalize(low, high)
        )
        picture = axes.pcolormesh(
            x, y, np.ma.masked_invalid(values), cmap="viridis", norm=norm, shading="nearest", rasterized=True
        )
        bar = axes.figure.colorbar(picture, ax=axes)
    bar.set_label(one.label)


def _panel(panel: Panel, axes: Any) -> None:
    number = 0
    for one in panel.series:
        if isinstance(one, Map):
            _map(one, axes)
        elif isinstance(one, Levels):
            axes.contour(
                np.asarray(one.x), np.asarray(one.y), np.asarray(one.values), 18, colors="#bbbbbb", linewidths=0.6
            )
        else:
            at = number if one.colour is None else one.colour
            colour = _COLOURS[at % len(_COLOURS)]
            if isinstance(one, Band):
                axes.fill_between(
                    one.x, one.low, one.high, color=colour, alpha=0.2, linewidth=0, label=one.label or None
                )
                continue
            if isinstance(one, Line):
                style = {"color": "#444444", "linewidth": 1.0, "linestyle": ":"} if one.accent else {
                    "color": colour, "linestyle": _DASHES[at % len(_DASHES)]}  # fmt: skip
                axes.plot(one.x, one.y, label=one.label or None, **style)
                number += one.colour is None and not one.accent
            elif one.value is not None:
                dots = axes.scatter(
                    one.x, one.y, c=one.value, s=6, cmap="viridis", rasterized=True, label=one.label or None
                )
                axes.figure.colorbar(dots, ax=axes)
                number += 1
            else:
                axes.plot(
                    one.x, one.y, _MARKERS[at % len(_MARKERS)], color=colour, markersize=3.5, label=one.label or None
                )
                number += one.colour is None
    _limits(panel, axes)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def draw(figure: Figure) -> Any:
    """A matplotlib figure."""
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = Canvas(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    grid: Any = np.atleast_1d(canvas.subplots(rows, columns)).reshape(-1)
    for axes in grid[len(figure.panels) :]:
        axes.set_visible(False)
    for panel, axes in zip(figure.panels, grid, strict=False):
        _panel(panel, axes)
    return canvas


def write_figure(figure: Figure, out: Path) -> list[Path]:
    """figure.pdf, figure.svg and figure.png in the folder `out`, and caption.txt."""
    paths = []
    with matplotlib.rc_context(_STYLE):
        canvas = draw(figure)
        for kind, metadata in (("pdf", {"CreationDate": None}), ("svg", {"Date": None}), ("png", {})):
            paths.append(out / f"figure.{kind}")
            canvas.savefig(paths[-1], metadata=metadata)
    (out / "caption.txt").write_text(figure.caption + "\n", "utf-8")
    return paths
