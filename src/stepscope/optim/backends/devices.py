"""Which compiled backend steps the tensors of a device: the one place that knows."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stepscope.optim.backends import cpu, cuda

__all__ = ["backend", "captures", "obstacle"]

_BACKENDS: dict[str, Any] = {"cpu": cpu, "cuda": cuda}


def backend(device: torch.device) -> Any:
    """The module with `program`, `measuring`, `shared`, `Batch` and `launch` for a device."""
    return _BACKENDS[device.type]


def captures(device: torch.device) -> bool:
    """Whether the backend of this device can take the numbers of a step from there."""
    return hasattr(_BACKENDS.get(device.type), "device_numbers")


def obstacle(theta: Tensor, g: Tensor, state: Iterable[Any], *, capturable: bool) -> str | None:
    """Why these tensors cannot be stepped by a kernel, or None."""
    if theta.device.type not in _BACKENDS:
        return f"tensors on {theta.device.type}"
    if capturable and not captures(theta.device):
        return "capturable=True"
    reason: str | None = backend(theta.device).obstacle(theta, g, state)
    return reason
