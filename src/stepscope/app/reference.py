"""Pages of the documentation that are made from the program: `python -m stepscope.app.reference docs` writes them."""

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from stepscope.app.cli import app

__all__ = ["PAGES", "columns", "command_line"]

MADE = "Generated from the program by `python -m stepscope.app.reference docs`; a test compares the two.\n\n"


def command_line() -> str:
    """Every command with its arguments and options."""
    return f"# Command line\n\n{MADE}" + "\n".join(_sections(typer.main.get_command(app), "stepscope"))


def columns() -> str:
    """Every column that `Scope` records."""
    from stepscope.scope import INSTRUMENTS

    head = (
        "One row per recorded step and parameter tensor; the layer is the parameter's name. The row with the empty\n"
        "layer name holds what belongs to the run as a whole, such as the notes. g: gradient; m, v: averages of g and\n"
        "g^2; theta: weights.\n\n"
    )
    parts = [_GROUPS["default"]]
    group = "default"
    for one in INSTRUMENTS:
        if one.group != group:
            group = one.group
            parts.append(f"## The group `{group}`\n\n{_GROUPS[group]}")
        facts = {
            "Unit": "" if one.unit == "1" else one.unit,
            "Estimate": one.estimator,
            "Source": one.source,
            "Cost": one.cost_class,
        }
        said = [f"{heading}: {' '.join(text.split())}." for heading, text in facts.items() if text]
        name = f"{one.name}[{'row,column' if ',' in one.cells[0] else 'octave'}]" if one.cells else one.name
        parts.append("\n  ".join([f"`{name}`\n: `{one.formula}`.", *said]))
    return f"# What is recorded\n\n{MADE}{head}" + "\n\n".join(parts) + "\n"


_GROUPS = {
    "default": "These are recorded unless others are asked for: `Scope(..., instruments=)` takes names of columns and\n"
    "of groups. A pass measures what is needed for the chosen columns and no more.",
    "clipping": "Recorded where `clip_value` is given. Costs one sum.",
    "recombinations": "What each combination of direction and magnitude would have done. Costs eight sums.",
    "rates": "Costs one histogram.",
    "momentum": "Costs one histogram.",
    "series": "Compared with the steps before, on a sample of coordinates. Every step is looked at, recorded or not.\n"
    "Costs 16 kB a tensor.",
    "traces": "Single coordinates of each tensor, four unless it is smaller. Costs a look at them before and after a\n"
    "recorded step.",
    "histograms": "The histograms themselves. Costs one more histogram.",
    "joint": "Two quantities of each coordinate against each other: a scatter plot without its points. Costs two\n"
    "histograms of 4096 cells, and up to some hundred values a row: for few layers or few steps.",
}


def alarms() -> str:
    """Every alarm that a scope may raise."""
    from stepscope.scope.alarms import ALARMS, CALM, FURTHER

    head = (
        "A rule has to hold for some recorded steps in a row. It raises its alarm once a layer, and again only after\n"
        f"it has not held for {CALM} recorded steps. Columns that are not recorded keep their rules silent.\n\n"
    )
    rows = []
    for rule in (*ALARMS, *FURTHER):
        needs = ", ".join(f"`{name}`" for name in rule.needs) or "the noted loss"
        where = " Only of layers with a matrix or kernel." if rule.weights else ""
        rows.append(
            f"`{rule.id}`\n: {rule.when}: threshold {rule.threshold:g}, for {rule.patience} recorded "
            f"{'step' if rule.patience == 1 else 'steps'}.{where}\n  Reads: {needs}.\n  {rule.helps}"
        )
    return f"# Alarms\n\n{MADE}{head}" + "\n\n".join(rows) + "\n"


_PAPERS = {
    "balles2018": "Dissecting Adam [balles2018]",
    "eigen2025": "Gradient Spread [eigen2025]",
    "kaiser": "Exploring the Dynamics of Adam [kaiser]",
    "tutorial": "The tutorial [tutorial]",
    "stepscope": "Beyond the papers",
}


def ledger() -> str:
    """Every claim of the papers with its stored verdict."""
    from stepscope.experiments.claims.ledger import claims, stored
    from stepscope.experiments.claims.places import PLACES

    rows, known = stored(), claims()
    head = (
        "What the papers claim, how each claim is decided, and what we measured. A threshold is fixed in code before\n"
        "the test runs; a claim that fails stays in the list. `stepscope reproduce ID` tests one again and writes its\n"
        "figure and data, `stepscope claims --run` tests all of them.\n\n"
        "Verdicts: *holds*; *holds under a condition*, which is named; *fails*; *undecided*, where the interval\n"
        "includes the threshold or the p value, corrected over the claims about one figure, exceeds 0.05;\n"
        "*indicates*, where only part of a claim, or a fraction of its protocol, was tested. Intervals cover 95 %; a\n"
        "deviation of 5 standard errors is a false alarm once in two million samples.\n\n"
    )
    parts = []
    for paper, title in _PAPERS.items():
        here = [one for one in known.values() if one.paper == paper and one.id in rows]
        counts = [
            f"{sum(rows[o.id].verdict == v for o in here)} {v.value}"
            for v in dict.fromkeys(rows[o.id].verdict for o in here)
        ]
        lines = [f"## {title}", "", f"{len(here)} claims: {', '.join(counts)}.", ""]
        lines += ["| place | claim and threshold | verdict | measured | printed |", "|---|---|---|---|---|"]
        for one in here:
            row = rows[one.id]
            condition = f" ({row.condition})" if row.condition else ""
            cells = (
                f"{one.place}<br>`{one.id}`",
                f"{one.statement}<br>*Decided by:* {one.threshold}.",
                f"**{row.verdict.value}**{condition}",
                row.measured,
                one.theirs,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        untested = {place: why for place, why in PLACES[paper].items() if why}
        if untested:
            lines += ["", "Not tested: " + "; ".join(f"{place} ({why})" for place, why in untested.items()) + "."]
        parts.append("\n".join(lines))
    return f"# Claims\n\n{MADE}{head}" + "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "columns.md": columns,
    "alarms.md": alarms,
    "claims.md": ledger,
}


def _sections(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    arguments = [param for param in command.params if _is_argument(param)]
    words = [path, *(p.metavar if p.required else f"[{p.metavar}]" for p in arguments), *["COMMAND"] * bool(children)]
    yield f"## `{path}`\n\n```text\n{' '.join(words)}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
    rows = [f"| {_names(param)} | {param.help}{_default(param)} |" for param in command.params if param.help]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows, ""])
    for name, child in children.items():
        yield from _sections(child, f"{path} {name}")


def _is_argument(param: Any) -> bool:
    return str(param.param_type_name) == "argument"


def _names(param: Any) -> str:
    if _is_argument(param):
        return f"`{param.metavar}`"
    value = f" {param.metavar}" if param.metavar and not param.is_flag else ""
    return ", ".join(f"`{name}{value}`" for name in param.opts).replace("|", "\\|")


def _default(param: Any) -> str:
    """Said where there is one to say; what stands for "none" differs between versions of typer."""
    if param.required or getattr(param, "is_flag", False) or not isinstance(param.default, str | int | float):
        return ""
    return f" Default: {getattr(param.default, 'value', param.default)}."


if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(sys.argv[1]) / name).write_text(page(), "utf-8")
