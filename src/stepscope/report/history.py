"""Columns of all layers over time, reduced to what a picture can show."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stepscope.report.blocks import Block

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["History", "grouped", "histories", "plain_columns"]

Array = NDArray[np.float64]
_CELL = re.compile(r"\[[^]]*\]$")


@dataclass(frozen=True)
class History:
    """A column over time, [layer, bucket], NaN where nothing was written.

    edges: the steps at which buckets begin, and the one behind the last.  broken: whether values were not finite.
    """

    column: str
    edges: NDArray[np.float64]
    low: Array
    mean: Array
    high: Array
    broken: NDArray[np.bool_]

    @property
    def steps(self) -> NDArray[np.float64]:
        """The middle of each bucket."""
        middle: NDArray[np.float64] = (self.edges[:-1] + self.edges[1:] - 1) / 2
        return middle


def plain_columns(names: Sequence[str]) -> list[str]:
    """Without the cells of histograms, which are columns of a name and a bin in brackets."""
    return [name for name in names if not _CELL.search(name)]


def histories(
    run: "Run", layers: Sequence[str], buckets: int, span: tuple[int, int] | None = None
) -> Iterator[History]:
    """What each column of the run was in ``layers``; columns without a value there are left out.

    span: first and last step, if not all.
    """
    first, last = span or run.steps or (0, 0)
    count = min(buckets, last - first + 1)
    width = (last - first + 1) / count
    edges = np.concatenate([first + np.ceil(np.arange(count) * width), [last + 1.0]])
    places = {name: place for place, name in enumerate(layers)}
    for column in plain_columns(run.names):
        found = run.downsample(column, list(layers), (first, last), buckets)
        if not any(len(one.step) for one in found.values()):
            continue
        low, mean, high = (np.full((len(layers), count), np.nan) for _ in range(3))
        broken = np.zeros((len(layers), count), bool)
        for name, one in found.items():
            for whole, part in ((low, one.low), (mean, one.mean), (high, one.high)):
                whole[places[name], one.place] = part
            broken[places[name], one.place] = one.broken > 0
        yield History(column, edges, low, mean, high, broken)


def grouped(history: History, blocks: Sequence[Block]) -> History:
    """The same by block: the lowest and highest of its layers, and the median of their means."""
    with np.errstate(all="ignore"):
        return History(
            history.column,
            history.edges,
            np.array([np.fmin.reduce(history.low[list(block.members)]) for block in blocks]),
            np.array([_median(history.mean[list(block.members)]) for block in blocks]),
            np.array([np.fmax.reduce(history.high[list(block.members)]) for block in blocks]),
            np.array([history.broken[list(block.members)].any(axis=0) for block in blocks]),
        )


def _median(rows: Array) -> Array:
    """Median over the rows that have a value, NaN where none has."""
    result = np.full(rows.shape[1], np.nan)
    known = np.isfinite(rows).any(axis=0)
    result[known] = np.nanmedian(rows[:, known], axis=0)
    return result


def described(info: Mapping[str, object], column: str) -> str:
    """What a run says of a column: formula and unit."""
    config = info.get("config")
    scope = config.get("scope") if isinstance(config, Mapping) else None
    columns = scope.get("columns") if isinstance(scope, Mapping) else None
    about = columns.get(column) if isinstance(columns, Mapping) else None
    if not isinstance(about, Mapping):
        return ""
    unit = about.get("unit")
    return f"{about.get('formula') or ''}{f', in units of: {unit}' if unit not in (None, '', '1') else ''}".strip(", ")
