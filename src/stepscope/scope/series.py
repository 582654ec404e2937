"""What changes from one step to the next, on a fixed sample of each tensor's coordinates.

Gradients and updates of the sample are kept for some steps: 16 kB a tensor. The sample is drawn once, by a generator of
its own. A step that is not recorded costs a look at these coordinates and nothing else, so that a recorded one can be
compared with the step before it, whatever the schedule.
"""

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import machine
from stepscope.optim.backends.eager import local, local_like
from stepscope.optim.moments import flat
from stepscope.optim.shards import extent, size

__all__ = ["LAGS", "SAMPLE", "SUMS", "WIDTHS", "Series", "sample"]

SAMPLE = 128  # coordinates of a tensor
LAGS = 16  # steps that an update is compared with
WINDOW = 16  # steps over which these products are summed
ENOUGH = 8  # products from which on a sum counts, but for neighbouring steps
_RING = LAGS + WINDOW  # the last steps' updates and all that they are compared with

SUMS = (
    "series_size",
    "series_pairs",
    "series_grad_flips",
    "series_grad_still",
    "series_update_flips",
    "series_update_still",
    "series_products",
    "series_newer",
    "series_older",
)
"""Additive sums over the sampled coordinates of a tensor. size: of the sample.  pairs: coordinates that were seen at
the step before.  flips, still: pairs of opposite sign, and with a 0 among them.  products[k]: of an update and the one
k steps before it, over the last 16 steps; newer[k], older[k]: the squares of the two. Sums of less than 8
products are 0 from k = 2 on: few agree by chance."""

WIDTHS = {name: LAGS + 1 if name in SUMS[-3:] else 1 for name in SUMS}

Floats = NDArray[Any]  # of float32, or of float64 where some tensor is


def sample(size: int, seed: int, count: int = SAMPLE) -> NDArray[np.int64]:
    """Flat indices of the sampled coordinates of a tensor of this size, in order: all of a small one."""
    if size <= count:
        return np.arange(size)
    generator = np.random.Generator(np.random.PCG64(seed))
    found = np.unique(generator.integers(0, size, 2 * count))
    while len(found) < count:
        found = np.unique(np.concatenate([found, generator.integers(0, size, count)]))
    return np.sort(generator.choice(found, count, replace=False))


def _indices(p: Tensor, seed: int) -> NDArray[np.int64]:
    """Those of the sampled coordinates that are here. A part that is no piece of the whole has a sample of its own."""
    part, here = extent(p), size(p)
    if part.scattered:
        return sample(here, seed)
    found = sample(part.whole, seed) - part.start
    return found[(found >= 0) & (found < here)]


class Series:
    """Follows the same tensors from step to step; where they change, it starts anew."""

    def __init__(self, tensors: Callable[[], Iterable[Tensor]]) -> None:
        """tensors: those there are, which may become others."""
        self._there = tensors
        self._tensors: list[Tensor] = []
        self._sizes: list[int] = []
        self._before: Floats | None = None

    def _begin(self, tensors: list[Tensor]) -> None:
        self._tensors, self._sizes = tensors, list(map(size, tensors))
        indices = [_indices(p, place) for place, p in enumerate(tensors)]
        self._counts = np.array([len(index) for index in indices])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._index = np.concatenate([*indices, np.zeros(0, np.int64)]).astype(np.int64)
        width = len(self._index)
        self._steps = 0  # in a row that are in the rings
        self._updates = np.zeros((_RING, width), np.float32)
        self._grads = np.zeros((2, width), np.float32)
        self._products = np.zeros((WINDOW, LAGS + 1, len(tensors)))
        self._summed = 0  # steps whose products are there

    def before(self) -> None:
        """Look at the weights before a step."""
        tensors = list(self._there())
        same = len(tensors) == len(self._tensors) and all(a is b for a, b in zip(tensors, self._tensors, strict=True))
        if not same or list(map(size, tensors)) != self._sizes:
            self._begin(tensors)
        self._before = self._look(tensors)

    def after(self) -> None:
        """Look at the gradients, and at the weights after the step; a tensor without a gradient has one of 0."""
        before, self._before = self._before, None
        if before is None or list(map(size, self._tensors)) != self._sizes:
            self._tensors = []
            return
        self._updates[self._steps % _RING] = self._look(self._tensors) - before
        grads = [None if p.grad is None else local_like(p.grad, p) for p in self._tensors]
        self._grads[self._steps % 2] = self._look(grads)
        self._steps += 1

    def skip(self) -> None:
        """The step was none, or nobody knows what it was."""
        self._tensors, self._before = [], None

    def _look(self, tensors: Sequence[Tensor | None]) -> Floats:
        """The sampled coordinates of all tensors, end to end."""
        tensors = [local(x) for x in tensors]
        fast = [i for i, x in enumerate(tensors) if x is not None and _plain(x)]
        found: Floats = np.zeros(len(self._index), np.float32 if len(fast) == len(tensors) else np.float64)
        if len(fast) == len(tensors):
            _gather([x.data_ptr() for x in tensors if x is not None], self._starts, self._index, found)
            return found
        elsewhere: dict[torch.device, list[tuple[slice, Tensor]]] = {}
        for i, x in enumerate(tensors):
            if x is not None:
                part = slice(self._starts[i], self._starts[i + 1])
                values = flat(x.detach(), x.device)[torch.from_numpy(self._index[part]).to(x.device)]
                wide = torch.float32 if x.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
                elsewhere.setdefault(x.device, []).append((part, values.to(wide)))
        for pieces in elsewhere.values():  # one transfer from each device
            values = torch.cat([values for _, values in pieces]).cpu()
            for (part, _), piece in zip(pieces, torch.split(values, [len(v) for _, v in pieces]), strict=True):
                found[part] = piece.numpy()
        return found

    def sums(self, tensors: Sequence[Tensor]) -> Mapping[str, NDArray[Any]]:
        """SUMS of the step that has just been seen, an entry a tensor, which must be among those there are."""
        n = len(self._tensors)
        pairs = self._counts * (self._steps > 1)
        found: dict[str, NDArray[Any]] = {"series_size": self._counts, "series_pairs": pairs}
        newest = (self._steps - 1) % _RING
        for name, new, old in (
            ("grad", *(self._grads[(self._steps - back) % 2] for back in (1, 2))),
            ("update", *(self._updates[(newest - back) % _RING] for back in (0, 1))),
        ):
            signs = np.sign(new) * np.sign(old) * (self._steps > 1)
            found[f"series_{name}_flips"] = self._added(signs < 0)
            found[f"series_{name}_still"] = self._added(signs == 0) * (self._steps > 1)
        products, newer, older = (np.zeros((LAGS + 1, n)) for _ in range(3))
        for step in range(max(self._summed, self._steps - WINDOW), self._steps):
            self._products[step % WINDOW] = self._multiplied(step)
        self._summed = self._steps
        for step in range(max(0, self._steps - WINDOW), self._steps):
            reach = min(step, LAGS, max(1, self._steps - ENOUGH)) + 1
            products[:reach] += self._products[step % WINDOW][:reach]
            squares = [self._square(step - back) for back in range(reach)]
            newer[:reach] += squares[0]
            older[:reach] += squares
        found |= {"series_products": products.T, "series_newer": newer.T, "series_older": older.T}
        places = {p: i for i, p in enumerate(self._tensors)}
        rows = [places[p] for p in tensors]
        return {name: np.asarray(found[name], float)[rows] for name in SUMS}

    def _added(self, values: NDArray[Any]) -> NDArray[np.float64]:
        wide = values.astype(np.float64)
        if self._counts.all():
            return np.add.reduceat(wide, self._starts[:-1], axis=-1)
        # A part may have none of the sample; there reduceat reads one number, which may be one beyond the end.
        room = np.zeros((*values.shape[:-1], 1))
        return np.add.reduceat(np.concatenate([wide, room], -1), self._starts[:-1], axis=-1) * (self._counts > 0)

    def _multiplied(self, step: int) -> NDArray[np.float64]:
        """Products of a step's updates with those of the steps before."""
        places = [(step - back) % _RING for back in range(LAGS + 1)]
        return self._added(self._updates[places].astype(np.float64) * self._updates[step % _RING])

    def _square(self, step: int) -> NDArray[np.float64]:
        updates = self._updates[step % _RING].astype(np.float64)
        return self._added(updates * updates)


def _plain(x: Tensor) -> bool:
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and x.layout is torch.strided
        and x.is_contiguous()
        and not x.is_neg()
        and not hasattr(x, "_local_tensor")
        and machine.available()
    )


_GATHER = """
define void @gather(ptr %table, ptr %starts, ptr %index, ptr %out, i64 %number) {
entry:
  %any = icmp ugt i64 %number, 0
  br i1 %any, label %tensor, label %done
tensor:
  %i = phi i64 [ 0, %entry ], [ %next, %over ]
  %from = getelementptr ptr, ptr %table, i64 %i
  %x = load ptr, ptr %from, align 8
  %at = getelementptr i64, ptr %starts, i64 %i
  %first = load i64, ptr %at, align 8
  %next = add i64 %i, 1
  %to = getelementptr i64, ptr %starts, i64 %next
  %last = load i64, ptr %to, align 8
  %some = icmp ult i64 %first, %last
  br i1 %some, label %loop, label %over
loop:
  %j = phi i64 [ %first, %tensor ], [ %k, %loop ]
  %where = getelementptr i64, ptr %index, i64 %j
  %place = load i64, ptr %where, align 8
  %source = getelementptr float, ptr %x, i64 %place
  %value = load float, ptr %source, align 4
  %target = getelementptr float, ptr %out, i64 %j
  store float %value, ptr %target, align 4
  %k = add i64 %j, 1
  %more = icmp ult i64 %k, %last
  br i1 %more, label %loop, label %over
over:
  %again = icmp ult i64 %next, %number
  br i1 %again, label %tensor, label %done
done:
  ret void
}
"""


@cache
def _gatherer() -> tuple[Any, Callable[..., None]]:
    engine, address = machine.code(_GATHER, "gather")
    return engine, ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(address)


def _gather(
    addresses: list[int], starts: NDArray[np.int64], index: NDArray[np.int64], out: NDArray[np.float32]
) -> None:
    """Copy the indexed numbers of float32 memory at these addresses."""
    table = np.array(addresses, np.int64)
    _gatherer()[1](table.ctypes.data, starts.ctypes.data, index.ctypes.data, out.ctypes.data, len(addresses))
