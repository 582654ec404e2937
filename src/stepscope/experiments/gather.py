"""Folders of sweeps from outside: how far one is, and bringing the trials of several together."""

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepscope.errors import DamagedData, UserError
from stepscope.experiments.arms import STANDARD, label
from stepscope.experiments.attempt import CHECKPOINT, abandoned
from stepscope.experiments.folder import Folder
from stepscope.experiments.shard import is_at_work

__all__ = ["Attempt", "Status", "merge", "status"]


@dataclass(frozen=True)
class Attempt:
    """A trial that is not finished.  working: somebody is at it now.  checkpoint_age: seconds; None without one."""

    id: str
    working: bool
    checkpoint_age: float | None


@dataclass(frozen=True)
class Status:
    """How far a dissection is.

    total: trials in all, at most: a method without a stable step size is not repeated.  done: by method, then by "ok",
    "diverged", "failed".  working: whether a process works in the folder.  finished: whether the results are there.
    """

    problem: str
    total: int
    done: Mapping[str, Mapping[str, int]]
    attempts: Sequence[Attempt]
    working: bool
    finished: bool

    @property
    def trials(self) -> int:
        """How many have a result."""
        return sum(sum(counts.values()) for counts in self.done.values())

    def lines(self) -> list[str]:
        """What to tell about it."""
        state = "finished" if self.finished else "being worked on" if self.working else "interrupted"
        found = [f"{self.problem}: {state}, {self.trials} of {self.total} trials"]
        for method, counts in self.done.items():
            found.append(
                f"  {label(method)}: " + (", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none yet")
            )
        for one in self.attempts:
            age = "no checkpoint" if one.checkpoint_age is None else f"checkpoint {one.checkpoint_age:.0f} s old"
            found.append(f"  {one.id}: {'running' if one.working else 'interrupted'}, {age}")
        return found


def status(folder: Path) -> Status:
    """Read from its files, whether or not somebody is at work there.  Raises: UserError if it is no dissection's."""
    settings = _settings(folder)
    methods = settings.get("methods", STANDARD)
    done = {method: Counter[str]() for method in methods}
    for file in sorted((folder / "trials").glob("[!.]*/result.json")):
        result = _json(file)
        done.setdefault(result["config"]["method"], Counter()).update([result["status"]])
    attempts = [
        Attempt(place.name[1:], not abandoned(place), _age(place / CHECKPOINT))
        for place in sorted((folder / "trials").glob(".*"))
    ]
    tuning = [len(settings["grid"].get(m, ())) or settings["budget"] for m in methods]
    return Status(
        problem=settings["problem"],
        total=sum(trials if trials > 1 else 0 for trials in tuning) + len(methods) * len(settings["seeds"]),
        done={method: dict(counts) for method, counts in done.items()},
        attempts=attempts,
        working=is_at_work(folder),
        finished=(folder / "results.json").is_file(),
    )


def merge(into: Path, folders: Sequence[Path]) -> int:
    """Copy the finished trials of dissections with the same settings into one folder, made if need be.

    Returns how many were new there. Running the same `dissect` in it then goes on with what is missing.
    Raises: UserError if a folder is no dissection's or has other settings; FolderInUse if somebody works in `into`.
    """
    if not folders:
        raise UserError("name at least one folder to merge from.")
    settings = {key: value for key, value in _settings(folders[0]).items() if key != "schema"}
    for other in folders[1:]:
        theirs = _settings(other)
        if differing := [key for key, value in settings.items() if theirs.get(key) != value]:
            raise UserError(f"{other} differs from {folders[0]} in its {differing[0]}: only parts of one sweep merge.")
    goal = Folder(into, settings, _json(folders[0] / "environment.json"))
    try:
        new = 0
        for trial in itertools.chain.from_iterable(sorted(one.glob("trials/[!.]*/result.json")) for one in folders):
            place = goal.trials / trial.parent.name
            if (place / "result.json").exists() or _json(trial)["status"] == "failed":
                continue
            copy = goal.trials / f".{place.name}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(trial.parent, copy)
            copy.rename(place)
            new += 1
        return new
    finally:
        goal.close()


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / "dissect.json").is_file():
        raise UserError(f"{folder} is no folder of a dissection: it has no dissect.json.")
    return _json(folder / "dissect.json")


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedData(f"{file} cannot be read: {error}") from error
    return found


def _age(file: Path) -> float | None:
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except OSError:
        return None
