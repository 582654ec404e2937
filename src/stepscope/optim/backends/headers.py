"""Whether tensors are where and what they were, read off their headers in memory: a hundred times as fast as asking.

The layout is found by experiment. Where one fails, or an exported function is missing, there are no headers, and Python
asks. Only memory that a living object owns is read: that of a Python tensor which the caller holds, of the tensor it
wraps, and of that one's storage and gradient.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import machine
from stepscope.optim.backends import layout, team
from stepscope.optim.backends.layout import DIMENSIONS, Layout

__all__ = ["Headers", "addresses_of", "headers"]

_PART = 32  # rows that a thread takes at a time
_KEPT = 4  # words: of a storage the address of the data and the two behind, which say who owns it; the offset


class _Text:
    """Writes the functions."""

    def __init__(self, at: Layout) -> None:
        self.at, self._names = at, 0
        self.lines: list[str] = []

    def let(self, text: str) -> str:
        self._names += 1
        self.lines.append(f"  %x{self._names} = {text}")
        return f"%x{self._names}"

    def word(self, base: str, place: int, kind: str = "i64") -> str:
        """Load a word."""
        return self.let(f"load {kind}, ptr {self.let(f'getelementptr i64, ptr {base}, i64 {place}')}, align 8")

    def item(self, array: str, number: str, kind: str = "ptr") -> str:
        """Load an item of an array of words."""
        return self.let(f"load {kind}, ptr {self.let(f'getelementptr i64, ptr %{array}, i64 {number}')}, align 8")

    def guard(self, condition: str, label: str, otherwise: str = "failed") -> None:
        """Go on at `label` if it holds, give up otherwise."""
        self.lines += [f"  br i1 {condition}, label %{label}, label %{otherwise}", f"{label}:"]

    def storage(self, header: str, label: str) -> str:
        found = self.word(header, self.at.storage, "ptr")
        self.guard(self.let(f"icmp ne ptr {found}, null"), label)
        return found

    def differences(self, base: str, places: Sequence[int], record: str, *, masked: bool = False) -> str:
        """0 if these words are those of the record, but for the bits masked by as many words behind them."""
        total = "0"
        for n, place in enumerate(places):
            apart = self.let(f"xor i64 {self.word(base, place)}, {self.word(record, n)}")
            if masked:
                apart = self.let(f"and i64 {apart}, {self.word(record, len(places) + n)}")
            total = self.let(f"or i64 {total}, {apart}")
        return total

    def is_kind(self, header: str, number: str, label: str) -> None:
        """Go on at `label` if the header is of the kind of this number, give up otherwise."""
        far = self.let(f"mul i64 {number}, {2 * len(self.at.kind)}")
        kind = self.let(f"getelementptr i64, ptr %kinds, i64 {far}")
        apart = self.differences(header, self.at.kind, kind, masked=True)
        self.guard(self.let(f"icmp eq i64 {apart}, 0"), label)

    def loop(self, name: str, number: str, entry: str) -> None:
        self.lines += [
            f"  br label %{name}",
            f"{name}:",
            f"  %{name}.i = phi i64 [ 0, %{entry} ], [ %{name}.next, %{name}.again ]",
            f"  %{name}.live = icmp ult i64 %{name}.i, {number}",
            f"  br i1 %{name}.live, label %{name}.body, label %{name}.done",
            f"{name}.body:",
        ]

    def end(self, name: str) -> None:
        self.lines += [
            f"  br label %{name}.again",
            f"{name}.again:",
            f"  %{name}.next = add i64 %{name}.i, 1",
            f"  br label %{name}",
            f"{name}.done:",
        ]


def _peek(at: Layout) -> str:
    """i64 peek(objects, count, rows): of each tensor, what is kept of its storage, offset and kind.

    0, or -1 if one has no storage."""
    t, width = _Text(at), _KEPT + len(at.kind)
    t.lines += ["define i64 @peek(ptr %objects, i64 %count, ptr %rows) {", "entry:"]
    t.loop("each", "%count", "entry")
    thing = t.let(f"load ptr, ptr {t.let('getelementptr ptr, ptr %objects, i64 %each.i')}, align 8")
    header = t.word(thing, at.wrapped, "ptr")
    row = t.let(f"getelementptr i64, ptr %rows, i64 {t.let(f'mul i64 %each.i, {width}')}")
    storage = t.storage(header, "stored")
    values = [t.word(storage, at.data + n) for n in range(_KEPT - 1)]
    values += [t.word(header, place) for place in (at.offset, *at.kind)]
    for n, value in enumerate(values):
        t.lines.append(f"  store i64 {value}, ptr {t.let(f'getelementptr i64, ptr {row}, i64 {n}')}, align 8")
    t.end("each")
    t.lines += ["  ret i64 0", "failed:", "  ret i64 -1", "}"]
    return "\n".join(t.lines)


_ARGUMENTS = ("count", "streams", "objects", "records", "numbers", "kinds", "sizes", "addresses")


def _gather(at: Layout) -> str:
    """void gather(arguments): where gradients lie, if all is as it was; threads that call it share the work.

    count, streams.  objects[count][streams]: Python tensors, the first of each row a parameter.  records: of each what
    is kept of its storage, and the offset.  numbers[count][streams + 1]: of their kinds, and the gradient's.  kinds:
    with masks.  sizes: bytes of an element.  addresses: of the gradients.  Behind these: how many parts were taken, and
    whether anything is not what or where it was.
    """
    t = _Text(at)
    t.lines += ["define void @gather(ptr %arguments) {", "entry:"]
    for n, name in enumerate(_ARGUMENTS):
        kind = "i64" if name in ("count", "streams") else "ptr"
        t.lines += [f"  %{name}.at = getelementptr i64, ptr %arguments, i64 {n}"]
        t.lines += [f"  %{name} = load {kind}, ptr %{name}.at, align 8"]
    t.lines += [f"  %taken = getelementptr i64, ptr %arguments, i64 {len(_ARGUMENTS)}"]
    t.lines += [
        f"  %broken = getelementptr i64, ptr %arguments, i64 {len(_ARGUMENTS) + 1}",
        "  br label %part",
        "part:",
    ]
    start = t.let(f"mul i64 {t.let('atomicrmw add ptr %taken, i64 1 monotonic')}, {_PART}")
    t.guard(t.let(f"icmp ult i64 {start}, %count"), "some", "finished")
    left = t.let(f"sub i64 %count, {start}")
    number = t.let(f"select i1 {t.let(f'icmp ult i64 {left}, {_PART}')}, i64 {left}, i64 {_PART}")
    t.loop("row", number, "some")
    row = t.let(f"add i64 {start}, %row.i")
    first = t.let(f"mul i64 {row}, %streams")
    which = t.let(f"getelementptr i64, ptr %numbers, i64 {t.let(f'add i64 {first}, {row}')}")
    t.lines += ["  br label %start", "start:"]
    t.loop("one", "%streams", "start")
    _compare(t, t.let(f"add i64 {first}, %one.i"), which)
    t.end("one")
    header = t.word(t.item("objects", first), at.wrapped, "ptr")
    _find(t, header, t.let(f"load i64, ptr {t.let(f'getelementptr i64, ptr {which}, i64 %streams')}, align 8"), row)
    t.end("row")
    t.lines += ["  br label %part", "failed:", "  store atomic i64 1, ptr %broken monotonic, align 8"]
    t.lines += ["  br label %finished", "finished:", "  ret void", "}"]
    return "\n".join(t.lines)


def _compare(t: _Text, place: str, which: str) -> None:
    """Give up if the tensor at this place is not what and where it was."""
    header = t.word(t.item("objects", place), t.at.wrapped, "ptr")
    t.is_kind(header, t.let(f"load i64, ptr {t.let(f'getelementptr i64, ptr {which}, i64 %one.i')}, align 8"), "same")
    storage = t.storage(header, "stored")
    record = t.let(f"getelementptr i64, ptr %records, i64 {t.let(f'mul i64 {place}, {_KEPT}')}")
    apart = t.differences(storage, range(t.at.data, t.at.data + _KEPT - 1), record)
    moved = t.let(f"xor i64 {t.word(header, t.at.offset)}, {t.word(record, _KEPT - 1)}")
    t.guard(t.let(f"icmp eq i64 {t.let(f'or i64 {apart}, {moved}')}, 0"), "there")


def _find(t: _Text, header: str, kind: str, row: str) -> None:
    """Store where the gradient of the parameter with this header lies."""
    autograd = t.word(header, t.at.autograd, "ptr")
    t.guard(t.let(f"icmp ne ptr {autograd}, null"), "recorded")
    grad = t.word(autograd, t.at.grad, "ptr")
    t.guard(t.let(f"icmp ne ptr {grad}, null"), "present")
    t.is_kind(grad, kind, "alike")
    storage = t.storage(grad, "held")
    far = t.let(f"mul i64 {t.item('sizes', row, 'i64')}, {t.word(grad, t.at.offset)}")
    address = t.let(f"add i64 {t.word(storage, t.at.data)}, {far}")
    t.lines.append(f"  store i64 {address}, ptr {t.let(f'getelementptr i64, ptr %addresses, i64 {row}')}, align 8")


def _held(at: Layout) -> str:
    """i64 held(count, streams, objects, entries, names, named, look): 0 if each dict holds what it held, else -1.

    entries[count]: dicts that hold objects 1 to `named` of each row under `names`.  look: PyDict_GetItemWithError.
    """
    t = _Text(at)
    arguments = "i64 %count, i64 %streams, ptr %objects, ptr %entries, ptr %names, i64 %named, ptr %look"
    t.lines += [f"define i64 @held({arguments}) {{", "entry:"]
    t.loop("row", "%count", "entry")
    entry = t.item("entries", "%row.i")
    first = t.let(f"add i64 {t.let('mul i64 %row.i, %streams')}, 1")
    t.lines += ["  br label %start", "start:"]
    t.loop("one", "%named", "start")
    thing = t.item("objects", t.let(f"add i64 {first}, %one.i"))
    there = t.let(f"call ptr %look(ptr {entry}, ptr {t.item('names', '%one.i')})")
    t.guard(t.let(f"icmp eq ptr {there}, {thing}"), "right")
    t.end("one")
    t.end("row")
    t.lines += ["  ret i64 0", "failed:", "  ret i64 -1", "}"]
    return "\n".join(t.lines)


class Headers:
    """The functions, for this process's layout."""

    def __init__(self, at: Layout) -> None:
        self._kind, self._masks = len(at.kind), at.masks().view(np.int64)
        self._engine, address = machine.code("\n".join([_peek(at), _held(at), _gather(at)]), "gather")
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        # All are called with the interpreter's lock held, so that nobody changes a tensor meanwhile.
        self._peek = ctypes.PYFUNCTYPE(whole, *[pointer] * 3)(self._engine.get_function_address("peek"))
        self._held = ctypes.PYFUNCTYPE(whole, *[pointer] * 7)(self._engine.get_function_address("held"))
        self._gather = team.Call(address)
        self._look = ctypes.cast(ctypes.pythonapi.PyDict_GetItemWithError, pointer).value

    def _look_at(self, tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each tensor, a row each: what is kept of its storage, and its kind with the masks.  LookupError if the
        header of one does not hold it all."""
        found = np.empty((len(tensors), _KEPT + self._kind), np.int64)
        objects, dims = addresses_of(tensors), [t.dim() for t in tensors]
        if max(dims) > DIMENSIONS or self._peek(objects.ctypes.data, len(objects), found.ctypes.data):
            raise LookupError("tensors whose headers do not hold all")
        kept, kind = np.split(found, [_KEPT], 1)
        masks = self._masks[dims]
        return kept, np.concatenate([kind & masks, masks], 1)

    def watch(
        self, columns: Sequence[Sequence[Tensor]], grads: Sequence[Tensor], entries: Sequence[Any], names: Sequence[str]
    ) -> Callable[[], NDArray[np.int64]]:
        """Remember tensors: a function that says where the gradients lie, with LookupError if anything is not what or
        where it was.

        columns: parameters, for which these are the gradients, then what entries[i] holds for each under `names`, then
        anything else.  LookupError if headers do not hold it all.
        """
        tensors = [t for row in zip(*columns, strict=True) for t in row]
        if not all(isinstance(x, Tensor) for x in tensors) or not all(isinstance(x, dict) for x in entries):
            raise LookupError("what is kept is not in dicts, or no tensors")
        kept = tensors, list(entries), list(names)  # alive, so that their addresses are theirs
        (records, own), (_, theirs) = self._look_at(tensors), self._look_at(grads)
        count, width = len(grads), len(columns)
        objects, holders, keys = addresses_of(tensors), addresses_of(entries), addresses_of(names)
        rows = np.concatenate([own.reshape(count, width, -1), theirs.reshape(count, 1, -1)], 1)
        kinds, numbers = np.unique(rows.reshape(count * (width + 1), -1), axis=0, return_inverse=True)
        sizes = np.fromiter(map(Tensor.element_size, grads), np.int64, count)
        arrays = [objects, records, numbers.ravel(), kinds, sizes]
        arrays = [np.ascontiguousarray(a, np.int64) for a in arrays]
        found = np.empty(count, np.int64)
        inputs = [count, width, *(a.ctypes.data for a in arrays), found.ctypes.data, 0, 0]
        arguments = (ctypes.c_int64 * len(inputs))(*inputs)
        fields = count, width, objects.ctypes.data, holders.ctypes.data, keys.ctypes.data, len(keys), self._look

        def gradients() -> NDArray[np.int64]:
            arguments[-2:] = [0, 0]
            if not len(keys) or not self._held(*fields):
                self._gather(arguments, min(torch.get_num_threads(), 1 + count // (4 * _PART)))
                if not arguments[-1]:
                    return found
            raise LookupError("a tensor has changed")

        gradients.kept = kept, arrays, holders, keys  # type: ignore[attr-defined]
        return gradients


def addresses_of(objects: Sequence[Any]) -> NDArray[np.int64]:
    """Addresses of Python objects."""
    return np.fromiter(map(id, objects), np.int64, len(objects))


@cache
def headers() -> Headers | None:
    """For this process, or None where headers cannot be read."""
    if (
        not machine.available()
        or sys.implementation.name != "cpython"
        or not getattr(sys, "_is_gil_enabled", lambda: True)()
    ):
        return None
    try:
        return Headers(layout.found())
    except (LookupError, AttributeError, OSError, StopIteration, RuntimeError):
        return None
