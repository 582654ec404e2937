"""What a sweep tells whoever watches it."""

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Kind", "Progress", "Silent", "TrialEvent"]

Kind = Literal["tuning", "replication", "skipped"]


@dataclass(frozen=True)
class TrialEvent:
    """A trial that is done.

    kind: "tuning", "replication", or "skipped" for the replications of a method without a stable step size.
    status: "ok", "diverged", "failed" or "skipped".  trials: how many this event stands for.
    cached: it was done before this sweep was started or resumed.
    done, total: trials so far and in all.  seconds: of training; None where unknown.
    """

    kind: Kind
    method: str
    label: str
    status: str
    done: int
    total: int
    lr: float | None = None
    seed: int | None = None
    trials: int = 1
    cached: bool = False
    seconds: float | None = None


class Progress(Protocol):
    """Draws bars, prints lines, or does nothing. Called from the thread that called `dissect`."""

    def start(self, total: int) -> None:
        """The number of trials in all, known before the first one."""

    def advance(self, event: TrialEvent) -> None:
        """A trial is done (or, on resuming, was done before)."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """Shows nothing."""

    def start(self, total: int) -> None:
        """Nothing."""

    def advance(self, event: TrialEvent) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
