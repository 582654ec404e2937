"""Recovering a run: everything that can be read ends where readers find it, and what cannot is said and set aside."""

import datetime
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepscope.errors import DamagedData, UserError
from stepscope.store import format as layout
from stepscope.store.files import refusal, replacing, write_json
from stepscope.store.live import Live
from stepscope.store.lock import FolderLock
from stepscope.store.parts import Part, readable, seal, write_part
from stepscope.store.recorder import leftovers

__all__ = ["Repaired", "repair"]


@dataclass
class Repaired:
    """What ``repair`` found and did.

    rows: rows that the run has now.  sealed: live segments of a writer that was killed, now parts.  tidied: leftovers
    removed.  torn: bytes of what was being written when the writer was killed; no flush had been promised for them.
    lost: one line for each thing that was damaged and could not be recovered whole; empty if nothing was.
    """

    rows: int = 0
    sealed: int = 0
    tidied: int = 0
    torn: int = 0
    lost: list[str] = field(default_factory=list)


def repair(folder: str | os.PathLike[str]) -> Repaired:
    """Recover the run in ``folder`` after a crash, or after its disk has damaged some of it; every part is read.

    Rows of a killed writer are sealed, leftovers removed, torn events cut off. Of a damaged part the readable row
    groups are kept, and the file itself moves to the folder damaged/. A run.json that is missing or damaged is made
    again, without what only it knew. Of a run that is whole, nothing changes.
    Raises: UserError if the folder holds no run, or cannot be written; FolderInUse while somebody records there.
    """
    run = Path(folder)
    _check(run)
    try:
        lock = FolderLock(run / layout.LOCK)
        try:
            return _repaired(run)
        finally:
            lock.release()
    except OSError as error:
        raise UserError(refusal(error, Path(error.filename or run))) from error


def _check(run: Path) -> None:
    try:
        layout.read_info(run)
    except DamagedData:
        return
    except UserError:
        # Without run.json, rows make it a run; of a newer version, or of something else, it is none of ours to change.
        if (run / layout.INFO).exists() or not (layout.live_files(run) or layout.part_files(run)):
            raise


def _repaired(run: Path) -> Repaired:
    found = Repaired()
    _info(run, found)
    for path in leftovers(run):
        path.unlink()
        found.tidied += 1
    for file in layout.part_files(run):
        try:
            found.rows += len(Part(file.path).read())
        except DamagedData:
            live = layout.live_files(run).get(file.first) if file.first == file.last else None
            found.rows += _salvage(run, file, found) if live is None else _set_aside(run, file.path, 0)
    for number, path in layout.live_files(run).items():
        if any(file.first <= number <= file.last for file in layout.part_files(run)):
            path.unlink()  # it was sealed, and its writer killed before it could remove it
            found.tidied += 1
            continue
        segment = Live(path)
        segment.refresh()
        found.torn += segment.torn
        if segment.damaged:
            found.lost.append(f"{path}: {segment.damaged} bytes of it are damaged; the rows before and after are kept")
            _copy_aside(run, path)
        table = segment.table
        if table is not None:
            (run / layout.PARTS).mkdir(exist_ok=True)
            seal(path, run / layout.PARTS / layout.part_name(number, number))
            found.rows += len(table)
            found.sealed += 1
        else:
            path.unlink()
    _events(run, found)
    return found


def _salvage(run: Path, file: layout.PartFile, found: Repaired) -> int:
    """Put what can be read of a part in its place.  Returns its rows."""
    table = readable(file.path)
    if table is not None:
        name = layout.part_name(file.first, file.last, file.generation + 1)
        write_part(run / layout.PARTS / name, table)
    rows = 0 if table is None else len(table)
    found.lost.append(f"{file.path}: damaged; {rows} rows of it could be read and are kept")
    return _set_aside(run, file.path, rows)


def _set_aside(run: Path, path: Path, rows: int) -> int:
    (run / layout.DAMAGED).mkdir(exist_ok=True)
    path.replace(run / layout.DAMAGED / path.name)
    return rows


def _copy_aside(run: Path, path: Path) -> None:
    (run / layout.DAMAGED).mkdir(exist_ok=True)
    with replacing(run / layout.DAMAGED / path.name) as file:
        file.write(path.read_bytes())


def _info(run: Path, found: Repaired) -> None:
    path = run / layout.INFO
    try:
        layout.read_info(run)
    except UserError:
        if path.exists():
            _set_aside(run, path, 0)
        found.lost.append(f"{path}: missing or damaged; made again without configuration, tensors and provenance")
        files = [*layout.live_files(run).values(), *(part.path for part in layout.part_files(run))]
        first = min((file.stat().st_mtime for file in files), default=0.0)
        created = datetime.datetime.fromtimestamp(first, datetime.UTC).isoformat(timespec="milliseconds")
        info: dict[str, Any] = {
            "schema": layout.SCHEMA,
            "created": created,
            "status": None,
            "config": {},
            "tensors": [],
        }
        write_json(path, info)


def _events(run: Path, found: Repaired) -> None:
    """Cut off what is torn; a line in the middle that is no event is damage."""
    path = run / layout.EVENTS
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    *whole, tail = lines
    kept = [line for line in whole if _is_event(line)]
    if tail and _is_event(tail):
        kept.append(tail)
    elif tail:
        found.torn += len(tail)
    if bad := sum(1 for line in whole if line and not _is_event(line)):
        _copy_aside(run, path)
        found.lost.append(f"{path}: {bad} lines of it are damaged; the others are kept")
    if bad or tail:
        with replacing(path) as file:
            file.write(b"".join(line + b"\n" for line in kept))


def _is_event(line: bytes) -> bool:
    try:
        event: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict)
