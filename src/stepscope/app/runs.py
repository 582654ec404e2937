"""What the command line does with recorded runs."""

import dataclasses
import json as json_text
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["diff", "repair"]

EXIT_FAILED = 1


def repair(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a recorded run.")],
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON and nothing else.")] = False,
) -> None:
    """Recover a recorded run after a crash, or after its disk has damaged some of it.

    Everything that can be read is kept; what is damaged moves to damaged/ in the run's folder.
    Exit codes: 0 nothing is lost, 1 something is and the lines say what.
    """
    from stepscope.store import repair as recover

    found = recover(folder)
    if json:
        typer.echo(json_text.dumps(dataclasses.asdict(found), indent=2))
    else:
        for line in found.lost:
            typer.echo(f"lost: {line}")
        if found.sealed:
            typer.echo(f"recovered: {_count(found.sealed, 'segment')} of a writer that was killed")
        if found.torn:
            typer.echo(f"cut off: {_count(found.torn, 'byte')} of a write that was never finished")
        if found.tidied:
            typer.echo(f"removed: {_count(found.tidied, 'leftover')}")
        typer.echo(f"{folder} has {_count(found.rows, 'row')}{'' if found.lost else ' and is whole'}.")
    if found.lost:
        raise typer.Exit(EXIT_FAILED)


def diff(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The folder of a recorded run.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Of another one.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The HTML file; by default diff.html in RUN_B.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all departures as JSON and nothing else.")] = False,
) -> None:
    """Compare two recorded runs: what changed first, and where.

    Says from which step on any recorded value differs, and which layers depart by more than their noise.
    Writes both runs side by side as one HTML file.
    """
    from stepscope.report import write_diff
    from stepscope.report.diffpage import lines
    from stepscope.store import plain

    path, found = write_diff(a, b, out or b / "diff.html")
    if json:
        typer.echo(json_text.dumps(plain(found.summary()), indent=2, ensure_ascii=False))
    else:
        for line in lines(found):
            typer.echo(line)
    typer.echo(f"report: {path}", err=json)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
