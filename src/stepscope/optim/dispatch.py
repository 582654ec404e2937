"""Which tensors of a step go to which backend, and with which numbers.

Tensors of all groups whose rule, dtype and wishes are the same share one call of one kernel. What was found out about
tensors holds for the next step as long as they are the same ones and lie where they lay, which is cheap to see.
"""
# Long because a step is divided, checked, launched and measured by the same few types, which mean nothing elsewhere.

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.optim import moments
from stepscope.optim.backends import cpu, devices, eager
from stepscope.optim.shards import extent
from stepscope.optim.sums import Average, Measured, Request, StepSums
from stepscope.optim.watch import GRADIENT, Watch, identical
from stepscope.rules import Rule, averages

__all__ = ["Dispatcher", "Job"]


class Job(NamedTuple):
    """Parameters with a gradient of the group at `place`. columns[s][i] is state s of params[i], steps[i] its counter.

    hyper: floats; tensors may be among them where the group is capturable or differentiable.
    """

    place: int
    group: Mapping[str, Any]
    rule: Rule
    hyper: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    columns: list[list[Tensor]]
    steps: list[Tensor]


_DOUBTFUL = 3  # times in a row after which headers are not trusted
_KINDS = 4  # of requests that steps are remembered for
_WISHES = operator.itemgetter("fused", "foreach", "capturable", "differentiable")


class _Part(NamedTuple):
    """The tensors of the job at `place` that a launch steps: `chosen` ones, or all for None.

    layout: where the rule keeps both averages.  kept: those that are kept beside a rule that does not.
    """

    place: int
    chosen: Sequence[int] | None
    layout: moments.Layout | None
    kept: Sequence[Average]

    def of(self, column: Sequence[Any]) -> Sequence[Any]:
        """This part's entries of a list with one for each of the job's parameters."""
        return column if self.chosen is None else [column[i] for i in self.chosen]


class _Launch:
    """What one program steps on one device: the tensors of its parts, end to end.

    captured: its numbers are computed on the device, for a CUDA graph.
    """

    def __init__(self, program: cpu.Program, device: torch.device, captured: bool) -> None:
        self.program, self.device, self.captured = program, device, captured
        self.backend = devices.backend(device)
        self.parts: list[_Part] = []
        self.owners: list[Tensor] = []
        self.batch: cpu.Batch
        self.changed: list[Tensor] = []
        self.held: list[Tensor | None] = []  # gradients, until the kernel has read them
        self._streams: list[list[Tensor]] = []

    def add(self, part: _Part, owners: Sequence[Tensor], columns: Sequence[Sequence[Tensor]]) -> None:
        """Add tensors: columns[s][i] is stream s, as in `cpu.Batch`, of owners[i]."""
        self._streams = self._streams or [[] for _ in columns]
        for stream, column in zip(self._streams, columns, strict=True):
            stream.extend(column)
        self.owners.extend(owners)
        self.parts.append(part)

    def gradients(self) -> list[Tensor | None]:
        """Those that nobody must free before the kernel has read them, because it lets go of Python's lock."""
        return list(map(GRADIENT, self.owners)) if cpu.lets_go(self.batch) else []

    def close(self) -> None:
        """All tensors are there. Nothing here keeps a gradient alive."""
        extents = None if eager.all_plain(self.owners) else [extent(p)[:2] for p in self.owners]
        self.batch = self.backend.Batch(self._streams, extents)
        thetas, self._streams = self._streams[0], []
        self.changed = thetas if eager.all_plain(self.owners) else [*thetas, *self.owners]


class _Ready:
    """What is known of a step as long as its tensors stay what they are."""

    def __init__(self, optimizer: Any, jobs: Sequence[Job], request: Request | None, *, ask: bool = False) -> None:
        """Look at every tensor.  ask: as in `Watch`."""
        self.jobs = [job._replace(grads=[]) for job in jobs]
        self._groups = [(list(group["params"]), _WISHES(group)) for group in optimizer.param_groups]
        self._keys, self._entries = list(optimizer.state), list(optimizer.state.values())
        self._averages = request and request.averages
        self._only = request and request.only  # kept, so that no other one has its place in memory
        self._plain = all(eager.all_plain(job.params) for job in jobs)
        with_gradient = {p for job in jobs for p in job.params}
        self._silent = [p for params, _ in self._groups for p in params if p not in with_gradient]
        self.counters = {
            job.place: np.array(list(map(Tensor.data_ptr, job.steps)), np.int64)
            for job in jobs
            if job.steps and cpu.are_counters(job.steps)
        }
        self.eager: dict[int, list[int]] = {}
        launches: dict[Any, _Launch] = {}
        for job in jobs:
            compiled, self.eager[job.place] = _divide(optimizer, job)
            for (device, dtype), chosen in compiled.items():
                for part, asked in _asked(job, chosen, request):
                    _add(launches, job, device, dtype, part, asked)
        self.launches = list(launches.values())
        self._keeps = any(part.kept for launch in self.launches for part in launch.parts)
        for launch in self.launches:
            launch.close()
        self._plain = self._plain and all(isinstance(entry, dict) for entry in self._entries)
        if self._plain:
            by_place = {job.place: job for job in jobs}
            self._watches = [
                [_watch(optimizer, part, by_place[part.place], ask=ask) for part in launch.parts]
                for launch in self.launches
            ]
            self._aside = [_aside(optimizer, job, self.launches) for job in jobs if job.steps]

    def again(self, optimizer: Any, request: Request | None) -> Sequence[Job] | None:
        """The jobs of another step, if its tensors are the same ones where they were, else None."""
        groups = optimizer.param_groups
        if not (
            self._plain
            and (not self._keeps or (request is not None and request.averages is self._averages))
            and len(groups) == len(self._groups)
            and all(
                _WISHES(group) == wishes and identical(group["params"], params)
                for group, (params, wishes) in zip(groups, self._groups, strict=True)
            )
            and all(optimizer._rule(groups[job.place]) is job.rule for job in self.jobs)
            and identical(list(optimizer.state), self._keys)
            and identical(list(optimizer.state.values()), self._entries)
            and all(p.grad is None for p in self._silent)
        ):
            return None
        held = [launch.gradients() for launch in self.launches]
        try:
            moved = [np.concatenate([watch.gradients() for watch in watches]) for watches in self._watches]
            for watch in self._aside:
                watch.gradients()
        except LookupError:
            return None
        # Another thread may have put a new gradient in the place of one while they were looked at.
        if not all(identical(launch.gradients(), kept) for launch, kept in zip(self.launches, held, strict=True)):
            return None
        for launch, kept in zip(self.launches, held, strict=True):
            launch.held = kept
        for launch, addresses in zip(self.launches, moved, strict=True):
            launch.batch.move_gradients(addresses)
        jobs = []
        for job in self.jobs:
            group = groups[job.place]
            grads = list(map(GRADIENT, job.params)) if self.eager[job.place] else []
            if any(g is None for g in grads):
                return None
            jobs.append(job._replace(group=group, hyper=optimizer._numbers(group, job.rule), grads=grads))
            optimizer._refuse_sparse(jobs[-1])
        return jobs


def _asked(job: Job, chosen: Sequence[int], request: Request | None) -> Iterator[tuple[Sequence[int], Request | None]]:
    """The chosen tensors of a job that the request is about, and the others."""
    if request is None or request.only is None:
        yield chosen, request
        return
    inside = [i for i in chosen if job.params[i] in request.only]
    outside = [i for i in chosen if job.params[i] not in request.only]
    if inside:
        yield inside, request
    if outside:
        yield outside, None


def _watch(optimizer: Any, part: _Part, job: Job, *, ask: bool) -> Watch:
    """Everything that a kernel touches for a part of a job."""
    params = part.of(job.params)
    entries = [optimizer.state[p] for p in params] if job.rule.state else []
    beside = [[average.m for average in part.kept], [average.S for average in part.kept]] if part.kept else []
    return Watch(params, part.of(job.grads), entries, ("step", *job.rule.state), beside, ask=ask)


def _aside(optimizer: Any, job: Job, launches: Sequence[_Launch]) -> Watch:
    """State of the parameters of a job that no launch steps: their counters count, too."""
    parts = [part for launch in launches for part in launch.parts if part.place == job.place]
    stepped = {i for part in parts for i in (part.chosen if part.chosen is not None else range(len(job.params)))}
    entries = [optimizer.state[p] for i, p in enumerate(job.params) if i not in stepped]
    return Watch([], [], entries, ("step", *job.rule.state))


class Dispatcher:
    """Runs the steps of one optimizer. What it remembers can be rebuilt at any time."""

    def __init__(self) -> None:
        self._ready: dict[Any, _Ready] = {}
        self._missed: Counter[Any] = Counter()  # times in a row that what was known did not hold

    def run(self, optimizer: Any, request: Request | None) -> StepSums | None:
        """Take a step.  Returns what was measured, if it was asked for."""
        kind = None if request is None else (request.measure, request.chosen, id(request.only))
        ready = self._ready.get(kind)
        jobs = ready.again(optimizer, request) if ready else None
        if ready is None or jobs is None:
            jobs = optimizer._jobs()
            # Headers may hold something that is no part of what a tensor is, and changes from step to step.
            ready = _Ready(optimizer, jobs, request, ask=self._missed[kind] > _DOUBTFUL)
            self._missed[kind] += 1
            self._keep(kind, ready)
        else:
            self._missed[kind] = 0
        found = StepSums() if request is not None and request.measure else None
        by_place = {job.place: job for job in jobs}
        reached = {job.place: _count(job, ready.counters.get(job.place)) for job in jobs}
        for launch in ready.launches:
            _run(optimizer, launch, by_place, reached, request, found)
        for job in jobs:
            _step_eagerly(optimizer, job, reached[job.place], ready.eager[job.place], request, found)
        return found

    def _keep(self, kind: Any, ready: _Ready) -> None:
        """Remember it, and the latest others."""
        self._ready.pop(kind, None)
        self._ready[kind] = ready
        for old in list(self._ready)[:-_KINDS]:
            del self._ready[old], self._missed[old]


def _count(job: Job, addresses: NDArray[np.int64] | None) -> Sequence[int]:
    """Add 1 to the counters of steps.  Returns what they have reached; nothing where they stay on the device.

    addresses: of the counters, where they can be counted up together.
    """
    if not job.rule.state:
        return [1] * len(job.params)
    if job.group["capturable"]:
        torch._foreach_add_(job.steps, 1)
        return []
    if addresses is not None:
        return cpu.count_up(addresses)
    for t in job.steps:
        t.add_(1)
    return [int(t.item()) for t in job.steps]


def _divide(optimizer: Any, job: Job) -> tuple[dict[tuple[torch.device, torch.dtype], list[int]], list[int]]:
    """Which of the job's parameters are compiled, by device and dtype, and which are stepped eagerly; those without
    elements are neither."""
    whole = optimizer._why_eager(job.group)
    compiled: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    rest: list[int] = []
    reasons = {whole} if whole else set()
    for i, (p, g, *state) in enumerate(zip(job.params, job.grads, *job.columns, strict=True)):
        if p.numel() == 0:
            continue
        reason = whole
        if reason is None:
            theta = eager.local(p)
            reason = devices.obstacle(
                theta, eager.local_like(g, p), [eager.local(s) for s in state], capturable=job.group["capturable"]
            )
        if reason is not None:
            rest.append(i)
            reasons.add(reason)
        elif theta.numel():
            compiled.setdefault((theta.device, theta.dtype), []).append(i)
    optimizer._explain(job.group, reasons)
    return compiled, rest


def _layout(rule: Rule) -> moments.Layout | None:
    """Where the rule keeps a mean and a second average, or None."""
    return next((x for x in moments.LAYOUTS if x.mean in rule.state and x.second in rule.state), None)


def _add(
    launches: dict[Any, _Launch],
    job: Job,
    device: torch.device,
    dtype: torch.dtype,
    chosen: Sequence[int],
    request: Request | None,
) -> None:
    """Add the chosen tensors of a job to the launch of their program."""
    layout = _layout(job.rule)
    part = _Part(job.place, None if len(chosen) == len(job.params) else chosen, layout, ())
    owners = part.of(job.params)
    thetas, gs = (
        [eager.local(p) for p in owners],
        [eager.local_like(g, p) for g, p in zip(part.of(job.grads), owners, strict=True)],
    )
    columns = [thetas, gs, *([eager.local(x) for x in part.of(column)] for column in job.columns)]
    if request is not None and layout is None:
        part = part._replace(kept=[_average(request, p, _beta(request, job)) for p in owners])
        columns += [[average.m for average in part.kept], [average.S for average in part.kept]]
    streams = None
    if request is not None and request.measure:
        streams = (
            cpu.Layout(f"state.{layout.mean}", f"state.{layout.second}", layout.raw)
            if layout
            else cpu.Layout(*cpu.MEAN_KEPT, raw=False)
        )
    chosen_sums = request.chosen if streams and request else None
    program = devices.backend(device).program(job.rule, dtype, bool(part.kept), streams, chosen_sums)
    captured = bool(job.group["capturable"]) and request is None
    key = program, device, captured
    launches.setdefault(key, _Launch(*key)).add(part, owners, columns)


def _beta(request: Request, job: Job) -> float:
    """Decay rate of the averages that are kept beside a rule: that of its own mean, if it has one."""
    beta = moments.own_beta(dict.fromkeys(job.rule.state, True), job.hyper)
    return request.beta if beta is None else beta


def _run(
    optimizer: Any,
    launch: _Launch,
    jobs: Mapping[int, Job],
    reached: Mapping[int, Sequence[int]],
    request: Request | None,
    found: StepSums | None,
) -> None:
    """Step the tensors of a launch."""
    shared: list[Any] = []
    measured: list[moments.Numbers] = []
    for part in launch.parts:
        job, ts = jobs[part.place], reached[part.place]
        if launch.captured:
            count = len(part.of(job.params))
            steps = part.of(job.steps) if job.steps else []
            shared.append(
                launch.backend.device_numbers(launch.program, job.rule, job.hyper, steps, launch.device, count)
            )
            continue
        if job.group["capturable"]:  # a step that is observed waits for the device
            job = job._replace(hyper={name: moments.number(value) for name, value in job.hyper.items()})
            ts = list(map(int, torch.stack(job.steps).tolist())) if job.steps else ts
        arrays, numbers = _numbers(optimizer, launch.program, part, job, ts, request)
        shared += arrays
        measured += numbers
    torch.autograd.graph.increment_version(launch.changed)  # now, as their headers have just been read
    counted = launch.backend.launch(launch.program, launch.batch, torch.cat(shared) if launch.captured else shared)
    launch.held = []
    for part in launch.parts:
        for average in part.kept:
            average.t += 1
    if counted is not None and found is not None:
        program = launch.program
        found.measured.append(Measured(launch.owners, measured, program.chosen, program.starts, counted))


def _numbers(
    optimizer: Any, program: cpu.Program, part: _Part, job: Job, reached: Sequence[int], request: Request | None
) -> tuple[list[Any], list[moments.Numbers]]:
    """For each tensor of a part, the program's shared numbers, and those of its statistics if it is measured."""
    ts = part.of(reached)

    @cache
    def numbers(t: int, beta: float, samples: int) -> tuple[Any, moments.Numbers | None]:
        inputs = {f"hyper.{name}": value for name, value in job.hyper.items()}
        inputs |= {f"scalars.{name}": value for name, value in job.rule.step_scalars(t, job.hyper).items()}
        if part.kept:
            inputs["number.weight"] = averages.ema_weight(beta, samples)
        found = None
        if program.measures and request is not None:
            found = moments.numbers(optimizer, job.group, part.layout, beta, samples if part.kept else t)
            found = found._replace(clip=request.clip)
            inputs |= cpu.named(found.shared())
        return program.shared(inputs), found

    if part.kept:
        pairs = [numbers(t, average.beta, average.t + 1) for t, average in zip(ts, part.kept, strict=True)]
    elif ts.count(ts[0]) == len(ts):  # a thousand tensors are not looked at one by one
        array, found = numbers(ts[0], 0.0, 0)
        return [array] * len(ts), [] if found is None else [found] * len(ts)
    else:
        pairs = [numbers(t, 0.0, 0) for t in ts]
    return [array for array, _ in pairs], [found for _, found in pairs if found is not None]


def _average(request: Request, p: Tensor, beta: float) -> Average:
    """The averages kept for a parameter: new ones where it has none, or has changed its form."""
    theta = eager.local(p)
    average = request.averages.get(p)
    if average is None or average.m.shape != theta.shape or average.m.stride() != theta.stride():
        average = request.averages[p] = Average.of(theta.detach(), beta)
    return average


def _step_eagerly(
    optimizer: Any,
    job: Job,
    ts: Sequence[int],
    chosen: Sequence[int],
    request: Request | None,
    found: StepSums | None,
) -> None:
    """Step the chosen tensors with torch's operations."""
    if not chosen:
        return
    for asked in (part for part, about in _asked(job, chosen, request) if about is not None):
        if found is not None:
            found.before.update({job.params[i]: job.params[i].detach().clone() for i in asked})
        if request is not None and _layout(job.rule) is None:
            for i in asked:
                _let_in(request, job, i)

    @cache
    def scalars(t: int) -> Mapping[str, float]:
        return job.rule.step_scalars(t, {name: moments.number(value) for name, value in job.hyper.items()})

    works = []
    for i in chosen:
        theta, g, state = job.params[i], job.grads[i], [column[i] for column in job.columns]
        numbers: Mapping[str, Any]
        if job.group["capturable"] and job.rule.state:
            numbers = eager.device_scalars(job.rule, job.hyper, job.steps[i])
        else:
            numbers = scalars(ts[i])
        if g.is_sparse and optimizer._touched_rows_only(job.rule):
            eager.step_rows(
                job.rule, theta, g.coalesce(), dict(zip(job.rule.state, state, strict=True)), job.hyper, numbers
            )
            continue
        works.append(eager.Work(theta, g.to_dense() if g.is_sparse else g, state, numbers))
    eager.step_all(job.rule, works, job.hyper, together=bool(job.group["foreach"]))


def _let_in(request: Request, job: Job, i: int) -> None:
    """Let a gradient into the averages kept beside a rule."""
    p, g = job.params[i], job.grads[i]
    with torch.no_grad():
        average = _average(request, p, _beta(request, job))
        average.t += 1
        sample = eager.local_like(g.to_dense() if g.is_sparse else g, p)
        eager.let_in(sample, average.m, average.S, averages.ema_weight(average.beta, average.t))
