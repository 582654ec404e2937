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
from stepscope.rules.statistics import PLAIN, Selection, bins_of
from stepscope.scope.plan import Place, Plan
from stepscope.scope.reduce import Observed, Packed, Reducer
from stepscope.scope.series import WIDTHS, Series
from stepscope.scope.shadow import Average as Kept
from stepscope.scope.shadow import Sample, Shadow
from stepscope.scope.sharded import Form, Peers, agreed, joined, sharded, totals
from stepscope.scope.traces import WIDTHS as TRACED
from stepscope.scope.traces import Traces

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
    only: the tensors to look at; None for all.  follows: compare each step with those before it.  traces: look at
    single coordinates.
    writes: whether this process reports; another one only measures its part of sharded tensors.  setup: what has to be
    the same in the processes that hold the other parts.

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
        traces: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.writes, self.setup = True, ""
        self._follows, self._traces = follows, traces
        self._beta, self._clip, self._only = beta, clip, only
        self.steps = self.depth = 0
        self.recording = self.settled = False
        self._reducer = Reducer(chosen)
        self._asks = hasattr(optimizer, "request_sums")
        further = {**(WIDTHS if follows else {}), **(TRACED if traces else {})}
        self._form = Form(len(chosen.terms), sum(map(bins_of, chosen.histograms)), further)
        self.forget()

    def leave(self) -> None:
        """No further step is going to be measured."""
        self._peers.leave()

    def forget(self) -> None:
        """Let go of everything that belongs to the steps so far."""
        self.depth, self.recording, self.settled = 0, False, False
        self._shadow = Shadow()
        self._averages: dict[Tensor, Average] = {}
        self._weights: Mapping[Tensor, Tensor] = {}
        self._plan: Plan | None = None
        self._series = Series(self._followed) if self._follows else None
        self._traced = Traces() if self._traces else None
        self._peers, self._ready = Peers(self.setup), False

    def kept(self) -> dict[Tensor, tuple[Tensor, Tensor, float, int]]:
        """The averages kept here by tensor: mean, variance, decay rate and number of gradients."""
        averages: Mapping[Tensor, Any] = self._averages if self._asks else self._shadow.averages()
        return {p: (a.m, a.S, a.beta, a.t) for p, a in averages.items()}

    def keep(self, kept: Mapping[Tensor, tuple[Tensor, Tensor, float, int]]) -> None:
        """Go on from such averages."""
        if self._asks:
            self._averages = {p: Average(*average) for p, average in kept.items()}
        else:
            self._shadow.keep({p: Kept(*average) for p, average in kept.items()})

    def _everything(self) -> Iterator[Tensor]:
        """The tensors there are to look at."""
        for p in (p for group in self.optimizer.param_groups for p in group["params"]):
            if (p.requires_grad or p.grad is not None) and (self._only is None or p in self._only):
                yield p

    def _followed(self) -> Iterator[Tensor]:
        """The same ones in every process: which coordinates are sampled depends on the order."""
        return (p for p in self._everything() if p.numel())

    def looks_at(self, p: Tensor) -> bool:
        """Whether this is one of the tensors to look at."""
        return self._only is None or p in self._only

    def __contains__(self, p: object) -> bool:
        """Whether this process measures a tensor, or its part of it."""
        return (self._only is None or p in self._only) and (self.writes or is_distributed(p))

    @property
    def _limits(self) -> "Observer | None":
        """What says which tensors are measured here, None if all are."""
        return self if self._only is not None or not self.writes else None

    @property
    def looks_on(self) -> bool:
        """Whether there is nothing to do here: another process reports, and nothing is sharded."""
        return not self.writes and not any(map(is_distributed, self._everything()))

    def agree(self) -> None:
        """Record a step in all processes that hold parts, if any of them wishes to. Each has to ask."""
        parts = sharded(list(self._everything()))
        if parts and self._peers.complete(parts):
            self.recording = agreed(parts, self.recording)

    def before(self) -> None:
        """Prepare for a step."""
        self._weights, self._ready = {}, False
        if self._asks:
            if self.recording or not self.settled:
                request = Request(
                    self.recording, self._beta, self._averages, self._reducer.chosen, self._clip, self._limits
                )
                self.optimizer.request_sums(request)  # type: ignore[attr-defined]
        elif self.recording:
            looked_at = [p for p in self._everything() if p in self]
            if self._plan is not None and not self._plan.copy(looked_at):
                self._plan = None
            self._weights = {} if self._plan is not None else {p: local(p).detach().clone() for p in looked_at}
        elif self._plan is not None:
            self._plan.forget_copy()
        if self._series is not None:
            self._series.before()
        if self._traced is not None and self.recording:
            self._traced.before(p for p in self._everything() if p in self)
        self._ready = True

    @property
    def idle(self) -> bool:
        """Whether a step that is not recorded needs no look."""
        return self.settled and self._series is None

    def skipped(self) -> None:
        """The step that is over has changed nothing."""
        self._weights = {}
        if self._series is not None:
            self._series.skip()
        parts = sharded(list(self._everything())) if self.recording else []
        if parts and self._peers.complete(parts):  # for one that sees it otherwise
            totals(parts, [], self._form.nothing(), self._form)

    def after(self) -> tuple[list[Tensor], Packed] | None:
        """What a recorded step was made of: the tensors that were measured, and their sums.

        Lets its gradients into the averages in any case.
        Raises: PeerFailed if another process failed to measure its part.
        """
        parts = sharded(list(self._everything())) if self.recording else []
        together = bool(parts) and self._peers.complete(parts)
        try:
            found = self._here()
            if self.recording and not self._ready:
                raise RuntimeError("the weights before the step could not be kept")
        except Exception:
            if together:
                totals(parts, [], None, self._form)
            raise
        if not parts:
            return found
        tensors, packed = found or ([], self._form.nothing())
        alone = [p for p in tensors if p not in set(parts)]
        mine = _only(alone, tensors, packed)
        if not together:
            return (alone, mine) if alone else None
        whole, summed = totals(parts, tensors, packed, self._form)
        return [*alone, *whole], joined([mine, summed])

    def _here(self) -> tuple[list[Tensor], Packed] | None:
        """What this process measured."""
        if self._series is not None:
            self._series.after()
        found = self._measured() if self.recording or not self.settled else None
        if found is None:
            return found
        tensors, packed = found
        further: dict[str, Any] = {}
        if self._series is not None:
            further |= self._series.sums(tensors)
        if self._traced is not None:
            groups = self._with_gradients()
            seen = [self._seen(p, groups[p]) for p in tensors]
            further |= self._traced.sums(tensors, self.observed(seen, {p: local(p) for p in tensors}))
        return tensors, packed._replace(further=further) if further else packed

    def _measured(self) -> tuple[list[Tensor], Packed] | None:
        weights, self._weights = self._weights, {}
        if not self._asks:
            if self.recording and self._plan is not None:
                if (packed := self._plan.measure(self._reducer)) is not None:
                    self.settled = True
                    return self._plan.tensors, packed
                weights, self._plan = self._plan.copied, None
            seen = self.update()
            observed = self.observed(seen, weights) if self.recording else {}
            if self.recording and self.settled and len(observed) == len(seen):
                places = [Place(s.p, s.group, s.state, s.layout) for s in seen if s.layout is not None]
                self._plan = Plan.of(self.optimizer, places, self._limits, self._clip)
            return (list(observed), self._reducer.reduce(list(observed.values()))) if observed else None
        result: StepSums | None = self.optimizer.step_sums  # type: ignore[attr-defined]
        self.settled = not self._averages and any(p in self.optimizer.state for p in self._with_gradients())
        if result is None:
            return None
        seen = [self._seen(p, group) for p, group in self._with_gradients().items() if p in result.before]
        observed = self.observed(seen, {p: local(before) for p, before in result.before.items()})
        tensors = [*observed, *(p for part in result.measured for p in part.tensors)]
        return (tensors, self._reducer.reduce(list(observed.values()), result.measured)) if tensors else None

    def _with_gradients(self) -> dict[Tensor, Mapping[str, Any]]:
        groups = self.optimizer.param_groups
        found: dict[Tensor, Mapping[str, Any]] = {
            p: group for group in groups for p in group["params"] if p.grad is not None and p.numel()
        }
        return found if self._only is None and self.writes else {p: group for p, group in found.items() if p in self}

    def _seen(self, p: Tensor, group: Mapping[str, Any]) -> Seen:
        state = self.optimizer.state.get(p, {})
        return Seen(p, local_like(p.grad, p), group, state, kept_by_optimizer(state, group, p))

    def update(self) -> list[Seen]:
        """Let the step's gradients enter the shadow averages.  Returns the tensors that had one."""
        seen = [self._seen(p, group) for p, group in self._with_gradients().items()]
        samples = {s.p: Sample(s.g, self._shadow_beta(s)) for s in seen if s.layout is None}
        if samples:
            self._shadow.update(samples)
        self.settled = bool(seen) and not samples
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
                    found_numbers = numbers(self.optimizer, s.group, s.layout, beta, t)
                    shared[key] = found_numbers._replace(clip=self._clip) if self._clip else found_numbers
                part = extent(s.p) if is_distributed(s.p) else None
                found[s.p] = Observed(s.g, mean, second, before, after, shared[key], part)
        return found


def _only(chosen: list[Tensor], tensors: Sequence[Tensor], packed: Packed) -> Packed:
    """The rows of the chosen ones of the measured tensors."""
    place = {p: i for i, p in enumerate(tensors)}
    rows = [place[p] for p in chosen]
    return Packed(
        packed.sums[rows],
        packed.counts[rows],
        [packed.numbers[i] for i in rows],
        [packed.numel[i] for i in rows],
        {name: values[rows] for name, values in packed.further.items()},
    )


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
