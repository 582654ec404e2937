"""Histograms of a run: how a quantity is distributed over the coordinates as time goes by, and two of them jointly.

A scope writes the cells that are not 0, each as a column: `spread_octave[-3]`, `spread_update[-2,-1]`. The numbers are
the powers of two at which octaves begin.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from stepscope.report import raster, text
from stepscope.report.heatmaps import heatmap, scale_of
from stepscope.theory import factors

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["Distribution", "Joint", "pictures", "read"]

Array = NDArray[np.float64]
_CELL = re.compile(r"(.+)\[(-?\d+)(?:,(-?\d+))?\]")
_STEPS, _BUCKETS, _CELLS = 120, 60, 400_000  # steps that are read, of fewer where there are many cells and layers
_LEFT, _TOP, _SIDE, _BOTTOM = 60.0, 22.0, 300.0, 44.0
THEORY = frozenset({"spread_update"})
"""Joint histograms of Eigen's two quantities, about which there is a theory."""


@dataclass(frozen=True)
class Distribution:
    """shares[octave, bucket] of the coordinates, the mean over the layers; NaN in a bucket without a step.

    edges: the steps at which buckets begin, and the one behind the last.
    """

    column: str
    octaves: Sequence[int]
    edges: Array
    shares: Array


@dataclass(frozen=True)
class Joint:
    """shares[row, column] of the coordinates by the octaves of two quantities, over `steps` steps and all layers."""

    column: str
    rows: Sequence[int]
    columns: Sequence[int]
    shares: Array
    steps: int


def read(run: "Run", span: tuple[int, int] | None = None) -> list[Distribution | Joint]:
    """All histograms of the run, in order of name.  span: first and last step, if not all."""
    cells: dict[str, dict[tuple[int, ...], str]] = {}
    for name in run.names:
        if match := _CELL.fullmatch(name):
            place = tuple(int(part) for part in match.groups()[1:] if part is not None)
            cells.setdefault(match[1], {})[place] = name
    return [found for name, known in sorted(cells.items()) if (found := _read(run, name, known, span))]


def _read(
    run: "Run", name: str, cells: Mapping[tuple[int, ...], str], span: tuple[int, int] | None
) -> Distribution | Joint | None:
    columns = [cells[place] for place in sorted(cells)]
    counted = run.rows
    often = max(run.layers, key=lambda layer: counted.get(layer, 0))
    there = np.unique(run.table(*columns, layers=[often], steps=span or (None, None))["step"].to_numpy())
    most = min(_STEPS, max(8, _CELLS // (len(columns) * len(run.layers))))
    kept = there[np.unique(np.linspace(0, len(there) - 1, min(len(there), most)).round().astype(int))]
    table = run.table(*columns, steps=kept) if len(kept) else None
    if table is None or not len(table):
        return None
    step = table["step"].to_numpy()
    values = np.stack([np.nan_to_num(table[column].to_numpy()) for column in columns])  # what is left out is 0
    written = values.any(axis=0)
    if not written.any():
        return None
    step, values = step[written], values[:, written]
    places = sorted(cells)
    if len(places[0]) == 2:
        first, second = (range(min(p[i] for p in places), max(p[i] for p in places) + 1) for i in (0, 1))
        grid = np.zeros((len(first), len(second)))
        for place, share in zip(places, values.mean(axis=1), strict=True):
            grid[place[0] - first[0], place[1] - second[0]] = share
        return Joint(name, first, second, grid, len(np.unique(step)))
    low, high = int(step.min()), int(step.max())
    count = min(_BUCKETS, len(kept), high - low + 1)
    width = (high - low + 1) / count
    edges = np.concatenate([low + np.ceil(np.arange(count) * width), [high + 1.0]])
    octaves = range(places[0][0], places[-1][0] + 1)
    bucket = np.minimum(((step - low) / width).astype(int), count - 1)
    found, rows = np.zeros((len(octaves), count)), np.bincount(bucket, minlength=count)
    for (octave,), share in zip(places, values, strict=True):
        found[octave - octaves[0]] = np.bincount(bucket, share, count)
    with np.errstate(invalid="ignore"):
        return Distribution(name, octaves, edges, found / np.where(rows > 0, rows, np.nan))


def _over_time(key: str, found: Distribution) -> Markup:
    """The heatmap of a distribution, large values at the top."""
    shares = np.where(found.shares > 0, found.shares, np.nan)[::-1]
    scale = scale_of(shares)
    assert scale is not None
    rows = [f"2^{octave}" for octave in reversed(found.octaves)]
    return heatmap(key, rows, found.edges, shares, np.zeros(shares.shape, bool), scale, found.column)


def _joint_map(key: str, found: Joint) -> Markup:
    """Two quantities of each coordinate against each other, both axes logarithmic, with the theoretical step dotted."""
    shares = np.where(found.shares > 0, found.shares, np.nan).T[::-1]  # the second quantity goes up
    scale = scale_of(shares)
    assert scale is not None
    width = height = _SIDE
    x0, y0 = found.rows[0], found.columns[0]
    across, up = width / len(found.rows), height / len(found.columns)
    parts = [
        _text(2, 13, found.column),
        f'<image x="{_LEFT:g}" y="{_TOP:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'href="{raster.image(scale.levels(shares), scale.colours)}"/>',
    ]
    parts += [
        _text(_LEFT + (octave - x0) * across, _TOP + height + 15, f"2^{octave}", "middle")
        for octave in _ticks(found.rows)
    ]
    parts += [
        _text(_LEFT - 5, _TOP + height - (octave - y0) * up + 4, f"2^{octave}", "end")
        for octave in _ticks(found.columns)
    ]
    said = f"{found.column}: shares of coordinates by the octaves of two quantities, mean over {found.steps} steps"
    if found.column in THEORY:
        x = np.linspace(x0, x0 + len(found.rows), 60)
        y = np.log2(np.asarray(factors.adam_factor(2.0**x)))
        seen = (y >= y0) & (y <= y0 + len(found.columns))
        points = " ".join(
            f"{_LEFT + (a - x0) * across:.1f},{_TOP + height - (b - y0) * up:.1f}"
            for a, b in zip(x[seen], y[seen], strict=True)
        )
        if points:
            parts.append(
                f'<polyline points="{points}" style="fill:none;stroke:rgb(225 40 120);stroke-width:2;'
                'stroke-dasharray:2.5 3"/>'
            )
            said += "; dotted: the theoretical step 1/sqrt(1 + spread^2)"
    parts.append(_text(_LEFT, _TOP + height + 34, f"from {text.compact(scale.low)} to {text.compact(scale.high)}"))
    size = f"0 0 {_LEFT + width + 16:g} {_TOP + height + _BOTTOM:g}"
    head = f'<svg class="panel joint" id="{key}" viewBox="{size}" role="img" aria-label="{escape(said)}.">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def pictures(found: Sequence[Distribution | Joint]) -> Iterator[tuple[str, Markup]]:
    """The column and the picture of each."""
    for number, one in enumerate(found):
        key = f"distribution-{number}"
        yield one.column, _over_time(key, one) if isinstance(one, Distribution) else _joint_map(key, one)


def _ticks(octaves: Sequence[int], most: int = 7) -> Iterator[int]:
    stride = -(-len(octaves) // most)
    return (octave for octave in octaves if octave % stride == 0)


def _text(x: float, y: float, words: str, anchor: str = "") -> str:
    side = f' text-anchor="{anchor}"' if anchor else ""
    style: Any = "fill:var(--soft)" if anchor else "fill:currentColor"
    return f'<text x="{x:.1f}" y="{y:.1f}"{side} style="{style}">{escape(words)}</text>'
