"""The main job: train a problem with and without Adam's two ingredients, and say which of them matters on it."""

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepscope import problems, store
from stepscope.errors import UserError
from stepscope.experiments.executor import Executor, Processes
from stepscope.experiments.folder import Folder
from stepscope.experiments.plan import Arm, Plan, Profile, Results, make_plan
from stepscope.experiments.progress import Progress, Silent
from stepscope.experiments.results import assemble
from stepscope.experiments.shard import Shard
from stepscope.experiments.shipping import Parcel, fingerprint, load, pack, refuse_nested_call
from stepscope.experiments.sweep import sweep
from stepscope.experiments.tuning import Select
from stepscope.problems import Problem
from stepscope.rules import Point

__all__ = ["Dissection", "dissect"]

# torch._dynamo: the first optimizer made in a process imports it, which takes longer than a small trial.
PRELOAD = ("torch", "torch._dynamo", "stepscope.experiments.attempt", "stepscope.scope")


@dataclass
class Dissection:
    """A finished dissection.  results: schema "stepscope.dissection/1".  report: set by whoever writes one."""

    folder: Path
    results: dict[str, Any]
    report: Path | None = None


def dissect(
    problem: Problem | str,
    *,
    points: Sequence[str | Point] | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    budget: int = 8,
    select: Select = "validation",
    profile: Profile = "demo",
    beta: float = 0.9,
    grid: Mapping[str, Sequence[float]] | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    record_every: int | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    shard: Shard | str | None = None,
) -> Dissection:
    """Train with M-SGD, M-SSD, M-SVAG, Adam and a one-beta Adam, or others; tune each step size; repeat; compare.

    problem: a Problem, a built-in name, or "file.py:name".  points: two or more names in optim.METHODS or points of the
    grid, such as "sign_m:erf_rho" (see rules.Point); those beside the standard five are compared with the first.
    seeds >= 1: runs per method, 3 ("demo") or 10 ("paper") unless given.  steps: per run, the problem's own unless
    given.  budget 1 ... 100: trials per method to find its step size.  select: how a step size is judged, on held-out
    training examples or, as in the paper, on the test set.
    beta in [0, 1): of every method but Adam, which keeps 0.9 and 0.999.  grid: step sizes for a method instead of the
    search, such as {"msgd": [0.1, 0.3]}; a single one is used untuned.  out: a folder of its own, runs/dissect-...
    unless given.  jobs: processes at once, one for each core unless given.  record_every: steps between records of the
    first seed's run, so that there are about 200 unless given.  executor: where trials run, instead of this machine;
    it is closed at the end.  shard: do only one part of the trials, such as "2/8", in a folder shared with the others.

    Call it again after an interruption, with the same arguments: finished trials are kept, and the results are the same
    to the byte. With a Problem made in the calling script, that script runs again in each process up to this call; a
    problem given as "file.py:name" avoids that.
    Raises: UserError for a wrong argument, a problem that does not run, a folder that cannot be written or belongs to
    other settings, and if no method has a stable step size; FolderInUse if another process works in the folder;
    PartDone if the rest is up to other parts.
    """
    refuse_nested_call()
    started = time.perf_counter()
    progress = progress or Silent()
    if jobs is not None and not (isinstance(jobs, int) and jobs >= 1):
        raise UserError(f"jobs must be a whole number of at least 1, got {jobs!r}.")
    found = load(problem) if isinstance(problem, str) else problem
    if not isinstance(found, Problem):
        raise UserError(f"dissect takes a Problem, a name or 'FILE.py:NAME', got {type(problem).__name__}.")
    problems.check(found)
    data = found.data()
    mark = fingerprint(found, data)
    plan = make_plan(
        found,
        data,
        mark,
        seeds=seeds,
        steps=steps,
        budget=budget,
        select=select,
        profile=profile,
        beta=beta,
        grid=grid,
        record_every=record_every,
        points=points,
    )
    parcel = Parcel(spec=found.spec) if isinstance(problem, str) else pack(found, mark)
    engine = executor or Processes(jobs, PRELOAD)
    environment = store.provenance(command=plan.command, seeds=plan.seeds)
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    folder = Folder(default_folder(plan) if out is None else Path(out), plan.settings(), environment, part)
    with contextlib.closing(folder), contextlib.closing(engine):
        if not folder.is_finished:
            try:
                arms, trials = sweep(plan, parcel, folder, engine, progress)
            except KeyboardInterrupt:
                progress.note(f"Stopped. {folder.path} keeps the finished trials: the same command goes on from there.")
                raise
            _require_a_stable_method(plan, arms, trials)
            timings = _timings(arms, folder, time.perf_counter() - started)
            folder.finish(assemble(plan, arms, trials, folder), timings)
        return Dissection(folder.path, folder.results)


def default_folder(plan: Plan) -> Path:
    """runs/dissect-NAME-HASH under the working folder, with a hash of the settings, so that others fit beside it."""
    name = re.sub(r"[^a-z0-9]+", "-", plan.problem.name.lower()).strip("-")
    return Path("runs") / f"dissect-{name}-{plan.digest}"


def _require_a_stable_method(plan: Plan, arms: Sequence[Arm], results: Results) -> None:
    if any(arm.lr is not None for arm in arms):
        return
    errors = [results[trial.id]["error"] for arm in arms for trial in arm.done if "error" in results[trial.id]]
    why = f"; the first that failed said: {errors[0].strip().splitlines()[-1]}" if errors else ""
    raise UserError(
        f"no method has a stable step size on {plan.problem.name!r} within {plan.budget} trials{why}: "
        "give step sizes with --grid, a larger --budget, or look at the problem's loss and scale."
    )


def _timings(arms: Sequence[Arm], folder: Folder, wall: float) -> dict[str, Any]:
    """Seconds of training per trial, their sum, and of this process from start to end (less, if it resumed)."""
    done = {trial: folder.seconds(trial) for arm in arms for trial in arm.done}
    return {
        "wall_seconds": round(wall, 3),
        "training_seconds": round(sum(filter(None, done.values())), 3),
        "trials": [
            {"trial": trial.id, "method": trial.method, "lr": trial.lr, "seed": trial.seed, "seconds": seconds}
            for trial, seconds in done.items()
        ],
    }
