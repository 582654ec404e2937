"""What the template is filled with: everything on the page, in the order of the page."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from stepscope.report import figures, layers, panes, summary, text
from stepscope.report.panel import limits
from stepscope.report.panes import Detail, Figure
from stepscope.report.summary import Arm, Comparison, Effect, Measure

__all__ = ["flat", "of_dissection"]

FORMULAS = {
    "msgd": "lr · m",
    "mssd": "lr · sign(m)",
    "msvag": "lr · m · 1/(1+ρη²)",
    "adam": "lr · sign(m) · 1/√(1+η²)",
    "adam_one_beta": "lr · sign(m) · 1/√(1+η²)",
}
INTERACTION_WORDS = {"helps": "reinforce", "hurts": "interfere", "no difference": "independent"}
VERDICT_MARKS = {"helps": "▲", "hurts": "▼", "no difference": "=", "cannot tell": "?"}


# What the template asks for; None where the results lack it.
PROBLEM = (
    *("name", "description", "parameters", "train_examples", "validation_examples", "test_examples"),
    *("steps", "batch_size", "metric"),
)
SETTINGS = ("select", "select_reason", "seeds", "budget", "beta", "loss_evaluation_examples")
VERDICT = ("headline", "sentences", "adam_cells")


def of_dissection(results: Mapping[str, Any], detail: Detail) -> dict[str, Any]:
    """The page of a dissection."""
    problem = dict.fromkeys(PROBLEM) | results["problem"]
    settings = dict.fromkeys(SETTINGS) | results["settings"]
    arms = summary.arms(results)
    quality = summary.measure(results)
    return {
        "kind": "dissection",
        "title": f"Dissecting Adam on {problem['name']}",
        "problem": problem,
        "settings": settings,
        "verdict": dict.fromkeys(VERDICT) | (results.get("verdict") or {}),
        "arms": arms,
        "cells": {f"{int(arm.sign)}{int(arm.adapted)}": arm for arm in arms if not arm.matched and arm.other is None},
        "others": [arm for arm in arms if arm.other is not None],
        "comparisons": [*_comparison_groups(results, arms)],
        "matched": [arm for arm in arms if arm.matched],
        "arrows": summary.arrows(arms, quality),
        "best": _best(arms, quality),
        "loss": summary.LOSS,
        "quality": quality,
        "formulas": FORMULAS,
        "effects": [*_effect_groups(results, arms)],
        "curves": [*_curves(arms, quality)],
        "more_curves": [*_more_curves(arms, results)],
        "tuning": [*_tuning(arms, results)],
        "score": _tuning_score(results),
        "panes": [*_panes(results, arms, detail)],
        "diverged": [arm for arm in arms if len(arm.finished) < len(arm.runs) or not arm.runs],
        "limits": [*_limits(results, arms)],
        "environment": [*flat(results.get("environment") or {})],
        "settings_list": [*flat(results["settings"])],
        "command": results.get("command") or "",
        "data": _data_link({key: value for key, value in results.items() if key != "dissection"})
        if detail.data
        else "",
    }


def _best(arms: Sequence[Arm], quality: Measure) -> dict[str, Arm]:
    """The cells with the lowest training loss and the best quality, by the mean over seeds."""
    found: dict[str, Arm] = {}
    for key, measure in (("loss", summary.LOSS), ("quality", quality)):
        four = [arm for arm in arms if not arm.matched and arm.other is None]
        means = [(arm.final(measure.column).mean, arm) for arm in four]
        known = [(mean if measure.higher_is_better else -mean, arm) for mean, arm in means if mean is not None]
        if len(known) > 1:
            found[key] = max(known, key=lambda pair: pair[0])[1]
    return found


def _outcome_measure(results: Mapping[str, Any], outcome: str) -> Measure:
    """How an effect's outcome is shown: "train_loss", "test_loss" or "test_metric"."""
    split, _, kind = outcome.partition("_")
    return summary.measure(results, split) if kind == "metric" else summary.loss(split)


def _effect_groups(results: Mapping[str, Any], arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    labels = {arm.method: arm.label for arm in arms}
    rows = summary.effects(results)
    for outcome in dict.fromkeys(row.outcome for row in rows):
        group = [row for row in rows if row.outcome == outcome]
        cells = {row.adam_cell: labels.get(row.adam_cell, row.adam_cell) for row in group}
        measure = _outcome_measure(results, outcome)
        yield {
            "measure": measure,
            "forest": figures.forest_panel(f"forest-{outcome}", group, measure, cells),
            "rows": [_effect_row(row, measure, cells) for row in sorted(group, key=lambda row: _rank(row, cells))],
        }


def _rank(row: Effect, cells: Mapping[str, str]) -> tuple[int, int]:
    names = [*figures.EFFECT_NAMES]
    return names.index(row.effect) if row.effect in names else len(names), [*cells].index(row.adam_cell)


def _comparison_groups(results: Mapping[str, Any], arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    """By outcome, each method against the baseline."""
    known = {arm.method: arm for arm in arms}
    rows = summary.comparisons(results)
    for outcome in dict.fromkeys(row.outcome for row in rows):
        measure = _outcome_measure(results, outcome)
        group = [row for row in rows if row.outcome == outcome]
        yield {
            "measure": measure,
            "baseline": known[group[0].baseline],
            "rows": [
                {
                    "row": row,
                    "arm": known[row.method],
                    "estimate": text.factor(row.estimate) if row.ratio else measure.difference(row.estimate),
                    "interval": _interval(row, measure),
                    "mark": VERDICT_MARKS.get(row.verdict, "?"),
                }
                for row in group
            ],
        }


def _effect_row(row: Effect, measure: Measure, cells: Mapping[str, str]) -> dict[str, Any]:
    def show(value: float | None) -> str:
        return text.factor(value) if row.ratio else measure.difference(value)

    return {
        "row": row,
        "name": figures.EFFECT_NAMES.get(row.effect, row.effect),
        "cell": cells[row.adam_cell],
        "estimate": show(row.estimate),
        "interval": _interval(row, measure),
        "mark": VERDICT_MARKS.get(row.verdict, "?"),
        "verdict": INTERACTION_WORDS.get(row.verdict, row.verdict) if row.effect == "interaction" else row.verdict,
    }


def _interval(row: Effect | Comparison, measure: Measure) -> str:
    if row.low is None or row.high is None:
        return text.MISSING
    if row.ratio:
        return f"{text.factor(row.low)} to {text.factor(row.high)}"
    return f"{measure.difference(row.low, unit=False)} to {measure.difference(row.high)}"


def _curves(arms: Sequence[Arm], quality: Measure) -> Iterator[Figure]:
    yield from _curve("curve-loss", arms, summary.LOSS, log=True)
    yield from _curve("curve-quality", arms, quality, log=quality.column.endswith("loss"))


def _more_curves(arms: Sequence[Arm], results: Mapping[str, Any]) -> Iterator[Figure]:
    if results["problem"].get("metric"):
        yield from _curve("curve-test-loss", arms, summary.loss("test"), log=True)
        yield from _curve("curve-train-metric", arms, summary.measure(results, "train"), log=False)


def _curve(name: str, arms: Sequence[Arm], measure: Measure, *, log: bool) -> Iterator[Figure]:
    curves = summary.curves(arms, measure.column)
    if curves:
        yield Figure(figures.curve_panel(name, curves, measure, log=log), measure.name)


def _tuning_score(results: Mapping[str, Any]) -> Measure:
    """What the search maximised: the validation (or, as in the paper, test) metric, or minus the loss."""
    split = "test" if results["settings"].get("select") == "paper" else "validation"
    return summary.measure(results, split)


def _tuning(arms: Sequence[Arm], results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    score = _tuning_score(results)
    turn = score.scale if score.higher_is_better else -score.scale
    values = sorted(
        trial["score"]
        for arm in arms
        for trial in arm.tuning
        if trial.get("status") == "ok" and trial.get("score") is not None
    )
    # The better scores decide the range: beside a step size that is ten times too large they would all look the same.
    bounds = limits([score * turn for score in values[2 * len(values) // 5 :]], pad=0.12)
    for number, arm in enumerate(arms):
        chosen = [trial for trial in arm.tuning if trial["lr"] == arm.lr and trial.get("score") is not None]
        statuses = [str(trial.get("status")) for trial in arm.tuning]
        yield {
            "arm": arm,
            "panel": figures.tuning_panel(f"tuning-{number}", arm, score, bounds) if len(arm.tuning) > 1 else None,
            "score": score.value(chosen[0]["score"] * turn / score.scale) if chosen else text.MISSING,
            "tried": len(arm.tuning),
            "from": text.compact(arm.tuning[0]["lr"]) if arm.tuning else text.MISSING,
            "to": text.compact(arm.tuning[-1]["lr"]) if arm.tuning else text.MISSING,
            "not_ok": [(status, len([*group])) for status, group in groupby(sorted(s for s in statuses if s != "ok"))],
        }


def _panes(results: Mapping[str, Any], arms: Sequence[Arm], detail: Detail) -> Iterator[panes.Pane]:
    dissections = results.get("dissection") or {}
    if not dissections:
        return
    # Adam first: it is what the reader came for; the matched cell is the next of kin.
    for number, arm in enumerate(sorted(arms, key=lambda arm: -(2 * arm.sign * arm.adapted - arm.matched))):
        steps = layers.read(dissections.get(arm.method) or {})
        sign = {"unit_steps": arm.sign, "adam": arm.sign and arm.adapted}
        yield panes.pane(f"s{number}", arm.label, steps, detail, **sign)


def _limits(results: Mapping[str, Any], arms: Sequence[Arm]) -> Iterator[str]:
    """What the numbers cannot say."""
    settings, problem = results["settings"], results["problem"]
    seeds = len(settings.get("seeds") or ())
    if seeds < 2:
        yield "One seed: there is no interval and no test; differences may be chance alone."
    elif seeds < 5:
        yield (
            f"{text.count(seeds, 'seed')}: the intervals hold if the differences between seeds are roughly normal, and "
            "with so few seeds they are wide. More seeds make them narrower (the paper used ten)."
        )
    else:
        yield f"{text.count(seeds, 'seed')}: the intervals hold if the differences between seeds are roughly normal."
    tried = [len(arm.tuning) for arm in arms if len(arm.tuning) > 1]
    if tried:
        yield (
            f"Each step size was searched with {min(tried)}"
            + (f" to {max(tried)}" if max(tried) != min(tried) else "")
            + f" trials and {text.count(len(settings.get('tuning_seeds') or ()) or 1, 'tuning seed')}; a difference "
            "between methods smaller than what one more trial could change is not a difference between methods."
        )
    if len(tried) < len(arms):
        yield "At least one step size was given, not searched: the comparison is only as fair as that choice."
    if settings.get("select") == "paper":
        yield "Step sizes were chosen by test results, as in the paper: test numbers are therefore optimistic."
    yield (
        f"One architecture, one data set, one batch size ({problem.get('batch_size')}), a constant step size and "
        f"{text.count(problem.get('steps'), 'step')}: the paper found that the sign is useful on some problems only."
    )
    if problem.get("train_examples") and settings.get("loss_evaluation_examples"):
        shown = min(int(settings["loss_evaluation_examples"]), int(problem["train_examples"]))
        if shown < problem["train_examples"]:
            total = text.count(problem["train_examples"])
            yield f"The training loss is measured on {text.count(shown)} of {total} training examples."


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (name, value) pairs, names joined with a dot.

    >>> list(flat({"a": {"b": 1}, "c": [1, 2], "d": None}))
    [('a.b', '1'), ('c', '1, 2'), ('d', '–')]
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            words = ", ".join(str(item) for item in value)
            yield f"{prefix}{key}", " ".join(map(str, value)) if key == "command" else words or text.MISSING
        else:
            yield f"{prefix}{key}", text.MISSING if value is None or value == "" else str(value)


def _data_link(results: Mapping[str, Any]) -> str:
    document = json.dumps(results, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "data:application/json;base64," + base64.b64encode(document.encode()).decode()
