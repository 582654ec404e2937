"""Recording a run: what the training loop calls. The work is done by ``recorder.py``, on a thread of its own."""

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stepscope.store.recorder import FLUSH_ROWS, FLUSH_VALUES, Recorder
from stepscope.store.rows import Block, is_column
from stepscope.store.upkeep import LEAST_BYTES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["RunWriter"]


class RunWriter:
    """A run folder open for recording; a ``Sink``, and a context manager that closes it.

    folder: created if need be. A folder that already holds a run is continued: its rows stay, and a row written
    again at the same step and layer replaces the old value when it is read.
    config, tensors: kept in run.json (see ``files.plain`` for what becomes of objects); where a continued run is
    given none, the former ones stay. tensors is a list of objects with at least "name".
    flush_seconds: > 0; what a killed process can lose at most.
    bits: significant bits kept of each value of a layer, 8 to 53. 53 keep everything and take up to 8 bytes a value; 21
    (a relative error below 5e-7) take about 3. Values of the run as a whole (loss, step size) are kept exactly.
    max_bytes: what the run may take on the disk, at least 1 MiB. Where it would take more, old stretches are thinned
    out, to every second recorded step at a time, so that twice as far back there are about half as many steps. The
    newest part is never touched, nor what is recorded rarely, nor steps that an event names.

    ``write`` costs the calling thread about 1 us, ``write_block`` about 1 us for 1000 values. Neither raises because of
    the disk: a failure is logged once, by the logger "stepscope.store", rows are kept up to 64 MiB, and recording goes
    on when the disk lets it. A deleted folder is made again after half a minute, or on closing, unless the folder above
    it is gone too or somebody else's run is in its place.
    In a forked child (a DataLoader's worker) the writer takes nothing and writes nothing.

    Raises: UserError if the folder cannot be written, holds something else or a newer version's run;
    FolderInUse if another writer is at work there; ValueError for a number out of range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        tensors: Sequence[Mapping[str, Any]] = (),
        flush_seconds: float = 1.0,
        bits: int = 53,
        max_bytes: int | None = None,
    ) -> None:
        if not flush_seconds > 0:
            raise ValueError(f"flush_seconds must be > 0, got {flush_seconds}")
        if not 8 <= bits <= 53:
            raise ValueError(f"bits must lie between 8 and 53, got {bits}")
        if max_bytes is not None and max_bytes < LEAST_BYTES:
            raise ValueError(f"max_bytes must be at least {LEAST_BYTES:,}, got {max_bytes:,}")
        self.folder = Path(folder)
        seconds = min(flush_seconds, threading.TIMEOUT_MAX)
        self._block: tuple[Sequence[str], Sequence[str]] = (), ()  # the names that were passed last, and copies of them
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        self._recorder = Recorder(self.folder, config or {}, tensors, seconds, bits, max_bytes)
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

    def write_block(
        self, step: "int | ArrayLike", layers: Sequence[str], columns: Sequence[str], values: "ArrayLike"
    ) -> None:
        """Take many rows at once: ``values`` is [row, column], and copied; NaN is a value too.

        step: of all rows, or one for each.  layers: one for each row.  The same layers at several steps are
        [step, row, column], with as many steps. Pass the same tuples of layers and columns each time: it is what makes
        it quick.
        Raises: ValueError after ``close``, for another shape, or for a name that no column can have.
        """
        recorder = self._recorder
        if recorder.closed:
            recorder.refuse()
            return
        if layers is not self._block[0] or columns is not self._block[1]:
            _check_names(layers, columns)
            self._block = layers, columns
            self._names = tuple(layers), tuple(columns)
        names, table = self._names, np.array(values, np.float64)
        steps = step if isinstance(step, int) else np.array(step, np.int64)
        shape = len(names[0]), len(names[1])
        fits = np.shape(steps) in ((), shape[:1]) if table.ndim < 3 else np.shape(steps) == table.shape[:1]
        if table.shape[-2:] != shape or table.ndim > 3 or not fits:
            raise ValueError(
                f"values must have the shape {shape} of rows and columns, got {table.shape} "
                f"for steps of shape {np.shape(steps)}"
            )
        block = Block(steps, *names, table)
        recorder.rows.append(block)
        if (waiting := len(recorder.rows) * table.size) >= FLUSH_VALUES:
            recorder.hurry(waiting)

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


def _check_names(layers: Sequence[str], columns: Sequence[str]) -> None:
    if bad := [name for name in columns if not is_column(name)]:
        raise ValueError(f"no column can be called {bad[0]!r}")
    for kind, names in (("layer", layers), ("column", columns)):
        if bad := [name for name in names if not isinstance(name, str)]:
            raise ValueError(f"the name of a {kind} must be text, got {bad[0]!r}")
    if len(set(columns)) < len(columns):
        raise ValueError("each column of a block must have a name of its own")
