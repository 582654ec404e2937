"""What a report is made from, read and checked: the results of a dissection, or one recorded run."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepscope.errors import DamagedData, UserError

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["SCHEMA", "Recorded", "Source", "load"]

SCHEMA = "stepscope.dissection/1"
_MOST_STEPS = 200

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
class Recorded:
    """One recorded run as the report needs it.

    layers: {"layers": names, "steps": [...], "series": {layer: {column: values}}}, as in a dissection's results.
    curves: {name: (steps, values)} of the whole run (loss, lr, ...).
    """

    name: str
    status: str
    info: Mapping[str, Any]
    layers: Mapping[str, Any]
    curves: Mapping[str, tuple[Sequence[int], Sequence[float | None]]]
    events: Sequence[Mapping[str, Any]] = field(default=())


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
    return _recorded(source)


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


def _recorded(run: "Run") -> Recorded:
    info = dict(run.info)
    names = list(run.names)
    curves = {}
    if names:
        table = run.table(*names, layers=[""])
        kept = _spread_out(table.num_rows)
        steps = [int(step) for step in table["step"].take(kept).to_pylist()]
        for name in names:
            values = _finite(table[name].take(kept).to_pylist())
            if any(value is not None for value in values):
                curves[name] = (steps, values)
    name = str(info.get("name") or Path(run.folder).resolve().name)
    return Recorded(name, str(run.status), _finite(info), _layers(run, names), curves, _finite(list(run.events)))


def _layers(run: "Run", names: Sequence[str]) -> Mapping[str, Any]:
    """The layers' columns that have a value, at 200 steps at most, in the form that a dissection's results have."""
    tensors = list(run.layers)
    wanted = [name for name in names if name in COLUMNS]
    if not tensors or not wanted:
        return {"layers": [], "steps": [], "series": {}}
    table = run.table(*wanted, layers=tensors)
    steps, places = table["step"].to_numpy(), table["layer"].to_pylist()
    recorded = sorted(set(steps.tolist()))
    kept = {recorded[index]: place for place, index in enumerate(_spread_out(len(recorded)))}
    series: dict[str, dict[str, list[float | None]]] = {layer: {} for layer in tensors}
    columns = {name: table[name].to_numpy() for name in wanted}
    for row, step in enumerate(steps.tolist()):
        if (place := kept.get(step)) is not None:
            for name, column in columns.items():
                if math.isfinite(value := float(column[row])):
                    series[places[row]].setdefault(name, [None] * len(kept))[place] = value
    return {"layers": tensors, "steps": list(kept), "series": series}


def _spread_out(count: int, most: int = _MOST_STEPS) -> list[int]:
    """Indices of at most ``most`` of ``count`` items, evenly spaced, the first and the last one among them."""
    if count <= most:
        return list(range(count))
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]
