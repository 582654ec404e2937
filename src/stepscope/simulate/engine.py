"""Runs a program over many trajectories at once: packs them into blocks, shares the blocks among threads."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepscope.errors import UserError
from stepscope.simulate import kernel
from stepscope.simulate.interpreter import interpret
from stepscope.simulate.noise import keys as keys_of
from stepscope.simulate.program import Program
from stepscope.simulate.tables import table

__all__ = ["DTYPES", "Done", "execute"]

Array = NDArray[Any]

DTYPES = {"float64": np.float64, "float32": np.float32, "extended": np.longdouble}

# Lanes to a block: enough independent chains to keep the processor busy, few enough to stay in registers. Rules with no
# state leave room for twice as many.
_WIDTHS = {"float64": 32, "float32": 64, "extended": 1}
_FEW = 3  # carried values
_WASTE = 1.25  # lanes of padding allowed for the sake of blocks that share their numbers
_CHUNK = 64  # blocks a thread takes at a time
_LARGEST_RECORD = 1 << 30  # numbers: 8 GiB
_NUMPY_LANES = 8192  # trajectories interpreted at a time: their state stays in the cache


@dataclass
class Done:
    """Arrays [lane]: everything carried after the last step, the finals, and the record [row, column, lane]."""

    carried: dict[str, Array]
    finals: dict[str, Array]
    record: Array | None


def execute(
    program: Program,
    start: Mapping[str, Array],
    constants: Mapping[str, Array],
    seeds: Array,
    steps: int,
    *,
    first: int = 0,
    every: int = 1,
    threads: int | None = None,
    precision: str = "float64",
) -> Done:
    """Run every trajectory from step `first` to `steps`.

    start: arrays [lane] of what is carried, as far as it does not start from the program's initial values.
    constants: arrays [lane] or [1] of the program's inputs.  seeds: whole numbers [lane] or [1], for the noise.
    """
    if precision not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {precision!r}.")
    if precision == "float32" and steps >= 1 << 24:
        raise UserError(f"float32 counts exactly up to 2^24 steps, got {steps}; use float64.")
    if precision == "extended" and np.finfo(np.longdouble).minexp > -16000:
        raise UserError("this machine has no number format with a wider exponent than float64.")
    lanes = max(len(a) for a in start.values())
    if (size := _rows((first, steps), every) * len(program.columns) * lanes) > _LARGEST_RECORD:
        raise UserError(
            f"the record would hold {size:,} numbers, more than {_LARGEST_RECORD:,}; "
            "record each `every`-th step only, or fewer columns."
        )
    compiled = kernel.available() and (precision != "extended" or kernel.on_x86())
    run = _run_compiled if compiled else _run_interpreted
    return run(program, start, constants, seeds, (first, steps), every, threads, precision, lanes)


def _settings(program: Program, name: str, constants: Mapping[str, Array], lanes: int) -> tuple[Array, Array]:
    """The distinct values [setting, number] that a step scalar needs, and which of them each lane has."""
    needs = [np.broadcast_to(constants[f"hyper.{h}"], lanes) for h in program.scalars[name].needs]
    if not needs:
        return np.empty((1, 0)), np.zeros(lanes, np.int64)
    if all(len(constants[f"hyper.{h}"]) == 1 for h in program.scalars[name].needs):
        return np.array([[column[0] for column in needs]], dtype=np.float64), np.zeros(lanes, np.int64)
    values, which = np.unique(np.stack(needs, axis=1), axis=0, return_inverse=True)
    return values, which.reshape(-1)


def _run_interpreted(
    program: Program,
    start: Mapping[str, Array],
    constants: Mapping[str, Array],
    seeds: Array,
    span: tuple[int, int],
    every: int,
    threads: int | None,
    precision: str,
    lanes: int,
) -> Done:
    kind = DTYPES[precision]
    rows = _rows(span, every)
    record = np.empty((rows, len(program.columns), lanes), kind) if program.columns else None
    carried = {name: np.empty(lanes, kind) for name in program.carried}
    finals = {name: np.empty(lanes, kind) for name in program.finals}
    settings = {name: _settings(program, name, constants, lanes) for name in program.scalars}
    tables = {name: table(program.scalars[name], values, span[1]) for name, (values, _) in settings.items()}
    keys = keys_of(np.broadcast_to(seeds, lanes))
    for low in range(0, lanes, _NUMPY_LANES):
        part = slice(low, min(low + _NUMPY_LANES, lanes))
        for name, place in carried.items():
            begin = np.broadcast_to(start[name] if name in start else program.initial[name], lanes)
            place[part] = begin[part]
        here = {name: np.broadcast_to(constants[name], lanes)[part].astype(kind) for name in program.inputs}
        scalars = {
            name: (tables[name] if len(tables[name]) == 1 else tables[name][settings[name][1][part]]).astype(kind)
            for name in program.scalars
        }
        views = {name: place[part] for name, place in carried.items()}
        out = None if record is None else record[:, :, part]
        for name, value in interpret(program, views, here, scalars, keys[part], span, every, out).items():
            finals[name][part] = value
    return Done(carried, finals, record)


def _rows(span: tuple[int, int], every: int) -> int:
    return 1 + -(-(span[1] - span[0]) // every)


def _run_compiled(
    program: Program,
    start: Mapping[str, Array],
    constants: Mapping[str, Array],
    seeds: Array,
    span: tuple[int, int],
    every: int,
    threads: int | None,
    precision: str,
    lanes: int,
) -> Done:
    kind = DTYPES[precision]
    width = _WIDTHS[precision] * (2 if len(program.carried) <= _FEW and precision != "extended" else 1)
    width = 1 if lanes == 1 else width
    varying = [name for name in program.inputs if len(constants[name]) > 1]
    in_lanes, order = _arrange(program, {name: constants[name] for name in varying}, width, lanes)
    code = kernel.compiled(program, width, precision, frozenset(in_lanes))
    padded = len(order)
    in_place = padded == lanes and bool(np.all(order[1:] > order[:-1]))

    def packed(values: Array | float, to: Any = kind) -> Array:
        array = np.asarray(values, to)
        return np.broadcast_to(array.reshape(-1), padded) if array.size == 1 else array if in_place else array[order]

    memory = np.empty((len(code.slots), padded), kind)
    for place, name in zip(memory, code.slots, strict=True):
        if name in program.carried:
            place[:] = packed(start[name] if name in start else program.initial[name])
        elif name in constants:
            place[:] = packed(constants[name])
    shared = np.zeros((max(len(code.shared), 1), padded // width), kind)
    for place, name in zip(shared, code.shared, strict=False):
        place[:] = packed(constants[name])[::width]
    tables: list[Array] = []
    lengths: list[int] = []
    rows: list[Array] = []
    for name, one in program.scalars.items():
        settings, which = _settings(program, name, constants, lanes)
        tables.append(table(one, settings, span[1]).astype(kind))
        lengths.append(tables[-1].shape[1])
        rows.append(packed(which, np.int64) if len(settings) > 1 else np.zeros(padded, np.int64))
    keys = np.ascontiguousarray(packed(keys_of(seeds), np.uint64))
    record = np.empty((_rows(span, every), len(program.columns), padded), kind) if program.columns else None
    addresses = np.array([t.ctypes.data for t in tables] or [0], np.uintp)
    sizes, places = np.array(lengths or [0], np.int64), np.array(rows, np.int64) if rows else np.zeros((1, 1), np.int64)

    def work(blocks: tuple[int, int]) -> None:
        code.run(
            memory.ctypes.data, padded, shared.ctypes.data, addresses.ctypes.data, sizes.ctypes.data,
            places.ctypes.data, keys.ctypes.data, *blocks, *span, 0 if record is None else record.ctypes.data, every,
        )  # fmt: skip

    _share(work, padded // width, threads)
    values = dict(zip(code.slots, memory, strict=True))
    if not in_place:
        back = np.empty(lanes, np.int64)
        back[order] = np.arange(padded)  # of several copies of a lane, any will do
        values = {name: values[name][back] for name in (*program.carried, *program.finals)}
        record = None if record is None else record[:, :, back]
    return Done(
        {name: values[name] for name in program.carried}, {name: values[name] for name in program.finals}, record
    )


def _share(work: Any, blocks: int, threads: int | None) -> None:
    count = min(threads or os.cpu_count() or 1, blocks)
    if count <= 1:
        work((0, blocks))
        return
    size = max(1, min(_CHUNK, -(-blocks // (4 * count))))
    parts = [(low, min(low + size, blocks)) for low in range(0, blocks, size)]
    pool = ThreadPoolExecutor(count)
    try:
        for _ in pool.map(work, parts):
            pass
    finally:  # an interrupt waits for the parts that run, not for those that have not begun
        pool.shutdown(cancel_futures=True)


def _arrange(
    program: Program, varying: Mapping[str, Array], width: int, lanes: int
) -> tuple[list[str], NDArray[np.int64]]:
    """Which inputs differ inside blocks, and the lane at each place, some of them twice to fill a block.

    A number that is the same in a whole block costs less, above all where step scalars depend on it, so lanes are
    sorted by as many of the varying numbers as padding allows.
    """
    plain = np.arange(lanes)
    needed = {f"hyper.{h}" for one in program.scalars.values() for h in one.needs}
    choices: list[Sequence[str]] = [list(varying), [n for n in varying if n in needed], []]
    for together in choices:
        if not together:
            break
        if width == 1:
            return [], plain
        which = np.zeros(lanes, np.int64)
        for name in together:
            values, here = np.unique(np.broadcast_to(varying[name], lanes), return_inverse=True)
            which = which * len(values) + here.reshape(-1)
        counts = np.unique(which, return_counts=True)[1]
        padded = int((-(-counts // width) * width).sum())
        if padded <= _WASTE * lanes + width:
            by_group = plain if np.all(which[1:] >= which[:-1]) else np.argsort(which, kind="stable")
            if padded > lanes:
                ends = np.cumsum(counts)
                parts = [_filled(by_group[end - n : end], width) for n, end in zip(counts, ends, strict=True)]
                by_group = np.concatenate(parts)
            return [n for n in varying if n not in together], by_group
    return list(varying), _filled(plain, width)


def _filled(lanes: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    short = -len(lanes) % width
    return np.concatenate([lanes, np.repeat(lanes[-1:], short)]) if short else lanes
