"""Rules called with torch tensors: any device, any dtype, one tensor (or cache-sized block of it) at a time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepscope.rules import Rule
from stepscope.rules.averages import welford

__all__ = [
    "BLOCK",
    "TORCH",
    "Work",
    "all_plain",
    "device_scalars",
    "hold",
    "is_capturing",
    "is_distributed",
    "let_in",
    "local",
    "local_like",
    "step_all",
    "step_rows",
    "step_tensor",
]

# Elements per block: with state and temporaries it stays inside a core's cache, which makes a step over a large
# tensor several times faster than whole-tensor operations that stream every temporary through memory.
BLOCK = 1 << 16


def _where(condition: Any, a: Any, b: Any) -> Any:
    """A condition on step scalars is a plain bool: then only one branch is meant."""
    if isinstance(condition, bool):
        return a if condition else b
    return torch.where(condition, a, b)


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c through torch's own add and addcmul, which round once wherever their kernels use fma; a number c is added
    to the rounded product."""
    if not isinstance(c, Tensor):
        return a * b + c
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
    exponent=lambda x: (torch.frexp(x).exponent - 1).to(x.dtype),
    mantissa=lambda x: 2 * torch.frexp(x).mantissa,
)


class Work(NamedTuple):
    """One tensor to be stepped: weights, gradient, state in the rule's order and the step's scalars."""

    theta: Tensor
    g: Tensor
    state: Sequence[Tensor]
    scalars: Mapping[str, Any]


def step_all(rule: Rule, works: Sequence[Work], hyper: Mapping[str, Any], *, together: bool = False) -> None:
    """Step tensors one by one, or small ones of a kind `together`, end to end in one tensor."""
    alike: dict[Any, list[Work]] = {}
    for i, work in enumerate(works):
        small = together and work.theta.numel() <= BLOCK // 8 and not is_distributed(work.theta)
        kind = (work.theta.dtype, work.g.dtype, work.theta.device, id(work.scalars)) if small else i
        alike.setdefault(kind, []).append(work)
    for same in alike.values():
        for i in range(0, len(same), 64):
            _step_joined(rule, same[i : i + 64], hyper)


def _step_joined(rule: Rule, works: Sequence[Work], hyper: Mapping[str, Any]) -> None:
    if len(works) == 1:
        (work,) = works
        step_tensor(rule, work.theta, work.g, dict(zip(rule.state, work.state, strict=True)), hyper, work.scalars)
        return
    columns = list(zip(*[(work.theta, work.g, *work.state) for work in works], strict=True))
    theta, g, *state = (torch.cat([t.reshape(-1) for t in column]) for column in columns)
    step_tensor(rule, theta, g, dict(zip(rule.state, state, strict=True)), hyper, works[0].scalars)
    sizes = [work.theta.numel() for work in works]
    for joined, s in ((theta, 0), *((joined, s + 2) for s, joined in enumerate(state))):
        for part, place in zip(torch.split(joined, sizes), columns[s], strict=True):
            place.copy_(part.view(place.shape))


def step_tensor(
    rule: Rule,
    theta: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    hyper: Mapping[str, Any],
    scalars: Mapping[str, Any],
) -> None:
    """Update `theta` and `state` in place by one step of `rule`; gradients flow through it where they are enabled.

    Complex tensors are stepped as pairs of reals, 16-bit ones in float32 and rounded once at the end.
    """
    if theta.is_complex():
        theta, g = torch.view_as_real(theta), torch.view_as_real(g.resolve_conj())
        state = {name: torch.view_as_real(value) for name, value in state.items()}
    for place, sample, old in _blocks(theta, g, state):
        wide = place.float() if place.dtype in (torch.float16, torch.bfloat16) else place
        if torch.is_grad_enabled():  # what the graph keeps must not be overwritten
            wide, old_values = wide.clone(), {name: value.clone() for name, value in old.items()}
        else:
            old_values = dict(old)
        new_theta, new = rule.update(TORCH, sample.to(wide.dtype), wide, old_values, hyper, scalars)
        place.copy_(new_theta)
        for name, value in new.items():
            old[name].copy_(value)


def _blocks(
    theta: Tensor, g: Tensor, state: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, Mapping[str, Tensor]]]:
    """The tensor itself, or flat blocks of it where it is a large plain CPU tensor."""
    tensors = (theta, g, *state.values())
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.is_contiguous() for t in tensors)
    if theta.numel() <= 2 * BLOCK or theta.device.type != "cpu" or not plain or torch.is_grad_enabled():
        yield theta, g, state
        return
    flat, flat_g = theta.view(-1), g.view(-1)
    flat_state = {name: value.view(-1) for name, value in state.items()}
    for i in range(math.ceil(theta.numel() / BLOCK)):
        part = slice(i * BLOCK, (i + 1) * BLOCK)
        yield flat[part], flat_g[part], {name: value[part] for name, value in flat_state.items()}


def step_rows(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    hyper: Mapping[str, Any],
    scalars: Mapping[str, Any],
) -> None:
    """Step only the rows that a coalesced sparse gradient touches."""
    where = tuple(g.indices())
    theta = p[where]
    rows = {name: value[where] for name, value in state.items()}
    step_tensor(rule, theta, g.values(), rows, hyper, scalars)
    p[where] = theta
    for name, value in rows.items():
        state[name][where] = value


def let_in(g: Tensor, m: Tensor, S: Tensor, weight: float) -> None:
    """Let a gradient into the bias-corrected averages m and S, in place."""
    if g.is_complex():
        g, m, S = torch.view_as_real(g.resolve_conj()), torch.view_as_real(m), torch.view_as_real(S)
    new_m, new_S = welford(TORCH, g.to(m.dtype), m, S, weight)
    m.copy_(new_m)
    S.copy_(new_S)


# --- numbers on the device --------------------------------------------------------------------------------------------

_LONGEST = 1 << 22


@lru_cache(maxsize=16)
def _scalar_table(rule: Rule, values: tuple[tuple[str, float], ...], device: torch.device) -> Tensor:
    """Step scalars for t = 1, 2, ... until they change no more, one row each."""
    hyper = dict(values)
    end = rule.step_scalars(10**9, hyper)
    rows = []
    for t in range(1, _LONGEST):
        rows.append(list(rule.step_scalars(t, hyper).values()))
        if t > 1 and rows[-1] == list(end.values()):
            return torch.tensor(rows, dtype=torch.float64, device=device)
    changing = ", ".join(name for name, value in rule.step_scalars(_LONGEST, hyper).items() if value != end[name])
    raise RuntimeError(
        f"capturable=True needs step numbers that settle within {_LONGEST:,} steps; {changing} of {rule.name} does not."
    )


_held: list[Any] = []


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph records what is queued on this device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def hold(device: torch.device, *tensors: Any) -> None:
    """Never free these, if a CUDA graph is recorded: it reads them again whenever it is replayed."""
    if is_capturing(device):
        _held.append(tensors)


def device_scalars(rule: Rule, hyper: Mapping[str, Any], step: Tensor) -> dict[str, Tensor]:
    """The scalars of step `step`, a counter or several on a device, as tensors there: nothing waits for the device."""
    needed = sorted({name for scalar in rule.scalars.values() for name in scalar.needs})
    values = (hyper[name].detach() if isinstance(hyper[name], Tensor) else hyper[name] for name in needed)
    table = _scalar_table(rule, tuple(zip(needed, map(float, values), strict=True)), step.device)
    hold(step.device, table)
    row = table[(step.double() - 1).clamp(max=len(table) - 1).long()]
    return dict(zip(rule.scalars, row.unbind(-1), strict=True))


# --- distributed tensors ----------------------------------------------------------------------------------------------


def all_plain(tensors: Sequence[Any]) -> bool:
    """Whether these are tensors and parameters of no other class."""
    return set(map(type, tensors)) <= {Tensor, torch.nn.Parameter}


def is_distributed(t: Any) -> bool:
    """Whether this is a DTensor, of which only a part is here."""
    return hasattr(t, "_local_tensor")


def local(t: Any) -> Any:
    """The part of a DTensor that is here: rules work element by element. Any other tensor as it is."""
    return t._local_tensor if is_distributed(t) else t


def local_like(g: Any, p: Any) -> Any:
    """The part of a gradient that belongs to the part of the parameter that is here."""
    if not is_distributed(g):
        return g
    return (g if g.placements == p.placements else g.redistribute(placements=p.placements)).to_local()
