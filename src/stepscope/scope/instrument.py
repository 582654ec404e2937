"""What an instrument is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepscope.rules.statistics import HISTOGRAMS, TERMS, bins_of

__all__ = ["Instrument", "Read", "Sums"]

Sums = Mapping[str, Any]  # NumPy numbers, or arrays with one entry a tensor
Read = Callable[[Sums], Any]


@dataclass(frozen=True)
class Instrument:
    """One column, or one a cell of a histogram.

    needs: the sums it reads.  read(sums): its value, NaN where that has no meaning.  formula: in words.
    estimator: which estimate of averages, variance or quantile it is.  source: the paper and the place in it.
    group: what it is chosen by, with others of its kind.
    cells: what the columns are called behind the name, in brackets; `read` returns that many values, of which those
    that are not 0 are kept.
    """

    name: str
    unit: str
    needs: tuple[str, ...]
    read: Read
    formula: str
    estimator: str = ""
    source: str = ""
    group: str = "default"
    cells: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Those of its needs that a step has to measure."""
        return tuple(name for name in self.needs if name in TERMS or name in HISTOGRAMS)

    @property
    def follows(self) -> bool:
        """Whether it compares steps: `scope.series` has to look at every one."""
        return any(name.startswith("series_") for name in self.needs)

    @property
    def traces(self) -> bool:
        """Whether it shows single coordinates (`scope.traces`)."""
        return any(name.startswith("trace_") for name in self.needs)

    @property
    def cost_class(self) -> str:
        """What it asks of a step, in words; instruments share sums and histograms."""
        if self.follows:
            return "a look at a sample of coordinates at every step"
        if self.traces:
            return "a look at single coordinates at a recorded step"
        sums = sum(name in TERMS for name in self.needs)
        bins = [bins_of(name) for name in self.needs if name in HISTOGRAMS]
        said = [f"{sums} sum{'s' * (sums > 1)}"] * (sums > 0) + [f"a histogram of {n} bins" for n in bins]
        return " and ".join(said) or "nothing"

    @property
    def cost(self) -> int:
        """Numbers a tensor that are summed and brought to the host for it; instruments share them."""
        return sum(bins_of(name) if name in HISTOGRAMS else 1 for name in self.needs)
