"""Whether tensors are of the kind they were: class, dtype, device, shape, strides, layout, and no lazy view.

torch's compiler has this test in C++, an order of magnitude faster than asking from Python. It is no public
part of torch: where it is missing or another, Python asks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kinds"]


def _asked(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """Everything that makes up the kind of each tensor."""
    return [
        (
            type(t),
            t.dtype,
            t.device,
            t.layout,
            t.shape,
            t.stride() if t.layout is torch.strided else None,
            t.is_neg(),
            t.is_conj(),
        )
        for t in tensors
    ]


def _guard(tensors: Sequence[Tensor]) -> Callable[..., bool] | None:
    """torch's own test, or None if there is none that works."""
    try:
        from torch._C._dynamo import guards

        make: Any = guards.TensorGuards
        check: Callable[..., bool] = make(
            *tensors,
            dynamic_dims_sizes=[list(t.shape) for t in tensors],
            dynamic_dims_strides=[list(t.stride()) for t in tensors],
        ).check
        return check if check(*tensors) else None
    except Exception:  # another version of torch, or tensors it cannot describe
        return None


class Kinds:
    """The kinds of some tensors, which it does not keep alive."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._guard = _guard(tensors)
        self._known = None if self._guard else _asked(tensors)

    def fit(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors, one by one, are of these kinds."""
        if len(tensors) != self._count:
            return False
        return self._guard(*tensors) if self._guard else _asked(tensors) == self._known
