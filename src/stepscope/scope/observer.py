"""Around a step: which tensors had a gradient, the averages that belong to it, and what was measured.

An optimizer that can measure its own steps (`optim.sums`) is asked to; every other one's weights are kept before a step
and compared after it. Of sharded tensors each process measures its part (`scope.sharded`).
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.optim.backends.eager import is_distributed, local, local_like
from stepscope.optim.moments import Layout, Numbers, kept_by_optimizer, numbers, own_beta
from stepscope.optim.shards import extent
from stepscope.optim.sums import Average, Request, StepSums
from stepscope.rules.statistics import PLAIN, Selection
from stepscope.scope.reduce import Observed, Packed, Reducer, joined
from stepscope.scope.series import Series
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

    chosen: the sums to measure.  clip: the size from which on a gradient's coordinate counts as clipped, 0 for none.
    only: the tensors to look at; None for all.  follows: compare each step with those before it.
    settled: there are no averages to keep, so that steps which are not recorded need no look for their sake.
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
        self.begin()

    def begin(self, *, writes: bool = True, setup: str = "") -> None:
        """Let go of everything that belongs to the steps so far.

        writes: whether this process reports; another one only measures its part of sharded tensors.
        setup: what has to be the same in the processes that hold the other parts.
        """
        self.depth, self.recording, self.settled = 0, False, False
        self._writes, self._peers = writes, Peers(setup)
        self._asked = self._only if writes else _Sharded(self._only)  # of an optimizer that measures
        self._shadow = Shadow()
        self._averages: dict[Tensor, Average] = {}
        self._weights: dict[Tensor, Tensor] = {}
        self._ready = False
        self._series = Series(self._followed) if self._follows else None

    def _params(self) -> list[Tensor]:
        """The tensors there are to look at."""
        every = [p for group in self.optimizer.param_groups for p in group["params"]]
        return every if self._only is None else [p for p in every if p in self._only]

    def looks_at(self, p: Tensor) -> bool:
        """Whether this is one of the tensors to look at."""
        return self._only is None or p in self._only

    def _measures(self, p: Tensor) -> bool:
        return self._writes or is_distributed(p)

    def _everything(self) -> Iterator[Tensor]:
        """Those that this process measures, if they have gradients."""
        return (p for p in filter(self._measures, self._params()) if p.requires_grad or p.grad is not None)

    def _followed(self) -> Iterator[Tensor]:
        """Those that are whole."""
        return (p for p in self._everything() if p.numel() and not is_distributed(p))

    @property
    def idle(self) -> bool:
        """Whether a step that is not recorded needs no look."""
        return self.settled and self._series is None

    def before(self) -> None:
        """Prepare for a step."""
        self._weights, self._ready = {}, False
        if not any(map(self._measures, self._params())):
            pass
        elif self._asks:
            if self.recording or not self.settled:
                chosen = self._reducer.chosen
                request = Request(self.recording, self._beta, self._averages, chosen, self._clip, self._asked)
                self.optimizer.request_sums(request)  # type: ignore[attr-defined]
        elif self.recording:
            self._weights = {p: local(p).detach().clone() for p in self._everything()}
        if self._series is not None:
            self._series.before()
        self._ready = True

    def after(self, *, skipped: bool = False) -> tuple[list[Tensor], Packed] | None:
        """What a recorded step was made of: the tensors that were measured, and their sums.

        Lets its gradients into the averages in any case.  skipped: the optimizer left everything as it was.
        Raises: PeerFailed if another process failed to measure its part.
        """
        weights, self._weights = self._weights, {}
        if self._series is not None:
            self._series.skip() if skipped else self._series.after()
        parts = sharded(self._params()) if self.recording else []
        if parts and not self._peers.complete(parts):
            measured = None if skipped else self._measured(weights)
            return _only([p for p in measured[0] if not is_distributed(p)], *measured) if measured else None
        try:
            measured = None if skipped else self._measured(weights)
            if self.recording and not self._ready:
                raise RuntimeError("the weights before the step could not be kept")
        except Exception:
            if parts:
                totals(parts, [], self._followed_by(([], self._reducer.reduce([])))[1], failed=True)
            raise
        if not parts:
            return measured
        tensors, packed = measured or self._followed_by(([], self._reducer.reduce([])))
        whole, summed = totals(parts, tensors, packed)
        alone, packed = _only([p for p in tensors if p not in set(parts)], tensors, packed)
        return [*alone, *whole], joined(packed, summed)

    def _followed_by(self, measured: tuple[list[Tensor], Packed]) -> tuple[list[Tensor], Packed]:
        """The sums of the series as well, where there are any."""
        tensors, packed = measured
        return measured if self._series is None else (tensors, packed._replace(further=self._series.sums(tensors)))

    def _measured(self, weights: Mapping[Tensor, Tensor]) -> tuple[list[Tensor], Packed] | None:
        """What this process measured."""
        if not self._asks:
            if not self.recording and self.settled:
                return None
            seen = self.update()
            observed = self.observed(seen, weights) if self.recording else {}
            if not observed:
                return None
            return self._followed_by((list(observed), self._reducer.reduce(list(observed.values()))))
        result: StepSums | None = self.optimizer.step_sums  # type: ignore[attr-defined]
        self.settled = not self._averages and any(p in self.optimizer.state for p in self._with_gradients())
        if result is None:
            return None
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if p in result.before]
        observed = self.observed(seen, {p: local(before) for p, before in result.before.items()})
        tensors = [*observed, *(p for part in result.measured for p in part.tensors)]
        if not tensors:
            return None
        return self._followed_by((tensors, self._reducer.reduce(list(observed.values()), result.measured)))

    def _with_gradients(self) -> dict[Tensor, Mapping[str, Any]]:
        groups = self.optimizer.param_groups
        found: dict[Tensor, Mapping[str, Any]] = {
            p: group for group in groups for p in group["params"] if p.grad is not None and p.numel()
        }
        return found if self._only is None else {p: group for p, group in found.items() if p in self._only}

    def _seen(self, p: Tensor, group: Mapping[str, Any]) -> Seen:
        state = self.optimizer.state.get(p, {})
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
                    shared[key] = numbers(self.optimizer, s.group, s.layout, beta, t)._replace(clip=self._clip)
                part = extent(s.p) if is_distributed(s.p) else None
                found[s.p] = Observed(s.g, mean, second, before, after, shared[key], part)
        return found


class _Sharded:
    """The parameters that other processes hold parts of, of those to look at."""

    def __init__(self, only: Container[Tensor] | None) -> None:
        self._only = only

    def __contains__(self, p: object) -> bool:
        return is_distributed(p) and (self._only is None or p in self._only)


def _only(chosen: list[Tensor], tensors: Sequence[Tensor], packed: Packed) -> tuple[list[Tensor], Packed]:
    """The chosen ones of the measured tensors, and their sums."""
    place = {p: i for i, p in enumerate(tensors)}
    return chosen, packed.take([place[p] for p in chosen])


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
