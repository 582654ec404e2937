"""A few coordinates of each tensor, number by number: weight, gradient, averages and update.

Which ones is drawn once, by a generator of its own: `traced` tells. They are looked at when a step is recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.optim.backends.eager import local
from stepscope.optim.moments import flat
from stepscope.optim.shards import Extent, extent, size
from stepscope.scope.reduce import Observed
from stepscope.scope.series import sample

__all__ = ["COORDINATES", "FIELDS", "WIDTHS", "Traces", "traced"]

COORDINATES = 4  # of a tensor
FIELDS = ("theta", "g", "m", "v", "update")
WIDTHS = dict.fromkeys(("trace_there", *(f"trace_{field}" for field in FIELDS)), COORDINATES)
"""Numbers of the traced coordinates, and 1 for each that is there. They are additive over the parts of a tensor: each
process has 0 for those that are elsewhere."""


def traced(p: Tensor) -> list[int]:
    """The traced coordinates of a tensor as places in the flattened whole, in order."""
    return [int(i) for i in sample(extent(p).whole, 0, COORDINATES)]


def _places(p: Tensor) -> tuple[list[int], list[int]]:
    """Which of the traced coordinates are here, and where. Of a part that is no piece of the whole none is known."""
    part: Extent = extent(p)
    if part.scattered:
        return [], []
    found = [(k, i - part.start) for k, i in enumerate(traced(p)) if 0 <= i - part.start < size(p)]
    return [k for k, _ in found], [i for _, i in found]


class Traces:
    """Looks at the traced coordinates before and after a step."""

    def __init__(self) -> None:
        self._known: dict[tuple[Tensor, int], tuple[list[int], list[int]]] = {}
        self._before: dict[Tensor, Tensor] = {}

    def _here(self, p: Tensor) -> tuple[list[int], list[int]]:
        key = p, size(p)
        if key not in self._known:
            self._known[key] = _places(p)
        return self._known[key]

    def before(self, tensors: Iterable[Tensor]) -> None:
        """Look at the weights before a step that is going to be recorded."""
        self._before = {p: _look(local(p), self._here(p)[1]) for p in tensors if p.numel()}

    def sums(self, tensors: Sequence[Tensor], observed: Mapping[Tensor, Observed]) -> dict[str, NDArray[Any]]:
        """The numbers of WIDTHS after the step, an entry a tensor; averages are bias-corrected, and of g and g^2."""
        before, self._before = self._before, {}
        found = {name: np.zeros((len(tensors), COORDINATES)) for name in WIDTHS}
        values: dict[torch.device, dict[int, Tensor]] = {}
        for i, p in enumerate(tensors):
            if p in observed and p in before and (here := self._here(p)[1]):
                o = observed[p]
                looked = [before[p], *(_look(x, here) for x in (o.g, o.mean, o.second, o.after))]
                values.setdefault(o.after.device, {})[i] = torch.stack(looked)
        for some in values.values():  # one transfer from each device
            table = torch.cat([*some.values()], 1).cpu().double().numpy()
            start = 0
            for i, part in some.items():
                places, stop = self._here(tensors[i])[0], start + part.shape[1]
                theta, g, mean, second, after = table[:, start:stop]
                n = observed[tensors[i]].numbers
                scales = n.shared()
                m = scales.ascent * scales.mean_scale * mean
                v = scales.second_scale * second if n.raw else second + m * m
                for name, numbers in zip(WIDTHS, (1.0, theta, g, m, v, after - theta), strict=True):
                    found[name][i, places] = numbers
                start = stop
        return found


def _look(x: Tensor, places: Sequence[int]) -> Tensor:
    values = flat(x.detach(), x.device)[torch.tensor(places, dtype=torch.long, device=x.device)]
    return values.to(torch.float32 if x.device.type == "mps" else torch.float64)  # Apple's GPUs have no float64
