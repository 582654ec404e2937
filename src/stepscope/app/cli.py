"""The command line: each verb parses, calls the library and prints.

Nothing heavy is imported here; each verb imports what it needs, so that every --help is quick.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import stepscope
from stepscope.app.ledger import claims, reproduce
from stepscope.app.pages import play, watch
from stepscope.app.runs import diff, repair
from stepscope.app.simulation import simulate
from stepscope.app.sweeps import Engine, engine, merge, status
from stepscope.errors import UserError

__all__ = ["app", "default_folder", "main", "parse_grid", "run"]

EXIT_OK, EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130

# Of BadParameter, typer exports no public base: it is its own class in some versions and click's in others.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(help="Find, fetch and check data sets.")
app.add_typer(data_app, name="data")


class Select(StrEnum):
    """What a step size is judged by."""

    validation = "validation"
    paper = "paper"


class Profile(StrEnum):
    """How much is trained."""

    demo = "demo"
    paper = "paper"


@app.callback(invoke_without_command=True)
def stepscope_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """A microscope for optimizer steps: what sign, magnitude and variance adaptation contribute to your training.

    Exit codes: 0 done, 1 a run failed, 2 wrong use, 130 interrupted.
    """
    if version:
        typer.echo(f"stepscope {stepscope.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def dissect(
    problem: Annotated[
        str,
        typer.Argument(
            metavar="PROBLEM",
            help="digits, fashion-mnist, cifar10, cifar100, war-and-peace, eigen, eigen-16, or your own: "
            "FILE.py or FILE.py:NAME.",
        ),
    ] = "digits",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where everything goes; by default runs/ and the problem's name."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Repetitions of each method; by default the profile's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps of a run, if not the problem's own.")] = None,
    budget: Annotated[int, typer.Option(metavar="N", help="Step sizes tried for each method.")] = 8,
    select: Annotated[
        Select,
        typer.Option(
            metavar="validation|paper",
            help="Choose step sizes on held-out training data, or as the paper on test data.",
        ),
    ] = Select.validation,
    profile: Annotated[
        Profile, typer.Option(metavar="demo|paper", help="3 repetitions, or 10 as in the paper.")
    ] = Profile.demo,
    beta: Annotated[
        float, typer.Option(metavar="BETA", help="Decay of the averages, in [0, 1); Adam keeps its own two.")
    ] = 0.9,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=LR,...", help="Step sizes of one method instead of a search; repeatable."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Other methods than the five: names of stepscope.optim such as lion, or points of the grid such as "
            "sign_m:erf_rho. Those beside the five are compared with the first.",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Runs at a time; by default one a core.")] = None,
    record_every: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Record each N-th step of each method's first run; by default about 200 in all."
        ),
    ] = None,
    executor: Annotated[
        Engine, typer.Option(metavar="processes|ray", help="Where runs are trained: on this machine, or in a cluster.")
    ] = Engine.processes,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Of the Ray cluster.")] = "auto",
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do the I-th of N parts, the others being done by jobs on the same folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
) -> None:
    """Train PROBLEM with and without each of Adam's two ingredients and say which one matters.

    Each method gets its own tuned step size and several seeds.
    Writes a folder with all results and one HTML report.
    The same command again goes on where it was interrupted.
    """
    steps_of = parse_grid(grid or ())
    folder = out or default_folder(problem)

    from stepscope import experiments, report
    from stepscope.app import progress as shown
    from stepscope.app.printing import effects_table, failures

    with shown.watch() as progress, _part_done_is_no_failure():
        result = experiments.dissect(
            problem,
            points=None if methods is None else [name.strip() for name in methods.split(",") if name.strip()],
            seeds=seeds,
            steps=steps,
            budget=budget,
            select=select.value,
            profile=profile.value,
            beta=beta,
            grid=steps_of or None,
            out=folder,
            jobs=jobs,
            record_every=record_every,
            progress=progress,
            executor=engine(executor, address),
            shard=shard,
        )
    result.report = report.write(result.folder, result.folder / "report.html")
    if json:
        typer.echo((result.folder / "results.json").read_text("utf-8"), nl=False)
    else:
        effects_table(result.results)
    typer.echo(f"report: {result.report}", err=json)
    if failed := failures(result.results):
        typer.echo(f"{failed} failed with an error; result.json in {result.folder / 'trials'} says which", err=True)
        raise typer.Exit(EXIT_FAILED)


@contextlib.contextmanager
def _part_done_is_no_failure() -> Iterator[None]:
    """A job of an array that has done its part ends well."""
    from stepscope.experiments.shard import PartDone

    try:
        yield
    except PartDone as done:
        typer.echo(str(done), err=True)
        raise typer.Exit from None


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a dissection or of a recorded run.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The HTML file; by default report.html in FOLDER.")
    ] = None,
) -> None:
    """Write the report of a stored dissection or run as one HTML file."""
    from stepscope.report import write

    typer.echo(f"report: {write(folder, out or folder / 'report.html')}")


for verb in (play, watch, diff, repair, status, merge, simulate, claims, reproduce):
    app.command()(verb)


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Find, fetch and check data sets."""
    if context.invoked_subcommand is None:
        data_list()


@data_app.command("list")
def data_list() -> None:
    """List the known data sets, where each was found, and what it would take to fetch it."""
    from stepscope.app.printing import datasets_table
    from stepscope.problems.data import datasets

    datasets_table(datasets())


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(metavar="NAME", help="As `stepscope data list` shows it.")]) -> None:
    """Download a data set unless it is here, and check its contents."""
    from stepscope.problems.data import fetch

    files = fetch(name)
    for path in files:
        typer.echo(path)
    typer.echo(f"{name} is complete and undamaged." if files else f"{name} needs no fetching.", err=True)


def parse_grid(entries: Iterable[str]) -> dict[str, list[float]]:
    """Step sizes by method, from entries such as "msgd=0.1,0.3". Several entries for a method add up.

    Which methods and step sizes make sense is for the library to say.  Raises: UserError for an entry of another form.

    >>> parse_grid(["msgd=0.1,0.3", "adam=1e-3"])
    {'msgd': [0.1, 0.3], 'adam': [0.001]}
    """
    grid: dict[str, list[float]] = {}
    for entry in entries:
        method, _, values = (part.strip() for part in entry.partition("="))
        if not (method and values):
            raise UserError(f"--grid wants METHOD=LR,LR,... such as msgd=0.1,0.3, got {entry!r}.")
        try:
            grid.setdefault(method, []).extend(float(value) for value in values.split(","))
        except ValueError as error:
            raise UserError(
                f"--grid {entry}: {error}; give numbers with commas between, as in msgd=0.1,0.3."
            ) from error
    return grid


def default_folder(problem: str) -> Path:
    """Where a dissection of `problem` goes unless told otherwise: runs/<name>, for a file runs/<stem>-<attribute>.

    >>> [default_folder(spec).as_posix() for spec in ("digits", "my/nets.py:small", "my/nets.py")]
    ['runs/digits', 'runs/nets-small', 'runs/nets']
    """
    file, dot_py, attribute = problem.rpartition(".py")
    name = f"{Path(file).name}{attribute.replace(':', '-')}" if dot_py else problem
    return Path("runs", "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "problem")


def run(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit code. The only place where errors become lines and codes."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("stepscope", list(arguments)) as context:
            command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on where this one stopped", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough, as in `stepscope ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (UserError, OSError, _UsageError) as error:
        text = _explain(error)
        typer.echo(f"error: {text if getattr(error, 'lines', False) else ' '.join(text.split())}", err=True)
        return EXIT_WRONG_USE
    return EXIT_OK


def main() -> None:
    """The `stepscope` command."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows its code instead of a traceback
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def _explain(error: Any) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    text = error.format_message()
    end = "" if text.endswith((".", "?", "!", ")")) else "."
    return f"{text}{end} See {error.ctx.command_path if error.ctx else 'stepscope'} --help."


if __name__ == "__main__":
    main()
