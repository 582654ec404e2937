"""Running the trials of a plan: those without a result, as many at once as the executor likes, until none is wanted."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from stepscope.experiments.arms import label
from stepscope.experiments.attempt import run_trial
from stepscope.experiments.executor import Executor, Task
from stepscope.experiments.folder import Folder
from stepscope.experiments.plan import Arm, Plan, Results, is_tuning
from stepscope.experiments.progress import Kind, Progress, TrialEvent
from stepscope.experiments.shard import PartDone
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.together import bundles, run_together
from stepscope.experiments.trial import Trial

__all__ = ["sweep"]

POLL: Final = 1.0  # seconds between looks for other parts' results


def sweep(
    plan: Plan, parcel: Parcel, folder: Folder, executor: Executor, progress: Progress
) -> tuple[list[Arm], Results]:
    """All arms with their trials done, and trial id -> result.

    Searches of all methods advance side by side, and a method's replications start when its own search is over; a
    search goes first, because it is the only thing that cannot be done in parallel. Results of earlier, interrupted
    sweeps in the folder are used as they are. Where the folder is shared by parts, each does its own trials and waits
    for results of the others as long as any of them is at work.
    Raises: PartDone if what is left is not this part's to do, and nobody else is at work.
    """
    results = folder.finished_trials()
    running: dict[str, Sequence[Trial]] = {}
    watch = _Watch(plan, folder, progress)
    submitted: dict[str, Trial] = {}
    while True:
        arms = [plan.arm(method, results) for method in plan.methods]
        watch.report(arms, results, submitted)
        # Seed by seed over all methods, so that what an interrupted sweep leaves can be compared.
        wanted = sorted((trial for arm in arms for trial in arm.wanted), key=lambda trial: trial.seed)
        if not wanted:
            return arms, results
        mine = [trial for trial in wanted if folder.shard is None or folder.shard.owns(trial.id)]
        for task, trials in _tasks([trial for trial in mine if trial.id not in submitted], arms, plan, parcel, folder):
            submitted |= {trial.id: trial for trial in trials}
            running[task.key] = trials
            executor.submit(task)
        is_shared = folder.is_shared  # before looking for results: one that ends between the two is not missed
        others = {} if running else folder.others_trials()
        if running:
            for finished in executor.wait():
                for trial in running.pop(finished.key):
                    results[trial.id] = folder.result(trial, finished.error)
            results |= folder.others_trials()
        elif others.keys() <= results.keys():
            if not is_shared:
                raise PartDone(
                    f"part {folder.shard} has done all it can: the others have {len(wanted)} trials or more to do. "
                    "Run them, and then this one again for what follows from theirs."
                )
            time.sleep(POLL)
        results |= others


def _tasks(
    new: Sequence[Trial], arms: Sequence[Arm], plan: Plan, parcel: Parcel, folder: Folder
) -> Iterator[tuple[Task, Sequence[Trial]]]:
    """One for each trial, or for several that are faster together."""
    known = {trial.id: trial for arm in arms for trial in (*arm.done, *arm.wanted)}
    if folder.shard is not None:  # what belongs together is another part's as well
        groups: Sequence[tuple[Trial, ...]] = [(trial,) for trial in new]
    else:
        groups = bundles(list(known.values()), plan.problem)
    ids = {trial.id for trial in new}
    order = {trial.id: place for place, trial in enumerate(new)}
    left = [tuple(trial for trial in group if trial.id in ids) for group in groups]
    for trials in sorted(filter(None, left), key=lambda group: order[group[0].id]):
        first = trials[0]
        if len(trials) == 1:
            yield Task(first.id, run_trial, (first, parcel, folder.trials), urgent=is_tuning(first)), trials
        else:
            yield Task(first.id, run_together, (trials, parcel, folder.trials), urgent=is_tuning(first)), trials


class _Watch:
    """Tells the progress about each trial once."""

    def __init__(self, plan: Plan, folder: Folder, progress: Progress) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self.told: set[str] = set()
        self.done = 0
        progress.start(plan.total)

    def report(self, arms: list[Arm], results: Results, submitted: Mapping[str, Trial]) -> None:
        for arm in arms:
            for trial in arm.done:
                if trial.id not in self.told:
                    self.told.add(trial.id)
                    self._finished(trial, results[trial.id], cached=trial.id not in submitted)
            if arm.hopeless and arm.method not in self.told:
                self.told.add(arm.method)
                self.progress.note(f"{label(arm.method)}: no step size that was tried is stable.")
                self._advance("skipped", arm.method, "skipped", trials=len(self.plan.seeds))

    def _finished(self, trial: Trial, result: Mapping[str, Any], cached: bool) -> None:
        if error := result.get("error"):
            place = self.folder.trials / trial.id / "result.json"
            self.progress.note(
                f"{label(trial.method)} with step size {trial.lr:g} and seed {trial.seed} failed: "
                f"{error.strip().splitlines()[-1]} (all of it in {place})"
            )
        self._advance(
            "tuning" if is_tuning(trial) else "replication",
            trial.method,
            result["status"],
            lr=trial.lr,
            seed=trial.seed,
            cached=cached,
            seconds=self.folder.seconds(trial),
        )

    def _advance(self, kind: Kind, method: str, status: str, *, trials: int = 1, **details: Any) -> None:
        self.done += trials
        total = self.plan.total
        self.progress.advance(
            TrialEvent(kind, method, label(method), status, self.done, total, trials=trials, **details)
        )
