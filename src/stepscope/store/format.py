"""What a run folder looks like: names, schema version, and the protocol that measurements are written through.

    run.json               schema version, time of creation, config, tensors, provenance, status once closed
    events.jsonl           one JSON object a line: kind, time, and what came with it
    live/000007.arrow      rows as they come: an Arrow IPC stream, one record batch a flush; only its writer touches it
    parts/000006.parquet   sealed segments: sorted, compressed, never changed
    lock                   held by the writer while it lives, by the kernel's word; holds the writer's process number

A segment has one number for life, and sealing moves it from live/ to parts/. It may be in both for a moment (the part
counts) and is never in neither. Numbers grow in the order of writing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from stepscope.errors import DamagedData, UserError

__all__ = ["SCHEMA", "Sink", "read_info", "segments"]

VERSION = 1
SCHEMA = f"stepscope.run/{VERSION}"
INFO = "run.json"
EVENTS = "events.jsonl"
LIVE = "live"
PARTS = "parts"
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


def segments(folder: Path, suffix: str) -> dict[int, Path]:
    """The numbered files in ``folder`` by number, in order of number; none where the folder is missing."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - half the time of iterdir, and readers poll
    except FileNotFoundError:
        return {}
    numbered = {name.removesuffix(suffix): folder / name for name in names if name.endswith(suffix)}
    return dict(sorted((int(stem), path) for stem, path in numbered.items() if stem.isdigit()))


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
        raise DamagedData(f"{path} is no valid JSON. Restore it from a copy; the rows are elsewhere.") from None
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
