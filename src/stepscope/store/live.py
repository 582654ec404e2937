"""Live segments: rows appended in frames, each of which is complete, checked and readable by itself.

A frame is b"SSR2", the CRC-32 of all that follows, the payload's length (little-endian, 4 and 8 bytes), the payload:
an Arrow IPC stream with its own schema. So columns may appear at any time, a frame that was torn by a kill or a full
disk, or that a disk has damaged, is recognised, and the frames behind it are found again by their first four bytes.
"""

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

__all__ = ["Live", "Segment", "framed", "read_live"]

_MAGIC = b"SSR2"
_HEAD = struct.Struct("<4sIQ")
_LENGTH = struct.Struct("<Q")


def framed(table: pa.Table) -> bytes:
    """The frame that holds the rows of ``table``."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    payload = sink.getvalue()
    length = _LENGTH.pack(payload.size)
    return b"".join((_MAGIC, struct.pack("<I", zlib.crc32(payload, zlib.crc32(length))), length, payload))


class Segment:
    """A live segment open for writing.

    The file is opened unbuffered and each frame handed to the system in one piece, so that a killed process leaves at
    most one torn frame, at the very end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self.bytes = self.batches = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, frame: bytes, rows: int) -> None:
        """Write a frame of ``rows`` rows.  After an OSError the segment takes no more."""
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.rows += rows
        self.bytes += len(frame)
        self.batches += 1

    def close(self) -> None:
        """Let go of the file; an empty segment leaves none."""
        os.close(self._file)
        if not self.batches:
            self.path.unlink(missing_ok=True)


@dataclass
class Live:
    """A live segment as far as it has been read; ``refresh`` reads on.

    damaged: bytes of frames that cannot be read and have readable ones behind them.  torn: bytes behind the last one.
    """

    path: Path
    tables: list[pa.Table] = field(default_factory=list)
    damaged: int = 0
    torn: int = 0
    _offset: int = 0

    def refresh(self) -> None:
        """Take in the frames that are complete by now.  Raises: FileNotFoundError once the segment was sealed."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        if self.path.suffix == ".arrow":
            self.tables, self.torn = _stream(data)
            return
        view = memoryview(data)
        done = place = 0
        while (place := data.find(_MAGIC, place)) >= 0:
            frame = _payload(view[place:])
            if frame is None:
                place += 1  # not the beginning of a frame, or one that is torn
                continue
            self.tables.append(_table(frame))
            self.damaged += place - done
            done = place = place + _HEAD.size + len(frame)
        self._offset += done
        self.torn = len(data) - done
        if len(self.tables) > 64:  # many small tables cost each reader; one does not
            self.tables = [pa.concat_tables(self.tables, promote_options="default").unify_dictionaries()]
            self.tables = [self.tables[0].combine_chunks()]

    @property
    def table(self) -> pa.Table | None:
        """The rows in the order of writing; None before there is one."""
        return pa.concat_tables(self.tables, promote_options="default") if self.tables else None


def read_live(path: Path) -> pa.Table | None:
    """The rows of a live segment in the order of writing; None before the first is there.

    Raises: FileNotFoundError.
    """
    live = Live(path)
    live.refresh()
    return live.table


def _payload(view: memoryview) -> memoryview | None:
    """What the frame at the beginning of ``view`` holds; None if it is not all there, or not as it was written."""
    if len(view) < _HEAD.size:
        return None
    _, checksum, length = _HEAD.unpack_from(view)
    payload = view[_HEAD.size : _HEAD.size + length]
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != checksum:
        return None
    return payload


def _table(payload: memoryview) -> pa.Table:
    with pa.ipc.open_stream(bytes(payload)) as stream:  # a copy is aligned
        return stream.read_all()


def _stream(data: bytes) -> tuple[list[pa.Table], int]:
    """What version 1 wrote, an Arrow stream: the rows before a torn tail, if there are some, and that tail's bytes."""
    stream, end = pa.BufferReader(data), 0
    names, batches = None, []
    with contextlib.suppress(pa.ArrowInvalid, OSError, EOFError):  # OSError: pyarrow's word for a message cut short
        while end < len(data):
            message = pa.ipc.read_message(stream)
            if names is None:
                names = pa.ipc.read_schema(message)
            else:
                batches.append(pa.ipc.read_record_batch(message, names))
            end = stream.tell()
    if not batches:
        return [], len(data) - end
    table = pa.Table.from_batches(batches)
    layers = table["layer"].dictionary_encode().unify_dictionaries().combine_chunks()
    return [table.set_column(table.schema.get_field_index("layer"), "layer", layers)], len(data) - end
