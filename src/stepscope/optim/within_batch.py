"""The variance of a mini-batch's gradient, from the gradients of its parts."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

__all__ = ["WithinBatch"]


class WithinBatch:
    """Running mean and spread of the gradients of micro-batches, weighted with their examples.

    The sums never subtract squares from each other: West's update of sum n_i (g_i - g)^2, which cannot be negative.
    Accumulated in float32, in float64 for parameters of double precision. Use as a context manager; an exception inside
    leaves no gradient and no variance behind.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._sums: dict[Tensor, tuple[Tensor, Tensor]] = {}  # mean, and sum n_i (g_i - mean)^2
        self.batches, self.examples = 0, 0.0

    def __enter__(self) -> "WithinBatch":
        for p in self._parameters():
            p.grad = None
        return self

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def add(self, examples: float = 1) -> None:
        """Take the gradients of a micro-batch, means over so many examples, and clear them.

        A parameter without a gradient had no part in the loss: its gradient is 0.
        """
        if not examples > 0:
            raise ValueError(f"a micro-batch has more than 0 examples, got {examples}")
        before, self.examples = self.examples, self.examples + examples
        self.batches += 1
        share = examples / self.examples
        for p in self._parameters():
            if p.grad is None and p not in self._sums:
                continue
            kept = self._sums.get(p) or self._sums.setdefault(p, _zeros(p))
            mean, spread = map(_real, kept)
            g = torch.zeros_like(mean) if p.grad is None else _real(p.grad.to_dense()).to(mean.dtype)
            gap = g - mean
            mean.add_(gap, alpha=share)
            spread.addcmul_(gap, gap, value=before * share)
            p.grad = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for p in self._parameters():
                p.grad = None
            return
        if self.batches < 2:
            raise ValueError(f"a variance within the batch needs two micro-batches at least, got {self.batches}")
        for p, (mean, spread) in self._sums.items():
            p.grad = mean.to(p.dtype)
            if self._takes_variance(p):
                self._optimizer.set_batch_variance(p, spread / ((self.batches - 1) * self.examples))

    def _takes_variance(self, p: Tensor) -> bool:
        groups = self._optimizer.param_groups
        group = next(g for g in groups if any(q is p for q in g["params"]))
        return "batch_variance" in self._optimizer._rule(group).state


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _zeros(p: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype
    zeros = torch.zeros_like(p, dtype=wide, requires_grad=False)
    return zeros, zeros.clone()
