"""A part of a sweep: the trials that one job of a job array does, all jobs sharing one folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stepscope.errors import UserError
from stepscope.store.lock import is_held

__all__ = ["PartDone", "Shard", "is_at_work"]


class PartDone(UserError):
    """This part of the sweep has done all it can; what is left is for the other parts, or waits for them."""


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "2/8".  Raises: UserError for another form.

        >>> Shard.parse("2/8")
        Shard(index=2, count=8)
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise UserError(f"a shard is written i/n with 1 <= i <= n, such as 2/8, got {text!r}.")

    def owns(self, trial: str) -> bool:
        """Whether a trial of this id is this part's: each is exactly one's."""
        return int(trial, 16) % self.count == self.index - 1

    @property
    def lock(self) -> str:
        """The name of the file that is locked while this part is at work."""
        return f"lock-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        """As `parse` takes it."""
        return f"{self.index}/{self.count}"


def is_at_work(folder: Path) -> bool:
    """Whether a living process is working on the sweep in this folder: on all of it, or on a part."""
    return is_held(folder / "lock") or any(is_held(lock) for lock in folder.glob("lock-*-of-*"))
