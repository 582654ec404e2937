"""What a run folder looks like: names, schema version, and the protocol that measurements are written through.

    run.json               schema version, time of creation, config, tensors, provenance, status once closed
    events.jsonl           one JSON object a line: kind, time, and what came with it
    live/000007.rows       rows as they come: one frame a flush (see live.py); only its writer touches it
    parts/000006.parquet   a sealed segment: sorted, compressed, never changed
    parts/000001-000005.2.parquet
                           several segments put together, rewritten for the second time
    damaged/               what ``repair`` could not read, as it was found
    lock                   held by the writer while it lives, by the kernel's word; holds the writer's process number

A segment has one number for life; numbers grow in the order of writing. Sealing moves it from live/ to parts/, where
it may later be put together with its neighbours, and thinned out to save space. Every such move writes the new file,
lets it take its name in one piece, and deletes the old ones after that: for a moment a segment may be in several files
(the part counts, and of parts the one that covers more, or was rewritten later), and it is never in none.

Version 1 differs in its live segments, live/000007.arrow, which are plain Arrow streams, and in parts, which are never
put together and say nothing of their layers. It is read, and continued as version 2.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stepscope.errors import DamagedData, UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "SCHEMA",
    "BlockSink",
    "PartFile",
    "Sink",
    "live_files",
    "part_files",
    "part_name",
    "read_events",
    "read_info",
    "superseded",
]

VERSION = 2
SCHEMA = f"stepscope.run/{VERSION}"
INFO = "run.json"
EVENTS = "events.jsonl"
LIVE = "live"
PARTS = "parts"
DAMAGED = "damaged"
LOCK = "lock"
KEYS = ("step", "layer")


class Sink(Protocol):
    """Where measurements go: a run on disk (``RunWriter``), a tracker, a list in a test."""

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        """Take one row: the named values of one layer at one step; layer "" is for the run as a whole (loss, lr).

        A value may be any float, NaN and infinities too. Must not raise because storing fails, and must copy
        what it keeps of ``values``.
        """

    def flush(self) -> None:
        """Bring every row taken so far to where readers find it."""

    def close(self) -> None:
        """Flush and let go. A second call does nothing."""


class BlockSink(Sink, Protocol):
    """A sink that also takes many rows at once, for a fraction of the cost."""

    def write_block(
        self, step: "int | ArrayLike", layers: Sequence[str], columns: Sequence[str], values: "ArrayLike"
    ) -> None:
        """Take rows with a layer and [row, column] values each; ``step`` is that of all, or one for each.

        Or the same layers at several steps: [step, row, column].
        """


class PartFile(NamedTuple):
    """A part by its name: it holds the segments ``first`` to ``last``, in the given generation."""

    first: int
    last: int
    generation: int
    path: Path


_LIVE = re.compile(r"(\d+)\.(?:rows|arrow)")
_PART = re.compile(r"(\d+)(?:-(\d+))?(?:\.(\d+))?\.parquet")


def part_name(first: int, last: int, generation: int = 0) -> str:
    """
    >>> part_name(6, 6), part_name(1, 5, 2)
    ('000006.parquet', '000001-000005.2.parquet')
    """
    span = f"{first:06d}" if first == last else f"{first:06d}-{last:06d}"
    return f"{span}.{generation}.parquet" if generation else f"{span}.parquet"


def live_files(run: Path) -> dict[int, Path]:
    """The live segments of a run folder by number, in order of number."""
    return dict(sorted((int(match[1]), path) for match, path in _matching(run / LIVE, _LIVE)))


def part_files(run: Path) -> list[PartFile]:
    """The parts of a run folder in the order of their segments, without those that others took the place of."""
    kept: list[PartFile] = []
    for part in _all_parts(run):  # the one that covers most comes first
        if not kept or part.last > kept[-1].last:
            kept.append(part)
    return kept


def superseded(run: Path) -> list[Path]:
    """Parts whose rows are all in another part: left by a process that was killed before it could delete them."""
    kept = {part.path for part in part_files(run)}
    return [part.path for part in _all_parts(run) if part.path not in kept]


def _all_parts(run: Path) -> list[PartFile]:
    found = [
        PartFile(int(match[1]), int(match[2] or match[1]), int(match[3] or 0), path)
        for match, path in _matching(run / PARTS, _PART)
    ]
    return sorted(found, key=lambda part: (part.first, -part.last, -part.generation))


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[tuple[re.Match[str], Path]]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - half the time of iterdir, and readers poll
    except FileNotFoundError:
        return []
    return [(match, folder / name) for name in names if (match := pattern.fullmatch(name))]


def read_events(run: Path) -> list[dict[str, Any]]:
    """What events.jsonl holds, oldest first; lines that cannot be understood are left out."""
    try:
        lines = (run / EVENTS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a kill, or being written just now
        if isinstance(event, dict):
            events.append(event)
    return events


def read_info(folder: Path) -> dict[str, Any]:
    """What run.json holds.

    Raises: UserError where ``folder`` is no run or was written by a newer stepscope, DamagedData where run.json
    cannot be understood.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no run folder: it has no {INFO}. Give the folder that the run was recorded to."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError:
        raise DamagedData(f"{path} is no valid JSON. The rows are elsewhere: `stepscope repair {folder}`.") from None
    schema = info.get("schema") if isinstance(info, dict) else None
    name, _, version = str(schema).partition("/")
    if name != SCHEMA.partition("/")[0] or not version.isdigit():
        raise UserError(f"{path} was not written by stepscope (schema {schema!r}). Choose another folder.")
    if int(version) > VERSION:
        raise UserError(
            f"{folder} was recorded by a newer stepscope (schema {schema}, this one knows {SCHEMA}). "
            "Upgrade: pip install --upgrade stepscope."
        )
    assert isinstance(info, dict)
    return info
