"""After a step: which tensors had a gradient, and the averages that belong to it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.scope.moments import Layout, Numbers, kept_by_optimizer, numbers, own_beta
from stepscope.scope.reduce import Observed
from stepscope.scope.shadow import Sample, Shadow

__all__ = ["Observer", "Seen"]

log = logging.getLogger("stepscope.scope")


class Seen(NamedTuple):
    """A tensor with a gradient, what the optimizer keeps for it, and where in that its averages are, if they are."""

    p: Tensor
    g: Tensor
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    layout: Layout | None


class Observer:
    """Knows the averages of every tensor of an optimizer, and keeps those that the optimizer does not.

    settled: the optimizer keeps all of them, so that steps which are not recorded need no look.
    """

    def __init__(self, optimizer: Optimizer, beta: float) -> None:
        self._optimizer, self._beta = optimizer, beta
        self._shadow = Shadow()
        self._refused = False
        self.settled = False

    def update(self) -> list[Seen]:
        """Let the step's gradients enter the shadow averages.  Returns the tensors that had one."""
        seen = [
            Seen(p, p.grad, group, state := self._optimizer.state.get(p, {}), kept_by_optimizer(state, group, p))
            for group in self._optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and p.numel() and self._whole(p)
        ]
        samples = {s.p: Sample(s.g, self._shadow_beta(s)) for s in seen if s.layout is None}
        if samples:
            self._shadow.update(samples)
        self.settled = bool(seen) and not samples
        return seen

    def _shadow_beta(self, s: Seen) -> float:
        beta = own_beta(s.state, s.group)
        return self._beta if beta is None else beta

    def _whole(self, p: Tensor) -> bool:
        """Whether all of the tensor is here. Sums over a shard would pass for sums over the tensor."""
        if not hasattr(p, "to_local"):
            return True
        if not self._refused:
            self._refused = True
            log.warning("sharded parameters (DTensor) are not measured")
        return False

    def observed(self, seen: Sequence[Seen], weights: Mapping[Tensor, Tensor]) -> dict[Tensor, Observed]:
        """What `reduce` measures, by tensor; `weights` are those before the step."""
        shadows = self._shadow.averages()
        counts = _sample_counts([s for s in seen if s.layout])
        shared: dict[Any, Numbers] = {}  # reading a step size may wait for a device: once for all tensors of a group
        found = {}
        for s in seen:
            before = weights.get(s.p)
            if before is None or before.shape != s.p.shape:
                continue
            if s.layout:
                mean, second, beta, t = s.state[s.layout.mean], s.state[s.layout.second], self._beta, counts[s.p]
            else:
                mean, second, beta, t = shadows[s.p]
            if t > 0:
                key = (id(s.group), s.layout, beta, t)
                if key not in shared:
                    shared[key] = numbers(self._optimizer, s.group, s.layout, beta, t)
                found[s.p] = Observed(s.g, mean, second, before, s.p, shared[key])
        return found


def _sample_counts(seen: Sequence[Seen]) -> dict[Tensor, int]:
    """How many gradients the optimizer's averages hold. Counters on a device come in one transfer each device."""
    counts = {}
    remote: dict[torch.device, dict[Tensor, Tensor]] = {}
    for s in seen:
        step = s.state.get("step", s.group.get("step"))
        if isinstance(step, Tensor) and step.device.type != "cpu":
            remote.setdefault(step.device, {})[s.p] = step.reshape(())
        else:
            counts[s.p] = int(step)
    for steps in remote.values():
        reached = torch.stack([step.float() for step in steps.values()]).tolist()
        counts.update(zip(steps, map(int, reached), strict=True))
    return counts
