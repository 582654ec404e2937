"""From what steps measured to tables and rows: read many steps at once, by layer or block where that is asked for.

Reading a column costs the same for one tensor as for hundreds. So measured steps wait until they are many, or a moment
has passed; a slow training's rows are written at once.
"""

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepscope.rules.statistics import EVERYWHERE, TERMS, Selection
from stepscope.scope.instruments import Instrument, read
from stepscope.scope.reduce import Packed, Sums, named

__all__ = ["Label", "Row", "Rows", "Table", "Taken", "described", "grouped", "label"]

MOST = 256  # tensors of steps that wait
LONGEST = 0.5  # seconds that they do
FEW_SETS = 64  # of layers are known

Row = tuple[int, str, Mapping[str, float]]
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
    names: tuple[str, ...]
    packed: Packed


class Table(NamedTuple):
    """Rows of several steps, the same layers at each: values[step, layer, column].

    cells: by step's and layer's place, the further columns that are not 0 there (`Instrument.cells`).
    """

    steps: NDArray[np.int64]
    layers: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    cells: Mapping[tuple[int, int], Mapping[str, float]]

    def rows(self, place: int, wanted: Container[str] | None = None) -> Iterator[Row]:
        """The rows of a step by its place; `wanted` are the columns, all unless given."""
        columns = [j for j, name in enumerate(self.columns) if wanted is None or name in wanted]
        names = [self.columns[j] for j in columns]
        step, values = int(self.steps[place]), self.values[place]
        table = (values if wanted is None else values[:, columns]).tolist()
        for i, layer in enumerate(self.layers):
            told = dict(zip(names, table[i], strict=True))
            further = self.cells.get((place, i), {})
            told |= further if wanted is None else {name: x for name, x in further.items() if name in wanted}
            yield step, layer, told


class Taken(NamedTuple):
    """What waited: tables of layers, and rows of the run as a whole.

    order: of both together, as they came: a table's and a step's place, or a row.
    """

    tables: Sequence[Table]
    notes: Sequence[Row]
    order: Sequence[tuple[int, int] | Row]

    def rows(self, wanted: Container[str] | None = None) -> Iterator[Row]:
        """All rows as they came, with the wanted columns of layers, or all."""
        for one in self.order:
            if len(one) == 2:
                yield from self.tables[one[0]].rows(one[1], wanted)
            else:
                yield one


class Rows:
    """Rows on their way to a sink, in the order of the steps."""

    def __init__(self, instruments: Sequence[Instrument], chosen: Selection, label: Label | None) -> None:
        self._plain = [one for one in instruments if not one.cells]
        self._celled = [one for one in instruments if one.cells]
        self._columns = tuple(one.name for one in self._plain)
        self._instruments, self._chosen, self._label = instruments, chosen, label
        self._waiting: list[_Step | Row] = []
        self._tensors = 0
        self._last = -math.inf
        self._scratch: dict[Any, Any] = {}
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one object for equal names: sinks look at that

    def note(self, step: int, values: dict[str, float]) -> None:
        """Add the row of the run as a whole."""
        self._waiting.append((step, "", values))

    def add(self, step: int, names: Sequence[str], packed: Packed) -> None:
        """Add what a step measured of the tensors of these names."""
        self._waiting.append(_Step(step, tuple(names), packed))
        self._tensors += len(names)
        if packed.sums[:, 0].any():  # of coordinates that are not finite: nobody should wait for the news
            self._last = -math.inf

    def forget(self) -> None:
        """Let go of memory that is kept for the next rows."""
        self._scratch = {}

    @property
    def due(self) -> bool:
        """Whether it is time to `take` them."""
        return self._tensors >= MOST or time.monotonic() - self._last >= LONGEST

    def take(self) -> Taken:
        """All there is; it waits no longer, even if reading it fails."""
        waiting, self._waiting, self._tensors = self._waiting, [], 0
        self._last = time.monotonic()
        tables, places = self._tables([one for one in waiting if isinstance(one, _Step)])
        steps = iter(places)
        order = [next(steps) if isinstance(one, _Step) else one for one in waiting]
        return Taken(tables, [one for one in waiting if not isinstance(one, _Step)], order)

    def _tables(self, steps: Sequence[_Step]) -> tuple[list[Table], list[tuple[int, int]]]:
        """What the steps measured, and where each of them is."""
        if not steps:
            return [], []
        sums: Sums = named([one.packed for one in steps], self._chosen)
        layers = [one.names for one in steps]
        if self._label is not None:
            keys = [(place, self._label(name)) for place, one in enumerate(steps) for name in one.names]
            sums, keys = grouped(sums, keys)
            found: list[list[str]] = [[] for _ in steps]
            for place, name in keys:
                found[place].append(name)
            layers = [tuple(names) for names in found]
        values, cells = self._read(sums, sum(map(len, layers)))
        starts = np.concatenate([[0], np.cumsum([len(names) for names in layers])]).tolist()
        groups, places = _alike(layers)
        return [
            self._table([steps[i].step for i in group], layers[group[0]], [starts[i] for i in group], values, cells)
            for group in groups
        ], places

    def _read(self, sums: Sums, rows: int) -> tuple[NDArray[np.float64], list[tuple[Instrument, NDArray[np.float64]]]]:
        """Columns, [row, column], and the cells of each instrument that has some, [row, cell]."""
        found = read(sums, self._instruments, self._scratch)
        values = np.empty((len(self._plain), rows))
        for column, one in zip(values, self._plain, strict=True):
            column[:] = found[one.name]
        return np.ascontiguousarray(values.T), [(one, np.asarray(found[one.name], float)) for one in self._celled]

    def _table(
        self,
        steps: Sequence[int],
        layers: tuple[str, ...],
        starts: Sequence[int],
        values: NDArray[np.float64],
        cells: Sequence[tuple[Instrument, NDArray[np.float64]]],
    ) -> Table:
        if len(self._known) > FEW_SETS:
            self._known.clear()
        layers = self._known.setdefault(layers, layers)
        width = len(layers)
        if starts[-1] - starts[0] == width * (len(starts) - 1):
            chosen = values[starts[0] : starts[-1] + width]
        else:
            chosen = np.concatenate([values[start : start + width] for start in starts])
        further: dict[tuple[int, int], dict[str, float]] = {}
        for one, table in cells:
            for place, start in enumerate(starts):
                for i, j in np.argwhere(table[start : start + width]).tolist():
                    further.setdefault((place, i), {})[f"{one.name}[{one.cells[j]}]"] = float(table[start + i, j])
        shape = len(steps), width, len(self._columns)
        return Table(np.array(steps, np.int64), layers, self._columns, chosen.reshape(shape), further)


def _alike(layers: Sequence[tuple[str, ...]]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Steps by number, in groups with the same layers; and the group and place of each step.

    Rows of one layer stay in order: a step goes to a group unless there is a later one with some of its layers.
    """
    groups: list[list[int]] = []
    places: list[tuple[int, int]] = []
    current: dict[tuple[str, ...], int] = {}
    for i, names in enumerate(layers):
        if names not in current:
            if current and not set(names).isdisjoint(name for other in current for name in other):
                current.clear()
            current[names] = len(groups)
            groups.append([])
        group = current[names]
        places.append((group, len(groups[group])))
        groups[group].append(i)
    return groups, places


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
        if name.startswith("trace_"):  # there is nothing to add up: only a tensor by itself keeps its own
            array = array * (np.bincount(owner)[owner] == 1)[:, None]
        elif name in _SHARED:
            found[name] = _common(array, owner, len(places))
            continue
        elif name not in _WHOLE:
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
