"""What a run's configuration says of the scope that recorded it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.scope.instruments import Instrument
from stepscope.scope.rows import described
from stepscope.scope.traces import traced

__all__ = ["in_common", "settings", "tensors"]


def settings(
    optimizers: Sequence[Optimizer], options: Mapping[str, Any], instruments: Sequence[Instrument]
) -> dict[str, Any]:
    """Optimizers, schedule, layers and beta of a scope, and what its columns mean."""
    every, layers = (
        value if isinstance(value, int | str) else getattr(value, "__name__", type(value).__name__)
        for value in (options["every"], options["layers"])
    )
    return {
        "optimizer": ", ".join(type(one).__name__ for one in optimizers),
        "every": every,
        "layers": layers,
        "beta": options["beta"],
        "columns": described(instruments),
    }


def in_common(options: Mapping[str, Any], instruments: Sequence[Instrument], steps: int) -> str:
    """What scopes of one run must have in common in all its processes, in words. steps: seen so far."""
    every = options["every"] if isinstance(options["every"], int) else "a function"
    columns = ", ".join(one.name for one in instruments)
    return f"every={every}, beta={options['beta']}, {steps} steps seen, columns {columns}"


def tensors(optimizers: Sequence[Optimizer], names: Mapping[Tensor, str], traces: bool = False) -> list[dict[str, Any]]:
    """Name, shape, dtype, size and parameter group of each tensor; of all optimizers' groups, counted through.

    traces: also the places of its traced coordinates in the flattened tensor.
    """
    groups = [group for one in optimizers for group in one.param_groups]
    return [
        {
            "name": names[p],
            "shape": list(p.shape),
            "dtype": str(p.dtype).removeprefix("torch."),
            "numel": p.numel(),
            "group": i,
            **({"traced": traced(p)} if traces else {}),
        }
        for i, group in enumerate(groups)
        for p in group["params"]
    ]
