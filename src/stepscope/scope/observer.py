"""Around a step: which tensors had a gradient, the averages that belong to it, and what was measured.

An optimizer that can measure its own steps (`optim.sums`) is asked to; every other one's weights are kept before a step
and compared after it. Of sharded tensors each process measures its part (`scope.sharded`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.optim.backends.eager import is_distributed, local, local_like
from stepscope.optim.moments import Layout, Numbers, kept_by_optimizer, numbers, own_beta
from stepscope.optim.shards import extent
from stepscope.optim.sums import Average, Request, StepSums
from stepscope.scope.reduce import Observed, Sums, reduce
from stepscope.scope.shadow import Sample, Shadow
from stepscope.scope.sharded import Peers, sharded, totals

__all__ = ["Observer", "Seen"]


class Seen(NamedTuple):
    """A tensor with a gradient, what the optimizer keeps for it, and where in that its averages are, if they are.

    g: the part of the gradient that belongs to the part of the tensor that is here.
    """

    p: Tensor
    g: Tensor
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    layout: Layout | None


class Observer:
    """Knows the averages of every tensor of an optimizer, and keeps those that the optimizer does not.

    writes: whether this process reports; another one only measures its part of sharded tensors.
    setup: what has to be the same in the processes that hold the other parts.

    settled: there are no averages to keep, so that steps which are not recorded need no look.
    """

    def __init__(self, optimizer: Optimizer, beta: float, *, writes: bool = True, setup: str = "") -> None:
        self._optimizer, self._beta = optimizer, beta
        self._writes, self._peers = writes, Peers(setup)
        self._shadow = Shadow()
        self._asks = hasattr(optimizer, "request_sums")
        self._averages: dict[Tensor, Average] = {}
        self._weights: dict[Tensor, Tensor] = {}
        self._ready = False
        self.settled = False

    def before(self, recording: bool) -> None:
        """Prepare for a step."""
        self._weights, self._ready = {}, False
        if not any(map(self._measures, self._params())):
            pass
        elif self._asks:
            if recording or not self.settled:
                self._optimizer.request_sums(Request(recording, self._beta, self._averages))  # type: ignore[attr-defined]
        elif recording:
            everything = filter(self._measures, self._params())
            self._weights = {p: local(p).detach().clone() for p in everything if p.requires_grad or p.grad is not None}
        self._ready = True

    def after(self, recording: bool, *, skipped: bool = False) -> tuple[list[Tensor], Sums] | None:
        """What a recorded step was made of: the tensors that were measured, and their sums.

        Lets its gradients into the averages in any case.  skipped: the optimizer left everything as it was.
        Raises: PeerFailed if another process failed to measure its part.
        """
        weights, self._weights = self._weights, {}
        parts = sharded(self._params()) if recording else []
        if parts and not self._peers.complete(parts):
            measured = None if skipped else self._measured(recording, weights)
            return _only([p for p in measured[0] if not is_distributed(p)], *measured) if measured else None
        try:
            measured = None if skipped else self._measured(recording, weights)
            if recording and not self._ready:
                raise RuntimeError("the weights before the step could not be kept")
        except Exception:
            if parts:
                totals(parts, [], None)
            raise
        if not parts:
            return measured
        tensors, sums = measured or ([], reduce([]))
        whole, summed = totals(parts, tensors, sums)
        alone, sums = _only([p for p in tensors if p not in set(parts)], tensors, sums)
        return [*alone, *whole], {name: np.concatenate([sums[name], summed[name]]) for name in sums}

    def _params(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _measures(self, p: Tensor) -> bool:
        return self._writes or is_distributed(p)

    def _measured(self, recording: bool, weights: Mapping[Tensor, Tensor]) -> tuple[list[Tensor], Sums] | None:
        """What this process measured."""
        if not self._asks:
            seen = self.update()
            observed = self.observed(seen, weights) if recording else {}
            return (list(observed), reduce(list(observed.values()))) if observed else None
        result: StepSums | None = self._optimizer.step_sums  # type: ignore[attr-defined]
        self.settled = not self._averages and any(p in self._optimizer.state for p in self._with_gradients())
        if result is None:
            return None
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if p in result.before]
        observed = self.observed(seen, {p: local(before) for p, before in result.before.items()})
        tensors = [*observed, *(p for part in result.measured for p in part.tensors)]
        return (tensors, reduce(list(observed.values()), result.measured)) if tensors else None

    def _with_gradients(self) -> dict[Tensor, Mapping[str, Any]]:
        groups = self._optimizer.param_groups
        return {p: group for group in groups for p in group["params"] if p.grad is not None and p.numel()}

    def _seen(self, p: Tensor, group: Mapping[str, Any]) -> Seen:
        state = self._optimizer.state.get(p, {})
        return Seen(p, local_like(p.grad, p), group, state, kept_by_optimizer(state, group, p))

    def update(self) -> list[Seen]:
        """Let the step's gradients enter the shadow averages.  Returns the tensors that had one."""
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if self._measures(p)]
        samples = {s.p: Sample(s.g, self._shadow_beta(s)) for s in seen if s.layout is None}
        if samples:
            self._shadow.update(samples)
        self.settled = not samples and (bool(seen) or not any(map(self._measures, self._params())))
        return seen

    def _shadow_beta(self, s: Seen) -> float:
        beta = own_beta(s.state, s.group)
        return self._beta if beta is None else beta

    def observed(self, seen: Sequence[Seen], weights: Mapping[Tensor, Tensor]) -> dict[Tensor, Observed]:
        """What `reduce` measures, by tensor; `weights` are those before the step."""
        shadows: Mapping[Tensor, Any] = self._averages if self._asks else self._shadow.averages()
        counts = _sample_counts([s for s in seen if s.layout])
        shared: dict[Any, Numbers] = {}  # reading a step size may wait for a device: once for all tensors of a group
        found = {}
        for s in seen:
            before, after = weights.get(s.p), local(s.p)
            if before is None or before.shape != after.shape:
                continue
            if s.layout:
                mean, second = (local_like(s.state[name], s.p) for name in s.layout[:2])
                beta, t = self._beta, counts[s.p]
            else:
                average = shadows[s.p]
                mean, second, beta, t = average.m, average.S, average.beta, average.t
            if t > 0:
                key = (id(s.group), s.layout, beta, t)
                if key not in shared:
                    shared[key] = numbers(self._optimizer, s.group, s.layout, beta, t)
                part = extent(s.p) if is_distributed(s.p) else None
                found[s.p] = Observed(s.g, mean, second, before, after, shared[key], part)
        return found


def _only(chosen: list[Tensor], tensors: Sequence[Tensor], sums: Sums) -> tuple[list[Tensor], Sums]:
    """The chosen ones of the measured tensors, and their sums."""
    place = {p: i for i, p in enumerate(tensors)}
    rows = [place[p] for p in chosen]
    return chosen, {name: values[rows] for name, values in sums.items()}


def _sample_counts(seen: Sequence[Seen]) -> dict[Tensor, int]:
    """How many gradients the optimizer's averages hold. Counters on a device come in one transfer each device."""
    counts = {}
    remote: dict[torch.device, dict[Tensor, Tensor]] = {}
    for s in seen:
        step = local(s.state.get("step", s.group.get("step")))
        if isinstance(step, Tensor) and step.device.type != "cpu":
            remote.setdefault(step.device, {})[s.p] = step.reshape(())
        else:
            counts[s.p] = int(step)
    for steps in remote.values():
        reached = torch.stack([step.float() for step in steps.values()]).tolist()
        counts.update(zip(steps, map(int, reached), strict=True))
    return counts
