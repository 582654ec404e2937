"""How a step is asked to measure itself, and what it answers: the protocol between optimizers and observers.

optimizer.request_sums(Request(...))     before a step
optimizer.step()
optimizer.step_sums                      after it: None if nothing was asked for
"""

from collections.abc import Container
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepscope.optim.backends.cpu import Counted
from stepscope.optim.moments import Numbers
from stepscope.rules.statistics import PLAIN, Selection

__all__ = ["Average", "Measured", "Request", "StepSums"]


@dataclass
class Average:
    """Bias-corrected mean m and variance S = v - m^2 of t gradients with one decay rate, laid out like a parameter."""

    m: Tensor
    S: Tensor
    beta: float
    t: int = 0

    @classmethod
    def of(cls, p: Tensor, beta: float) -> "Average":
        """No samples yet; float64 for parameters of double precision, else float32."""
        double = p.dtype in (torch.float64, torch.complex128)
        kind = (torch.complex128 if double else torch.complex64) if p.is_complex() else None
        zeros = torch.zeros_like(p, dtype=kind or (torch.float64 if double else torch.float32), requires_grad=False)
        return cls(zeros, zeros.clone(), beta)


@dataclass
class Request:
    """What the next step shall do beside stepping.

    measure: fill `step_sums`.  beta: decay rate of the averages of the raw gradients that are kept beside a rule which
    does not keep both itself.  averages: these, by parameter; the step makes what is missing and lets each gradient in.
    chosen: the sums and histograms to measure.  clip: the size from which on a gradient's coordinate counts as clipped.
    only: the parameters it is about; None for all.
    """

    measure: bool
    beta: float = 0.9
    averages: dict[Tensor, Average] = field(default_factory=dict)
    chosen: Selection = PLAIN
    clip: float = 0.0
    only: Container[Tensor] | None = None


@dataclass(frozen=True)
class Measured:
    """Tensors that were measured together: chosen.terms[j] names counted.sums[:, j], chosen.histograms[h] what is
    counted from starts[h] on; numbers[i] belongs to tensors[i]."""

    tensors: list[Tensor]
    numbers: list[Numbers]
    chosen: Selection
    starts: tuple[int, ...]
    counted: Counted


@dataclass
class StepSums:
    """What a step measured; read it before the next one, which may write to the same memory.

    before: the weights before the step of parameters that were stepped, but not measured.
    """

    measured: list[Measured] = field(default_factory=list)
    before: dict[Tensor, Tensor] = field(default_factory=dict)
