"""What becomes of sealed parts while a run goes on: small ones are put together, old ones thinned out to keep a budget.

Both write a new part, let it take its place in one piece and then delete the old ones, so that a kill at any moment
loses nothing and readers never wait (see ``format.py``).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepscope.store import format as layout
from stepscope.store.format import PartFile
from stepscope.store.parts import Part, write_part

__all__ = ["LEAST_BYTES", "Upkeep"]

TOGETHER = 4  # neighbours that become one part ...
MOST_VALUES = 1 << 24  # ... of at most so many values: 128 MiB in memory while it is written, about 50 on the disk
FEW_STEPS = 16  # of one kind in a part are all kept: they are not what fills the disk
RARE = 8  # a kind of step of which there are so many times fewer than of another is rare, and kept too
LEAST_BYTES = 1 << 20
LIVE_SHARE = 8  # a live segment takes this part of the budget at most


class Upkeep:
    """Looks after the parts of the run ``folder``.  max_bytes: what the run may take on the disk, None for no bound.

    live_bytes: how large a live segment may grow, so that what is not yet sealed keeps within the budget too.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder = folder
        self._most = max_bytes
        self.live_bytes = 1 << 62 if max_bytes is None else max_bytes // LIVE_SHARE
        self._known: dict[Path, Part] = {}
        self._thin: set[Path] = set()  # parts that cannot be thinned out any more

    def run(self) -> str:
        """Do what is to be done.  Returns one line on a budget that cannot be kept, else nothing.  Raises: OSError."""
        while window := self._window():
            self._join(window)
        return self._thin_out() if self._most is not None else ""

    def _files(self) -> list[tuple[PartFile, Part]]:
        files = layout.part_files(self._folder)
        self._known = {file.path: self._known.get(file.path) or Part(file.path) for file in files}
        return [(file, self._known[file.path]) for file in files]

    # Putting together -------------------------------------------------------------------------------------------------

    def _window(self) -> Sequence[tuple[PartFile, Part]]:
        """Neighbours worth putting together: a value's part at least doubles each time, so it is rarely rewritten."""
        files = self._files()
        for start in range(len(files) - TOGETHER + 1):
            window = files[start : start + TOGETHER]
            columns = len({name for _, part in window for name in part.names})
            values = [part.rows * columns for _, part in window]
            if sum(values) <= MOST_VALUES and sum(values) >= 2 * max(values):
                return window
        return ()

    def _join(self, window: Sequence[tuple[PartFile, Part]]) -> None:
        name = layout.part_name(window[0][0].first, window[-1][0].last)
        parts = [part for _, part in window]
        thinned = [stretch for part in parts for stretch in part.thinned]
        write_part(self._folder / layout.PARTS / name, parts, thinned)
        for file, _ in window:
            file.path.unlink()

    # Thinning out -----------------------------------------------------------------------------------------------------

    def _thin_out(self) -> str:
        assert self._most is not None
        room = self._most - 2 * self.live_bytes  # for the live segment, and the part it becomes
        protected: NDArray[np.int64] | None = None
        while True:
            files = self._files()
            if sum(part.size for _, part in files) <= room:
                return ""
            choice = self._densest(files)
            if choice is None:
                return (
                    f"{self._folder} takes more than max_bytes = {self._most:,}, and all that is old enough is thinned "
                    "out as far as it goes. Raise it, or record fewer steps, layers or columns."
                )
            if protected is None:
                protected = self._protected()
            dropped = np.setdiff1d(_every_other(files[choice][1]), protected)
            if not len(dropped):
                self._thin.add(files[choice][0].path)
                continue
            for file, part in _sharing(files[: choice + 1], dropped):  # the oldest first
                self._rewrite(file, part, dropped)

    def _densest(self, files: Sequence[tuple[PartFile, Part]]) -> int | None:
        """Which part to thin out next: the one recorded most densely for its age. The newest one is never chosen.

        A run recorded evenly ends with a density that falls as 1 / age: twice as far back, half as many steps.
        """
        spans = [part.steps for _, part in files if part.steps]
        newest = max((last for _, last in spans), default=0)
        scores = [
            (_density(part) * (newest - sum(part.steps) / 2 + 1), -place)
            for place, (file, part) in enumerate(files[:-1])
            if part.steps and file.path not in self._thin
        ]
        return -max(scores)[1] if scores else None

    def _rewrite(self, file: PartFile, part: Part, dropped: NDArray[np.int64]) -> None:
        assert part.steps
        low, high = max(part.steps[0], int(dropped[0])), min(part.steps[1], int(dropped[-1]))
        known = [[a, b, 2 * n] if a <= high and b >= low else [a, b, n] for a, b, n in part.thinned]
        if not any(a <= high and b >= low for a, b, _ in part.thinned):
            known.append([low, high, 2])
        name = layout.part_name(file.first, file.last, file.generation + 1)
        write_part(self._folder / layout.PARTS / name, [part], known, dropped)
        file.path.unlink()

    def _protected(self) -> NDArray[np.int64]:
        """Steps that an event names: they are kept."""
        steps = [event.get("step") for event in layout.read_events(self._folder)]
        return np.array([step for step in steps if isinstance(step, int)], np.int64)


def _density(part: Part) -> float:
    """Recorded steps per step."""
    assert part.steps
    return max(part.layers.values()) / (part.steps[1] - part.steps[0] + 1)


def _every_other(part: Part) -> NDArray[np.int64]:
    """Steps of a part to leave out, sorted: every second one of those at which the same columns were written.

    So what is recorded rarely beside what is recorded often stays as it is.
    """
    steps, place = np.unique(part.read(())["step"].to_numpy(), return_inverse=True)
    kind = np.zeros(len(steps), np.uint64)
    marks = np.random.default_rng(0).integers(1, 2**63, len(part.names), dtype=np.uint64)
    for name, mark in zip(part.names, marks, strict=True):
        written = np.zeros(len(steps), bool)
        written[place[part.read([name])[name].is_valid().to_numpy()]] = True
        kind += written * mark  # wraps around; two kinds are equal by chance in one of 2**63 cases
    alike = [np.flatnonzero(kind == one) for one in np.unique(kind)]
    most = max(map(len, alike), default=0)
    left_out = [steps[group[1::2]] for group in alike if len(group) > FEW_STEPS and RARE * len(group) >= most]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *left_out]))


def _sharing(files: Sequence[tuple[PartFile, Part]], dropped: NDArray[np.int64]) -> Iterator[tuple[PartFile, Part]]:
    """The last one, and those before it with some of the dropped steps: an older value must not come back for one."""
    for file, part in files[:-1]:
        if part.steps and part.steps[1] >= dropped[0] and part.steps[0] <= dropped[-1]:
            steps = part.read((), steps=(int(dropped[0]), int(dropped[-1])))["step"].to_numpy()
            if np.isin(steps, dropped).any():
                yield file, part
    yield files[-1]
