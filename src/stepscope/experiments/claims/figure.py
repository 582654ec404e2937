"""What a figure shows, as data: panels of series. Drawing it is the report's business."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Band", "Figure", "Levels", "Line", "Map", "Panel", "Points"]


@dataclass(frozen=True)
class Line:
    """A curve through (x, y). accent: drawn thin and dashed, for a theory or a threshold beside a measurement."""

    x: Any
    y: Any
    label: str = ""
    accent: bool = False
    colour: int | None = None
    """Number of the method's colour; None: the next one."""


@dataclass(frozen=True)
class Points:
    """Separate points (x, y); value: colours them along a scale (a step number, say)."""

    x: Any
    y: Any
    label: str = ""
    value: Any = None
    colour: int | None = None


@dataclass(frozen=True)
class Band:
    """The area between low and high over x."""

    x: Any
    low: Any
    high: Any
    label: str = ""
    colour: int | None = None


@dataclass(frozen=True)
class Map:
    """Values [y, x] as colours over a grid. names: of whole-number values, which then are categories."""

    x: Any
    y: Any
    values: Any
    label: str = ""
    log: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Levels:
    """Contour lines of values [y, x], in grey, under what else a panel shows."""

    x: Any
    y: Any
    values: Any


Series = Line | Points | Band | Map | Levels


@dataclass(frozen=True)
class Panel:
    """One coordinate system."""

    series: Sequence[Series]
    title: str = ""
    x: str = ""
    y: str = ""
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    scale: Literal["auto", "equal"] = "auto"


@dataclass(frozen=True)
class Figure:
    """Panels row by row, and what to read from them."""

    panels: Sequence[Panel]
    caption: str
    columns: int = 2
