"""Tables for terminals."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stepscope.app.printing import datasets_table, effects_table, failures
from stepscope.problems.data import DataSetInfo


def effect(cell: str, outcome: str, name: str, **more: Any) -> dict[str, Any]:
    scale = "difference" if outcome == "test_metric" else "ratio"
    numbers = {"estimate": 0.42, "low": 0.31, "high": 0.58, "p_holm": 0.0004, "verdict": "helps"}
    return {"adam_cell": cell, "outcome": outcome, "scale": scale, "effect": name} | numbers | more


RESULTS = {
    "problem": {"name": "[digits]", "metric": "accuracy"},
    "effects": [
        effect("adam", "train_loss", "variance_adaptation"),
        effect("adam", "test_metric", "sign", estimate=None, low=None, high=None, p_holm=None, verdict="cannot tell"),
        effect("adam_one_beta", "train_loss", "variance_adaptation", estimate=0.5),
        effect("adam_one_beta", "test_metric", "sign", estimate=-0.01, low=-0.02, high=0.001, verdict="hurts"),
    ],
    "verdict": {"headline": "On [digits], the sign matters.", "adam_cells": "The same with either Adam."},
    "arms": [
        {
            "method": "adam",
            "label": "Adam",
            "tuning": [{"status": "failed"}],
            "runs": [{"status": "ok"}, {"status": "diverged"}],
        }
    ],
}


def printed(table: Any, content: Any, width: int = 120) -> str:
    screen = io.StringIO()
    table(content, Console(file=screen, width=width))
    return screen.getvalue()


def rows(text: str) -> list[list[str]]:
    """The cells of each line; columns are at least two blanks apart."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines() if line.strip()]


def test_each_effect_stands_there_with_both_adam_cells():
    headings = ["effect", "Adam is", "estimate [95 % interval]", "p (Holm)", "verdict"]
    assert rows(printed(effects_table, RESULTS))[:8] == [
        ["[digits]: final training loss"],
        headings,
        ["variance adaptation", "Adam", "x 0.42 [0.31, 0.58]", "0.0004", "helps"],
        ["one beta", "x 0.5 [0.31, 0.58]", "0.0004", "helps"],
        ["[digits]: final test accuracy"],
        headings,
        ["sign", "Adam", "-", "-", "cannot tell"],
        ["one beta", "-0.01 [-0.02, +0.001]", "0.0004", "hurts"],
    ]


def test_one_seed_has_an_estimate_and_no_interval():
    effects = [effect("adam", "train_loss", "sign", low=None, high=None, p_holm=None, verdict="cannot tell")]
    text = printed(effects_table, RESULTS | {"effects": effects})
    assert ["sign", "Adam", "x 0.42", "-", "cannot tell"] in rows(text)


def test_the_verdict_follows_in_words_and_brackets_are_not_markup():
    text = printed(effects_table, RESULTS)
    assert text.endswith("On [digits], the sign matters.\nThe same with either Adam.\n")


@pytest.mark.parametrize("width", [30, 80, 120])
def test_numbers_are_not_cut_on_any_width(width: int):
    wide = effect("adam", "train_loss", "variance_adaptation", estimate=0.000123, low=-1.23e-05, high=1.23e-300)
    text = printed(effects_table, RESULTS | {"effects": [wide]}, width)
    assert "x 0.000123 [-1.23e-05, 1.23e-300]" in text
    assert "…" not in text


def test_a_usual_table_fits_into_80_columns():
    usual = effect("adam_one_beta", "train_loss", "variance_adaptation", verdict="no difference")
    text = printed(effects_table, RESULTS | {"effects": [usual]}, 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_failed_runs_are_counted_and_diverged_ones_are_not():
    assert failures(RESULTS) == "1 run"
    assert (
        failures({"arms": [{"method": "adam", "label": "Adam", "tuning": [], "runs": [{"status": "diverged"}]}]}) == ""
    )


def test_data_sets_with_their_place():
    where = Path("/usr/share/[data]")
    text = printed(datasets_table, [DataSetInfo("faces", str(where), 31_000_000, "MIT")])
    cells = [cell.strip() for cell in text.splitlines()[3].strip("│").split("│")]
    assert cells == ["faces", str(where), "31 MB", "MIT"]
