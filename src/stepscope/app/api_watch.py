"""What the dashboard asks the server: the runs below one folder, and nothing outside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepscope.app.endpoint import Call, Endpoint, endpoint
from stepscope.errors import UserError
from stepscope.store import Run

__all__ = ["RunList", "endpoints"]


@dataclass(frozen=True)
class Nothing:
    """No arguments."""


@dataclass(frozen=True)
class RunLine:
    """One run. id: its folder, relative to the folder that is watched.  problem: why it cannot be read."""

    id: str
    status: str
    created: str = ""
    problem: str = ""
    tensors: int = 0


@dataclass(frozen=True)
class RunList:
    """The runs below the folder."""

    folder: str
    runs: list[RunLine] = field(default_factory=list)


def _line(root: Path, folder: Path) -> RunLine:
    id = folder.relative_to(root).as_posix()
    try:
        run = Run(folder)
        info: dict[str, Any] = run.info
        return RunLine(id, run.status, str(info.get("created", "")), tensors=len(info.get("tensors", [])))
    except (UserError, OSError) as error:
        return RunLine(id, "broken", problem=str(error))


def endpoints(root: Path) -> Sequence[Endpoint]:
    """The addresses of a dashboard of the runs below `root`."""
    root = root.resolve()

    @endpoint("GET", "/api/runs")
    def runs(query: Nothing, call: Call) -> RunList:
        """The runs below the watched folder, with their status."""
        folders = sorted(path.parent for path in root.rglob("run.json"))
        return RunList(root.name, [_line(root, folder) for folder in folders])

    return (runs,)
