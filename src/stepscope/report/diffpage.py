"""What the page about two runs is filled with, and the same in a few lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from stepscope.report import text
from stepscope.report.blocks import Block, blocks
from stepscope.report.context import flat
from stepscope.report.departures import WHOLE, Comparison, Departure, compare
from stepscope.report.figures import pair_panel
from stepscope.report.heatmaps import Scale, heatmap, scale_of
from stepscope.report.history import History, described, grouped
from stepscope.report.panes import Detail
from stepscope.report.runpage import alarm_lines
from stepscope.report.source import alarm_of

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["lines", "of_runs", "of_two"]

MOST_DEPARTURES = 60
SHOWN = 12  # of them at once; the others unfold
MOST_COLUMNS = 12  # shown as heatmaps


def of_two(a: "Run", b: "Run") -> Comparison:
    """The comparison of two runs, with the settings in which they differ."""
    names = _names(a, b)
    return compare(a, b, names, [*_settings(a.info, b.info)])


def _names(a: "Run", b: "Run") -> tuple[str, str]:
    """As short as they can be told apart."""
    first, second = a.folder.resolve(), b.folder.resolve()
    for depth in range(1, min(len(first.parts), len(second.parts))):
        pair = "/".join(first.parts[-depth:]), "/".join(second.parts[-depth:])
        if pair[0] != pair[1]:
            return pair
    return str(first), str(second)


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Settings, versions and hardware that are not the same."""
    ours, theirs = (
        dict([*flat(_without_columns(info.get("config") or {})), *flat(info.get("provenance") or {}, "environment.")])
        for info in (a, b)
    )
    for name in dict.fromkeys([*ours, *theirs]):
        pair = ours.get(name, text.MISSING), theirs.get(name, text.MISSING)
        if pair[0] != pair[1]:
            yield name, *pair


def _without_columns(config: Mapping[str, Any]) -> dict[str, Any]:
    scope = config.get("scope")
    return (
        {**config, "scope": {k: v for k, v in scope.items() if k != "columns"}}
        if isinstance(scope, dict)
        else {**config}
    )


def lines(found: Comparison) -> Iterator[str]:
    """The comparison in a few lines."""
    a, b = found.names
    yield f"{a} and {b}, steps {found.span[0]:,} to {found.span[1]:,}"
    for name, ours, theirs in found.settings[:10]:
        yield f"  setting {name}: {ours} / {theirs}"
    if len(found.settings) > 10:
        yield f"  and {len(found.settings) - 10} more settings"
    yield first_words(found)
    if not found.departures:
        yield f"No layer departs by more than its noise ({found.series:,} series compared)."
    together = [*grouped_departures(found.departures)]
    for group in together[:10]:
        yield f"  {departure_words(group)}"
    if len(together) > 10:
        yield f"  and {len(together) - 10:,} more"


def grouped_departures(departures: Sequence[Departure]) -> Iterator[list[Departure]]:
    """Departures of one column that begin at the same step, the clearest first."""
    groups: dict[tuple[int, str], list[Departure]] = {}
    for one in departures:
        groups.setdefault((one.step, one.column), []).append(one)
    yield from groups.values()


def first_words(found: Comparison) -> str:
    """From where on the runs are not the same."""
    if found.first is None:
        return "They agree bit for bit in everything that was recorded of both."
    one = found.first
    more = f", and {one.others:,} more values at that step" if one.others else ""
    before = "from the first step on" if one.step == found.span[0] else f"bit for bit before step {one.step:,}"
    begin = "They differ" if one.step == found.span[0] else "They agree"
    values = f"{text.compact(one.a, 6)} against {text.compact(one.b, 6)}"
    return f"{begin} {before}; first: {one.column} {_where(one.layer)}, {values}{more}."


def departure_words(group: Sequence[Departure]) -> str:
    """Departures of one column from one step on, in a line."""
    one = group[0]
    change = f" ({text.factor(one.b / one.a)})" if one.relative and one.a > 0 else ""
    values = f"{text.compact(one.a, 3)} against {text.compact(one.b, 3)}{change}"
    where = f"{one.column} {_where(one.layer)}"
    others = f"; and of {text.count(len(group) - 1, 'more layer')}" if len(group) > 1 else ""
    return f"from step {one.step:,}: {where}, {values}, at least {_sigmas(one)} times the noise{others}"


def _where(layer: str) -> str:
    return f"of {layer}" if layer else "of the run"


def _sigmas(one: Departure) -> str:
    return text.compact(one.sigmas) if one.sigmas < 1000 else "1,000"


def of_runs(a: "Run", b: "Run", found: Comparison, detail: Detail) -> dict[str, Any]:
    """The page about two runs."""
    together = [*grouped_departures(found.departures)]
    layers = [name for name in found.layers if name != WHOLE]
    shown = blocks(layers, detail.rows)
    order = [*dict.fromkeys(departure.column for departure in found.departures if departure.layer)]
    pairs = {one.column: (one, other) for one, other in found.pairs}
    names = [name for name in order if name in pairs][:MOST_COLUMNS]
    return {
        "kind": "diff",
        "title": f"{found.names[0]} and {found.names[1]}",
        "names": found.names,
        "found": found,
        "first": first_words(found),
        "departures": [*map(_row, together[:SHOWN])],
        "further": [*map(_row, together[SHOWN:MOST_DEPARTURES])],
        "left_out": max(0, len(together) - MOST_DEPARTURES),
        "curves": [*_curves(found)],
        "maps": [*_maps(found, [pairs[name] for name in names], layers, shown, a.info)],
        "columns_left_out": max(0, len(order) - len(names)),
        "grouped": len(shown) < len(layers),
        "alarms": [
            [*alarm_lines([alarm_of(event) for event in run.events if event.get("kind") == "alarm"])][:MOST_DEPARTURES]
            for run in (a, b)
        ],
        "panes": [],
    }


def _row(group: Sequence[Departure]) -> dict[str, Any]:
    """A line of the table: the clearest of a column's departures at one step, and which layers have the others."""
    one = group[0]
    return {
        "one": one,
        "others": [other.layer or "the run" for other in group[1:]],
        "a": text.compact(one.a, 3),
        "b": text.compact(one.b, 3),
        "factor": text.factor(one.b / one.a) if one.relative and one.a > 0 else "",
        "sigmas": _sigmas(one),
    }


def _curves(found: Comparison) -> Iterator[Markup]:
    """The values of the runs as a whole, both in one picture."""
    if WHOLE not in found.layers:
        return
    place = found.layers.index(WHOLE)
    for number, (one, other) in enumerate(found.pairs):
        ours, theirs = one.mean[place].astype(float), other.mean[place].astype(float)
        if np.isfinite(ours).any() and np.isfinite(theirs).any():
            yield pair_panel(f"pair-{number}", one.column, one.steps, ours, theirs)


def _maps(
    found: Comparison,
    pairs: Sequence[tuple[History, History]],
    layers: Sequence[str],
    shown: Sequence[Block],
    info: Mapping[str, object],
) -> Iterator[dict[str, Any]]:
    offset = found.layers.index(layers[0]) if layers else 0
    rows = [block.name for block in shown]
    moved = [Block(block.name, tuple(member + offset for member in block.members)) for block in shown]
    for number, pair in enumerate(pairs):
        one, other = (grouped(history, moved) for history in pair)
        scale = scale_of(one.mean, other.mean)
        if scale is None:
            continue
        with np.errstate(all="ignore"):
            positive = (np.nanmin(one.mean) > 0) and (np.nanmin(other.mean) > 0)
            change = np.log2(other.mean / one.mean) if positive else other.mean - one.mean
        known = np.abs(change[np.isfinite(change)])
        most = float(np.quantile(known, 0.98)) if known.size else 0.0
        difference = Scale(-(most or 1.0), most or 1.0, log=False, colours="difference")
        broken = one.broken | other.broken
        changed = "log2 of the ratio" if positive else "difference"
        yield {
            "column": one.column,
            "about": described(info, one.column),
            "relative": positive,
            "a": heatmap(f"a-{number}", rows, one.edges, one.mean, one.broken, scale, f"{found.names[0]}"),
            "b": heatmap(f"b-{number}", rows, other.edges, other.mean, other.broken, scale, f"{found.names[1]}"),
            "change": heatmap(f"c-{number}", rows, one.edges, change, broken, difference, changed),
        }
