"""Running given trials of given problems in a folder: finished ones are kept, others are gone on with."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepscope import store
from stepscope.errors import UserError
from stepscope.experiments.attempt import run_trial
from stepscope.experiments.dissection import PRELOAD
from stepscope.experiments.executor import Executor, Processes, Task
from stepscope.experiments.folder import Folder
from stepscope.experiments.progress import Progress, Silent, TrialEvent
from stepscope.experiments.shipping import Parcel
from stepscope.experiments.trial import Trial

__all__ = ["run_all"]


def run_all(
    trials: Sequence[tuple[Trial, Parcel]],
    settings: Mapping[str, Any],
    path: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Trial id -> result; the trials lie in ``path/trials``.

    settings: what the folder belongs to; another set of them is refused there.
    Raises: UserError if a trial fails, or the folder belongs to other settings; FolderInUse.
    """
    progress = progress or Silent()
    progress.start(len(trials))
    engine = executor or Processes(None, PRELOAD)
    folder = Folder(path, settings, store.provenance(command=["stepscope", "reproduce"], seeds=[]))
    with contextlib.closing(folder), contextlib.closing(engine):
        results = folder.finished_trials()
        missing = {trial.id: trial for trial, _ in trials if trial.id not in results}
        done = 0

        def told(trial: Trial, cached: bool) -> None:
            nonlocal done
            done += 1
            event = TrialEvent(
                "replication", trial.method, trial.method, results[trial.id]["status"], done, len(trials), trial.lr,
                trial.seed, cached=cached, seconds=folder.seconds(trial),
            )  # fmt: skip
            progress.advance(event)

        for trial, _ in trials:
            if trial.id in results:
                told(trial, True)
        for trial, parcel in trials:
            if trial.id in missing:
                engine.submit(Task(trial.id, run_trial, (trial, parcel, folder.trials)))
        while missing:
            for finished in engine.wait():
                trial = missing.pop(finished.key)
                results[trial.id] = folder.result(trial, finished.error)
                if finished.error is not None:
                    raise UserError(
                        f"{trial.method} with step size {trial.lr:g} failed: {finished.error.strip().splitlines()[-1]} "
                        f"(all of it in {folder.trials / trial.id / 'result.json'})"
                    )
                told(trial, False)
        return results
