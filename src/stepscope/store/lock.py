"""One writer a folder: a lock that the kernel releases when its process dies, however it dies."""

import contextlib
import errno
import fcntl
import logging
import os
import time
import weakref
from pathlib import Path

from stepscope.errors import FolderInUse

__all__ = ["FolderLock", "is_held"]

# Readers hold the lock, shared, for microseconds to learn whether a writer lives; a writer waits that long.
PATIENCE = 0.5
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


class FolderLock:
    """The lock on the file ``path``, created if need be and held from here to ``release``.

    Raises: FolderInUse if another writer, in this process or elsewhere, holds it; OSError if the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._acquire(file)
            os.ftruncate(file, 0)
            os.write(file, b"%d\n" % os.getpid())
        except BaseException:
            os.close(file)
            raise
        self._file: int | None = file
        _HELD.add(self)

    def _acquire(self, file: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._in_use(os.pread(file, 32, 0)) from None
                time.sleep(0.01)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                text = "%s is on a file system without locks: make sure that nothing else records there."
                return logging.getLogger("stepscope.store").warning(text, self.path.parent)

    def _in_use(self, content: bytes) -> FolderInUse:
        owner = content.decode(errors="replace").strip()
        folder = self.path.parent
        if owner == str(os.getpid()):
            return FolderInUse(f"{folder} is already being recorded by this process. Close that writer first.")
        whose = f"process {owner}" if owner else "another process"
        return FolderInUse(f"{folder} is being recorded by {whose}. Choose another folder, or wait until it ends.")

    def check(self) -> None:
        """OSError if the lock's file is not in its place any more: the folder was deleted, moved or replaced."""
        assert self._file is not None
        if not os.path.samestat(self.path.stat(), os.fstat(self._file)):
            raise OSError(errno.ESTALE, "the folder was replaced by another", str(self.path))

    def release(self) -> None:
        """Let go; the file stays, because deleting it would let two writers hold two locks of one name.

        Does nothing a second time, nor in a forked child: the lock is the parent's.
        """
        if self._file is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)  # not by closing alone: a child may hold a copy
            os.close(self._file)
            self._file = None

    def _forget(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: drop the inherited copies, so that a lock ends with the parent and not with the child."""
    for lock in list(_HELD):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on the file ``path``; True where the file system cannot tell."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # never locked, or a copy of a run from elsewhere
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in UNSUPPORTED
    else:
        fcntl.flock(file, fcntl.LOCK_UN)  # not by closing alone: a fork in this moment has a copy
        return False
    finally:
        os.close(file)
