"""Rules called with torch tensors: any device, any dtype, one tensor (or cache-sized block of it) at a time."""

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stepscope.rules import Rule

__all__ = ["BLOCK", "TORCH", "step_tensor"]

# Elements per block: with state and temporaries it stays inside a core's cache, which makes a step over a large
# tensor several times faster than whole-tensor operations that stream every temporary through memory.
BLOCK = 1 << 16


def _where(condition: Any, a: Any, b: Any) -> Any:
    """A condition on step scalars is a plain bool: then only one branch is meant."""
    if isinstance(condition, bool):
        return a if condition else b
    return torch.where(condition, a, b)


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c through torch's own add and addcmul, which round once wherever their kernels use fma."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.addcmul(c, a, b)
    return torch.add(c, a, alpha=b) if isinstance(a, Tensor) else torch.add(c, b, alpha=a)


def _sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; nan stays nan (torch.sign makes it 0, and a broken gradient would pass unnoticed)."""
    return torch.where(x.abs() > 0, torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x), x)


def _min(a: Any, b: Any) -> Any:
    return torch.clamp(a, max=b) if isinstance(a, Tensor) else torch.clamp(b, max=a)


def _max(a: Any, b: Any) -> Any:
    return torch.clamp(a, min=b) if isinstance(a, Tensor) else torch.clamp(b, min=a)


TORCH: Any = SimpleNamespace(
    sqrt=torch.sqrt,
    abs=torch.abs,
    sign=_sign,
    where=_where,
    min=_min,
    max=_max,
    fma=_fma,
    exp=torch.exp,
    log=torch.log,
    sin=torch.sin,
    cos=torch.cos,
    tanh=torch.tanh,
    erf=torch.erf,
)


def step_tensor(
    rule: Rule,
    theta: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    hyper: Mapping[str, float],
    scalars: Mapping[str, float],
) -> None:
    """Update `theta` and `state` in place by one step of `rule`.

    Complex tensors are stepped as pairs of reals, 16-bit ones in float32 and rounded once at the end.
    """
    if theta.is_complex():
        theta, g = torch.view_as_real(theta), torch.view_as_real(g)
        state = {name: torch.view_as_real(value) for name, value in state.items()}
    for place, sample, old in _blocks(theta, g, state):
        wide = place.float() if place.dtype in (torch.float16, torch.bfloat16) else place
        new_theta, new = rule.update(TORCH, sample.to(wide.dtype), wide, old, hyper, scalars)
        place.copy_(new_theta)
        for name, value in new.items():
            old[name].copy_(value)


def _blocks(
    theta: Tensor, g: Tensor, state: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, Mapping[str, Tensor]]]:
    """The tensor itself, or flat blocks of it where it is a large plain CPU tensor."""
    tensors = (theta, g, *state.values())
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.is_contiguous() for t in tensors)
    if theta.numel() <= 2 * BLOCK or theta.device.type != "cpu" or not plain:
        yield theta, g, state
        return
    flat, flat_g = theta.view(-1), g.view(-1)
    flat_state = {name: value.view(-1) for name, value in state.items()}
    for i in range(math.ceil(theta.numel() / BLOCK)):
        part = slice(i * BLOCK, (i + 1) * BLOCK)
        yield flat[part], flat_g[part], {name: value[part] for name, value in flat_state.items()}
