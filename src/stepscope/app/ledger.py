"""`stepscope claims` and `stepscope reproduce`: the ledger of the papers' claims."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepscope.app.sweeps import Engine, engine
from stepscope.errors import UserError

if TYPE_CHECKING:
    from stepscope.experiments.claims.claim import Finding
    from stepscope.experiments.claims.ledger import Entry

__all__ = ["claims", "reproduce"]

_STYLES = {"holds": "green", "holds under a condition": "cyan", "fails": "red", "undecided": "yellow"}


def claims(
    only: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only claims whose id begins like this.")] = "",
    run: Annotated[bool, typer.Option("--run", help="Test them again and compare with the stored verdicts.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Test them again and store the verdicts.")] = False,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Tests at a time.")] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With --run: figures and data of each claim.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """What the papers claim, what we measured, and the verdict.

    Prints the stored ledger; --run finds it out again from nothing, in a few minutes. Exit code 1: a verdict differs
    from the stored one, or a test broke.
    """
    from stepscope.errors import UserError
    from stepscope.experiments.claims import ledger

    known = ledger.claims()
    ids = [i for i in known if i.startswith(only)]
    if not ids:
        raise UserError(f"no claim begins with {only!r}; `stepscope reproduce` lists them.")
    old = ledger.stored()
    new = old
    broken: dict[str, str] = {}
    if run or update or not old:
        done = 0

        def said(id: str, finding: "Finding | None", seconds: float) -> None:
            nonlocal done
            done += 1
            verdict = "broken" if finding is None else finding.verdict.value
            typer.echo(f"{done:3d}/{len(ids)}  {seconds:6.1f} s  {id}: {verdict}", err=True)

        findings, broken = ledger.run_all(ids, jobs, said)
        new = {i: ledger.entry(i, finding) for i, finding in findings.items()}
        if out is not None:
            for i, finding in findings.items():
                _files(i, finding, out / i)
        if update:
            ledger.save((old | new).values())
    shown = [new[i] for i in ids if i in new]
    if json:
        _print_json(shown)
    else:
        _table(shown)
    for id, problem in broken.items():
        typer.echo(f"{id} broke:\n{problem}", err=True)
    differing = [i for i in ids if run and i in new and (i not in old or old[i].verdict != new[i].verdict)]
    for i in differing:
        stored = old[i].verdict.value if i in old else "nothing"
        typer.echo(f"{i}: {new[i].verdict.value}, but {stored} is stored", err=True)
    if broken or differing:
        raise typer.Exit(1)


def reproduce(
    id: Annotated[
        str, typer.Argument(metavar="[ID]", help="A claim or an experiment; without one, all are listed.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the files go; by default runs/claims or runs/reproduce and the id."),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            metavar="paper|small|smoke",
            help="Of an experiment: the paper's protocol, a fraction for an hour or two on two cores, or a few steps.",
        ),
    ] = "small",
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Runs at a time; by default one a core.")] = None,
    executor: Annotated[
        Engine, typer.Option(metavar="processes|ray", help="Where runs are trained: on this machine, or in a cluster.")
    ] = Engine.processes,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Of the Ray cluster.")] = "auto",
    finished: Annotated[
        bool, typer.Option("--finished", help="Of an experiment: draw and test what is finished, and train nothing.")
    ] = False,
    take_up: Annotated[
        str,
        typer.Option(
            metavar="kept|FILE",
            help="Do not train again what a half-way run has: the one that came with stepscope, or a curves.json.",
        ),
    ] = "",
) -> None:
    """Test one claim again, or repeat a paper's experiment on real networks: figure, data, verdicts.

    An experiment that was interrupted goes on where it stopped; one that is done is only drawn again.
    """
    from stepscope.experiments.claims import ledger
    from stepscope.experiments.papers.reproduce import EXPERIMENTS

    if not id:
        for experiment in EXPERIMENTS.values():
            typer.echo(f"{experiment.id:<34} {experiment.paper}, {experiment.place}: {experiment.title}")
        for one in ledger.claims().values():
            typer.echo(f"{one.id:<34} {one.paper}, {one.place}: {one.statement}")
    elif id in EXPERIMENTS:
        _experiment(
            id, profile, out or Path("runs", "reproduce", f"{id}-{profile}"), jobs, executor, address, finished, take_up
        )
    else:
        _claim(id, out or Path("runs", "claims", id))


def _experiment(
    id: str, profile: str, folder: Path, jobs: int | None, kind: Engine, address: str, finished: bool, take_up: str
) -> None:
    from stepscope.app import progress as shown
    from stepscope.experiments import Processes
    from stepscope.experiments.papers.experiment import kept, load_stored
    from stepscope.experiments.papers.reproduce import reproduce
    from stepscope.report.claims import write_figure

    earlier = None if not take_up else kept(id) if take_up == "kept" else load_stored(Path(take_up))
    if take_up and earlier is None:
        raise UserError(f"there is no run to take up: {'none is kept of ' + id if take_up == 'kept' else take_up}.")
    with shown.watch() as progress:
        place = None if finished else engine(kind, address) or (Processes(jobs) if jobs else None)
        done = reproduce(id, profile, folder, executor=place, progress=progress, finished=finished, take_up=earlier)
    write_figure(done.figure, folder)
    typer.echo(f"{done.experiment.paper}, {done.experiment.place}: {done.experiment.title}\n{done.figure.caption}")
    for one in done.experiment.sentences:
        finding = done.findings[one.id]
        typer.echo(f"{one.place}: {one.statement}\n  {finding.verdict.value}: {finding.measured}")
    typer.echo(f"files: {folder}")


def _claim(id: str, folder: Path) -> None:
    from stepscope.experiments.claims import ledger

    finding = ledger.reproduce(id, folder)
    if finding.figure is not None:
        _figure(finding, folder)
    one = ledger.claims()[id]
    typer.echo(f"{one.paper}, {one.place}\nclaim:     {one.statement}\ndecided:   {one.threshold}")
    if one.theirs:
        typer.echo(f"theirs:    {one.theirs}")
    typer.echo(f"measured:  {finding.measured}\nverdict:   {finding.verdict.value}")
    if finding.condition:
        typer.echo(f"           {finding.condition}")
    typer.echo(f"files:     {folder}")
    old = ledger.stored().get(id)
    if old is not None and old.verdict != finding.verdict:
        typer.echo(f"the stored verdict is {old.verdict.value}", err=True)
        raise typer.Exit(1)


def _figure(finding: "Finding", folder: Path) -> None:
    from stepscope.report.claims import write_figure

    assert finding.figure is not None
    write_figure(finding.figure, folder)


def _files(id: str, finding: "Finding", folder: Path) -> None:
    from stepscope.experiments.claims import ledger

    ledger.write(id, finding, folder)
    if finding.figure is not None:
        _figure(finding, folder)


def _table(rows: "list[Entry]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from stepscope.experiments.claims.ledger import claims as known

    console = Console()
    console.width = max(console.width, 100) if console.is_terminal else 160
    table = Table(pad_edge=False)
    for heading in ("claim", "place", "verdict", "what we measured", "what they print"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        one = known()[row.id]
        place = f"{one.paper}, {one.place}"
        said = f"{row.measured}{f' ({row.condition})' if row.condition else ''}"
        verdict = Text(row.verdict.value, style=_STYLES.get(row.verdict.value, "default"))
        table.add_row(f"{row.id}: {one.statement}", place, verdict, said, one.theirs)
    console.print(table)
    counts = {verdict: sum(row.verdict.value == verdict for row in rows) for verdict in _words(rows)}
    console.print(f"{len(rows)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items()))


def _words(rows: "list[Entry]") -> list[str]:
    return list(dict.fromkeys(row.verdict.value for row in rows))


def _print_json(rows: "list[Entry]") -> None:
    import json

    from stepscope.experiments.claims.ledger import claims as known

    def described(row: "Entry") -> dict[str, Any]:
        one = known()[row.id]
        more = {name: getattr(one, name) for name in ("paper", "place", "statement", "threshold", "theirs", "family")}
        return {**vars(row), **more}

    typer.echo(json.dumps([described(row) for row in rows], indent=1))
