"""Measurements that cost passes of their own, at the steps that are asked for: curvature, and the noise of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepscope.scope.aside import gradients, undisturbed
from stepscope.scope.curvature import measure, sight
from stepscope.scope.noise import Spread
from stepscope.scope.observer import Observer

__all__ = ["OnDemand"]


class OnDemand:
    """Measures the tensors of some observers at the weights there are."""

    def __init__(self, observers: Sequence[Observer], model: nn.Module | None) -> None:
        self._observers, self._model = observers, model
        self._chunks = Spread()

    def _params(self) -> list[tuple[Observer, Any, Tensor]]:
        """Every trained tensor, with its observer and group."""
        return [
            (observer, group, p)
            for observer in self._observers
            for group in observer.optimizer.param_groups
            for p in group["params"]
            if p.requires_grad and observer.looks_at(p)
        ]

    def curvature(self, loss: Callable[[], Tensor], step: int, iterations: int, probes: int) -> dict[str, float]:
        """Columns of the loss's curvature; random vectors depend on the step alone."""
        with torch.no_grad():
            params = [(p, sight(observer.optimizer, group, p)) for observer, group, p in self._params()]
        return measure(loss, params, self._model, seed=step, iterations=iterations, probes=probes)

    def noise(self, loss: Callable[..., Tensor], batch: Sequence[Tensor], parts: int) -> dict[str, float]:
        """Columns of the noise scale from so many equal parts of a batch; what is left over is left out."""
        params = [p for _, _, p in self._params()]
        size = batch[0].shape[0] // parts
        spread = Spread()
        with undisturbed(self._model):
            for i in range(parts):
                part = [x[i * size : (i + 1) * size] for x in batch]
                spread.add(gradients(loss(*part), params))
        return spread.columns(size, "micro")

    def chunk(self) -> None:
        """A chunk's gradient has been accumulated."""
        params = [p for _, _, p in self._params()]
        with torch.no_grad():
            self._chunks.add_accumulated([torch.zeros_like(p) if p.grad is None else p.grad for p in params])

    def chunks(self, samples: int) -> dict[str, float]:
        """Columns of the noise scale from the chunks since the last step, of so many samples each."""
        spread, self._chunks = self._chunks, Spread()
        return spread.columns(samples, "chunks")
