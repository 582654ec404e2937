"""Hooks around `optimizer.step()`: fired once a step, whatever the class, copied with no optimizer."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

__all__ = ["Hook", "is_nested", "unwrapped"]

Watch = Callable[[], None]

# Every `step` of every optimizer class runs inside this code of torch's, which calls the hooks.
_CALL = Optimizer.profile_hook_step(lambda *args: None).__code__


def _nothing() -> None:
    """What a copied hook does."""


class Hook:
    """Calls `watch`, outside of any compiled graph. A copied or unpickled hook does nothing: its scope stays behind."""

    def __init__(self, watch: Watch) -> None:
        self._watch: Watch = torch.compiler.disable(watch)  # type: ignore[no-untyped-call,unused-ignore]

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Torch's signature of a step hook."""
        self._watch()

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)


def is_nested(optimizer: Optimizer) -> bool:
    """Whether the step that is running was called by another step of the same optimizer.

    A subclass whose `step` calls `super().step()` fires every hook twice. A count alone cannot tell this from a step
    before that raised, whose post hooks never ran; the stack can.
    """
    calls = 0
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is _CALL and frame.f_locals.get("self") is optimizer:
            calls += 1
    return calls > 1


def unwrapped(optimizer: Any) -> Any:
    """The innermost `.optimizer`: wrappers such as Accelerate's are optimizers by class, but fire no hooks."""
    for _ in range(9):  # an object may be its own
        optimizer = getattr(optimizer, "optimizer", None) or optimizer
    return optimizer
