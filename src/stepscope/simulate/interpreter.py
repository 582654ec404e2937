"""A program run by NumPy: slower, needs no compiler, works in any format NumPy has. The oracle of the kernels.

The functions of the closed list are NumPy's own, and a fused multiply-add rounds twice, so results agree with the
kernels' to rounding, not to the bit, for rules that use it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepscope.errors import UserError
from stepscope.graph.expression import evaluate
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.simulate.noise import normals
from stepscope.simulate.program import Program

__all__ = ["check_subnormals", "interpret"]

Array = NDArray[Any]


def check_subnormals() -> None:
    """Raise UserError in a thread whose processor mode makes subnormal numbers 0, which would change results."""
    smallest = np.array([2.0**-1074])
    if smallest[0] * 1.0 == 0 or (smallest * 1.0)[0] == 0:
        raise UserError(
            "this thread treats subnormal numbers as 0, which changes what NumPy computes; "
            "call torch.set_flush_denormal(False) first."
        )


def interpret(
    program: Program,
    carried: dict[str, Array],
    constants: Mapping[str, Array],
    scalars: Mapping[str, Array],
    keys: NDArray[np.uint64],
    steps: tuple[int, int],
    every: int,
    out: Array | None,
) -> dict[str, Array]:
    """Carry arrays [lane] from step steps[0] to steps[1] in place; returns the finals.

    scalars: [lane or 1, t], as the tables have them.  out: [row, column, lane], filled as a kernel fills it.
    """
    check_subnormals()
    first, last = steps
    kind = next(iter(carried.values())).dtype.type
    row = 0
    inputs: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for t in range(first, last + 1):
            inputs = {**constants, **carried, "t": kind(t)}
            inputs |= {f"scalars.{name}": rows[:, min(t, rows.shape[1] - 1)] for name, rows in scalars.items()}
            if program.normals:
                draws = normals(keys, t, program.normals)
                inputs |= {f"noise.{i}": z.astype(kind) for i, z in enumerate(draws)}
            if out is not None and ((t - first) % every == 0 or t == last):
                for place, value in zip(out[row], evaluate(list(program.columns.values()), inputs, NUMPY), strict=True):
                    place[:] = value
                row += 1
            after = evaluate(list(program.carried.values()), inputs, NUMPY)
            for (name, place), value in zip(carried.items(), after, strict=True):
                if t < last or name.startswith("seen."):
                    place[:] = value
        lanes = next(iter(carried.values())).shape
        finals = evaluate(list(program.finals.values()), inputs | carried, NUMPY)
    return {name: np.broadcast_to(value, lanes) for name, value in zip(program.finals, finals, strict=True)}
