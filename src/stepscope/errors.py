"""Errors that the caller can mend: each message says what, got, where and what to do."""

import difflib
from collections.abc import Iterable

__all__ = ["DamagedData", "FolderInUse", "UserError", "unknown_name"]


LONGEST_NAME = 60  # characters of a wrong name that an error repeats


class UserError(Exception):
    """The caller can fix it. The command line prints it, as one line unless `lines` belong to it, and exits with 2."""

    lines = False


class DamagedData(UserError):
    """A data file is not what its checksum, size or format says."""


class FolderInUse(UserError):
    """A run folder belongs to other settings or to a process that is still writing."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a closed list, with the nearest known one.

    >>> str(unknown_name("problem", "digit", ["digits", "fashion-mnist"]))
    "unknown problem 'digit': did you mean 'digits'? Known: digits, fashion-mnist."
    """
    names = sorted(known)
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}.")
