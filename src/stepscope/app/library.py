"""The runs and dissections below one folder, found anew as they appear; nothing outside the folder is ever opened.

An address names a run by its id. An id is looked up among what was found and never made into a path, and links are not
followed, so no id leads anywhere else.
"""

import contextlib
import datetime
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepscope.errors import UserError, unknown_name
from stepscope.experiments.shard import is_at_work
from stepscope.store import Run
from stepscope.store import format as layout
from stepscope.store.query import Query

__all__ = ["DissectionLine", "Library", "RunLine"]

DEEPEST = 8  # folders below the watched one
MOST_FOUND = 2000  # runs
RESCAN_SECONDS = 1.0
MOST_LOADED = 6  # runs whose values are kept


@dataclass(frozen=True)
class RunLine:
    """One run as the list shows it.

    id: its folder, relative to the watched one; a trial keeps its id when it is finished and its folder moves.
    status: running, finished, failed, interrupted or broken.  created: UTC, ISO.  last: its last recorded step.
    changed: seconds since 1970 of the last write.  problem: why it cannot be read.  alarms: how many were raised.
    optimizer: with step size and seed where they are known.
    dissection: the id of the dissection it belongs to.  stamp: changes whenever anything of the run does.
    """

    id: str
    status: str
    created: str = ""
    last: int | None = None
    changed: float = 0.0
    problem: str = ""
    alarms: int = 0
    optimizer: str = ""
    tensors: int = 0
    dissection: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class DissectionLine:
    """One dissection as the list shows it.  status: running, finished or interrupted.  stamp: see `RunLine`."""

    id: str
    status: str
    problem: str = ""
    done: int = 0
    stamp: str = ""


@dataclass
class _Place:
    """A run's or a dissection's folder, and what was last found in it."""

    folder: Path
    dissection: str = ""
    stamp: str = ""
    line: Any = None
    checked: float = 0.0
    query: Query | None = None


class Library:
    """What lies below `root`.  May be used from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.truncated = False
        self._guard = threading.RLock()
        self._scanned = -RESCAN_SECONDS
        self._runs: dict[str, _Place] = {}
        self._dissections: dict[str, _Place] = {}
        self._loaded: OrderedDict[str, Query] = OrderedDict()

    def runs(self) -> list[RunLine]:
        """The runs, in order of their ids."""
        with self._guard:
            self._scan()
            return [self._run_line(id, place) for id, place in sorted(self._runs.items())]

    def dissections(self) -> list[DissectionLine]:
        """The dissections, in order of their ids."""
        with self._guard:
            self._scan()
            return [self._dissection_line(id, place) for id, place in sorted(self._dissections.items())]

    def line(self, id: str) -> RunLine:
        """One run.  Raises: UserError for an id that is not there."""
        with self._guard:
            return self._run_line(id, self._place(self._runs, "run", id))

    def folder(self, id: str) -> Path:
        """The folder of a run.  Raises: UserError for an id that is not there."""
        with self._guard:
            return self._place(self._runs, "run", id).folder

    def dissection(self, id: str) -> Path:
        """The folder of a dissection.  Raises: UserError for an id that is not there."""
        with self._guard:
            return self._place(self._dissections, "dissection", id).folder

    def query(self, id: str) -> Query:
        """What answers questions about a run.  Raises: UserError for an id that is not there, or a broken run."""
        with self._guard:
            query = _query(self._place(self._runs, "run", id))
            self._loaded[id] = query
            self._loaded.move_to_end(id)
            while len(self._loaded) > MOST_LOADED:
                _, idle = self._loaded.popitem(last=False)
                idle.forget()
            return query

    def _place(self, places: dict[str, _Place], kind: str, id: str) -> _Place:
        if id not in places or not places[id].folder.is_dir():
            self._scan(now=True)
        if id not in places:
            raise unknown_name(kind, id, list(places)[:20])
        return places[id]

    # Finding ----------------------------------------------------------------------------------------------------------

    def _scan(self, now: bool = False) -> None:
        if not now and time.monotonic() - self._scanned < RESCAN_SECONDS:
            return
        self._scanned = time.monotonic()
        found = {"run": dict[str, Path](), "dissection": dict[str, Path]()}
        owners: dict[str, str] = {}
        self.truncated = False
        for kind, id, folder, owner in _found(self.root, self.root.name, 0, ""):
            if len(found["run"]) >= MOST_FOUND:
                self.truncated = True
                break
            found[kind][id] = folder
            owners[id] = owner
        for places, there in ((self._runs, found["run"]), (self._dissections, found["dissection"])):
            for id in places.keys() - there.keys():
                del places[id]
                self._loaded.pop(id, None)
            for id, folder in there.items():
                if id not in places or places[id].folder != folder:
                    places[id] = _Place(folder, owners[id])

    # Describing -------------------------------------------------------------------------------------------------------

    def _run_line(self, id: str, place: _Place) -> RunLine:
        """Looked up again where a file has changed, and every second while a writer may live or die."""
        stamp, changed = _stamp(place.folder)
        is_settled = place.line is not None and place.line.status not in ("running", "interrupted")
        if stamp != place.stamp or not (is_settled or time.monotonic() - place.checked < RESCAN_SECONDS):
            place.line = self._described(id, place, stamp, changed)
            place.stamp, place.checked = stamp, time.monotonic()
        line: RunLine = place.line
        return line

    def _described(self, id: str, place: _Place, stamp: str, changed: float) -> RunLine:
        try:
            run = Run(place.folder)
            info, status = run.info, run.status
            query = _query(place)
            span = query.extent()
            alarms = sum(event.get("kind") == "alarm" for event in run.events)
            tensors = info.get("tensors", [])
            config = info.get("config", {})
            words = [str(config.get("scope", {}).get("optimizer", "")), *_settings(config)]
        except (UserError, OSError, AttributeError, TypeError) as error:
            problem = str(error) if isinstance(error, UserError) else f"{place.folder.name}: {error}"
            problem = problem.replace(f"{self.root.parent}{os.sep}", "")
            return RunLine(id, "broken", problem=problem, changed=changed, dissection=place.dissection, stamp=stamp)
        return RunLine(
            id,
            status,
            created=str(info.get("created", "")),
            last=span[1] if span else None,
            changed=changed,
            problem="; ".join(query.problems.values()),
            alarms=alarms,
            optimizer=", ".join(filter(None, words)),
            tensors=len(tensors),
            dissection=place.dissection,
            stamp=f"{stamp}-{status}",
        )

    def _dissection_line(self, id: str, place: _Place) -> DissectionLine:
        folder, done, attempts = place.folder, 0, 0
        with contextlib.suppress(OSError):
            names = os.listdir(folder / "trials")  # noqa: PTH208 - polled
            attempts = sum(name.startswith(".") for name in names)
            done = len(names) - attempts
        is_finished = (folder / "results.json").is_file()
        status = "finished" if is_finished else "running" if is_at_work(folder) else "interrupted"
        stamp = f"{status}-{done}-{attempts}"
        if place.stamp != stamp:
            settings: Any = {}
            with contextlib.suppress(OSError, ValueError):
                settings = json.loads((folder / "dissect.json").read_text("utf-8"))
            problem = str(settings.get("problem", "")) if isinstance(settings, dict) else ""
            place.line, place.stamp = DissectionLine(id, status, problem, done, stamp), stamp
        line: DissectionLine = place.line
        return line

    def stamp(self, lines: list[Any]) -> str:
        """Another text whenever one of the lines is another one."""
        text = json.dumps([asdict(line) for line in lines], default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _settings(config: dict[str, Any]) -> list[str]:
    """Step size and seed, where a run's settings name them: they tell the trials of a dissection apart."""
    named = [(name, config.get(name)) for name in ("lr", "seed")]
    return [f"{name} {value:g}" for name, value in named if isinstance(value, int | float)]


def _query(place: _Place) -> Query:
    if place.query is None:
        place.query = Query(place.folder)
    return place.query


def _found(folder: Path, id: str, depth: int, owner: str) -> Iterator[tuple[str, str, Path, str]]:
    """("run" or "dissection", id, folder, id of the dissection it belongs to), without following links."""
    try:
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    files = {entry.name for entry in children if entry.is_file(follow_symlinks=False)}
    folders = [entry.name for entry in children if entry.is_dir(follow_symlinks=False)]
    if layout.INFO in files:
        yield "run", id, folder, owner
        return
    if "dissect.json" in files:
        yield "dissection", id, folder, ""
        yield from _trials(folder / "trials", id)
        return
    if depth < DEEPEST:
        for name in folders:
            if not name.startswith("."):
                yield from _found(folder / name, f"{id}/{name}", depth + 1, owner)


def _trials(folder: Path, owner: str) -> Iterator[tuple[str, str, Path, str]]:
    """The recorded trials of a dissection; one at work lies in a hidden folder named after its process too."""
    try:
        names = sorted(os.listdir(folder), key=lambda name: not name.startswith("."))  # noqa: PTH208 - polled
    except OSError:
        return
    for name in names:
        run = folder / name / "run"
        if not (folder / name).is_symlink() and not run.is_symlink() and (run / layout.INFO).is_file():
            trial = name.removeprefix(".").partition(".")[0]
            yield "run", f"{owner}/{trial}", run, owner


def _stamp(folder: Path) -> tuple[str, float]:
    """What changes with every write to a run, and when the last one was, in seconds since 1970."""
    parts, newest = [], 0.0
    for name in (layout.INFO, layout.EVENTS, layout.PARTS):
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            parts.append(f"{stat.st_mtime_ns}.{stat.st_size}")
            newest = max(newest, stat.st_mtime)
    with contextlib.suppress(OSError), os.scandir(folder / layout.LIVE) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                parts.append(f"{entry.name}.{stat.st_size}")
                newest = max(newest, stat.st_mtime)
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest(), newest


def now() -> float:
    """Seconds since 1970."""
    return datetime.datetime.now(datetime.UTC).timestamp()
