"""Which tensors of a step go to which backend, and with which numbers.

Tensors of all groups whose rule, dtype and wishes are the same share one call of one kernel.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepscope.optim import moments
from stepscope.optim.backends import cpu, eager
from stepscope.optim.shards import extent
from stepscope.optim.sums import Average, Measured, Request, StepSums
from stepscope.rules import Rule, averages

__all__ = ["Dispatcher", "Job"]


class Job(NamedTuple):
    """Parameters with a gradient of the group at `place`. columns[s][i] is state s of params[i], steps[i] its counter.

    hyper: floats; tensors may be among them where the group is capturable or differentiable.  sparse: whether any
    gradient is.
    """

    place: int
    group: Mapping[str, Any]
    rule: Rule
    hyper: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    columns: list[list[Tensor]]
    steps: list[Tensor]
    sparse: bool


@dataclass
class _Plan:
    """How a group's parameters are divided: the compiled ones by dtype, and the eager ones. Those without elements are
    in neither."""

    params: list[Tensor]
    rule: Rule
    compiled: dict[torch.dtype, list[int]]
    eager: list[int]

    def holds(self, job: Job) -> bool:
        return (
            self.rule is job.rule
            and len(job.params) == len(self.params)
            and all(map(operator.is_, job.params, self.params))
        )


@dataclass
class _Launch:
    """What one program steps: streams[s][i] as in `cpu.Batch`, shared[i] and numbers[i] of tensor i.

    kept: the averages beside the rules, which the launch lets a sample into.
    """

    streams: list[list[Tensor]]
    shared: list[Any] = field(default_factory=list)
    owners: list[Tensor] = field(default_factory=list)
    numbers: list[moments.Numbers] = field(default_factory=list)
    kept: list[Average] = field(default_factory=list)


class Dispatcher:
    """Runs the steps of one optimizer. What it remembers can be rebuilt at any time."""

    def __init__(self) -> None:
        self._plans: dict[int, _Plan] = {}
        self._batches: dict[cpu.Program, cpu.Batch] = {}
        self._counters: dict[int, list[Tensor]] = {}  # that are known to be plain

    def run(self, optimizer: Any, jobs: Sequence[Job], request: Request | None) -> StepSums | None:
        """Step all jobs.  Returns what was measured, if it was asked for."""
        found = StepSums() if request is not None and request.measure else None
        reached = [self._count(job) for job in jobs]
        launches = self._launches(optimizer, jobs, reached, request)
        if any(job.sparse for job in jobs) or not all(self._known(*item) for item in launches.items()):
            self._plans, self._batches = {}, {}  # something is not what it was: every tensor is looked at
            launches = self._launches(optimizer, jobs, reached, request)
            self._batches = {program: _batch(work) for program, work in launches.items()}
        for program, work in launches.items():
            counted = cpu.launch(program, self._batches[program], work.shared)
            for average in work.kept:
                average.t += 1
            if counted is not None and found is not None:
                found.measured.append(Measured(work.owners, work.numbers, program.terms, counted))
            changed = [t for s, column in enumerate(work.streams) if s != 1 for t in column]
            if not eager.all_plain(work.owners):
                changed += work.owners
            torch.autograd.graph.increment_version(changed)
        for job, t in zip(jobs, reached, strict=True):
            _step_eagerly(optimizer, job, t, self._plans[job.place].eager, request, found)
        return found

    def _count(self, job: Job) -> Sequence[int]:
        """Add 1 to the counters of steps.  Returns what they have reached; nothing where they stay on the device."""
        if not job.rule.state:
            return [1] * len(job.params)
        if job.group["capturable"]:
            torch._foreach_add_(job.steps, 1)
            return []
        known = self._counters.get(job.place)
        if known is None or len(known) != len(job.steps) or not all(map(operator.is_, known, job.steps)):
            self._counters.pop(job.place, None)
            if len(job.steps) < 8 or not cpu.are_counters(job.steps):
                for t in job.steps:
                    t.add_(1)
                return [int(t.item()) for t in job.steps]
            self._counters[job.place] = job.steps
        return cpu.count_up(job.steps)

    def _known(self, program: cpu.Program, work: _Launch) -> bool:
        batch = self._batches.get(program)
        return batch is not None and batch.refresh(work.streams)

    def _launches(
        self, optimizer: Any, jobs: Sequence[Job], reached: Sequence[Sequence[int]], request: Request | None
    ) -> dict[cpu.Program, _Launch]:
        launches: dict[cpu.Program, _Launch] = {}
        for job, ts in zip(jobs, reached, strict=True):
            plan = self._plans.get(job.place)
            if plan is None or not plan.holds(job):
                plan = self._plans[job.place] = _plan(optimizer, job)
            for dtype, chosen in plan.compiled.items():
                _add(launches, optimizer, job, dtype, chosen, ts, request)
        return launches


def _batch(work: _Launch) -> cpu.Batch:
    return cpu.Batch(work.streams, None if eager.all_plain(work.owners) else list(map(extent, work.owners)))


def _plan(optimizer: Any, job: Job) -> _Plan:
    """Look at every tensor of a job."""
    whole = optimizer._why_eager(job.group)
    compiled: dict[torch.dtype, list[int]] = {}
    rest: list[int] = []
    reasons = {whole} if whole else set()
    for i, (p, g, *state) in enumerate(zip(job.params, job.grads, *job.columns, strict=True)):
        if p.numel() == 0:
            continue
        reason = whole
        if reason is None:
            theta = eager.local(p)
            reason = cpu.obstacle(theta, eager.local_like(g, p), [eager.local(s) for s in state])
        if reason is None and theta.numel():
            compiled.setdefault(theta.dtype, []).append(i)
        elif reason is not None:
            rest.append(i)
            reasons.add(reason)
    optimizer._explain(job.group, reasons)
    return _Plan(list(job.params), job.rule, compiled, rest)


def _layout(rule: Rule) -> moments.Layout | None:
    """Where the rule keeps a mean and a second average, or None."""
    return next((x for x in moments.LAYOUTS if x.mean in rule.state and x.second in rule.state), None)


def _add(
    launches: dict[cpu.Program, _Launch],
    optimizer: Any,
    job: Job,
    dtype: torch.dtype,
    chosen: Sequence[int],
    ts: Sequence[int],
    request: Request | None,
) -> None:
    """Add the chosen tensors of a job to the launch of their program."""
    columns: list[list[Tensor]] = [job.params, job.grads, *job.columns]
    if len(chosen) < len(job.params):
        columns = [[column[i] for i in chosen] for column in columns]
        ts = [ts[i] for i in chosen]
    owners = columns[0]
    if not eager.all_plain(owners):
        columns[1] = [eager.local_like(g, p) for g, p in zip(columns[1], owners, strict=True)]
        columns[0] = [eager.local(p) for p in owners]
        columns[2:] = [[eager.local(s) for s in column] for column in columns[2:]]

    layout = _layout(job.rule)
    kept: list[Average] = []
    if request is not None and layout is None:
        beta = float(job.hyper.get("beta", request.beta)) if "m" in job.rule.state else request.beta
        kept = [_average(request, p, beta) for p in owners]
        columns += [[average.m for average in kept], [average.S for average in kept]]
    measures = request is not None and request.measure
    streams = None
    if measures:
        streams = (
            cpu.Layout(f"state.{layout.mean}", f"state.{layout.second}", layout.raw)
            if layout
            else cpu.Layout(*cpu.MEAN_KEPT, raw=False)
        )
    program = cpu.program(job.rule, dtype, bool(kept), streams)

    work = launches.setdefault(program, _Launch([[] for _ in columns]))
    for stream, column in zip(work.streams, columns, strict=True):
        stream.extend(column)
    work.owners.extend(owners)

    @cache
    def numbers(t: int, beta: float, samples: int) -> tuple[Any, moments.Numbers | None]:
        inputs = {f"hyper.{name}": value for name, value in job.hyper.items()}
        inputs |= {f"scalars.{name}": value for name, value in job.rule.step_scalars(t, job.hyper).items()}
        if kept:
            inputs["number.weight"] = averages.ema_weight(beta, samples)
        found = None
        if measures:
            found = moments.numbers(optimizer, job.group, layout, beta, samples if kept else t)
            inputs |= cpu.named(found.shared())
        return cpu.shared(program, inputs), found

    if kept:
        work.kept += kept
        pairs = [numbers(t, average.beta, average.t + 1) for t, average in zip(ts, kept, strict=True)]
    elif ts.count(ts[0]) == len(ts):
        pairs = [numbers(ts[0], 0.0, 0)] * len(ts)
    else:
        pairs = [numbers(t, 0.0, 0) for t in ts]
    work.shared += [array for array, _ in pairs]
    work.numbers += [n for _, n in pairs if n is not None]


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
    if found is not None:
        for i in chosen:
            found.before[job.params[i]] = job.params[i].detach().clone()
    if request is not None and _layout(job.rule) is None:
        for i in chosen:
            _let_in(request, job, i)
    floats = {name: float(value) for name, value in job.hyper.items()}

    @cache
    def scalars(t: int) -> Mapping[str, float]:
        return job.rule.step_scalars(t, floats)

    works = []
    for i in chosen:
        theta, g, state = job.params[i], job.grads[i], [column[i] for column in job.columns]
        numbers: Mapping[str, Any]
        if job.group["capturable"] and job.rule.state:
            numbers = eager.device_scalars(job.rule, floats, job.steps[i])
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
        beta = float(job.hyper.get("beta", request.beta)) if "m" in job.rule.state else request.beta
        average = _average(request, p, beta)
        average.t += 1
        sample = eager.local_like(g.to_dense() if g.is_sparse else g, p)
        eager.let_in(sample, average.m, average.S, averages.ema_weight(average.beta, average.t))
