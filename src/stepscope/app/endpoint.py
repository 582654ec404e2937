"""Typed functions as web addresses: what comes in is checked against a dataclass, what goes out is JSON or a stream.

    @endpoint("GET", "/api/landscape")
    def landscape(query: LandscapeQuery, call: Call) -> LandscapeAnswer: ...

The same annotations make the OpenAPI description. A function runs in a thread; `call.gone` is true once the browser has
left, and a long one asks it. A `Stream` is sent piece by piece and closed when the browser leaves.
"""

import dataclasses
import json
import math
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from stepscope.errors import UserError

__all__ = [
    "BadRequest",
    "Bound",
    "Call",
    "Endpoint",
    "Stream",
    "Text",
    "accept",
    "endpoint",
    "frame",
    "plain",
    "schema",
]


class BadRequest(UserError):
    """What was asked for is not of the form that the address takes."""


@dataclass(frozen=True)
class Bound:
    """Limits of a number (inclusive), or of the length of a text or list."""

    low: float = -math.inf
    high: float = math.inf


class Call:
    """One request while it is worked on."""

    def __init__(self) -> None:
        self._left = threading.Event()

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._left.is_set()

    def leave(self) -> None:
        """The browser has left."""
        self._left.set()


@dataclass(frozen=True)
class Stream:
    """An answer in pieces. The iterator is closed when the browser leaves."""

    pieces: Iterator[bytes]
    media: str = "application/octet-stream"


@dataclass(frozen=True)
class Text:
    """An answer of another kind than JSON."""

    content: str
    media: str


@dataclass(frozen=True)
class Endpoint:
    """An address: `takes` is the dataclass of its query (GET) or JSON body (POST)."""

    method: str
    path: str
    function: Callable[[Any, Call], Any]
    takes: type
    gives: Any

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


def endpoint(method: Literal["GET", "POST"], path: str) -> Callable[[Callable[[Any, Call], Any]], Endpoint]:
    """Decorates function(query, call), whose annotations say what the address takes and gives."""

    def make(function: Callable[[Any, Call], Any]) -> Endpoint:
        hints = typing.get_type_hints(function)
        names = [name for name in hints if name != "return"]
        return Endpoint(method, path, function, hints[names[0]], hints["return"])

    return make


def accept(kind: Any, value: Any, where: str = "") -> Any:  # noqa: PLR0911 -- one case per kind of type
    """The value as `kind`, which is made of dataclasses, numbers, texts, lists, dicts, literals and None.

    Numbers may come as text (in a query they always do). Raises BadRequest, naming the place, for anything else.
    """
    origin = get_origin(kind)
    if origin is Annotated:
        base, *notes = get_args(kind)
        accepted = accept(base, value, where)
        for note in notes:
            if isinstance(note, Bound):
                _within(accepted, note, where)
        return accepted
    if origin in (Union, types.UnionType):
        options = get_args(kind)
        if value is None and type(None) in options:
            return None
        (only,) = (option for option in options if option is not type(None))
        return accept(only, value, where)
    if origin is Literal:
        if value not in get_args(kind):
            raise BadRequest(f"{where} must be one of {', '.join(map(str, get_args(kind)))}.")
        return value
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise BadRequest(f"{where} must be a list.")
        return [accept(get_args(kind)[0], one, f"{where}[{i}]") for i, one in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) and len(name) <= 80 for name in value):
            raise BadRequest(f"{where} must be an object.")
        return {name: accept(get_args(kind)[1], one, f"{where}.{name}") for name, one in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and (isinstance(value, bool) or value in ("true", "false")):
        return value in (True, "true")
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
            whole = int(value) if kind is int and isinstance(value, str) and len(value) < 20 else int(number)
        except (ValueError, OverflowError):
            number, whole = math.nan, 0
        if math.isfinite(number) and (kind is float or whole == number):
            return whole if kind is int else number
    names = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
    raise BadRequest(f"{where} must be {names.get(kind, 'something else')}.")


def _within(value: Any, bound: Bound, where: str) -> None:
    if value is None:
        return
    size = value if isinstance(value, int | float) else len(value)
    if not bound.low <= size <= bound.high:
        what = "" if isinstance(value, int | float) else "the length of "
        raise BadRequest(f"{what}{where} must lie between {bound.low:g} and {bound.high:g}, got {size:g}.")


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{where or 'the request'} must be an object.")
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {one.name: one for one in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise BadRequest(f"{unknown[0][:60]!r} is not known here; known: {', '.join(known)}.")
    needed = dataclasses.MISSING
    missing = [n for n, one in known.items() if n not in value and one.default is needed is one.default_factory]
    if missing:
        raise BadRequest(f"{missing[0]!r} is missing.")
    inside = f"{where}." if where else ""
    return kind(**{name: accept(hints[name], one, f"{inside}{name}") for name, one in value.items()})


def plain(value: Any) -> Any:  # noqa: PLR0911 -- one case per kind of value
    """JSON's own types: dataclasses as objects, arrays as lists, what is not finite as null."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return value.as_posix()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def frame(header: Mapping[str, Any], data: bytes | np.ndarray[Any, Any] = b"") -> bytes:
    """A piece of a binary stream: the length of a JSON header (uint32), the header, and its `bytes` bytes of data.

    Arrays are little-endian; the header names their type and shape.
    """
    about = dict(header)
    if isinstance(data, np.ndarray):
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        about |= {"dtype": data.dtype.name, "shape": list(data.shape)}
        data = little.tobytes()
    head = json.dumps({**plain(about), "bytes": len(data)}, separators=(",", ":")).encode()
    return len(head).to_bytes(4, "little") + head + data


def schema(kind: Any) -> dict[str, Any]:  # noqa: PLR0911 -- one case per kind of type
    """The JSON schema of a type that `accept` or `plain` understands."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *notes = get_args(kind)
        out = schema(base)
        for note in notes:
            if isinstance(note, Bound):
                names = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
                pair = names.get(str(out.get("type")), ("minimum", "maximum"))
                out |= {n: v for n, v in zip(pair, (note.low, note.high), strict=True) if math.isfinite(v)}
        return out
    if origin in (Union, types.UnionType):
        (only,) = (option for option in get_args(kind) if option is not type(None))
        return {"anyOf": [schema(only), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        none = dataclasses.MISSING
        fields = dataclasses.fields(kind)
        required = [one.name for one in fields if one.default is none is one.default_factory]
        return {
            "type": "object",
            "properties": {one.name: schema(hints[one.name]) for one in fields},
            **({"required": required} if required else {}),
        }
    if origin in (list, tuple):
        return {"type": "array", "items": schema(get_args(kind)[0])}
    if origin is dict or kind is dict:
        return {"type": "object", **({"additionalProperties": schema(get_args(kind)[1])} if origin else {})}
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}.get(kind, "string")}
