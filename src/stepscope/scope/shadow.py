"""Averages kept beside an optimizer that keeps none: one decay rate, every step, whether or not it is recorded.

Small tensors share flat buffers, so that a step over many costs a few operations. A buffer's tensors have seen the
same number of gradients; where some get none, the buffer is split.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stepscope.optim.backends.eager import TORCH
from stepscope.optim.moments import flat, real_dtype
from stepscope.optim.shards import size
from stepscope.rules import averages

__all__ = ["Average", "Sample", "Shadow"]

BLOCK = 1 << 15  # elements of a shared buffer, and of the blocks that a larger tensor is worked through in


class Sample(NamedTuple):
    """A gradient and the decay rate of the averages it enters; the rate of a tensor's first one stays."""

    g: Tensor
    beta: float


class Average(NamedTuple):
    """Bias-corrected mean and variance v - m^2 of t gradients: flat views, which the next update changes."""

    m: Tensor
    S: Tensor
    beta: float
    t: int


class _Pack:
    """The averages of some tensors, in one flat buffer each."""

    def __init__(self, tensors: list[Tensor], sizes: list[int], average: Average) -> None:
        self.tensors, self.sizes, self.average = tensors, sizes, average

    def add(self, gradients: list[Tensor]) -> None:
        m, S, beta, t = self.average
        pieces = [flat(g, m.device) for g in gradients]
        g = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        weight = averages.ema_weight(beta, t + 1)
        for i in range(0, g.numel(), BLOCK):
            part = slice(i, i + BLOCK)
            m[part], S[part] = averages.welford(TORCH, g[part].to(m.dtype), m[part], S[part], weight)
        self.average = Average(m, S, beta, t + 1)

    def views(self) -> Iterator[tuple[Tensor, Average]]:
        m, S, beta, t = self.average
        for p, mean, variance in zip(self.tensors, torch.split(m, self.sizes), torch.split(S, self.sizes), strict=True):
            yield p, Average(mean, variance, beta, t)

    def split(self, samples: Mapping[Tensor, Sample]) -> "Iterator[_Pack]":
        """Packs of the tensors with and without a sample; tensors that changed their size are forgotten."""
        same_size = all(size(p) == n for p, n in zip(self.tensors, self.sizes, strict=True))
        if same_size and len({p in samples for p in self.tensors}) == 1:
            yield self
            return
        kept = [(p, view) for p, view in self.views() if size(p) == view.m.numel()]
        for side in (True, False):
            views = {p: view for p, view in kept if (p in samples) is side}
            if views:
                m, S = torch.cat([view.m for view in views.values()]), torch.cat([view.S for view in views.values()])
                yield _Pack(list(views), [size(p) for p in views], self.average._replace(m=m, S=S))


class Shadow:
    """Shadow averages of any tensors, each counting from its own first gradient."""

    def __init__(self) -> None:
        self._packs: list[_Pack] = []

    def update(self, samples: Mapping[Tensor, Sample]) -> None:
        """Let one gradient of each tensor in `samples` enter its averages."""
        self._packs = [part for pack in self._packs for part in pack.split(samples)]
        known = {p for pack in self._packs for p in pack.tensors}
        self._packs += _new_packs({p: sample for p, sample in samples.items() if p not in known})
        for pack in self._packs:
            if pack.tensors[0] in samples:
                pack.add([samples[p].g for p in pack.tensors])

    def keep(self, averages: Mapping[Tensor, Average]) -> None:
        """Go on from these, as `averages` gave them."""
        self._packs = [_Pack([p], [size(p)], average) for p, average in averages.items()]

    def averages(self) -> dict[Tensor, Average]:
        """The averages of every tensor that has had a gradient."""
        return {p: view for pack in self._packs for p, view in pack.views()}


def _new_packs(samples: Mapping[Tensor, Sample]) -> Iterator[_Pack]:
    """Empty packs of at most BLOCK elements, or of one larger tensor."""
    alike: dict[tuple[torch.device, torch.dtype, float], list[list[Tensor]]] = {}
    for p, sample in samples.items():
        runs = alike.setdefault((p.device, real_dtype(p), sample.beta), [])
        if not runs or sum(map(size, runs[-1])) + size(p) > BLOCK:
            runs.append([])
        runs[-1].append(p)
    for (device, dtype, beta), runs in alike.items():
        for tensors in runs:
            sizes = [size(p) for p in tensors]
            m = torch.zeros(sum(sizes), device=device, dtype=dtype)
            yield _Pack(tensors, sizes, Average(m, torch.zeros_like(m), beta, 0))
