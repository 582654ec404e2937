"""Heatmaps: a column of every layer, or block of layers, over time."""

from collections.abc import Sequence
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from stepscope.report import raster, text
from stepscope.report.panel import linear_ticks

__all__ = ["Scale", "heatmap", "scale_of"]

_WIDTH, _LEFT, _TOP, _BOTTOM = 400.0, 112.0, 22.0, 58.0
_LONGEST = 17  # characters of a layer's name
_EDGE = 0.02  # of the values at each end do not stretch the colours


class Scale:
    """From values to levels: linear, or logarithmic for positive ones; symmetric about 0 for differences."""

    def __init__(self, low: float, high: float, *, log: bool, colours: str = "size") -> None:
        self.low, self.high, self.log, self.colours = low, high, log, colours

    def levels(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The level of each value; those beyond the ends are at the ends."""
        with np.errstate(all="ignore"):
            at = np.log(np.where(values > 0, values, self.low)) if self.log else np.asarray(values, float)
            low, high = (np.log(self.low), np.log(self.high)) if self.log else (self.low, self.high)
            share = (at - low) / (high - low) if high > low else np.full(at.shape, 0.5)
        levels = np.clip(np.nan_to_num(share) * raster.LEVELS, 0, raster.LEVELS - 1).astype(np.uint8)
        return np.where(np.isnan(values), np.uint8(raster.EMPTY), levels)


def scale_of(*values: NDArray[np.floating], colours: str = "size") -> Scale | None:
    """A scale for all the finite ones of ``values``; None if there are none."""
    known = np.concatenate([part[np.isfinite(part)].ravel() for part in values]).astype(float)
    if not known.size:
        return None
    low, high = np.quantile(known, [_EDGE, 1 - _EDGE])
    positive = known[known > 0]
    if known.min() >= 0 and positive.size > 0.5 * known.size:
        least = float(np.quantile(positive, _EDGE))
        if high > 10 * least > 0:
            return Scale(least, float(high), log=True, colours=colours)
    return Scale(float(low), float(high), log=False, colours=colours)


def heatmap(
    name: str,
    rows: Sequence[str],
    edges: NDArray[np.float64],
    values: NDArray[np.floating],
    broken: NDArray[np.bool_],
    scale: Scale,
    title: str,
) -> Markup:
    """The picture.  rows: names of layers, the first at the top.  values: [row, bucket].  name: unique in the page."""
    cells = np.where(broken, np.uint8(raster.BROKEN), scale.levels(values))
    high = float(np.clip(14 * len(rows), 60, 300))
    width, height = _WIDTH - _LEFT - 6, _TOP + high + _BOTTOM
    parts = [
        _text(2, 13, title),
        f'<image x="{_LEFT:g}" y="{_TOP:g}" width="{width:g}" height="{high:g}" preserveAspectRatio="none" '
        f'href="{raster.image(cells, scale.colours)}"/>',
    ]
    each = max(1, int(np.ceil(13 * len(rows) / high)))  # a line of text is 13 px high
    parts += [
        _text(_LEFT - 6, _TOP + (place + 0.5) * high / len(rows) + 4, _short(rows[place]), "end", soft=True)
        for place in range(0, len(rows), each)
    ]
    first, last = float(edges[0]), float(edges[-1])
    for tick in linear_ticks(first, last, 4):
        x = _LEFT + (tick - first) / (last - first) * width
        if _LEFT + 8 < x < _WIDTH - 18:
            parts.append(f'<path d="M{x:.1f} {_TOP + high:g}v4" style="stroke:var(--soft)"/>')
            parts.append(_text(x, _TOP + high + 16, text.tick(tick), "middle", soft=True))
    parts += _legend(scale, _TOP + high + 34, bool(broken.any()))
    alt = f"{title}: {len(rows)} rows, steps {first:g} to {last - 1:g}, from {scale.low:.3g} to {scale.high:.3g}."
    head = f'<svg class="panel heat" id="{name}" viewBox="0 0 {_WIDTH:g} {height:g}" role="img"'
    return Markup(f'{head} aria-label="{escape(alt)}">{"".join(parts)}</svg>')


def _legend(scale: Scale, y: float, broken: bool) -> list[str]:
    bar = raster.image(np.arange(raster.LEVELS, dtype=np.uint8)[None, :], scale.colours)
    parts = [
        _text(_LEFT - 6, y + 9, text.compact(scale.low), "end", soft=True),
        f'<image x="{_LEFT:g}" y="{y:g}" width="90" height="10" preserveAspectRatio="none" href="{bar}"/>',
        _text(_LEFT + 96, y + 9, text.compact(scale.high) + (" (log)" if scale.log else ""), soft=True),
    ]
    if broken:
        parts.append(f'<path d="M{_WIDTH - 92:g} {y:g}h10v10h-10z" style="fill:rgb(225 40 120)"/>')
        parts.append(_text(_WIDTH - 78, y + 9, "not finite", soft=True))
    return parts


def _text(x: float, y: float, words: str, anchor: str = "", *, soft: bool = False) -> str:
    style = f"fill:{'var(--soft)' if soft else 'currentColor'}"
    side = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side} style="{style}">{escape(words)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else "…" + name[-_LONGEST + 1 :]
