"""The gradient noise scale: how many samples a batch needs before its gradient's noise is as small as the gradient.

From k gradients of b samples each, with mean G and M2 = sum |g - G|^2:
    trace of the covariance of one sample's gradient:   b M2 / (k - 1)
    square of the true gradient:                        |G|^2 - M2 / (k (k - 1))
    noise scale:                                        their ratio [McCandlish et al. 2018, Eq. 2.8]
The first two are unbiased where the samples are drawn independently, for any k >= 2; the second may be negative. Their
ratio is not unbiased: average each over steps before dividing. BatchNorm makes a gradient depend on its whole batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Spread"]


class Spread:
    """Mean of gradients, and the sum of their squared distances from it, one gradient after the other.

    Keeps a copy of the gradient, two where it is accumulated.
    """

    def __init__(self) -> None:
        self._mean: list[Tensor] = []
        self._total: list[Tensor] = []
        self._distances = 0.0
        self.count = 0

    def add(self, gradient: Sequence[Tensor]) -> None:
        """Add a gradient."""
        self.count += 1
        if self.count == 1:
            self._mean = [g.detach().clone() for g in gradient]
            return
        moved = 0.0
        for mean, g in zip(self._mean, gradient, strict=True):
            gap = g.detach() - mean
            mean.add_(gap, alpha=1 / self.count)
            moved += (gap.double() * (g.detach() - mean).double()).sum().item()
        self._distances += moved

    def add_accumulated(self, total: Sequence[Tensor]) -> None:
        """Add the gradient by which an accumulated one has grown since the last call."""
        before = self._total or [torch.zeros_like(g) for g in total]
        self.add([g.detach() - b for g, b in zip(total, before, strict=True)])
        self._total = [g.detach().clone() for g in total]

    def columns(self, samples: int, name: str) -> dict[str, float]:
        """Values by column name, which ends with that of the estimator; samples: in each gradient, >= 1.

        The unit of the gradients is that of what was added. Nothing of less than two gradients.
        """
        if self.count < 2:
            return {}
        k = self.count
        trace = samples * self._distances / (k - 1)
        square = sum((m.double() ** 2).sum().item() for m in self._mean) - self._distances / (k * (k - 1))
        return {
            f"noise_trace_{name}": trace,
            f"gradient_square_{name}": square,
            f"noise_scale_{name}": trace / square if square > 0 else math.nan,
        }
