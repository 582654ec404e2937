"""Which compiled backend steps the tensors of a device: the one place that knows."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stepscope.optim.backends import cpu, cuda

__all__ = ["backend", "captures", "obstacle", "unusable"]

_BACKENDS: dict[str, Any] = {"cpu": cpu, "cuda": cuda}


def backend(device: torch.device) -> Any:
    """The module with `program`, `measuring`, `shared`, `Batch` and `launch` for a device."""
    return _BACKENDS[device.type]


def unusable(device: torch.device) -> str | None:
    """Why nothing is compiled for this device, or None."""
    if device.type not in _BACKENDS:
        return f"tensors on {device.type}"
    reason = backend(device).unusable(device)
    return str(reason) if reason else None


def captures(device: torch.device) -> bool:
    """Whether the backend of this device can take the numbers of a step from there."""
    return hasattr(_BACKENDS.get(device.type), "device_numbers")


def obstacle(theta: Tensor, g: Tensor, state: Iterable[Any], *, capturable: bool) -> str | None:
    """Why these tensors cannot be stepped by a kernel, or None."""
    if reason := unusable(theta.device):
        return reason
    if capturable and not captures(theta.device):
        return "capturable=True"
    reason = backend(theta.device).obstacle(theta, g, state)
    return str(reason) if reason else None
