"""Files that are never seen half written, and one clear line for the user when the disk refuses."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, BinaryIO

from stepscope.errors import UserError

__all__ = ["plain", "refusal", "replacing", "write_json"]


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as JSON so that every reader, at any moment, sees the old file or the new one and nothing else.

    What JSON does not know is translated by ``plain``: NaN and infinities become null. The file is on the disk,
    not only in the system's cache, when this returns. The folder must exist.
    Raises: UserError that names the file and what to do (disk full, read-only, no such folder ...).
    """
    path = Path(path)
    text = json.dumps(plain(obj), indent=2, allow_nan=False)
    try:
        with replacing(path) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise UserError(refusal(error, path)) from error


def plain(value: Any) -> Any:  # noqa: PLR0911 - one return a kind
    """``value`` in JSON's own kinds: numbers, strings, true, false, null, lists, objects with string keys.

    Arrays and tensors become lists, data classes objects, sets sorted lists, numbers that are not finite null
    (JSON has no NaN), and anything else its ``str``.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case AbstractSet():
            return plain(sorted(value, key=str))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    # NumPy and torch, without importing either.
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path``, safe on the disk, when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    # The new name must outlast a power failure too; some network file systems cannot sync a folder.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def refusal(error: OSError, path: Path) -> str:
    """One line for the user: why ``path`` cannot be written, and what to do about it."""
    folder = path.parent
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            why, what = "the disk is full", f"Free some space on the disk of {folder}, or choose another folder."
        case errno.EFBIG:
            why, what = "the file would get too large", "Raise the limit on file sizes (ulimit -f)."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            why, what = "writing is not allowed there", "Choose a folder that you may write to."
        case errno.ENOENT:
            why, what = f"the folder {folder} is missing", "It must exist as long as it is written to."
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            why, what = "a file is in the place of a folder, or the other way round", "Choose another folder."
        case _:
            why = error.strerror or (str(error).splitlines() or ["unknown reason"])[0]
            what = f"Check the disk of {folder}, or choose another folder."
    return f"cannot write {path}: {why}. {what}"
