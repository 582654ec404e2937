"""`stepscope simulate`: trajectories and sweeps from the shell, as files."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepscope.errors import UserError

if TYPE_CHECKING:
    from stepscope.simulate import Sweep, Trajectory

__all__ = ["Axis", "parse_numbers", "simulate"]

MOST = 100_000_000


class Dtype(StrEnum):
    """The number format of a simulation."""

    float64 = "float64"
    float32 = "float32"
    extended = "extended"


class Order(StrEnum):
    """The order of operations."""

    torch = "torch"
    reciprocal = "reciprocal"


class Axis(tuple[float, float, int, bool]):
    """A range of numbers, LOW:HIGH:COUNT or with :log at its end."""

    __slots__ = ()


_SETTING = re.compile(r"^\s*([A-Za-z_]\w*)\s*=\s*(.+)$")


def parse_numbers(text: str) -> float | Axis:
    """A number, or a range such as 0:1:5 (even steps) or 1e-4:1:5:log (even factors).

    >>> parse_numbers("1e-3"), parse_numbers("1e-4:1:5:log")
    (0.001, (0.0001, 1.0, 5, True))
    """
    low, *rest = text.strip().split(":")
    try:
        if not rest:
            return float(low)
        high, count, *kind = rest
        if kind not in ([], ["log"]):
            raise ValueError(f"{kind[0]!r} is not log")
        axis = Axis((float(low), float(high), int(count), bool(kind)))
    except ValueError as error:
        wanted = "a number, or LOW:HIGH:COUNT, or LOW:HIGH:COUNT:log, as in 1e-4:1:50:log"
        raise UserError(f"{text!r} is not {wanted} ({error}).") from error
    if axis[2] < 1 or (axis[3] and not (axis[0] > 0 and axis[1] > 0)):
        raise UserError(f"{text!r}: a range has at least one number, and one with :log lies above 0.")
    return axis


def simulate(
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="An update rule: adam, sgd, rmsprop, msvag, ...")
    ] = "adam",
    landscape: Annotated[
        str, typer.Argument(metavar="LANDSCAPE", help='A name such as smooth_valley, or a formula: "x^2 + 1e-3 y^2".')
    ] = "smooth_valley",
    start: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="Where to begin; each number may be a range; by default the landscape's own."),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", help="How many steps.")] = 1000,
    every: Annotated[int, typer.Option(metavar="K", help="Record each K-th step of a single trajectory.")] = 1,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A number of the rule or the landscape, such as lr=1e-3, or a range: lr=1e-4:1:50:log; repeatable.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="additive|relative|shift",
            help="Gradient noise sigma z, or sigma |g| z, or the gradient at a point off by sigma z.",
        ),
    ] = None,
    sigma: Annotated[str, typer.Option(metavar="S", help="Its standard deviation; may be a range.")] = "0",
    seed: Annotated[int, typer.Option(metavar="N", help="Of the noise.")] = 0,
    seeds: Annotated[int, typer.Option(metavar="N", help="Repeat every setting with this many seeds.")] = 1,
    observe: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="What a sweep reports of each trajectory; see the documentation."),
    ] = "theta,loss,first_inside,last_outside,diverged_at,underflow_at,period,amplitude",
    tol: Annotated[float, typer.Option(metavar="R", help="Distance that counts as inside.")] = 1e-3,
    dtype: Annotated[
        Dtype, typer.Option(metavar="float64|float32|extended", help="Number format; extended reaches 10^-4932.")
    ] = Dtype.float64,
    order: Annotated[
        Order, typer.Option(metavar="torch|reciprocal", help="Round as torch.optim does, or save divisions.")
    ] = Order.torch,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the rows go: a name ending in .csv or .parquet.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the rules and landscapes with their numbers.")] = False,
) -> None:
    """Simulate an update rule on a landscape: one trajectory, or with ranges a grid of them.

    A trajectory has one row per recorded step: the point, the loss, the gradient, the rule's state and what the step is
    made of. A grid has one row per trajectory.
    """
    if listing:
        _list()
        return
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: the name must end in .csv or .parquet.")
    numbers = _settings(setting or ())
    points = None if start is None else [parse_numbers(text) for text in start.split(",")]
    level = parse_numbers(sigma)
    if noise is None and level != 0.0:
        raise UserError("--sigma needs --noise additive, relative or shift.")
    varied = [v for v in (*(points or ()), *numbers.values(), level) if isinstance(v, Axis)]
    from stepscope import simulate as engine

    if not varied and seeds == 1:
        assert not isinstance(level, Axis)
        single = None if points is None else [float(x) for x in points if not isinstance(x, Axis)]
        path = engine.run(
            rule, landscape, start=single, steps=steps, every=every, noise=noise, sigma=level, seed=seed,
            dtype=dtype.value, order=order.value, **numbers,
        )  # fmt: skip
        _print_path(path)
        _write(path.flat(), out)
        return
    columns, grid = _grid(landscape, points, numbers, level, seed, seeds)
    result = engine.sweep(
        rule, landscape, steps=steps, observe=[name.strip() for name in observe.split(",")], tol=tol, noise=noise,
        dtype=dtype.value, order=order.value, **grid,
    )  # fmt: skip
    rows = _rows(columns, result)
    _print_sweep(rows, result)
    _write(rows, out)


def _settings(entries: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for entry in entries:
        match = _SETTING.match(entry)
        if not match:
            raise UserError(f"--set wants NAME=VALUE such as lr=1e-3 or lr=1e-4:1:50:log, got {entry!r}.")
        out[match[1]] = parse_numbers(match[2])
    return out


def _grid(
    landscape: str, points: Sequence[float | Axis] | None, numbers: Mapping[str, Any], level: Any, seed: int, seeds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The varied numbers by name, and everything as arrays that broadcast to the grid."""
    import numpy as np

    from stepscope.simulate import find

    place = find(landscape)
    variables = place.variables
    first = list(place.start if points is None else points)
    if len(first) != len(variables):
        raise UserError(
            f"{place.name} has {len(variables)} variables ({', '.join(variables)}), but --start has {len(first)}."
        )
    every = {f"start.{v}": x for v, x in zip(variables, first, strict=True)} | dict(numbers) | {"sigma": level}
    axes = {name: value for name, value in every.items() if isinstance(value, Axis)}
    sizes = [axis[2] for axis in axes.values()] + [seeds] * (seeds > 1)
    if (total := int(np.prod(sizes, dtype=object))) > MOST:
        raise UserError(f"{total:,} trajectories are more than {MOST:,}; take fewer numbers in the ranges.")
    arrays: dict[str, Any] = dict(every)
    for i, (name, (low, high, count, log)) in enumerate(axes.items()):
        values = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
        arrays[name] = values.reshape([-1 if j == i else 1 for j in range(len(sizes))])
    arrays["seed"] = seed + (np.arange(seeds) if seeds > 1 else 0)
    columns = {name: arrays[name] for name in axes} | ({"seed": arrays["seed"]} if seeds > 1 else {})
    shape = tuple(sizes)
    columns = {name: np.broadcast_to(values, shape).reshape(-1) for name, values in columns.items()}
    start = [arrays.pop(f"start.{v}") for v in variables]
    return columns, {"start": start, **arrays}


def _rows(columns: Mapping[str, Any], result: "Sweep") -> dict[str, Any]:
    rows = dict(columns)
    for name, values in result.observed.items():
        if name in ("theta", "amplitude"):
            rows |= {f"{name}.{v}": values[i].reshape(-1) for i, v in enumerate(result.landscape.variables)}
        else:
            rows[name] = values.reshape(-1)
    return rows


def _write(columns: Mapping[str, Any], out: Path | None) -> None:
    if out is None:
        return
    import pyarrow as pa

    # 80-bit numbers have no column type; float64 is what files hold.
    table = pa.table({name: v.astype("float64") if v.dtype.kind == "f" else v for name, v in columns.items()})
    if out.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table, out)
    else:
        from pyarrow import parquet

        parquet.write_table(table, out)
    typer.echo(f"{table.num_rows} rows: {out}", err=True)


def _print_path(path: "Trajectory") -> None:
    names = path.landscape.variables
    for i in sorted({0, len(path.steps) // 4, len(path.steps) // 2, 3 * len(path.steps) // 4, len(path.steps) - 1}):
        point = "  ".join(f"{v} {float(x):.6g}" for v, x in zip(names, path.theta[i], strict=True))
        typer.echo(f"step {path.steps[i]}: {point}  loss {float(path.loss[i]):.6g}")


def _print_sweep(rows: Mapping[str, Any], result: "Sweep") -> None:
    import numpy as np

    total = len(next(iter(rows.values())))
    typer.echo(f"{total} trajectories of {result.rule.name} on {result.landscape.name}")
    for name, values in rows.items():
        if name in ("first_inside", "last_outside", "diverged_at", "underflow_at"):
            known = values[values >= 0]
            middle = f", median step {int(np.median(known))}" if len(known) else ""
            typer.echo(f"  {name}: {len(known)}{middle}")
        elif name == "period":
            found, counts = np.unique(values, return_counts=True)
            said = ", ".join(f"{p} ({n})" if p else f"none ({n})" for p, n in zip(found, counts, strict=True))
            typer.echo(f"  period: {said}")
        else:
            finite = values[np.isfinite(values)]
            if len(finite):
                low, middle, high = np.quantile(finite, [0.0, 0.5, 1.0])
                broken = f", {len(values) - len(finite)} not finite" if len(finite) < len(values) else ""
                typer.echo(f"  {name}: {low:.6g} to {high:.6g}, median {middle:.6g}{broken}")


def _list() -> None:
    from stepscope.rules import METHODS
    from stepscope.simulate import LANDSCAPES

    typer.echo("rules")
    for name, rule in METHODS.items():
        typer.echo(f"  {name}: {', '.join(f'{h}={v:g}' for h, v in rule.defaults.items())}  ({rule.source})")
    typer.echo("landscapes")
    for name, place in LANDSCAPES.items():
        said = ", ".join(f"{p}={v:g}" for p, v in place.params.items())
        typer.echo(f"  {name}({', '.join(place.variables)}){f': {said}' if said else ''}")
