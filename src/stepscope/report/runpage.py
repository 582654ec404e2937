"""What the page of one recorded run is filled with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from stepscope.report import distributions, figures, layers, panes, text
from stepscope.report.blocks import Block, blocks
from stepscope.report.context import flat
from stepscope.report.heatmaps import heatmap, scale_of
from stepscope.report.history import History, described, grouped
from stepscope.report.panes import Detail, Figure
from stepscope.report.source import COLUMNS, Alarm, Recorded
from stepscope.report.sparks import spark

__all__ = ["of_run"]

# Optimizers whose steps have the length lr times a factor, by class name; the first ones' factor is 1/sqrt(1 + eta^2).
ADAMS = {"adam", "adamw", "adamonebeta"}
UNIT_STEPS = ADAMS | {"adamerf", "mssd", "ssd"}
MOST_CURVES = 12  # of a run's own values
MOST_ALARMS = 60  # lines; further ones are counted


def of_run(run: Recorded, detail: Detail) -> dict[str, Any]:
    """The page of one recorded run."""
    config = dict(run.info.get("config") or {})
    scope = dict(config.pop("scope", None) or {})
    optimizer = str(scope.get("optimizer") or config.get("optimizer") or "")
    columns = scope.pop("columns", {})
    shapes = {
        str(item["name"]): item["shape"] for item in run.info.get("tensors") or () if item.get("shape") is not None
    }
    curves = [
        Figure(figures.run_panel(f"run-{number}", name, np.array(at), np.array(values, dtype=float)), name)
        for number, (name, (at, values)) in enumerate([*run.curves.items()][:MOST_CURVES])
    ]
    pane = panes.pane(
        "s0",
        optimizer or "This run",
        layers.read(run.layers, shapes),
        detail,
        unit_steps=optimizer.lower() in UNIT_STEPS,
        adam=optimizer.lower() in ADAMS,
    )
    known = {*COLUMNS, *(history.column for history in run.histories)}
    names = list(run.layers["layers"])
    shown = blocks(names, detail.rows)
    recorded = [grouped(history, shown) for history in run.histories]
    pages = blocks(names, detail.pages)
    return {
        "kind": "run",
        "title": f"Run {run.name}",
        "run": run,
        "optimizer": optimizer,
        "alarms": [*alarm_lines(run.alarms)][:MOST_ALARMS],
        "alarms_left_out": max(0, len([*alarm_lines(run.alarms)]) - MOST_ALARMS),
        "curves": curves,
        "left_out": [*run.curves][MOST_CURVES:],
        "maps": [*maps("heat", recorded, [block.name for block in shown], run.info)],
        "distributions": [
            (picture, described(run.info, column)) for column, picture in distributions.pictures(run.distributions)
        ],
        "grouped": len(shown) < len(names),
        "pages": [*_pages([grouped(history, pages) for history in run.histories], pages, names, run, detail)],
        "panes": [pane],
        "config": [*flat(config), *flat(scope, "scope.")],
        "columns": [
            (name, column) for name, column in columns.items() if name in known and isinstance(column, Mapping)
        ],
        "environment": [*flat(run.info.get("provenance") or {})],
    }


@dataclass(frozen=True)
class AlarmLine:
    """Alarms of one rule in one layer.  steps: where they were raised."""

    first: Alarm
    steps: str
    evidence: str


def alarm_lines(alarms: Sequence[Alarm]) -> Iterator[AlarmLine]:
    """One line a rule and layer, the earliest first."""
    groups: dict[tuple[str, str], list[Alarm]] = {}
    for alarm in alarms:
        groups.setdefault((alarm.id, alarm.layer), []).append(alarm)
    for found in groups.values():
        steps = [alarm.step for alarm in found if alarm.step is not None]
        where = ", ".join(f"{step:,}" for step in steps[:3]) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
        evidence = ", ".join(
            f"{name} = {text.compact(value)}" if isinstance(value, int | float) else f"{name} = {value}"
            for name, value in found[0].evidence.items()
        )
        yield AlarmLine(found[0], where, evidence)


def maps(
    key: str, recorded: Sequence[History], rows: Sequence[str], info: Mapping[str, object]
) -> Iterator[tuple[str, Markup, str]]:
    """Of each column that has something to show: its name, its heatmap, and what it is."""
    for number, history in enumerate(recorded):
        scale = scale_of(history.mean)
        if scale is None and not history.broken.any():
            continue
        if scale is not None and not np.any(np.nan_to_num(history.mean)) and not history.broken.any():
            continue
        scale = scale or scale_of(np.zeros(1))
        assert scale is not None
        picture = heatmap(f"{key}-{number}", rows, history.edges, history.mean, history.broken, scale, history.column)
        yield history.column, picture, described(info, history.column)


@dataclass(frozen=True)
class Line:
    """A column in the table of a layer: how it went, and three values."""

    column: str
    picture: Markup
    first: str
    middle: str
    last: str


@dataclass(frozen=True)
class Page:
    """All of one layer, or of one block of layers."""

    name: str
    tensors: int
    shape: str
    alarms: int
    lines: Sequence[Line]


def _pages(
    recorded: Sequence[History], pages: Sequence[Block], names: Sequence[str], run: Recorded, detail: Detail
) -> Iterator[Page]:
    shapes = {str(item.get("name")): item.get("shape") for item in run.info.get("tensors") or ()}
    alarms = [alarm.layer for alarm in run.alarms]
    for place, block in enumerate(pages):
        members = {names[member] for member in block.members}
        shape = shapes.get(names[block.members[0]]) if len(members) == 1 else None
        lines = [line for history in recorded if (line := _line(history, place, block.name, detail))]
        yield Page(
            block.name,
            len(members),
            " × ".join(map(str, shape)) if shape else "",
            sum(layer in members for layer in alarms),
            lines,
        )


def _line(history: History, place: int, name: str, detail: Detail) -> Line | None:
    mean = history.mean[place]
    known = mean[np.isfinite(mean)]
    if not known.size:
        return None
    stride = max(1, len(mean) // detail.points)
    picture = spark(
        history.steps[::stride],
        mean[::stride],
        history.low[place][::stride],
        history.high[place][::stride],
        f"{history.column} of {name} over the steps",
        band=detail.data,
    )
    first, middle, last = float(known[0]), float(np.median(known)), float(known[-1])
    return Line(history.column, picture, text.compact(first, 3), text.compact(middle, 3), text.compact(last, 3))
