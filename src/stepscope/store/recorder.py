"""The part of recording that touches the disk: segments that grow, are sealed, and outlive a kill or a full disk.

A row passes through three places: ``rows`` (as it was handed over), ``_pending`` (encoded, waiting for the disk; almost
always empty) and the live segment. What is in the segment outlives a kill. See ``format.py`` for the folder.
"""

import collections
import contextlib
import datetime
import json
import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from stepscope.errors import UserError
from stepscope.store import format as layout
from stepscope.store.files import plain, refusal, write_json
from stepscope.store.lock import FolderLock
from stepscope.store.provenance import provenance
from stepscope.store.segments import Row, Segment, clean, is_column, seal, to_batch

__all__ = ["FLUSH_ROWS", "Recorder"]

log = logging.getLogger("stepscope.store")

FLUSH_ROWS = 4096  # wake the background thread early
MOST_ROWS = 16 * FLUSH_ROWS  # about 130 MB of rows of 20 values: beyond, the training thread lends a hand
MOST_PENDING = 64 << 20  # bytes kept for a disk that refuses them
MOST_EVENTS = 10_000  # likewise
# A segment is sealed at the first of these. Few rows a flush make many batches, and reading costs 0.1 ms a batch.
SEAL_ROWS, SEAL_BYTES, SEAL_BATCHES = 1 << 16, 64 << 20, 1024


class _Encoded(NamedTuple):
    """A serialized record batch on its way to the disk."""

    columns: tuple[str, ...]
    message: pa.Buffer
    rows: int


class Recorder:
    """All that touches the folder. One thread at a time, by ``_guard``; ``rows`` and ``_lines`` are open to any."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], tensors: Sequence[Mapping[str, Any]], flush_seconds: float
    ) -> None:
        self.rows: list[Row] = []
        self.closed = False
        self._forked = False
        self._folder = folder
        self._lines: list[bytes] = []
        self._columns: dict[str, None] = {}  # every column so far, in order of appearance
        self._pending: collections.deque[_Encoded] = collections.deque()
        self._lost = self._noted = 0  # rows dropped from _pending, and how many of them an event tells of
        self._complained: set[str] = set()
        self._segment: Segment | None = None
        self._farewell = ""  # the status to close with, where close found the recorder busy
        self._busy = False
        # Reentrant: a signal handler, or the garbage collector, may call in while this very thread is at work here.
        self._guard = threading.RLock()
        self._wake = threading.Event()
        try:
            self._open(config, tensors)
        except OSError as error:
            raise UserError(refusal(error, Path(error.filename or folder))) from error
        self._thread = threading.Thread(target=self._loop, args=(flush_seconds,), name="stepscope-store", daemon=True)
        self._thread.start()
        _RECORDERS.add(self)

    def _open(self, config: Mapping[str, Any], tensors: Sequence[Mapping[str, Any]]) -> None:
        folder, path = self._folder, self._folder / layout.INFO
        if path.exists():
            layout.read_info(folder)  # before a file is made there, refuse a folder that is none of ours
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(folder / layout.LOCK)
        try:
            before = layout.read_info(folder) if path.exists() else {}
            self._info = {
                "schema": layout.SCHEMA,
                "created": before.get("created") or _now(),
                "status": None,
                "config": plain(config or before.get("config", {})),
                "tensors": plain(tensors or before.get("tensors", [])),
                "provenance": provenance(),
            }
            for name in (layout.LIVE, layout.PARTS):
                (folder / name).mkdir(exist_ok=True)
            for leftover in [*folder.glob(f".{layout.INFO}.*.tmp"), *(folder / layout.PARTS).glob(".*.parquet.*.tmp")]:
                leftover.unlink()
            used = [*self._segments(layout.LIVE), *self._segments(layout.PARTS)]
            self._next = max(used, default=0) + 1
            self._seal_rest()
            write_json(path, self._info)
            # Warm up: the first use of pyarrow costs up to 0.3 s, which would fall into the first flush.
            to_batch([(0, "", {"warm": 0.0})], ["warm"]).serialize()
        except BaseException:
            self._lock.release()
            raise
        if before:
            self.note("continued", {key: before.get(key) for key in ("status", "config", "provenance")})

    # What callers reach ---------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Answer a call after the end: silence in a forked child, an error for everybody else."""
        if not self._forked:
            raise ValueError(f"the run {self._folder} is closed; it takes no more rows or events")

    def hurry(self) -> None:
        """Many rows wait: wake the background thread, and beyond ``MOST_ROWS`` make the caller wait for the disk."""
        if not self._wake.is_set():
            self._wake.set()
        if len(self.rows) >= MOST_ROWS:
            self.flush()

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Queue an event."""
        self._lines.append(json.dumps(plain({"time": _now(), **data, "kind": kind})).encode() + b"\n")

    def flush(self) -> None:
        """Bring rows and events to the disk, as far as it lets us."""
        if self.closed:  # in a forked child the guard may never be released, so look first
            return
        with self._guard:
            if not self._busy and not self.closed:
                self._busy = True
                try:
                    self._drain()
                finally:
                    self._busy = False

    def close(self, status: str) -> None:
        """Flush, seal, write the status, release the folder."""
        if self.closed:
            return
        self._farewell = self._farewell or status
        with self._guard:
            if self._busy:  # called from within flush on this thread's own stack: the background thread will do it
                self._wake.set()
                return
            if not self.closed:
                self._busy = True
                try:
                    self._finish(self._farewell)
                finally:
                    self._busy = False
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def forget(self) -> None:
        """In a forked child: the run belongs to the parent. (The lock sees to itself.)"""
        self._forked = self.closed = True

    # What only the holder of the guard does -------------------------------------------------------------------------

    def _loop(self, flush_seconds: float) -> None:
        while not self.closed:
            self._wake.wait(flush_seconds)
            self._wake.clear()
            if self._farewell:
                self.close(self._farewell)
            else:
                self.flush()

    def _drain(self) -> None:
        """Everything queued goes to the disk or stays queued within bounds. Lets no Exception out."""
        if not (self.rows or self._pending or self._lines or self._lost > self._noted):
            return
        try:
            self._encode()
            self._lock.check()
            self._store()
            self._store_events()
        except OSError as error:
            self._bound()
            why = refusal(error, Path(error.filename or self._folder))
            self._complain("disk", f"{why} Recording waits; up to {MOST_PENDING >> 20} MiB of rows are kept meanwhile.")
        except Exception as error:  # a mistake of ours must not end the thread, nor a training
            self._bound()
            self._complain("internal", f"recording to {self._folder} failed: {error!r}")

    def _encode(self) -> None:
        count = len(self.rows)
        if not count:
            return
        rows = self.rows[:count]
        names = set().union(*(values for _, _, values in rows))
        if fresh := {name for name in names - self._columns.keys() if is_column(name)}:
            self._columns.update((name, None) for _, _, values in rows for name in values if name in fresh)
        if odd := names - self._columns.keys():
            self._complain("name", f"{self._folder}: no column can be called {', '.join(sorted(map(repr, odd)))}.")
        columns = tuple(self._columns)
        try:
            batch = to_batch(rows, columns)
        except (TypeError, ValueError, OverflowError):
            rows, problem = clean(rows, columns)
            if problem:
                self._complain("value", f"{self._folder}: {problem}; left out, like all of this kind.")
            batch = to_batch(rows, columns)
        self._pending.append(_Encoded(columns, batch.serialize(), len(batch)))
        del self.rows[:count]

    def _store(self) -> None:
        while self._pending:
            encoded = self._pending[0]
            if self._segment is not None and (self._segment.columns != encoded.columns or _is_full(self._segment)):
                self._leave_segment()
                self._seal_rest()
            if self._segment is None:
                path = self._folder / layout.LIVE / f"{self._next:06d}.arrow"
                self._segment = Segment(path, encoded.columns)
                self._next += 1
            begun = self._segment.batches > 0
            try:
                self._segment.append(encoded.message, encoded.rows)
            except BaseException as error:
                # Nothing behind a torn batch can be read, so this one goes to a new segment, at once or later.
                with contextlib.suppress(OSError):
                    self._leave_segment()
                if begun and isinstance(error, OSError):
                    continue
                raise
            self._pending.popleft()
        if self._lost > self._noted:
            self.note("rows_lost", {"rows": self._lost - self._noted})
            self._noted = self._lost

    def _store_events(self) -> None:
        count = len(self._lines)
        if not count:
            return
        path = self._folder / layout.EVENTS
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a writer was killed in the middle of a line
            rest = memoryview(b"\n" * torn + b"".join(self._lines[:count]))
            try:
                while rest:
                    rest = rest[os.write(file, rest) :]
            except BaseException:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
        del self._lines[:count]

    def _finish(self, status: str) -> None:
        try:
            self._drain()
            with contextlib.suppress(OSError):
                self._leave_segment()
            self._lock.check()
            self._seal_rest()
            write_json(self._folder / layout.INFO, {**self._info, "status": status, "closed": _now()})
        except (OSError, UserError) as error:
            self._complain("disk", f"{self._folder} could not be closed: {error}")
        finally:
            self.closed = True
            self._lock.release()
            _RECORDERS.discard(self)
        if lost := self._lost + sum(encoded.rows for encoded in self._pending):
            log.warning("%s: %d rows could not be written and are lost.", self._folder, lost)

    def _leave_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _segments(self, name: str) -> dict[int, Path]:
        return layout.segments(self._folder / name, ".arrow" if name == layout.LIVE else ".parquet")

    def _seal_rest(self) -> None:
        """Seal every live segment but the one being written: our last one, or those of a killed writer."""
        for number, path in self._segments(layout.LIVE).items():
            if self._segment is None or path != self._segment.path:
                try:
                    seal(path, self._folder / layout.PARTS / f"{number:06d}.parquet")
                except Exception as error:  # it can be read as it is; the next seal, or the next writer, tries again
                    topic = "disk" if isinstance(error, OSError) else "seal"
                    self._complain(topic, f"{path} could not be sealed ({error}). It is readable and stays as it is.")

    def _bound(self) -> None:
        """Drop the oldest of what waits for a disk that refuses it."""
        while sum(encoded.message.size for encoded in self._pending) > MOST_PENDING:
            self._lost += self._pending.popleft().rows
        del self._lines[:-MOST_EVENTS], self.rows[:-MOST_ROWS]

    def _complain(self, topic: str, text: str) -> None:
        """Log the first trouble of a kind; the same again every second would bury the user's own output."""
        if topic not in self._complained:
            self._complained.add(topic)
            log.warning("%s", text)


def _is_full(segment: Segment) -> bool:
    return segment.rows >= SEAL_ROWS or segment.bytes >= SEAL_BYTES or segment.batches >= SEAL_BATCHES


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


_RECORDERS: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _forget_all() -> None:
    for recorder in list(_RECORDERS):
        recorder.forget()


os.register_at_fork(after_in_child=_forget_all)
