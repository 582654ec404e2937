"""How far a dissection is: bars with the time left on a terminal, a line now and then elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from stepscope.experiments.progress import Progress, TrialEvent

__all__ = ["Bars", "Lines", "watch"]

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def watch() -> "Iterator[Progress]":
    """Progress on stderr while the block runs, as fits what stderr is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a point's colons are no emoji
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Trials end in bursts, one a process: the time left is judged by the last two minutes, not the last few trials.
    with RichProgress(*columns, console=console, transient=True, speed_estimate_period=120) as display:
        yield Bars(display)


def describe(event: "TrialEvent") -> str:
    """A trial in a few words: what was run, and how it went unless it went well."""
    what = [event.label]
    if event.lr is not None:
        what.append(f"lr {event.lr:g}")
    if event.kind == "replication" and event.seed is not None:
        what.append(f"seed {event.seed}")
    return ", ".join(what) + ("" if event.status == "ok" else f": {event.status}")


class Bars:
    """One bar over all trials, with the latest trial beside it."""

    def __init__(self, display: RichProgress) -> None:
        self._display = display
        self._task = display.add_task("starting", total=None)

    def start(self, total: int) -> None:
        """Know how many trials there are."""
        self._display.update(self._task, total=total)

    def advance(self, event: "TrialEvent") -> None:
        """Move the bar."""
        self._display.update(self._task, total=event.total, completed=event.done, description=describe(event))

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._display.console.print(text, markup=False, highlight=False, emoji=False)


class Lines:
    """A line at the start, one every ten seconds, and one at the end: for logs and pipes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._spoke = clock()
        self._reused = 0

    def start(self, total: int) -> None:
        """Say how many trials there are."""
        self._started = self._spoke = self._clock()
        self.note(f"{total} trials")

    def advance(self, event: "TrialEvent") -> None:
        """Say how far it is, if the last line was long ago or this is the end."""
        now = self._clock()
        if event.cached or event.kind == "skipped":
            self._reused += event.trials
        if event.done < event.total and now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        trained = event.done - self._reused
        left = (event.total - event.done) * (now - self._started) / trained if trained > 0 else 0.0
        rest = f", about {left:.0f} s left" if event.done < event.total and left else ""
        self.note(f"{event.done} of {event.total} trials{rest} ({describe(event)})")

    def note(self, text: str) -> None:
        """Print a line at once."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
