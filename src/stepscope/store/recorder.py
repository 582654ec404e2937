"""The part of recording that touches the disk: segments that grow, are sealed, and outlive a kill or a full disk.

A row passes through three places: ``rows`` (as it was handed over), ``_pending`` (encoded, waiting for the disk; almost
always empty) and the live segment. What is in the segment outlives a kill. See ``format.py`` for the folder, and
``upkeep.py`` for what becomes of sealed segments.
"""

import collections
import contextlib
import datetime
import errno
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from stepscope.errors import FolderInUse, UserError
from stepscope.store import format as layout
from stepscope.store.files import plain, refusal, write_json
from stepscope.store.live import Segment, framed
from stepscope.store.lock import FolderLock
from stepscope.store.parts import seal
from stepscope.store.provenance import provenance
from stepscope.store.rows import Block, Row, clean, grouped, is_column, rounded, table_of, to_table
from stepscope.store.upkeep import Upkeep

__all__ = ["FLUSH_ROWS", "FLUSH_VALUES", "Recorder", "leftovers"]

log = logging.getLogger("stepscope.store")

FLUSH_ROWS = 4096  # wake the background thread early
MOST_ROWS = 16 * FLUSH_ROWS  # about 130 MB of rows of 20 values: beyond, the training thread lends a hand
FLUSH_VALUES = 1 << 20  # the same for blocks, which are arrays: 8 MiB ...
MOST_VALUES = 16 * FLUSH_VALUES  # ... and 128
MOST_PENDING = 64 << 20  # bytes kept for a disk that refuses them
MOST_EVENTS = 10_000  # likewise
# A segment is sealed at the first of these. Few rows a flush make many frames, and reading costs 0.1 ms a frame.
SEAL_ROWS, SEAL_BYTES, SEAL_BATCHES = 1 << 20, 32 << 20, 1024
GONE_SECONDS = 30.0  # a folder that is gone so long is made anew: it was deleted, not moved away for a moment


class _Encoded(NamedTuple):
    """A frame on its way to the disk."""

    frame: bytes
    rows: int


class Recorder:
    """All that touches the folder. One thread at a time, by ``_guard``; ``rows`` and ``_lines`` are open to any."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        tensors: Sequence[Mapping[str, Any]],
        flush_seconds: float,
        bits: int,
        max_bytes: int | None,
    ) -> None:
        self.rows: list[Row | Block] = []
        self.closed = False
        self._forked = False
        self._folder = folder
        self._lines: list[bytes] = []
        self._pending: collections.deque[_Encoded] = collections.deque()
        self._lost = self._noted = 0  # rows dropped from _pending, and how many of them an event tells of
        self._complained: set[str] = set()
        self._bits = bits
        self._upkeep = Upkeep(folder, max_bytes)
        self._gone_since: float | None = None
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
            self._settle()
            write_json(path, self._info)
            # Warm up: the first use of pyarrow costs up to 0.3 s, which would fall into the first flush.
            framed(rounded(to_table([(0, "", {"warm": 0.0})], ["warm"]), 24))
        except BaseException:
            self._lock.release()
            raise
        if before:
            self.note("continued", {key: before.get(key) for key in ("status", "config", "provenance")})

    def _settle(self) -> None:
        """Make the folder ready: tidy up and seal what a killed writer left, and find the next free number."""
        for name in (layout.LIVE, layout.PARTS):
            (self._folder / name).mkdir(exist_ok=True)
        for leftover in leftovers(self._folder):
            leftover.unlink()
        used = [*layout.live_files(self._folder), *(part.last for part in layout.part_files(self._folder))]
        self._next = max(used, default=0) + 1
        self._seal_rest()

    # What callers reach ---------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Answer a call after the end: silence in a forked child, an error for everybody else."""
        if not self._forked:
            raise ValueError(f"the run {self._folder} is closed; it takes no more rows or events")

    def hurry(self, values: int = 0) -> None:
        """Many rows, or ``values`` in blocks, wait: wake the background thread; beyond a bound wait for the disk."""
        if not self._wake.is_set():
            self._wake.set()
        if values >= MOST_VALUES or len(self.rows) >= MOST_ROWS:
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
            self._check_place()
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
        tables = [pa.table({})]
        for blocks, rows in grouped(self.rows[:count]):
            tables.append(table_of(blocks) if blocks else self._table(rows))
        table = pa.concat_tables(tables[1:], promote_options="default").unify_dictionaries()
        self._pending.append(_Encoded(framed(rounded(table, self._bits)), len(table)))
        del self.rows[:count]

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        names = set().union(*(values for _, _, values in rows))
        columns = [name for name in dict.fromkeys(name for _, _, values in rows for name in values) if is_column(name)]
        if odd := names - set(columns):
            self._complain("name", f"{self._folder}: no column can be called {', '.join(sorted(map(repr, odd)))}.")
        try:
            return to_table(rows, columns)
        except (TypeError, ValueError, OverflowError):
            rows, problem = clean(rows, columns)
            if problem:
                self._complain("value", f"{self._folder}: {problem}; left out, like all of this kind.")
            return to_table(rows, columns)

    def _check_place(self) -> None:
        """See that the folder is still ours; take it back where it was deleted and nobody else's run is there.

        Raises: OSError as long as it is not.
        """
        try:
            self._lock.check()
            self._gone_since = None
        except OSError:
            if not self._may_return():
                raise
            try:
                lock = FolderLock(self._folder / layout.LOCK)
            except FolderInUse as error:
                raise OSError(errno.ESTALE, str(error), str(self._folder)) from None
            with contextlib.suppress(OSError):
                self._leave_segment()
            self._lock.release()
            self._lock, self._gone_since = lock, None
            self._settle()
            if not (self._folder / layout.INFO).exists():
                write_json(self._folder / layout.INFO, self._info)
            self.note("resumed", {"after": "the folder was gone"})

    def _may_return(self) -> bool:
        """Whether a folder that is not the one we opened may be recorded to; a deleted one is made again in time."""
        if self._folder.exists():
            path = self._folder / layout.INFO
            return not path.exists() or layout.read_info(self._folder).get("created") == self._info["created"]
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        if (now - self._gone_since < GONE_SECONDS and not self._farewell) or not self._folder.parent.exists():
            return False
        self._folder.mkdir()
        return True

    def _store(self) -> None:
        while self._pending:
            encoded = self._pending[0]
            if self._segment is not None and self._is_full(self._segment):
                self._leave_segment()
                self._seal_rest()
                self._look_after_parts()
                pa.default_memory_pool().release_unused()  # each thread's own pages: another one cannot return them
            if self._segment is None:
                self._segment = Segment(self._folder / layout.LIVE / f"{self._next:06d}.rows")
                self._next += 1
            begun = self._segment.batches > 0
            try:
                self._segment.append(encoded.frame, encoded.rows)
            except BaseException as error:
                # What is torn would have to be skipped by every reader, so this frame goes to a new segment.
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
            self._look_after_parts()
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

    def _seal_rest(self) -> None:
        """Seal every live segment but the one being written: our last one, or those of a killed writer."""
        for number, path in layout.live_files(self._folder).items():
            if self._segment is None or path != self._segment.path:
                try:
                    seal(path, self._folder / layout.PARTS / layout.part_name(number, number))
                except Exception as error:  # it can be read as it is; the next seal, or the next writer, tries again
                    topic = "disk" if isinstance(error, OSError) else "seal"
                    self._complain(topic, f"{path} could not be sealed ({error}). It is readable and stays as it is.")

    def _look_after_parts(self) -> None:
        try:
            if trouble := self._upkeep.run():
                self._complain("max_bytes", trouble)
        except Exception as error:  # the parts are as they were, or some of them better
            topic = "disk" if isinstance(error, OSError) else "upkeep"
            self._complain(topic, f"the parts of {self._folder} stay as they are: {error}")

    def _is_full(self, segment: Segment) -> bool:
        most = min(SEAL_BYTES, self._upkeep.live_bytes)
        return segment.rows >= SEAL_ROWS or segment.bytes >= most or segment.batches >= SEAL_BATCHES

    def _bound(self) -> None:
        """Drop the oldest of what waits for a disk that refuses it."""
        while sum(len(encoded.frame) for encoded in self._pending) > MOST_PENDING:
            self._lost += self._pending.popleft().rows
        del self._lines[:-MOST_EVENTS], self.rows[:-MOST_ROWS]

    def _complain(self, topic: str, text: str) -> None:
        """Log the first trouble of a kind; the same again every second would bury the user's own output."""
        if topic not in self._complained:
            self._complained.add(topic)
            log.warning("%s", text)


def leftovers(folder: Path) -> list[Path]:
    """Files of a run folder that a killed writer left and nobody reads."""
    half = [*folder.glob(f".{layout.INFO}.*.tmp"), *(folder / layout.PARTS).glob(".*.parquet.*.tmp")]
    return [*half, *layout.superseded(folder)]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


_RECORDERS: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _forget_all() -> None:
    for recorder in list(_RECORDERS):
        recorder.forget()


os.register_at_fork(after_in_child=_forget_all)
