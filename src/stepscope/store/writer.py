"""Recording a run: what the training loop calls. The work is done by ``recorder.py``, on a thread of its own."""

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stepscope.store.recorder import FLUSH_ROWS, Recorder

__all__ = ["RunWriter"]


class RunWriter:
    """A run folder open for recording; a ``Sink``, and a context manager that closes it.

    folder: created if need be. A folder that already holds a run is continued: its rows stay, and a row written
    again at the same step and layer replaces the old value when it is read.
    config, tensors: kept in run.json (see ``files.plain`` for what becomes of objects); where a continued run is
    given none, the former ones stay. tensors is a list of objects with at least "name".
    flush_seconds: > 0; what a killed process can lose at most.

    ``write`` costs the calling thread about 1 us and never raises because of the disk: a failure is logged once, by
    the logger "stepscope.store", rows are kept up to 64 MiB, and recording goes on when the disk lets it.
    In a forked child (a DataLoader's worker) the writer takes nothing and writes nothing.

    Raises: UserError if the folder cannot be written, holds something else or a newer version's run;
    FolderInUse if another writer is at work there; ValueError for flush_seconds out of range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        tensors: Sequence[Mapping[str, Any]] = (),
        flush_seconds: float = 1.0,
    ) -> None:
        if not flush_seconds > 0:
            raise ValueError(f"flush_seconds must be > 0, got {flush_seconds}")
        self.folder = Path(folder)
        self._recorder = Recorder(self.folder, config or {}, tensors, min(flush_seconds, threading.TIMEOUT_MAX))
        # The background thread knows the recorder only, so a forgotten writer is collected, and closed by this.
        weakref.finalize(self, self._recorder.close, "interrupted")

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        """Take one row; ``values`` is copied.  Raises: ValueError after ``close``."""
        recorder = self._recorder
        if recorder.closed:
            recorder.refuse()
        else:
            rows = recorder.rows
            rows.append((step, layer, dict(values)))
            if len(rows) >= FLUSH_ROWS:
                recorder.hurry()

    def event(self, kind: str, **data: Any) -> None:
        """Note that something happened now; it appears in ``Run.events`` as kind, time (UTC, ISO) and ``data``.

        Raises: ValueError after ``close``.
        """
        if self._recorder.closed:
            self._recorder.refuse()
        else:
            self._recorder.note(kind, data)

    def flush(self) -> None:
        """Hand every row and event taken so far to the operating system: from here on a kill cannot lose them.

        Never raises because of the disk; does nothing after ``close``.
        """
        self._recorder.flush()

    def close(self, status: str = "finished") -> None:
        """Flush, seal, record ``status`` ("finished", "failed" or "interrupted") and let go of the folder.

        A second call does nothing.  Raises: ValueError for another status.
        """
        if status not in {"finished", "failed", "interrupted"}:
            raise ValueError(f"status must be finished, failed or interrupted, got {status!r}")
        self._recorder.close(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close: finished, failed after an exception, interrupted after Ctrl-C."""
        self.close("finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed")
