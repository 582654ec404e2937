"""`run`: one trajectory with everything its steps are made of.  `sweep`: millions of them, reduced as they go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.errors import UserError, unknown_name
from stepscope.graph.llvm import FORMATS
from stepscope.rules import METHODS, Rule
from stepscope.simulate.engine import Done, execute
from stepscope.simulate.landscapes import Landscape, find
from stepscope.simulate.program import Program, build

__all__ = ["Sweep", "Trajectory", "columns_of", "run", "sweep"]

Array = NDArray[Any]

_WINDOW = 2  # periods are looked for in a window of this many times the longest one
_SAME = 1e-6  # ... as repetition to within this share of the amplitude


@dataclass(frozen=True)
class Trajectory:
    """The recorded steps of one simulation. Row i is the point after steps[i] steps and the step taken from it.

    `trajectory["g"]` [row, coordinate]: g, update, direction, mean, variance, spread, factor, base and the rule's state
    (after that step), as far as recorded.  theta [row, coordinate], loss [row].
    """

    rule: Rule
    landscape: Landscape
    settings: Mapping[str, float]
    steps: NDArray[np.int64]
    columns: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.columns:
            raise unknown_name("column", name, self.columns)
        return self.columns[name]

    @property
    def theta(self) -> Array:
        """The points [row, coordinate]."""
        return self["theta"]

    @property
    def loss(self) -> Array:
        """The loss [row] at each point."""
        return self["loss"]

    def flat(self) -> dict[str, Array]:
        """Every column as one array [row] by name: step, theta.x, theta.y, loss, g.x ..."""
        out: dict[str, Array] = {"step": self.steps}
        for name, values in self.columns.items():
            if values.ndim == 1:
                out[name] = values
            else:
                out |= {f"{name}.{v}": values[:, i] for i, v in enumerate(self.landscape.variables)}
        return out

    def table(self) -> Any:
        """The same as a pyarrow table."""
        import pyarrow as pa

        return pa.table({name: np.asarray(column, np.float64 if name != "step" else None) for name, column in
                         self.flat().items()})  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """What was observed of each trajectory, arrays of the sweep's shape (coordinates first where there are several)."""

    rule: Rule
    landscape: Landscape
    shape: tuple[int, ...]
    observed: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.observed:
            raise unknown_name("observed quantity", name, self.observed)
        return self.observed[name]

    def __getattr__(self, name: str) -> Array:
        observed = self.__dict__.get("observed", {})
        if name in observed:
            return np.asarray(observed[name])
        raise AttributeError(name)


@dataclass
class _Call:
    """The arguments of one call, checked and brought into shape."""

    rule: Rule
    landscape: Landscape
    start: list[Array]
    constants: dict[str, Array]
    seeds: Array
    shape: tuple[int, ...]

    @cached_property
    def flat_start(self) -> dict[str, Array]:
        lanes = int(np.prod(self.shape, dtype=int))
        spread = {f"theta.{i}": np.broadcast_to(x, self.shape).reshape(-1) for i, x in enumerate(self.start)}
        return {name: np.broadcast_to(x, lanes) for name, x in spread.items()}

    def flat(self, values: Array) -> Array:
        return values.reshape(-1) if values.size == 1 else np.broadcast_to(values, self.shape).reshape(-1)


def _checked(
    rule: str | Rule,
    landscape: str | Landscape,
    start: Sequence[ArrayLike] | None,
    steps: int,
    extra: Mapping[str, ArrayLike],
    seed: ArrayLike,
    numbers: Mapping[str, ArrayLike],
) -> _Call:
    if isinstance(rule, str):
        if rule not in METHODS:
            raise unknown_name("update rule", rule, METHODS)
        rule = METHODS[rule]
    place = find(landscape) if isinstance(landscape, str) else landscape
    if steps < 0:
        raise UserError(f"steps must be 0 or more, got {steps}.")
    given = list(place.start if start is None else start)
    if len(given) != len(place.variables):
        raise UserError(
            f"{place.name} has {len(place.variables)} variables ({', '.join(place.variables)}), "
            f"but start has {len(given)} numbers."
        )
    constants = {f"hyper.{n}": np.asarray(v, np.float64) for n, v in rule.defaults.items()}
    constants |= {f"param.{n}": np.asarray(v, np.float64) for n, v in place.params.items()}
    for name, value in numbers.items():
        kinds = [kind for kind in ("hyper", "param") if f"{kind}.{name}" in constants]
        if not kinds:
            known = [n.split(".", 1)[1] for n in constants]
            raise unknown_name(f"setting of {rule.name} on {place.name}", name, known)
        if len(kinds) == 2:
            raise UserError(f"{name!r} is a setting of {rule.name} and of {place.name}; rename the landscape's.")
        constants[f"{kinds[0]}.{name}"] = np.asarray(value, np.float64)
    for one in rule.hyper:
        values = constants[f"hyper.{one.name}"]
        for bound in (np.min(values, initial=np.inf), np.max(values, initial=-np.inf)):
            try:
                one.check(float(bound))
            except ValueError as error:
                raise UserError(f"{rule.name}: {error}.") from error
    constants |= {name: np.asarray(value, np.float64) for name, value in extra.items()}
    points = [np.asarray(x, np.float64) for x in given]
    seeds = np.asarray(seed)
    if seeds.dtype.kind not in "iu":
        raise UserError(f"seed must be a whole number, got {seed!r}.")
    try:
        shape = np.broadcast_shapes(*(a.shape for a in (*points, *constants.values(), seeds)))
    except ValueError as error:
        shapes = {n: a.shape for n, a in constants.items() if a.shape}
        shapes |= {f"start {v}": a.shape for v, a in zip(place.variables, points, strict=True) if a.shape}
        raise UserError(f"the shapes of what varies do not broadcast together: {shapes}.") from error
    return _Call(rule, place, points, constants, seeds, shape)


def _executed(call: _Call, program: Program, steps: int, **options: Any) -> Done:
    constants = {name: call.flat(call.constants[name]) for name in call.constants}
    return execute(program, call.flat_start, constants, call.flat(call.seeds), steps, **options)


_EVERYTHING = ("theta", "loss", "g", "update", "direction", "factor")


def run(
    rule: str | Rule,
    landscape: str | Landscape,
    *,
    start: Sequence[float] | None = None,
    steps: int = 1000,
    every: int = 1,
    record: Sequence[str] | None = None,
    noise: str | None = None,
    sigma: float = 0.0,
    seed: int = 0,
    dtype: str = "float64",
    order: str = "torch",
    **numbers: float,
) -> Trajectory:
    """Simulate one trajectory and record each `every`-th step (and the last point).

    rule, landscape: names, or a Rule and a Landscape; a landscape may be a formula such as "x**2 + 1e-3*y**2".
    record: columns to keep; None for everything.  noise: "additive", g + sigma z; "relative", g (1 + sigma z);
    "shift", the gradient at theta - sigma z (a stochastic quadratic problem, on a quadratic).
    dtype: "float64", "float32", or "extended" (80-bit numbers: exponents to 10^-4932 and 64 bits of significand).
    order: "torch" rounds as torch.optim's single-tensor path does; "reciprocal" saves divisions.
    numbers: hyper-parameters of the rule and parameters of the landscape.
    Raises UserError for what does not exist or is out of range.
    """
    call = _checked(rule, landscape, start, steps, {"sigma": sigma}, seed, numbers)
    if call.shape != ():
        raise UserError("run simulates one trajectory; use sweep for arrays of settings.")
    if every < 1:
        raise UserError(f"every must be 1 or more, got {every}.")
    columns = tuple(record) if record is not None else columns_of(call.rule)
    program = build(call.rule, call.landscape, columns, (), noise, _order(order))
    done = _executed(call, program, steps, every=every, precision=dtype)
    assert done.record is not None or not columns
    taken = np.unique(np.append(np.arange(0, steps + 1, every), steps))
    kept: dict[str, list[Array]] = {}
    for i, name in enumerate(program.columns):
        assert done.record is not None
        kept.setdefault(name.rsplit(".", 1)[0], []).append(done.record[:, i, 0])
    arrays = {name: parts[0] if name == "loss" else np.stack(parts, axis=1) for name, parts in kept.items()}
    settings = {n.split(".", 1)[1]: float(v) for n, v in call.constants.items() if "." in n}
    return Trajectory(call.rule, call.landscape, settings, taken, arrays)


def columns_of(rule: Rule) -> tuple[str, ...]:
    """Every column that a run of the rule has."""
    view: tuple[str, ...] = ("mean",) if _has(rule, "mean") else ()
    view += ("variance", "spread") if _has(rule, "variance") else ()
    return (*_EVERYTHING, *view, *rule.state)


def _has(rule: Rule, part: str) -> bool:
    from stepscope.graph.expression import SYMBOLS, symbol

    scalars = {name: symbol(name) for name in rule.scalars}
    hyper = {name: symbol(name) for name in rule.defaults}
    state = {name: symbol(name) for name in rule.state}
    return getattr(rule.view(SYMBOLS, symbol("g"), state, hyper, scalars), part) is not None


def _order(order: str) -> bool:
    if order not in ("torch", "reciprocal"):
        raise unknown_name("order of operations", order, ("torch", "reciprocal"))
    return order == "reciprocal"


def sweep(
    rule: str | Rule,
    landscape: str | Landscape,
    *,
    start: Sequence[ArrayLike] | None = None,
    steps: int = 1000,
    observe: Sequence[str] = ("theta", "loss"),
    tol: float = 1e-3,
    target: Sequence[ArrayLike] | None = None,
    norm: str = "euclidean",
    bound: float = 1e10,
    max_period: int = 64,
    noise: str | None = None,
    sigma: ArrayLike = 0.0,
    seed: ArrayLike = 0,
    threads: int | None = None,
    dtype: str = "float64",
    order: str = "torch",
    **numbers: ArrayLike,
) -> Sweep:
    """Simulate many trajectories; start, numbers, sigma and seed broadcast together by NumPy's rules.

    observe: "theta", "loss", "min_loss", "max_abs"; step counts, -1 for never: "first_inside" and "last_outside"
    (within `tol` of `target` in `norm`), "diverged_at" (a coordinate beyond `bound`, or not a number), "underflow_at"
    (something normal became subnormal or 0); "period" (0: none up to `max_period`) and "amplitude" after the last step.
    Results do not depend on `threads`.  Raises UserError for what does not exist or is out of range.
    """
    place = find(landscape) if isinstance(landscape, str) else landscape
    if target is None:
        target = place.minima[0] if place.minima else (0.0,) * len(place.variables)
    extra: dict[str, ArrayLike] = {"sigma": sigma, "tol": tol, "bound": bound}
    extra |= {f"target.{i}": x for i, x in enumerate(target)}
    call = _checked(rule, place, start, steps, extra, seed, numbers)
    if norm not in ("euclidean", "max"):
        raise unknown_name("norm", norm, ("euclidean", "max"))
    wanted = tuple(dict.fromkeys(observe))
    cyclic = [name for name in wanted if name in ("period", "amplitude")]
    smallest = FORMATS[dtype].smallest_normal if dtype in FORMATS else 0.0
    carried = tuple(name for name in wanted if name not in cyclic)
    program = build(call.rule, call.landscape, (), carried, noise, _order(order), norm, smallest)
    done = _executed(call, program, steps, threads=threads, precision=dtype)
    observed: dict[str, Array] = {}
    for name in carried:
        if name == "theta":
            observed[name] = np.stack([done.carried[f"theta.{i}"].reshape(call.shape) for i in range(program.dims)])
        elif name in done.finals:
            observed[name] = done.finals[name].reshape(call.shape)
        else:
            values = done.carried[f"seen.{name}"].reshape(call.shape)
            observed[name] = values if name in ("min_loss", "max_abs") else values.astype(np.int64)
    if cyclic:
        period, amplitude = _cycles(call, done, steps, max_period, noise, order, threads, dtype)
        both = {"period": period.reshape(call.shape), "amplitude": amplitude.reshape(-1, *call.shape)}
        observed |= {name: both[name] for name in cyclic}
    return Sweep(call.rule, call.landscape, call.shape, {name: observed[name] for name in wanted})


def _cycles(
    call: _Call, done: Done, steps: int, longest: int, noise: str | None, order: str, threads: int | None, dtype: str
) -> tuple[Array, Array]:
    """Follow every trajectory for two more of the longest period and look for the shortest repetition."""
    program = build(call.rule, call.landscape, ("theta",), (), noise, _order(order))
    lanes = len(next(iter(done.carried.values())))
    periods, amplitudes = np.zeros(lanes, np.int64), np.zeros((program.dims, lanes))
    size = max(1, (1 << 22) // (_WINDOW * longest * program.dims))
    for low in range(0, lanes, size):
        part = slice(low, min(low + size, lanes))
        start = {name: done.carried[name][part] for name in program.carried}
        constants = {n: (flat if len(flat) == 1 else flat[part]) for n, v in call.constants.items()
                     for flat in [call.flat(v)]}  # fmt: skip
        seeds = call.flat(call.seeds)
        window = execute(
            program, start, constants, seeds if len(seeds) == 1 else seeds[part], steps + _WINDOW * longest,
            first=steps, threads=threads, precision=dtype,
        ).record  # fmt: skip
        assert window is not None
        with np.errstate(invalid="ignore", over="ignore"):
            amplitudes[:, part] = np.ptp(window, axis=0)
            periods[part] = _periods(window, longest)
    return periods, amplitudes


def _periods(window: Array, longest: int) -> NDArray[np.int64]:
    """The shortest repetition [lane] of window [row, coordinate, lane], 0 where there is none."""
    same = _SAME * np.ptp(window, axis=0)
    periods = np.zeros(window.shape[2], np.int64)
    left = np.flatnonzero(np.isfinite(window).all(axis=(0, 1)))
    for p in range(1, longest + 1):
        # One comparison rules out nearly all; the whole window decides the rest.
        near = left[(np.abs(window[p][:, left] - window[0][:, left]) <= same[:, left]).all(axis=0)]
        rows = window[:, :, near]
        near = near[(np.abs(rows[p:] - rows[:-p]) <= same[:, near]).all(axis=(0, 1))]
        periods[near] = p
        left = np.setdiff1d(left, near, assume_unique=True)
    return periods
