"""Around a step: which tensors had a gradient, the averages that belong to it, and what was measured.

An optimizer that can measure its own steps (`optim.sums`) is asked to; every other one's weights are kept before a step
and compared after it.
"""

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.optim.moments import Layout, Numbers, kept_by_optimizer, numbers, own_beta
from stepscope.optim.sums import Average, Request, StepSums
from stepscope.rules.statistics import PLAIN, Selection
from stepscope.scope.reduce import Observed, Packed, Reducer
from stepscope.scope.series import Series
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

    chosen: the sums to measure.  clip: the size from which on a gradient's coordinate counts as clipped, 0 for none.
    only: the tensors to look at; None for all.  follows: compare each step with those before it.
    settled: the optimizer keeps all of them, so that steps which are not recorded need no look.
    steps: taken so far.  depth: of calls of `step` that are running.  recording: whether this step is measured.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        beta: float,
        chosen: Selection = PLAIN,
        clip: float = 0.0,
        only: Container[Tensor] | None = None,
        follows: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self._follows = follows
        self._beta, self._clip, self._only = beta, clip, only
        self.steps = self.depth = 0
        self.recording = self.settled = False
        self._reducer = Reducer(chosen)
        self._asks = hasattr(optimizer, "request_sums")
        self._refused = False
        self.forget()

    def forget(self) -> None:
        """Let go of everything that belongs to the steps so far."""
        self.depth, self.recording, self.settled = 0, False, False
        self._shadow = Shadow()
        self._averages: dict[Tensor, Average] = {}
        self._weights: dict[Tensor, Tensor] = {}
        self._series = Series(self._whole_ones) if self._follows else None

    def _everything(self) -> Iterator[Tensor]:
        """The tensors there are to look at."""
        for p in (p for group in self.optimizer.param_groups for p in group["params"]):
            if (p.requires_grad or p.grad is not None) and (self._only is None or p in self._only):
                yield p

    def _whole_ones(self) -> Iterator[Tensor]:
        return (p for p in self._everything() if p.numel() and self._whole(p))

    def before(self) -> None:
        """Prepare for a step."""
        self._weights = {}
        if self._asks:
            if self.recording or not self.settled:
                request = Request(
                    self.recording, self._beta, self._averages, self._reducer.chosen, self._clip, self._only
                )
                self.optimizer.request_sums(request)  # type: ignore[attr-defined]
        elif self.recording:
            self._weights = {p: p.detach().clone() for p in self._everything()}
        if self._series is not None:
            self._series.before()

    @property
    def idle(self) -> bool:
        """Whether a step that is not recorded needs no look."""
        return self.settled and self._series is None

    def skipped(self) -> None:
        """The step that is over has changed nothing."""
        self._weights = {}
        if self._series is not None:
            self._series.skip()

    def after(self) -> tuple[list[Tensor], Packed] | None:
        """What a recorded step was made of: the tensors that were measured, and their sums.

        Lets its gradients into the averages in any case.
        """
        if self._series is not None:
            self._series.after()
        found = self._measured() if self.recording or not self.settled else None
        if found is None or self._series is None:
            return found
        tensors, packed = found
        return tensors, packed._replace(further=self._series.sums(tensors))

    def _measured(self) -> tuple[list[Tensor], Packed] | None:
        weights, self._weights = self._weights, {}
        if not self._asks:
            seen = self.update()
            observed = self.observed(seen, weights) if self.recording else {}
            return (list(observed), self._reducer.reduce(list(observed.values()))) if observed else None
        result: StepSums | None = self.optimizer.step_sums  # type: ignore[attr-defined]
        self.settled = not self._averages and any(p in self.optimizer.state for p in self._with_gradients())
        if result is None:
            return None
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if p in result.before]
        observed = self.observed([s for s in seen if self._whole(s.p)], result.before)
        fused = [part for part in result.measured if all(map(self._whole, part.tensors))]
        tensors = [*observed, *(p for part in fused for p in part.tensors)]
        return (tensors, self._reducer.reduce(list(observed.values()), fused)) if tensors else None

    def _with_gradients(self) -> dict[Tensor, Mapping[str, Any]]:
        groups = self.optimizer.param_groups
        found: dict[Tensor, Mapping[str, Any]] = {
            p: group for group in groups for p in group["params"] if p.grad is not None and p.numel()
        }
        return found if self._only is None else {p: group for p, group in found.items() if p in self._only}

    def _seen(self, p: Tensor, group: Mapping[str, Any]) -> Seen:
        assert p.grad is not None
        state = self.optimizer.state.get(p, {})
        return Seen(p, p.grad, group, state, kept_by_optimizer(state, group, p))

    def update(self) -> list[Seen]:
        """Let the step's gradients enter the shadow averages.  Returns the tensors that had one."""
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if self._whole(p)]
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
        shadows: Mapping[Tensor, Any] = self._averages if self._asks else self._shadow.averages()
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
                average = shadows[s.p]
                mean, second, beta, t = average.m, average.S, average.beta, average.t
            if t > 0:
                key = (id(s.group), s.layout, beta, t)
                if key not in shared:
                    found_numbers = numbers(self.optimizer, s.group, s.layout, beta, t)
                    shared[key] = found_numbers._replace(clip=self._clip) if self._clip else found_numbers
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
