"""Steps like the one before: what is the same from one recorded step to the next is looked up once.

Most optimizers keep both averages of every tensor in plain memory, and step the same tensors again and again. A plan
knows where all of it is. Before it measures a step it makes sure that this is still so, tensor by tensor; the long way
(`Observer.observed`) is taken where it is not.
"""

import operator
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from stepscope.optim.backends import cpu
from stepscope.optim.backends.eager import all_plain
from stepscope.optim.moments import Layout, numbers
from stepscope.rules.statistics import Step
from stepscope.scope.reduce import Packed, Reducer

__all__ = ["Place", "Plan"]


class Place(NamedTuple):
    """A tensor, its group, and the state in which the optimizer keeps its averages."""

    p: Tensor
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    layout: Layout


class Plan:
    """Measures the tensors at these places in one compiled pass, as long as they are what they were."""

    def __init__(
        self, optimizer: Optimizer, places: Sequence[Place], only: Container[Tensor] | None, clip: float
    ) -> None:
        self._optimizer, self._places, self._clip = optimizer, list(places), clip
        self.tensors = [place.p for place in places]
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self._there = set(map(id, self.tensors))
        # Those that are looked at by someone else, or not at all.
        self._others = {id(p) for p in self._params if not p.numel() or (only is not None and p not in only)}
        self._state, self._states = optimizer.state, [place.state for place in places]
        averages = [[place.state[name] for name in place.layout[:2]] for place in places]
        self._means, self._seconds = ([pair[i] for pair in averages] for i in (0, 1))
        self._sizes = tuple(p.numel() for p in self.tensors)
        self._dtype, self._kept = self.tensors[0].dtype, self._means[0].dtype
        groups: dict[tuple[int, Layout], int] = {}
        self._kinds = [groups.setdefault((id(place.group), place.layout), len(groups)) for place in places]
        self._frame = cpu.Frame(self._sizes, len(Step._fields))
        self._copied: dict[Tensor, Tensor] = {}
        self._before: list[Tensor] = []

    @classmethod
    def of(
        cls, optimizer: Optimizer, places: Sequence[Place], only: Container[Tensor] | None, clip: float
    ) -> "Plan | None":
        """The plan for these places, or None if they are not simple enough."""
        if not places or not cpu.available() or len({place.layout.raw for place in places}) > 1:
            return None
        plan = cls(optimizer, places, only, clip)
        known = plan._dtype in cpu.FORMATS and plan._kept in cpu.FORMATS
        return plan if known and plan._is_simple([p.grad for p in plan.tensors]) else None

    def copy(self, tensors: Sequence[Tensor]) -> bool:
        """Keep the weights of these tensors before a step, the plan's among them; False if they are not plain.

        Memory is kept from step to step: fresh pages would cost more than the copy.
        """
        if not all_plain(tensors):
            return False
        same = len(tensors) == len(self._copied) and all(map(operator.is_, tensors, self._copied))
        if not same or not all(a.shape == b.shape for a, b in self._copied.items()):
            self._copied = {p: torch.empty_like(p, requires_grad=False) for p in tensors}
            if not self._copied.keys() >= set(self.tensors):
                return False
            self._before = [self._copied[p] for p in self.tensors]
        with torch.no_grad():
            torch._foreach_copy_([*self._copied.values()], [*tensors])
        return True

    @property
    def copied(self) -> Mapping[Tensor, Tensor]:
        """Weights before the step."""
        return self._copied

    def forget_copy(self) -> None:
        """Let go of this memory."""
        self._copied, self._before = {}, []

    def measure(self, reducer: Reducer) -> Packed | None:
        """The sums of a step that is over; None if it was not like those before."""
        grads = self._gradients()
        if grads is None or not self._before or not self._is_simple(grads):
            return None
        reached = [int(place.state.get("step", place.group.get("step"))) for place in self._places]
        shared: dict[tuple[int, int], Any] = {}
        told = []
        for place, kind, t in zip(self._places, self._kinds, reached, strict=True):
            if t < 1:
                return None
            if (kind, t) not in shared:
                found = numbers(self._optimizer, place.group, place.layout, 0.0, t)
                shared[kind, t] = found._replace(clip=self._clip) if self._clip else found
            told.append(shared[kind, t])
        program = cpu.measuring(self._dtype, self._kept, self._places[0].layout.raw, reducer.chosen)
        columns = (grads, self._means, self._seconds, self._before, self.tensors)
        table = self._frame.table
        for i, column in enumerate(columns):
            table[:, 1 + i] = list(map(Tensor.data_ptr, column))
        arrays = {n: program.shared(cpu.named(n.shared())) for n in shared.values()}
        counted = cpu.launch(program, self._frame, [arrays[n] for n in told])
        assert counted is not None
        return reducer.packed(program, counted, told, self._sizes)

    def _gradients(self) -> list[Tensor] | None:
        """Of the tensors of the plan, if these are still all that have one."""
        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        if len(params) != len(self._params) or not all(map(operator.is_, params, self._params)):
            return None
        found = []
        for p in params:
            if (grad := p.grad) is not None and id(p) not in self._others:
                if id(p) not in self._there:
                    return None
                found.append(grad)
        return found if len(found) == len(self.tensors) else None

    def _is_simple(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether all is where it was, in plain memory of the same size."""
        if self._optimizer.state is not self._state:
            return False
        for place, mean, second in zip(self._places, self._means, self._seconds, strict=True):
            state = self._state.get(place.p)
            if state is not place.state or state[place.layout.mean] is not mean:
                return False
            if state[place.layout.second] is not second:
                return False
        return (
            self._simple(grads, self._dtype)
            and self._simple(self.tensors, self._dtype)
            and (not self._before or self._simple(self._before, self._dtype))
            and self._simple(self._means, self._kept)
            and self._simple(self._seconds, self._kept)
        )

    def _simple(self, tensors: Sequence[Tensor | None], dtype: torch.dtype) -> bool:
        if not all_plain(tensors):
            return False
        for x, size in zip(tensors, self._sizes, strict=True):
            assert x is not None
            if x.dtype is not dtype or x.layout is not torch.strided or not x.is_cpu or x.numel() != size:
                return False
            if not x.is_contiguous() or x.is_neg():
                return False
        return True
