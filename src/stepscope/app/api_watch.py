"""What the dashboard asks the server: the runs below one folder, and nothing outside it.

Values go as frames of float64 (see `endpoint.frame`), everything else as JSON. The page asks for what it shows: so many
buckets of a range of steps, of the layers in view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from stepscope.app.endpoint import BadRequest, Bound, Call, Endpoint, Stream, endpoint, frame
from stepscope.app.library import DissectionLine, Library, RunLine, now
from stepscope.errors import UserError
from stepscope.experiments.standing import Standing, standing
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.report.layers import is_weight
from stepscope.rules import parts
from stepscope.store import Run
from stepscope.store.buckets import Buckets
from stepscope.store.query import Query

__all__ = ["Dashboard", "Detail", "Found", "endpoints"]

PATIENCE = 0.4  # seconds of reading for one answer; the page asks again for the rest
MOST_NUMBERS = 4_000_000  # in one answer, 32 MB
MOST_EVENTS = 2000  # the newest
Id = Annotated[str, Bound(1, 1000)]
Name = Annotated[str, Bound(0, 1000)]
Step = Annotated[int, Bound(-(2**53), 2**53)]


@dataclass(frozen=True)
class Since:
    """stamp: that of the list the page has."""

    stamp: Annotated[str, Bound(0, 100)] = ""


@dataclass(frozen=True)
class Found:
    """What lies below the watched folder.  unchanged: it is the list that the page has, and not sent again."""

    folder: str
    stamp: str
    now: float
    unchanged: bool = False
    truncated: bool = False
    runs: list[RunLine] = field(default_factory=list)
    dissections: list[DissectionLine] = field(default_factory=list)


@dataclass(frozen=True)
class Which:
    """A run or a dissection."""

    id: Id


@dataclass(frozen=True)
class Column:
    """A column: what it is, as far as the run says."""

    name: str
    unit: str = ""
    formula: str = ""
    estimator: str = ""
    source: str = ""


@dataclass(frozen=True)
class Layer:
    """A tensor: "" for the run as a whole.  weight: it multiplies, as a bias or a scale does not."""

    name: str
    shape: list[int]
    weight: bool


@dataclass(frozen=True)
class Detail:
    """A run.  first, last: steps, none before there is a row.  events: the newest ones, as they were noted."""

    line: RunLine
    first: int | None
    last: int | None
    columns: list[Column]
    layers: list[Layer]
    events: list[dict[str, Any]]
    config: dict[str, Any]
    provenance: dict[str, Any]
    problems: list[str]


@dataclass(frozen=True)
class SeriesQuery:
    """Columns of layers of runs, in `buckets` equal parts of the steps from `first` to `last` (each run's own ends)."""

    runs: Annotated[list[Id], Bound(1, 20)]
    columns: Annotated[list[Name], Bound(1, 50)]
    layers: Annotated[list[Name], Bound(1, 2000)]
    first: Step | None = None
    last: Step | None = None
    buckets: Annotated[int, Bound(1, 4000)] = 1000


@dataclass(frozen=True)
class MatrixQuery:
    """Columns of one run by layer and bucket: their mean, least, largest or last value in each.

    histogram: all its cells NAME[...] as well, which only the run knows.
    """

    run: Id
    columns: Annotated[list[Name], Bound(0, 8)]
    layers: Annotated[list[Name], Bound(1, 2000)]
    histogram: Name = ""
    first: Step | None = None
    last: Step | None = None
    buckets: Annotated[int, Bound(1, 4000)] = 400
    value: Literal["mean", "low", "high", "end"] = "mean"


@dataclass(frozen=True)
class Nothing:
    """No arguments."""


@dataclass(frozen=True)
class Curves:
    """Factors by which a step is shortened, over the spread sigma/|m| of its gradients."""

    spread: list[float]
    adam: list[float]
    svag: list[float]
    exact: list[float]


class Dashboard:
    """The answers, about the runs below `root`."""

    def __init__(self, root: Path) -> None:
        self.library = Library(root)

    def runs(self, query: Since, call: Call) -> Found:
        """The runs and dissections below the watched folder."""
        library = self.library
        runs, dissections = library.runs(), library.dissections()
        stamp = library.stamp([*runs, *dissections])
        if stamp == query.stamp:
            return Found(library.root.name, stamp, now(), unchanged=True)
        return Found(library.root.name, stamp, now(), False, library.truncated, runs, dissections)

    def run(self, query: Which, call: Call) -> Detail:
        """One run: its columns, layers, events and settings. One that is broken has only its line, which says why."""
        line = self.library.line(query.id)
        if line.status == "broken":
            return Detail(line, None, None, [], [], [], {}, {}, [line.problem])
        reader, run = self.library.query(query.id), Run(self.library.folder(query.id))
        info = run.info
        first, last = reader.extent() or (None, None)
        config = dict(info.get("config", {}))
        about = config.get("scope", {}).get("columns", {}) if isinstance(config.get("scope"), dict) else {}
        shapes = {str(tensor.get("name")): tensor.get("shape") for tensor in info.get("tensors", ())}
        return Detail(
            line,
            first,
            last,
            columns=[_column(name, about.get(name.partition("[")[0])) for name in reader.columns()],
            layers=[_layer(name, shapes.get(name)) for name in reader.layers(PATIENCE)],
            events=run.events[-MOST_EVENTS:],
            config=config,
            provenance=dict(info.get("provenance", {})),
            problems=list(reader.problems.values()),
        )

    def series(self, query: SeriesQuery, call: Call) -> Stream:
        """Frames of [7, n], by bucket: step; least, mean, largest and last value; how many are finite, how many not."""
        _limit(7 * len(query.runs) * len(query.columns) * len(query.layers) * query.buckets)
        return Stream(self._series([self.library.query(id) for id in query.runs], query, call))

    def _series(self, readers: Sequence[Query], query: SeriesQuery, call: Call) -> Iterator[bytes]:
        for id, reader in zip(query.runs, readers, strict=True):
            known = set(reader.columns())
            layers: list[str] = query.layers
            if len(readers) > 1:  # runs of other models have other layers
                own = set(reader.layers(PATIENCE))
                layers = [name for name in layers if name in own]
            for column in query.columns:
                if call.gone:
                    return
                if column not in known:
                    continue  # not written yet, or not by this run
                about: dict[str, Any] = {"run": id, "column": column}
                try:
                    scale, found, read = reader.series(column, layers, query.first, query.last, query.buckets, PATIENCE)
                except UserError as error:
                    yield frame({**about, "error": str(error)})
                    continue
                about |= {"read": read, "scale": list(scale) if scale else None}
                frames = [frame({**about, "layer": layer}, _seven(buckets)) for layer, buckets in found.items()]
                yield b"".join(frames) or frame(about)

    def matrix(self, query: MatrixQuery, call: Call) -> Stream:
        """A frame of [layers, buckets] for each column."""
        reader = self.library.query(query.run)
        known = reader.columns()
        cells = [name for name in known if query.histogram and name.startswith(f"{query.histogram}[")]
        columns = [*query.columns, *cells]
        _limit(len(columns) * len(query.layers) * query.buckets)
        return Stream(self._matrix(reader, columns, query, call))

    def _matrix(self, reader: Query, columns: Sequence[str], query: MatrixQuery, call: Call) -> Iterator[bytes]:
        known = set(reader.columns())
        for column in columns:
            if call.gone:
                return
            if column not in known:
                continue
            try:
                scale, values, read = reader.matrix(
                    column, query.layers, query.first, query.last, query.buckets, PATIENCE, query.value
                )
            except UserError as error:
                yield frame({"column": column, "error": str(error)})
                continue
            yield frame({"column": column, "read": read, "scale": list(scale) if scale else None}, values)

    def curves(self, query: Nothing, call: Call) -> Curves:
        """The theoretical factors: Adam's, the best one for a gradient and the best one for its sign."""
        spread = np.logspace(-3, 4, 141)
        adam, svag, exact = (
            factor(NUMPY, spread**2).tolist() for factor in (parts.adam_factor, parts.svag_factor, parts.exact_factor)
        )
        return Curves(spread.tolist(), adam, svag, exact)

    def dissection(self, query: Which, call: Call) -> Standing:
        """How a dissection stands: tuning curves, finished runs, effects so far, time left."""
        return standing(self.library.dissection(query.id))


def endpoints(root: Path) -> Sequence[Endpoint]:
    """The addresses of a dashboard of the runs below `root`."""
    board = Dashboard(root)
    return [
        endpoint("GET", "/api/runs")(board.runs),
        endpoint("GET", "/api/run")(board.run),
        endpoint("POST", "/api/series")(board.series),
        endpoint("POST", "/api/matrix")(board.matrix),
        endpoint("GET", "/api/curves")(board.curves),
        endpoint("GET", "/api/dissection")(board.dissection),
    ]


def _limit(numbers: int) -> None:
    if numbers > MOST_NUMBERS:
        raise BadRequest(f"this asks for up to {numbers:,} numbers, more than {MOST_NUMBERS:,}: ask for fewer layers.")


def _column(name: str, about: object) -> Column:
    words = about if isinstance(about, dict) else {}
    return Column(name, *(str(words.get(key, "")) for key in ("unit", "formula", "estimator", "source")))


def _layer(name: str, shape: object) -> Layer:
    sizes = [int(size) for size in shape] if isinstance(shape, list) else []
    return Layer(name, sizes, bool(name) and (len(sizes) > 1 if sizes else is_weight(name)))


def _seven(buckets: Buckets) -> np.ndarray[Any, Any]:
    return np.array(
        [buckets.step, buckets.low, buckets.mean, buckets.high, buckets.end, buckets.finite, buckets.broken],
        dtype=np.float64,
    )
