"""Running the trials of a plan: those without a result, as many at once as the executor likes, until none is wanted."""

from collections.abc import Mapping
from typing import Any

from stepscope.experiments.arms import label
from stepscope.experiments.attempt import run_trial
from stepscope.experiments.executor import Executor, Task
from stepscope.experiments.folder import Folder
from stepscope.experiments.plan import Arm, Plan, Results, is_tuning
from stepscope.experiments.progress import Kind, Progress, TrialEvent
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.trial import Trial

__all__ = ["sweep"]


def sweep(
    plan: Plan, parcel: Parcel, folder: Folder, executor: Executor, progress: Progress
) -> tuple[list[Arm], Results]:
    """All arms with their trials done, and trial id -> result.

    Searches of all methods advance side by side, and a method's replications start when its own search is over; a
    search goes first, because it is the only thing that cannot be done in parallel. Results of earlier, interrupted
    sweeps in the folder are used as they are.
    """
    results = folder.finished_trials()
    watch = _Watch(plan, folder, progress)
    submitted: dict[str, Trial] = {}
    while True:
        arms = [plan.arm(method, results) for method in plan.methods]
        watch.report(arms, results, submitted)
        wanted = [trial for arm in arms for trial in arm.wanted]
        if not wanted:
            return arms, results
        for trial in wanted:
            if trial.id not in submitted:
                submitted[trial.id] = trial
                executor.submit(Task(trial.id, run_trial, (trial, parcel, folder.trials), urgent=is_tuning(trial)))
        for finished in executor.wait():
            results[finished.key] = folder.result(submitted[finished.key], finished.error)


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
