"""The segments of a run folder as a reader sees them, while its writer seals, joins and thins them out."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from stepscope.errors import UserError
from stepscope.store import format as layout
from stepscope.store.live import Live
from stepscope.store.parts import Part

__all__ = ["Segments", "Source"]

Source = Part | Live
_File = tuple[Path, int]  # and inode
T = TypeVar("T")
ATTEMPTS = 100  # each one is lost only to a segment sealed in the milliseconds between listing and reading


class Segments:
    """What ``folder`` holds, footers and live rows kept between looks.  May be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[_File, Part] = {}
        self._live: dict[_File, Live] = {}
        self._guard = threading.Lock()

    def read(self, what: Callable[[Sequence[Source]], T]) -> T:
        """``what`` makes of the segments, in the order of writing; again where one of them was gone in between.

        A writer may be sealing meanwhile. Live segments are listed before parts, so none is missed; one that is gone
        when its turn comes has become a part, or has been put together with others, and we look again.
        Raises: DamagedData for a part that cannot be understood.
        """
        for _ in range(ATTEMPTS):
            try:
                return what(self._look())
            except FileNotFoundError:
                continue
        raise UserError(f"{self.folder} changes faster than it can be read. Is something else deleting files there?")

    def _look(self) -> list[Source]:
        live = layout.live_files(self.folder)
        parts = layout.part_files(self.folder)
        with self._guard:
            # A file never changes, but another run may lie in its place where the folder was deleted and made again.
            named = [(file, _file(file.path)) for file in parts]
            self._parts = {name: self._parts.get(name) or Part(file.path) for file, name in named}
            sealed = {number for file in parts for number in range(file.first, file.last + 1)}
            growing = [(number, path, _file(path)) for number, path in live.items() if number not in sealed]
            self._live = {name: self._live.get(name) or Live(path) for _, path, name in growing}
            for segment in self._live.values():
                segment.refresh()
            found: list[tuple[int, Source]] = [(file.first, self._parts[name]) for file, name in named]
            found += [(number, self._live[name]) for number, _, name in growing]
        return [source for _, source in sorted(found, key=lambda pair: pair[0])]


def _file(path: Path) -> _File:
    return path, path.stat().st_ino
