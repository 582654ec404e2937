"""What a report is made from, read and checked: the results of a dissection, or one recorded run."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepscope.errors import DamagedData, UserError
from stepscope.report.distributions import Distribution, Joint
from stepscope.report.distributions import read as distributions
from stepscope.report.history import History, histories, plain_columns

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["SCHEMA", "Alarm", "Recorded", "Source", "alarm_of", "load", "read_run"]

SCHEMA = "stepscope.dissection/1"
_MOST_STEPS = 200
BUCKETS = 120
"""How many columns a heatmap has: three px each on a page."""

COLUMNS = frozenset(
    (
        *("momentum_abs_mean", "sigma_mean", "spread_mean", "spread_median"),
        *("factor_adam", "factor_svag", "factor_exact", "factor_msvag"),
        *("update_abs_mean_per_lr", "update_abs_median_per_lr", "update_to_weight"),
        *("sign_agreement", "variance_negative_share", "epsilon_dominated_share"),
    )
)
"""What the page shows of a layer: nothing else is read."""


@dataclass(frozen=True)
class Alarm:
    """An alarm of a run: what rule, where and when, what was seen, on what evidence, and what usually helps."""

    id: str
    step: int | None
    layer: str
    text: str
    helps: str
    evidence: Mapping[str, Any]


def alarm_of(event: Mapping[str, Any]) -> Alarm:
    """The alarm that an event tells of; what it lacks is empty."""
    evidence = event.get("evidence")
    step = event.get("step")
    return Alarm(
        str(event.get("alarm") or event.get("id") or "alarm"),
        step if isinstance(step, int) else None,
        str(event.get("layer") or ""),
        str(event.get("text") or event.get("message") or ""),
        str(event.get("helps") or ""),
        evidence if isinstance(evidence, Mapping) else {},
    )


@dataclass(frozen=True)
class Recorded:
    """One recorded run as the report needs it.

    layers: {"layers": names, "steps": [...], "series": {layer: {column: values}}}, as in a dissection's results.
    curves: {name: (steps, values)} of the whole run (loss, lr, ...).
    histories: every column of the layers over time.
    alarms: what was raised, in the order of the steps.  thinned: stretches of steps of which 1 in n were kept.
    """

    name: str
    status: str
    info: Mapping[str, Any]
    layers: Mapping[str, Any]
    curves: Mapping[str, tuple[Sequence[int], Sequence[float | None]]]
    events: Sequence[Mapping[str, Any]] = field(default=())
    histories: Sequence[History] = field(default=())
    thinned: Sequence[tuple[int, int, int]] = field(default=())
    distributions: "Sequence[Distribution | Joint]" = field(default=())

    @property
    def alarms(self) -> list[Alarm]:
        """The events that are alarms, the earliest first."""
        found = [alarm_of(event) for event in self.events if event.get("kind") == "alarm"]
        return sorted(found, key=lambda alarm: -1 if alarm.step is None else alarm.step)


Source = Mapping[str, Any] | Recorded


def load(source: "Mapping[str, Any] | Run | str | Path") -> Source:
    """Results or a recorded run, with every number that is not finite turned into None.

    Raises: UserError if the folder holds neither, or the results are of another schema; DamagedData if a file cannot be
    read as JSON.
    """
    if isinstance(source, Mapping):
        return _results(source, "these results")
    if isinstance(source, str | Path):
        folder = Path(source)
        if (file := folder / "results.json").is_file():
            return _results(_read(file), str(file))
        if (folder / "dissect.json").is_file():
            raise UserError(f"the dissection in {folder} is not finished; run the same command again to finish it")
        if not (folder / "run.json").is_file():
            raise UserError(
                f"{folder} holds neither results.json (a dissection) nor run.json (a run); name such a folder"
            )
        from stepscope.store import Run

        source = Run(folder)
    return read_run(source)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise DamagedData(f"{file} is not JSON ({error}); delete it and run the same command again") from error


def _results(results: Any, where: str) -> Mapping[str, Any]:
    schema = results.get("schema") if isinstance(results, Mapping) else None
    if schema != SCHEMA:
        raise UserError(f"{where} has schema {schema!r}; this version of stepscope reads {SCHEMA!r}")
    if missing := [key for key in ("problem", "settings", "arms") if key not in results]:
        raise DamagedData(f"{where} lacks {', '.join(missing)}; run the same command again")
    cleaned: Mapping[str, Any] = _finite(results)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_run(run: "Run", span: tuple[int, int] | None = None) -> Recorded:
    """A run as the report needs it.  span: first and last step, if not all."""
    info = dict(run.info)
    names = plain_columns(run.names)
    name = str(info.get("name") or Path(run.folder).resolve().name)
    return Recorded(
        name,
        str(run.status),
        _finite(info),
        _layers(run, names),
        _curves(run, names),
        _finite(list(run.events)),
        list(histories(run, run.layers, BUCKETS, span)),
        run.thinned,
        distributions(run, span),
    )


def _curves(run: "Run", names: Sequence[str]) -> dict[str, tuple[list[int], list[float | None]]]:
    curves = {}
    if names:
        table = run.table(*names, layers=[""])
        kept = np.array(_spread_out(table.num_rows), np.int64)
        steps = [int(step) for step in table["step"].take(kept).to_pylist()]
        for name in names:
            values = _finite(table[name].take(kept).to_pylist())
            if any(value is not None for value in values):
                curves[name] = (steps, values)
    return curves


def _layers(run: "Run", names: Sequence[str]) -> Mapping[str, Any]:
    """The layers' columns that have a value, at 200 steps at most, in the form that a dissection's results have."""
    tensors = list(run.layers)
    wanted = [name for name in names if name in COLUMNS]
    if not tensors or not wanted:
        return {"layers": [], "steps": [], "series": {}}
    # The steps of the layer that was recorded most often stand for all; only they are read.
    rows = run.rows
    often = max(tensors, key=lambda name: rows.get(name, 0))
    recorded = np.unique(run.table(*wanted, layers=[often])["step"].to_numpy())
    kept = recorded[_spread_out(len(recorded))]
    table = run.table(*wanted, layers=tensors, steps=kept)
    layer = table["layer"].combine_chunks().dictionary_encode()
    places = layer.indices.to_numpy(), np.searchsorted(kept, table["step"].to_numpy())
    there = layer.dictionary.to_pylist()
    series: dict[str, dict[str, list[float | None]]] = {name: {} for name in tensors}
    for name in wanted:
        grid = np.full((len(there), len(kept)), np.nan)
        grid[places] = table[name].to_numpy()
        for number in np.flatnonzero(np.isfinite(grid).any(axis=1)).tolist():
            series[there[number]][name] = _finite(grid[number].tolist())
    return {"layers": tensors, "steps": kept.tolist(), "series": series}


def _spread_out(count: int, most: int = _MOST_STEPS) -> list[int]:
    """Indices of at most ``most`` of ``count`` items, evenly spaced, the first and the last one among them."""
    if count <= most:
        return list(range(count))
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]
