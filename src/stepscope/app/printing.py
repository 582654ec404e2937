"""Results as tables for a terminal."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from stepscope.problems.data import DataSetInfo

__all__ = ["datasets_table", "effects_table", "failures"]

EFFECTS = {"sign": "sign", "variance_adaptation": "variance adaptation", "interaction": "interaction"}
CELLS = {"adam": "Adam", "adam_one_beta": "one beta"}
COLOURS = {"helps": "green", "hurts": "red", "no difference": "default", "cannot tell": "yellow"}
WIDTH = 120  # of a pipe or a file, which has none of its own
NARROWEST = 80  # below it numbers would be cut; a narrower terminal wraps the lines instead


def effects_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print each effect with its interval and verdict, then the verdict on all of them.

    results: in the schema "stepscope.dissection/1".
    """
    console = console or _console()
    console.width = max(console.width, NARROWEST)
    outcomes: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for effect in results["effects"]:
        outcomes.setdefault(effect["outcome"], {}).setdefault(effect["effect"], []).append(effect)
    for outcome, effects in outcomes.items():
        table = Table(title=Text(_title(outcome, results)), title_justify="left", title_style="bold")
        table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
        table.add_column("effect")
        for heading in ("Adam is", "estimate [95 % interval]", "p (Holm)", "verdict"):
            table.add_column(heading, no_wrap=True)
        for name, cells in effects.items():
            for row, effect in enumerate(cells):  # both Adam cells of an effect, one below the other
                table.add_row(
                    "" if row else EFFECTS[name],
                    CELLS[effect["adam_cell"]],
                    _estimate(effect),
                    "-" if effect["p_holm"] is None else f"{effect['p_holm']:.2g}",
                    Text(effect["verdict"], style=COLOURS[effect["verdict"]]),
                )
        console.print()
        console.print(table)
    labels = {arm["method"]: arm["label"] for arm in results["arms"]}
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for pair in results.get("comparisons", ()):
        pairs.setdefault(pair["outcome"], []).append(pair)
    for outcome, rows in pairs.items():
        table = Table(title=Text(_title(outcome, results)), title_justify="left", title_style="bold")
        table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
        table.add_column(Text(f"in the place of {labels[rows[0]['baseline']]}"))
        for heading in ("estimate [95 % interval]", "p (Holm)", "verdict"):
            table.add_column(heading, no_wrap=True)
        for pair in rows:
            table.add_row(
                Text(labels[pair["method"]]),  # a point's colons are no emoji
                _estimate(pair),
                "-" if pair["p_holm"] is None else f"{pair['p_holm']:.2g}",
                Text(pair["verdict"], style=COLOURS[pair["verdict"]]),
            )
        console.print()
        console.print(table)
    console.print()
    verdict = results["verdict"]
    for line in (verdict["headline"], verdict["adam_cells"]):
        if line:
            console.print(line, markup=False, highlight=False, emoji=False)


def datasets_table(datasets: "Iterable[DataSetInfo]", console: Console | None = None) -> None:
    """Print the known data sets and where they are."""
    table = Table(pad_edge=False)
    for heading in ("data set", "where", "download", "licence"):
        table.add_column(heading, overflow="fold")
    for one in datasets:
        table.add_row(one.name, Text(one.where), f"{one.size / 1e6:.0f} MB" if one.size else "-", one.licence)
    (console or _console()).print(table)


def failures(results: Mapping[str, Any]) -> str:
    """Runs that ended in an error rather than in a result: "2 runs", or "" for none. Divergence is a result."""
    count = sum(run["status"] == "failed" for arm in results["arms"] for run in [*arm["tuning"], *arm["runs"]])
    return f"{count} run{'' if count == 1 else 's'}" if count else ""


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _title(outcome: str, results: Mapping[str, Any]) -> str:
    problem = results["problem"]
    names = {"train_loss": "training loss", "test_loss": "test loss", "test_metric": f"test {problem['metric']}"}
    return f"{problem['name']}: final {names[outcome]}"


def _estimate(effect: Mapping[str, Any]) -> str:
    numbers = (effect["estimate"], effect["low"], effect["high"])
    form = "{:.3g}" if effect["scale"] == "ratio" else "{:+.3g}"
    estimate, low, high = ("" if number is None else form.format(number) for number in numbers)
    if not estimate:
        return "-"
    return f"{'x ' if effect['scale'] == 'ratio' else ''}{estimate}" + (f" [{low}, {high}]" if low else "")
