"""From what steps measured to rows: read many steps at once, and by layer or block where that is asked for.

Reading a column costs the same for one tensor as for hundreds. So measured steps wait until they are many, or a moment
has passed; a slow training's rows are written at once.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stepscope.rules.statistics import EVERYWHERE, TERMS, Selection
from stepscope.scope.instruments import Instrument, read
from stepscope.scope.reduce import Packed, Sums, named

__all__ = ["Label", "Row", "Rows", "described", "grouped", "label"]

MOST = 256  # tensors of steps that wait
LONGEST = 0.25  # seconds that they do

Row = tuple[int, str, dict[str, float]]
Label = Callable[[str], str]


def label(layers: str | int | Label) -> Label | None:
    """How a tensor's name becomes that of its layer: "tensor" leaves it (None), "module" drops its last part, a number
    keeps so many parts, a function decides itself.

    >>> label("module")("encoder.0.weight"), label(1)("encoder.0.weight"), label(0)("encoder.0.weight")
    ('encoder.0', 'encoder', 'model')

    Raises: ValueError for anything else.
    """
    if callable(layers):
        return layers
    if layers == "tensor":
        return None
    if layers == "module":
        return lambda name: name.rpartition(".")[0] or "model"
    if isinstance(layers, int) and layers >= 0:
        return lambda name: ".".join(name.split(".")[:layers]) or "model"
    raise ValueError(f'layers must be "tensor", "module", a number of parts of the name or a function, got {layers!r}')


class _Step(NamedTuple):
    step: int
    names: list[str]
    packed: Packed


class Rows:
    """Rows on their way to a sink, in the order of the steps."""

    def __init__(self, instruments: Sequence[Instrument], chosen: Selection, label: Label | None) -> None:
        self._instruments, self._chosen, self._label = instruments, chosen, label
        self._waiting: list[_Step | Row] = []
        self._tensors = 0
        self._last = -math.inf

    def note(self, step: int, values: dict[str, float]) -> None:
        """Add the row of the run as a whole."""
        self._waiting.append((step, "", values))

    def add(self, step: int, names: list[str], packed: Packed) -> None:
        """Add what a step measured of the tensors of these names."""
        self._waiting.append(_Step(step, names, packed))
        self._tensors += len(names)
        if packed.sums[:, 0].any():  # of coordinates that are not finite: nobody should wait for the news
            self._last = -math.inf

    @property
    def due(self) -> bool:
        """Whether it is time to `take` them."""
        return self._tensors >= MOST or time.monotonic() - self._last >= LONGEST

    def take(self) -> list[Row]:
        """All rows there are; they wait no longer, even if reading them fails."""
        waiting, self._waiting, self._tensors = self._waiting, [], 0
        self._last = time.monotonic()
        return list(self._read(waiting))

    def _read(self, waiting: Sequence[_Step | Row]) -> Iterator[Row]:
        steps = [one for one in waiting if isinstance(one, _Step)]
        found: Iterator[Row] = iter(())
        counts: list[int] = []
        if steps:
            sums = named([one.packed for one in steps], self._chosen)
            keys = [(place, name) for place, one in enumerate(steps) for name in one.names]
            if self._label is not None:
                sums, keys = grouped(sums, [(place, self._label(name)) for place, name in keys])
            counts = np.bincount([place for place, _ in keys], minlength=len(steps)).tolist()
            found = self._rows(sums, [(steps[place].step, name) for place, name in keys])
        sizes = iter(counts)
        for one in waiting:
            if isinstance(one, _Step):
                for _ in range(next(sizes)):
                    yield next(found)
            else:
                yield one

    def _rows(self, sums: Sums, keys: Sequence[tuple[int, str]]) -> Iterator[Row]:
        columns, cells = {}, {}
        values = read(sums, self._instruments)
        for one in self._instruments:
            if one.cells:
                cells[one] = np.asarray(values[one.name])
            else:
                columns[one.name] = np.broadcast_to(values[one.name], len(keys)).tolist()
        for i, (step, layer) in enumerate(keys):
            told = {name: column[i] for name, column in columns.items()}
            for one, table in cells.items():
                for j in np.flatnonzero(table[i]).tolist():
                    told[f"{one.name}[{one.cells[j]}]"] = float(table[i, j])
            yield step, layer, told


def grouped(sums: Sums, keys: Sequence[Any]) -> tuple[Sums, list[Any]]:
    """The sums of all tensors with the same key, in the order of their first ones, and these keys.

    Sums are additive. Those over a sample count for all coordinates of their tensor; `sampled` and `series_size` become
    the number of these. What all coordinates of a tensor share, its step size for one, is NaN where the tensors differ.
    """
    places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    owner = np.array([places[key] for key in keys])
    sampled = np.asarray(sums["sampled"], float)
    weight = np.divide(sums["numel"], sampled, out=np.zeros_like(sampled), where=sampled > 0)
    found: dict[str, Any] = {}
    for name, values in sums.items():
        array = np.asarray(values, float)
        if name in _SHARED:
            found[name] = _common(array, owner, len(places))
            continue
        if name not in _WHOLE:
            scale = weight if not name.startswith("series_") else sums["numel"] / np.maximum(sums["series_size"], 1.0)
            array = array * (scale if array.ndim == 1 else scale[:, None])
        total = np.zeros((len(places), *array.shape[1:]))
        np.add.at(total, owner, array)
        found[name] = total
    return found, list(places)


_SHARED = ("lr", "eps", "correction", "odds", "clip", "decay", "coupled", "t", "beta1", "beta2")
_WHOLE = ("numel", *TERMS[:EVERYWHERE])


def _common(values: Any, owner: Any, groups: int) -> Any:
    """The value that all of a group have, else NaN."""
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    with np.errstate(invalid="ignore"):
        np.minimum.at(low, owner, values)
        np.maximum.at(high, owner, values)
    return np.where(low == high, low, math.nan)


def described(instruments: Sequence[Instrument]) -> Mapping[str, Any]:
    """What the columns mean, for the run's configuration."""
    return {
        i.name: {"unit": i.unit, "formula": i.formula, "estimator": i.estimator, "source": i.source}
        for i in instruments
    }
