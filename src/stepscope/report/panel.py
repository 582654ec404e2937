"""One picture: a panel with two scales, on which lines, marks, bands and dots are placed in data units.

matplotlib draws the artists and writes the SVG, but not its axes: fixed grid lines and labels are ten times faster to
make and five times smaller. All sizes are in px of a panel 400 wide: the page sets panels side by side or, on a phone,
below each other, so that type never shrinks much.
"""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, IdentityTransform, TransformedBbox
from numpy.typing import ArrayLike, NDArray

from stepscope.report import style, svg, text

__all__ = ["Panel", "drawing", "limits", "linear_ticks", "log_ticks"]

Array = NDArray[np.float64]
Range = tuple[float, float]

_DPI: Final = 72  # one point is one px
_RC: Final[dict[Any, Any]] = {"svg.fonttype": "none", "svg.hashsalt": "stepscope", "lines.scale_dashes": False}
_FAR: Final = 1e5  # px: where values far outside the picture are put, because a browser's numbers are single precision


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Settings for all panels of a page, whatever the user's own matplotlib settings are; they come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


class Panel:
    """A picture in the making, within `drawing`.

    width, height: of the whole; left, right, top, bottom: margins around the data, all in px.  Colours are the
    sentinels of `style`.  `scale_x` and `scale_y` come first.
    """

    def __init__(
        self,
        width: float = 400,
        height: float = 270,
        *,
        left: float = 50,
        right: float = 14,
        top: float = 30,
        bottom: float = 44,
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.bottom, self.top = left, width - right, bottom, height - top
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="none")
        self._clip = TransformedBbox(Bbox.from_extents(left, bottom, self.right, self.top), IdentityTransform())
        self._x: tuple[Range, bool] = ((0.0, 1.0), False)
        self._y: tuple[Range, bool] = ((0.0, 1.0), False)

    def scale_x(self, bounds: Range, label: str = "", *, log: bool = False, most: int = 5) -> None:
        """Range, grid, numbers and title of the horizontal axis."""
        self._x = (bounds, log)
        ticks = (log_ticks if log else linear_ticks)(*bounds, most)
        places = self.x(ticks)
        self._grid([((place, self.bottom), (place, self.top)) for place in places])
        for tick, place in zip(ticks, places, strict=True):
            self.text(place, self.bottom - 15, _label(tick, log), anchor="middle", colour=style.SOFT)
        if label:
            self.text(self.right, 5, label, anchor="end")

    def scale_y(self, bounds: Range, label: str = "", *, log: bool = False, most: int = 5) -> None:
        """Range, grid and numbers of the vertical axis; its title stands above it and not on its side, to be read."""
        self._y = (bounds, log)
        ticks = (log_ticks if log else linear_ticks)(*bounds, most)
        places = self.y(ticks)
        self._grid([((self.left, place), (self.right, place)) for place in places])
        for tick, place in zip(ticks, places, strict=True):
            self.text(self.left - 6, place - 4, _label(tick, log), anchor="end", colour=style.SOFT)
        self.title(label)

    def count_y_in_px(self) -> None:
        """Instead of `scale_y`: heights are px from below, without a grid."""
        self._y = ((self.bottom, self.top), False)

    def title(self, words: str) -> None:
        """Words above the picture, at its left edge."""
        self.text(2, self.top + 13, words)

    def x(self, values: ArrayLike) -> Array:
        """Horizontal places in px; NaN for what a log axis cannot show."""
        return _place(values, *self._x, self.left, self.right)

    def y(self, values: ArrayLike) -> Array:
        """Vertical places in px from below; NaN for what a log axis cannot show."""
        return _place(values, *self._y, self.bottom, self.top)

    def line(
        self, x: ArrayLike, y: ArrayLike, colour: str, *, width: float = 1.8, dashes: Sequence[float] = ()
    ) -> None:
        """A line through data points; NaN makes a gap."""
        kind: Any = (0, tuple(dashes)) if dashes else "solid"
        self._add(Line2D(self.x(x), self.y(y), color=colour, linewidth=width, linestyle=kind, solid_capstyle="butt"))

    def marks(self, x: ArrayLike, y: ArrayLike, look: style.Look, *, size: float = 6.5) -> None:
        """Marks of a look at data points, drawn whole even at the edge."""
        marks = Line2D(
            self.x(x),
            self.y(y),
            linestyle="none",
            marker=look.marker,
            markersize=size,
            markeredgecolor=look.colour,
            markeredgewidth=1.7,
            markerfacecolor=look.colour if look.filled else look.ground,
        )
        self._add(marks, clip=False)

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str) -> None:
        """A tinted area between two lines of finite data points."""
        across = self.x(x)
        outline = np.column_stack([np.r_[across, across[::-1]], np.r_[self.y(low), self.y(high)[::-1]]])
        self._add(PathPatch(Path(outline, closed=False), facecolor=colour, edgecolor="none", alpha=0.16))

    def dots(self, x: ArrayLike, y: ArrayLike, colour: str, size: float) -> None:
        """Round dots as one path of zero-length lines with round caps: a tenth of the bytes of separate marks."""
        points = np.repeat(np.column_stack([self.x(x), self.y(y)]), 2, axis=0)
        path = Path(points, np.tile([Path.MOVETO, Path.LINETO], len(points) // 2))
        path.should_simplify = False
        self._add(PathPatch(path, capstyle="round", facecolor="none", edgecolor=colour, linewidth=size, alpha=0.85))

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", colour: str = style.INK, bold: bool = False
    ) -> None:
        """Words on a baseline ``y`` px from below."""
        side = {"start": "left", "middle": "center", "end": "right"}[anchor]
        weight = "bold" if bold else "normal"
        # parse_math: a dollar sign in a layer's name is a dollar sign.
        words_at = Text(
            x, y, words, color=colour, ha=side, va="baseline", fontweight=weight, parse_math=False, fontsize=12
        )
        self._add(words_at, clip=False)

    def render(self, name: str, alt: str) -> Markup:
        """The SVG.  name: prefix of its ids, unique in the page.  alt: what the picture shows, in words."""
        stream = io.StringIO()
        self._figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return Markup(svg.compact(stream.getvalue(), name, alt))

    def _grid(self, lines: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> None:
        path = Path([point for line in lines for point in line], [Path.MOVETO, Path.LINETO] * len(lines))
        self._add(PathPatch(path, facecolor="none", edgecolor=style.THIN, linewidth=0.8), clip=False)

    def _add(self, artist: Artist, clip: bool = True) -> None:
        artist.set_transform(IdentityTransform())
        self._figure.add_artist(artist, clip=False)
        if clip:
            artist.set_clip_box(self._clip)


def _label(tick: float, log: bool) -> str:
    return text.tick(tick, powers_from=1e4 if log else 1e6)


def _place(values: ArrayLike, bounds: Range, log: bool, start: float, end: float) -> Array:
    at = np.asarray(values, dtype=float)
    low, high = bounds
    if log:
        at = np.log10(np.where(at > 0, at, np.nan))
        low, high = math.log10(low), math.log10(high)
    return np.asarray(np.clip(start + (at - low) / (high - low) * (end - start), -_FAR, _FAR))


def limits(values: Iterable[float], *, log: bool = False, pad: float = 0.06) -> Range | None:
    """The range of the finite (on a log axis: positive) values with some air; None where there is none."""
    array = np.asarray([*values], dtype=float)
    array = array[np.isfinite(array) & ((array > 0) | (not log))]
    if not array.size:
        return None
    low, high = float(array.min()), float(array.max())
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
        air = 0.2 if log else max(abs(high) * 0.1, 1e-12)
    else:
        air = (high - low) * pad
    low, high = low - air, high + air
    return (10**low, 10**high) if log else (low, high)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most about ``most`` round values within the range."""
    values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [0.0 if abs(value) < slack else float(value) for value in values if low - slack <= value <= high + slack]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values within a positive range: as many a decade as there is room for, down to every nth power of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) < 2:
            return linear_ticks(low, high, most)
        if len(ticks) <= most:
            return ticks
    stride = math.ceil(len(ticks) / most)
    return [tick for tick in ticks if round(math.log10(tick)) % stride == 0]
