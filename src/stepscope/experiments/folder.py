"""A dissection on disk: who may work in its folder, which trials are finished, and that nothing is ever half written.

dissect.json (settings) and environment.json (where and how it was begun) come first, then trials/<id>/ (one rename
each, with result.json), last results.json and timings.json; and a lock. A trial's folder without a leading dot is
finished: that is all there is to resuming.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepscope.errors import DamagedData, FolderInUse, UserError
from stepscope.experiments.attempt import abandoned, resumable
from stepscope.experiments.shard import Shard
from stepscope.experiments.trial import Trial
from stepscope.store import write_json
from stepscope.store.files import refusal
from stepscope.store.lock import FolderLock, is_held

__all__ = ["Folder"]

SCHEMA = "stepscope.dissect/1"


OURS = {"dissect.json", "environment.json", "trials", "results.json", "timings.json", "taken-up.json"}


class Folder:
    """The folder of one dissection, locked until it is closed.

    shard: only this part of the trials is done here, and others may be at work on the other parts.
    Raises: UserError if it cannot be written, holds something else, or belongs to other settings; FolderInUse if
    another process works in it, or on the same part.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any] | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.path, self.shard = path, shard
        self.trials = path / "trials"
        is_new = not path.exists()
        try:
            self._lock = self._locked()
            try:
                self._claim({"schema": SCHEMA, **settings})
                if not (path / "environment.json").exists():
                    write_json(path / "environment.json", environment or {})
            except BaseException:
                self.close()
                raise
        except UserError as error:
            if is_new and not isinstance(error, FolderInUse):  # a folder that could not be begun is not left behind
                shutil.rmtree(path, ignore_errors=True)
            raise

    def _locked(self) -> FolderLock:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(self.path / (self.shard.lock if self.shard else "lock"))
            # Each takes its own lock before it looks at the others', so of two at least one sees the other.
            if any(self._others()) if self.shard is None else is_held(self.path / "lock"):
                lock.release()
                raise FolderInUse("")
            return lock
        except FolderInUse as error:
            whose = "" if self.shard is None else f" on part {self.shard}, or on all of it"
            raise FolderInUse(
                f"another process is working in {self.path}{whose}: wait for it, or choose another --out."
            ) from error
        except OSError as error:
            raise UserError(refusal(error, self.path / "lock")) from error

    def _others(self) -> Iterator[Path]:
        """Locks of other parts that are held."""
        own = None if self.shard is None else self.shard.lock
        return (lock for lock in self.path.glob("lock-*-of-*") if lock.name != own and is_held(lock))

    @property
    def is_shared(self) -> bool:
        """Whether other parts are being worked on now."""
        return any(self._others())

    def _is_mine(self, trial: str) -> bool:
        return self.shard is None or self.shard.owns(trial)

    def close(self) -> None:
        """Let another process in."""
        self._lock.release()

    @property
    def is_finished(self) -> bool:
        """Whether there are results and no trial failed: the same command then tries the failed ones again."""
        trials = (_read(file) for file in self.trials.glob("[!.]*/result.json"))
        return (self.path / "results.json").is_file() and all(trial["status"] != "failed" for trial in trials)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, hardware and command as they were when the folder was begun, whoever ends it."""
        return _read(self.path / "environment.json")

    @property
    def results(self) -> dict[str, Any]:
        """The finished dissection."""
        return _read(self.path / "results.json")

    def finished_trials(self) -> dict[str, dict[str, Any]]:
        """Trial id -> result.  Removes what nobody goes on with: attempts without a checkpoint, and failed trials."""
        self.remove_attempts(but_resumable=True)
        found = {}
        for trial in self.trials.glob("[!.]*"):
            if not self._is_mine(trial.name):
                continue
            if not (trial / "result.json").is_file() or (result := _read(trial / "result.json"))["status"] == "failed":
                shutil.rmtree(trial)
            else:
                found[trial.name] = result
        return found | self.others_trials()

    def others_trials(self) -> dict[str, dict[str, Any]]:
        """Trial id -> result of what the other parts have finished so far."""
        if self.shard is None:
            return {}
        files = (file for file in self.trials.glob("[!.]*/result.json") if not self._is_mine(file.parent.name))
        return {file.parent.name: _read(file) for file in files}

    def result(self, trial: Trial, error: str | None) -> dict[str, Any]:
        """A trial's result just after it ran.  error: why it has none; that is then written down as its result."""
        place = self.trials / trial.id
        if error is not None and not (place / "result.json").is_file():  # one of several may have ended well
            place.mkdir(exist_ok=True)
            result = {"config": vars(trial), "status": "failed", "error": error, "steps": 0, "evaluations": []}
            write_json(place / "result.json", result)
        return _read(place / "result.json")

    def seconds(self, trial: Trial) -> float | None:
        """How long a trial trained; None if it failed."""
        file = self.trials / trial.id / "timing.json"
        return float(_read(file)["seconds"]) if file.is_file() else None

    def finish(self, results: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Write the end result, and what is not to be part of it because it differs from run to run."""
        self.remove_attempts()
        write_json(self.path / "timings.json", timings)
        write_json(self.path / "results.json", results)

    def remove_attempts(self, but_resumable: bool = False) -> None:
        """Remove what attempts that were killed left behind."""
        for attempt in self.trials.glob(".*"):
            if self._is_mine(attempt.name[1:]) and abandoned(attempt) and not (but_resumable and resumable(attempt)):
                shutil.rmtree(attempt, ignore_errors=True)

    def _claim(self, settings: dict[str, Any]) -> None:
        """Make the folder ours, or see that it is."""
        file = self.path / "dissect.json"
        if not file.exists():
            names = sorted(child.name for child in self.path.iterdir())
            if strangers := [name for name in names if name not in OURS and not name.startswith((".", "lock"))]:
                raise UserError(f"{self.path} holds something else ({strangers[0]}): choose another --out.")
            write_json(file, settings)
        there = _read(file)
        if there.get("schema") != SCHEMA:
            raise UserError(f"{file} has schema {there.get('schema')!r}, not {SCHEMA!r}: choose another --out.")
        differing = [key for key, value in settings.items() if there.get(key) != value]
        if differing:
            changes = "; ".join(f"{key} is {there.get(key)!r} there, {settings[key]!r} here" for key in differing)
            raise UserError(f"{self.path} belongs to other settings ({changes}): choose another --out, or delete it.")
        try:
            self.trials.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(refusal(error, self.trials / "trial")) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedData(
            f"{file} cannot be read ({error}): delete {file.parent} and run the same command again."
        ) from error
    return content
