"""What the command line does with folders of sweeps, and where their trials run."""

import dataclasses
import json as json_text
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stepscope.experiments import Executor

__all__ = ["Engine", "engine", "merge", "status"]


class Engine(StrEnum):
    """Where trials run."""

    processes = "processes"
    ray = "ray"


def engine(kind: Engine, address: str) -> "Executor | None":
    """The executor of that kind; None for the usual one.  Raises: UserError if there is no Ray, or no cluster."""
    if kind is Engine.processes:
        return None
    from stepscope.experiments import Ray

    return Ray(address)


def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a dissection, finished or not.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """How far a dissection is: trials done, running and interrupted, and the age of their checkpoints."""
    from stepscope.experiments.gather import status as look

    found = look(folder)
    if json:
        typer.echo(json_text.dumps({**dataclasses.asdict(found), "trials": found.trials}, indent=2))
    else:
        typer.echo("\n".join(found.lines()))


def merge(
    into: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the trials go; made if need be.")],
    folders: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Folders with the same settings.")],
) -> None:
    """Bring the finished trials of several folders of one sweep together, as of jobs without a disk in common.

    The same `dissect` with `--out FOLDER` then goes on with what is missing.
    """
    from stepscope.experiments.gather import merge as bring

    new = bring(into, folders)
    typer.echo(f"{new} trials are new in {into}.")
