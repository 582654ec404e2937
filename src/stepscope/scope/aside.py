"""Passes beside the training: gradients and Hessian products at chosen steps, which leave no trace in the run.

The random numbers of torch, NumPy and Python, and the model's buffers, are afterwards what they were. Gradients are
taken, not accumulated: `p.grad` is not touched.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Products", "gradients", "undisturbed"]


@contextlib.contextmanager
def undisturbed(model: nn.Module | None) -> Iterator[None]:
    """Whatever is drawn, and whatever a forward pass does to buffers (BatchNorm's averages), is undone at the end."""
    buffers = [] if model is None else [b for b in model.buffers() if b is not None]
    kept = [b.detach().clone() for b in buffers]
    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what must stay
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)  # noqa: NPY002
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def gradients(loss: Tensor, params: Sequence[Tensor], *, graph: bool = False) -> list[Tensor]:
    """Of a loss; 0 where it does not depend on a parameter."""
    found = torch.autograd.grad(loss, params, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


class Products:
    """Products of a loss's Hessian with vectors, all of one forward pass: one backward pass each.

    Vectors are lists of tensors like the parameters. Call it within `undisturbed`.
    """

    def __init__(self, loss: Callable[[], Tensor], params: Sequence[Tensor]) -> None:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self._params = list(params)
        # The fast attention and cuDNN's recurrent layers have no second derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            self.gradient = gradients(loss(), self._params, graph=True)

    def __call__(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """H v."""
        pairs = [(g, v) for g, v in zip(self.gradient, vector, strict=True) if g.requires_grad]
        if not pairs:
            return [torch.zeros_like(p) for p in self._params]
        found = torch.autograd.grad(
            [g for g, _ in pairs], self._params, [v for _, v in pairs], retain_graph=True, allow_unused=True
        )
        return [torch.zeros_like(p) if h is None else h.detach() for p, h in zip(self._params, found, strict=True)]
