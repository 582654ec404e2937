"""Curvature on demand: what the Hessian of a batch's loss says about stability and about the axes.

Adam and momentum methods are stable on a quadratic as long as the largest eigenvalue of the Hessian they see,
preconditioned, stays below a limit [Cohen et al. 2022, Eq. 3]:
    preconditioner sqrt(v) + eps, average with decay beta1:   (2 + 2 beta1) / ((1 - beta1) lr)
    average with decay beta (M-SGD):                          (2 + 2 beta) / ((1 - beta) lr)
    heavy ball (torch's SGD, momentum mu, dampening d):       (2 + 2 mu) / ((1 - d) lr)
    Nesterov's (torch's SGD):                                 (2 + 2 mu) / ((1 + 2 mu) lr)
    gradient descent, and RMSProp with its preconditioner:    2 / lr
The preconditioner is taken as it stands; weight decay is left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from stepscope.scope.aside import Products, undisturbed

__all__ = ["COLUMNS", "Sight", "measure", "sight"]

COLUMNS: Mapping[str, str] = {
    "hessian_largest": "largest eigenvalue of the Hessian of the loss",
    "hessian_trace": "trace of the Hessian: mean of z H z over random signs z, unbiased",
    "hessian_diagonal_share": "sum |h_ii| / sum |h_ij| over random rows i of the Hessian [balles2018, Eq. 14]",
    "hessian_preconditioned_largest": "largest eigenvalue of the Hessian that the optimizer sees: of P^-1/2 H P^-1/2",
    "stability_limit": "what the largest preconditioned eigenvalue may be",
    "stability_ratio": "the largest preconditioned eigenvalue to its limit; unstable above 1",
}


@dataclass(frozen=True)
class Sight:
    """How an optimizer sees a tensor: scale, the inverse of its preconditioner (None for 1), and the largest eigenvalue
    that it can stand; NaN where that is not known."""

    scale: Tensor | None
    limit: float


def sight(optimizer: Optimizer, group: Mapping[str, Any], p: Tensor) -> Sight:
    """How an optimizer with its state sees a parameter of this group."""
    state = optimizer.state.get(p, {})
    lr = float(group["lr"])
    name = type(optimizer).__name__
    if not lr > 0:
        return Sight(None, math.nan)
    if "exp_avg_sq" in state and name in ("Adam", "AdamW"):
        beta1, beta2 = map(float, group["betas"])
        second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
        root = (second / (1 - beta2 ** float(state["step"]))).sqrt() + float(group["eps"])
        return Sight(1 / root.to(p.dtype), (2 + 2 * beta1) / ((1 - beta1) * lr))
    if "square_avg" in state and name == "RMSprop" and not group.get("centered") and not group.get("momentum"):
        return Sight(1 / (state["square_avg"].sqrt() + float(group["eps"])), 2 / lr)
    return Sight(None, _limit(name, group) / lr)


def _limit(name: str, group: Mapping[str, Any]) -> float:
    """What the largest eigenvalue may be without a preconditioner, times the step size."""
    mu = float(group.get("momentum", 0.0))
    if name == "MSGD":
        beta = float(group["beta"])
        return (2 + 2 * beta) / (1 - beta)
    if name != "SGD":
        return math.nan
    if group.get("nesterov"):
        return (2 + 2 * mu) / (1 + 2 * mu)
    return (2 + 2 * mu) / (1 - float(group.get("dampening", 0.0)) if mu else 1.0)


def measure(
    loss: Callable[[], Tensor],
    params: Sequence[tuple[Tensor, Sight]],
    model: nn.Module | None,
    *,
    seed: int,
    iterations: int = 20,
    probes: int = 8,
) -> dict[str, float]:
    """COLUMNS of the loss of a batch at the weights there are.

    seed: of the random vectors, which come from generators of their own.  iterations: of Lanczos' method, at most: the
    eigenvalues are at most the true ones, and close where they stand apart.  probes: random vectors, and rows.
    """
    tensors = [p for p, _ in params]
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model):
        product = Products(loss, tensors)
        found = {"hessian_largest": _largest(product, _normal(tensors, generator), iterations)}
        signs = [[torch.sign(x) + (x == 0) for x in _normal(tensors, generator)] for _ in range(probes)]
        found["hessian_trace"] = float(np.mean([_dot(z, product(z)) for z in signs]))
        found["hessian_diagonal_share"] = _diagonal_share(product, tensors, probes, generator)
        roots = [((torch.ones_like(p) if s.scale is None else s.scale) / s.limit).sqrt() for p, s in params]

        def scaled(vector: Sequence[Tensor]) -> list[Tensor]:
            turned = product([r * v for r, v in zip(roots, vector, strict=True)])
            return [r * h for r, h in zip(roots, turned, strict=True)]

        if all(math.isfinite(s.limit) for _, s in params):
            found["stability_ratio"] = _largest(scaled, _normal(tensors, generator), iterations)
            limits = {s.limit for _, s in params}
            if len(limits) == 1:
                found["stability_limit"] = limits.pop()
                found["hessian_preconditioned_largest"] = found["stability_ratio"] * found["stability_limit"]
    return found


def _normal(tensors: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(p.shape, generator=generator).to(p) for p in tensors]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum().item() for x, y in zip(a, b, strict=True)))


def _largest(product: Callable[[Sequence[Tensor]], list[Tensor]], start: list[Tensor], iterations: int) -> float:
    """The largest eigenvalue of the Krylov space of `start`, by Lanczos' recurrence.

    Without reorthogonalisation values repeat, which does no harm to the largest one.
    """
    size = math.sqrt(_dot(start, start))
    now = [x / size for x in start]
    before = [torch.zeros_like(x) for x in start]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(iterations, sum(x.numel() for x in start))):
        turned = product(now)
        diagonal.append(_dot(now, turned))
        if beside:
            turned = [t - beside[-1] * b for t, b in zip(turned, before, strict=True)]
        turned = [t - diagonal[-1] * x for t, x in zip(turned, now, strict=True)]
        size = math.sqrt(_dot(turned, turned))
        if not size > 1e-6 * max(map(abs, diagonal)):
            break  # the space is exhausted
        beside.append(size)
        before, now = now, [t / size for t in turned]
    n = len(diagonal)
    matrix = np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    return float(np.linalg.eigvalsh(matrix)[-1]) if np.isfinite(matrix).all() else math.nan


def _diagonal_share(
    product: Callable[[Sequence[Tensor]], list[Tensor]],
    tensors: Sequence[Tensor],
    rows: int,
    generator: torch.Generator,
) -> float:
    """Over random rows, which are products with unit vectors."""
    ends = np.cumsum([p.numel() for p in tensors])
    diagonal = total = 0.0
    places = (
        torch.randperm(int(ends[-1]), generator=generator)[:rows]
        if ends[-1] < 10**6
        else torch.randint(int(ends[-1]), (rows,), generator=generator)
    )
    for place in places.tolist():
        which = int(np.searchsorted(ends, place, side="right"))
        inside = place - (int(ends[which - 1]) if which else 0)
        unit = [torch.zeros_like(p) for p in tensors]
        unit[which].view(-1)[inside] = 1.0
        row = product(unit)
        diagonal += abs(float(row[which].reshape(-1)[inside]))
        total += sum(h.double().abs().sum().item() for h in row)
    return diagonal / total if total > 0 else math.nan
