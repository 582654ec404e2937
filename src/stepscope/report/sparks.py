"""Small lines for tables: one column of one layer over time, with the band between least and largest."""

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

__all__ = ["spark"]

_WIDTH, _HEIGHT = 160.0, 30.0
Array = NDArray[np.floating]


def spark(steps: Array, mean: Array, low: Array, high: Array, alt: str, *, band: bool = True) -> Markup:
    """The line through the finite means; the axis is logarithmic where positive values span more than a decade."""
    known = np.isfinite(mean)
    if not known.any():
        return Markup("")
    steps, mean = steps[known].astype(float), mean[known].astype(float)
    low, high = low[known].astype(float), high[known].astype(float)
    log = bool((low > 0).all() and high.max() > 10 * low.min()) if band else bool((mean > 0).all())
    if log:
        mean, low, high = np.log(mean), np.log(np.maximum(low, 1e-300)), np.log(np.maximum(high, 1e-300))
    bottom, top = (low.min(), high.max()) if band else (mean.min(), mean.max())
    span = steps[-1] - steps[0]
    x = (steps - steps[0]) / span * _WIDTH if span else np.full(len(steps), _WIDTH / 2)

    def y(values: Array) -> Array:
        if not top > bottom:
            return np.full(len(values), _HEIGHT / 2)
        return np.asarray(_HEIGHT - 2 - (values - bottom) / (top - bottom) * (_HEIGHT - 4))

    drawn = ""
    if band and len(x) > 1:
        outline = _path(np.r_[x, x[::-1]], np.r_[y(low), y(high)[::-1]])
        drawn = f'<path d="{outline}z" style="fill:var(--plain);opacity:.2"/>'
    line = _path(x, y(mean)) if len(x) > 1 else f"M{x[0] - 2:.0f} {_HEIGHT / 2:.0f}h4"
    drawn += f'<path d="{line}" style="fill:none;stroke:var(--plain);stroke-width:1.4"/>'
    size = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return Markup('<svg class="spark" viewBox="{}" role="img" aria-label="{}">').format(size, alt) + Markup(
        drawn + "</svg>"
    )


def _path(x: Array, y: Array) -> str:
    points = [f"{a:.0f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + " ".join(points)
