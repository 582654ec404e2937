"""Step scalars for all steps of a simulation, computed by the rule itself on the host, exactly as an optimizer does.

A scalar changes in one direction from t = 2 on and most soon stop changing at all (1 - beta^t is 1 in float64 once
beta^t < 2^-54), so a table ends where its value is final.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepscope.rules import StepScalar

__all__ = ["table"]

_FOREVER = 1 << 53
_kept: dict[tuple[object, tuple[float, ...]], NDArray[np.float64]] = {}
_KEPT = 4096


def _length(one: StepScalar, values: Sequence[float], steps: int) -> int:
    """How many entries it takes until the value is final, at most one per step."""
    try:
        final = one.value(_FOREVER, *values)
    except OverflowError:
        return steps
    low, high = 1, steps
    if one.value(high, *values) != final:
        return steps
    while low < high:
        middle = (low + high) // 2
        if one.value(middle, *values) == final:
            high = middle
        else:
            low = middle + 1
    return low


def _row(one: StepScalar, values: tuple[float, ...], steps: int) -> NDArray[np.float64]:
    key = (one.value, values)
    known = _kept.get(key)
    wanted = _length(one, values, steps)
    if known is None or len(known) < wanted:
        known = np.fromiter((one.value(t, *values) for t in range(1, wanted + 1)), np.float64, wanted)
        if len(_kept) >= _KEPT:
            _kept.clear()
        _kept[key] = known
    return known


def table(one: StepScalar, settings: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Values [setting, t - 1] for settings [setting, number it needs]; the last column holds for all later steps.

    steps: how many steps are taken; one more is computed, for the step that a record looks ahead to.
    """
    rows = [_row(one, tuple(float(v) for v in values), steps + 1) for values in settings]
    longest = max(len(row) for row in rows)
    out = np.empty((len(rows), longest))
    for place, row in zip(out, rows, strict=True):
        place[: len(row)], place[len(row) :] = row, row[-1]
    return out
