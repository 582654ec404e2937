"""Whether tensors are where and what they were, read off their headers in memory: a hundred times as fast as asking.

Which word of a header holds what differs between versions of torch, and is no public part of it. So it is found by
experiment, on tensors whose answers are known: a word counts as the address of the storage if it is that for every
one of them. Where an experiment fails, or an exported function is missing, there are no headers, and Python asks.

Only memory that a living object owns is read: that of a Python tensor which the caller holds, of the tensor it wraps,
and of that one's storage and gradient.
"""

import ctypes
import operator
import sys
from collections.abc import Callable, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepscope.graph import machine
from stepscope.optim.backends import team

__all__ = ["Headers", "headers"]

_WORD, _LINE = 8, 64  # bytes of a word, and of what comes from memory at once
DIMENSIONS = 5  # whose sizes and strides a header holds itself
_FURTHEST = 24  # words of a header that are looked at
_AHEAD = 8  # rows whose headers are on their way from memory while one is looked at
_PART = 32  # rows that a thread takes at a time
_KEPT = 4  # words: of a storage the address of the data and the two behind, which say who owns it; the offset


class Layout(NamedTuple):
    """Places of words, counted from 0.

    wrapped: of the address of the header, in the Python object.  In the header: `storage` and `autograd`, addresses;
    `offset` of the first element; `dims`, how many; from `sizes` and `strides` on one for each of up to DIMENSIONS;
    `marks`: what else tells one kind of tensor from another, with the bits that do.
    data: of an address, in the storage.  grad: of the address of the gradient's header, in the autograd record.
    """

    wrapped: int
    storage: int
    autograd: int
    offset: int
    dims: int
    sizes: int
    strides: int
    marks: tuple[tuple[int, int], ...]
    data: int
    grad: int

    @property
    def kind(self) -> tuple[int, ...]:
        """Places of the header that make up a tensor's kind."""
        some = range(DIMENSIONS)
        return (
            self.dims,
            *(self.sizes + i for i in some),
            *(self.strides + i for i in some),
            *(place for place, _ in self.marks),
        )

    def masks(self) -> NDArray[np.uint64]:
        """masks[dims]: the bits of `kind` that count for a tensor of so many dimensions."""
        every = 2**64 - 1
        rows = [
            [every, *2 * [every if i < dims else 0 for i in range(DIMENSIONS)], *(mask for _, mask in self.marks)]
            for dims in range(DIMENSIONS + 1)
        ]
        return np.array(rows, np.uint64)


# --- experiments ------------------------------------------------------------------------------------------------------


def _words(address: int, number: int) -> list[int]:
    return list((ctypes.c_uint64 * number).from_address(address))


def _header(t: Tensor) -> list[int]:
    return _words(t._cdata, _FURTHEST)


def _only(places: set[Any]) -> Any:
    """The place, if there is one alone.  LookupError otherwise."""
    if len(places) != 1:
        raise LookupError(f"{len(places)} places fit")
    return places.pop()


def _where(rows: Sequence[Sequence[int]], values: Sequence[Sequence[int]]) -> set[int]:
    """Places from which on each row holds its values."""
    last = min(map(len, rows)) - max(map(len, values))
    pairs = [(row, list(value)) for row, value in zip(rows, values, strict=True)]
    return {i for i in range(last + 1) if all(row[i : i + len(value)] == value for row, value in pairs)}


def _found() -> Layout:
    """The layout in this process.  LookupError, AttributeError or OSError where it cannot be found."""
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("*c10.*"))))
    grad_of = library._ZNK3c1010TensorImpl4gradEv  # c10::TensorImpl::grad() const
    grad_of.restype, grad_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    some = [t for fill in (0x00, 0xFF, 0x5A) for t in _samples(fill)]
    heads = [_header(t) for t in some]
    storages = [t.untyped_storage() for t in some]
    size = Tensor.__basicsize__ // _WORD
    wrapped = _only(_where([_words(id(t), size) for t in some], [[t._cdata] for t in some]))
    storage = _only(_where(heads, [[s._cdata] for s in storages]))
    data = min(_where([_words(s._cdata, 6) for s in storages], [[s.data_ptr()] for s in storages]))
    offset = _only(_where(heads, [[int(t.storage_offset())] for t in some]))
    dims = _only(_where(heads, [[t.dim()] for t in some]))
    sizes = _only(_where(heads, [t.shape for t in some]))
    strides = _only(_where(heads, [t.stride() for t in some]))
    held = [torch.nn.Parameter(torch.zeros(3, 5)) for _ in range(3)]
    autograd, grad = _only(set.intersection(*(_gradient(p, grad_of) for p in held)))
    behind = [i for i in range(max(sizes, strides) + DIMENSIONS, _FURTHEST) if i != offset]
    marks = _marks(heads, [0, *behind])
    return Layout(wrapped, storage, autograd, offset, dims, sizes, strides, marks, data, grad)


def _samples(fill: int) -> list[Tensor]:
    """float32 tensors of many forms, whose headers lie where all bytes were `fill`: what is never set stays so."""
    _soil(fill)
    plain = [torch.zeros((2, 3, 4, 5, 6)[:d]) for d in range(1, DIMENSIONS + 1) for _ in range(2)]
    _soil(fill)
    views = [torch.zeros(n + 15)[n:].view(3, 5) for n in (3, 7, 11)]
    views += [torch.zeros(2, 3, 5).transpose(0, 2), torch.zeros(2, 4, 3, 5).permute(0, 3, 1, 2)]
    # Storage that numpy owns has its data and its owner at different addresses.
    borrowed = [torch.from_numpy(np.zeros((3, n), np.float32)) for n in (5, 7)]
    held = [torch.nn.Parameter(torch.zeros(3, n)) for n in (5, 7)]
    for p in held:
        p.grad = torch.zeros_like(p)
    return [*plain, *views, *borrowed, *(p.grad for p in held if p.grad is not None)]


def _soil(fill: int) -> None:
    """Fill memory that the next headers are likely to lie in, and set it free."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [(library.malloc(size), size) for size in range(8 * 16, _WORD * 40, 16) for _ in range(24)]
    for address, size in blocks:
        ctypes.memset(address, fill, size)
    for address, _ in blocks:
        library.free(address)


def _gradient(p: Tensor, grad_of: Callable[[int], int]) -> set[tuple[int, int]]:
    """Places in the header and in what lies there that lead to the gradient."""
    p.grad = torch.zeros_like(p)
    cell = int(grad_of(p._cdata))
    if _words(cell, 1) != [p.grad._cdata]:
        raise LookupError("the gradient is elsewhere")
    far = [(i, cell - word) for i, word in enumerate(_header(p))]
    return {(i, n // _WORD) for i, n in far if 0 <= n < 16 * _WORD and n % _WORD == 0}


def _marks(heads: Sequence[Sequence[int]], places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Of these places, those that tell kinds of tensors of one form, and the bits that are alike in all headers of one
    kind.  LookupError if two kinds look alike."""
    alike = {i: ~reduce(operator.or_, (row[i] ^ heads[0][i] for row in heads)) & (2**64 - 1) for i in places}
    plain, other = torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.complex64)
    kinds = [(dtype, torch.zeros(3, 5, dtype=dtype)) for dtype in (torch.float64, torch.bfloat16, torch.float16)]
    pairs = [(plain, t) for _, t in kinds] + [(plain, other), (other, torch.zeros(3, 5, dtype=torch.complex128))]
    pairs += [(plain, torch.zeros(3, 5, device="meta")), (plain, torch._neg_view(plain)), (plain, plain.to_sparse())]
    pairs += [(other, other.conj())]
    told: set[int] = set()
    for a, b in pairs:
        x, y = _header(a), _header(b)
        apart = [i for i in places if (x[i] ^ y[i]) & alike[i]]
        if not apart:
            raise LookupError("tensors of different kinds look alike")
        told.add(apart[0])
    return tuple((i, alike[i]) for i in sorted(told))


# --- machine code -----------------------------------------------------------------------------------------------------


class _Text:
    """Writes the functions."""

    def __init__(self, layout: Layout) -> None:
        self.at, self._names = layout, 0
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
    """i64 peek(objects, count, rows): of each tensor, the addresses of header, storage and autograd record; what is
    kept of its storage; offset and kind.  0, or -1 if one has no storage."""
    t, width = _Text(at), 3 + _KEPT + len(at.kind)
    t.lines += ["define i64 @peek(ptr %objects, i64 %count, ptr %rows) {", "entry:"]
    t.loop("each", "%count", "entry")
    thing = t.let(f"load ptr, ptr {t.let('getelementptr ptr, ptr %objects, i64 %each.i')}, align 8")
    header = t.word(thing, at.wrapped, "ptr")
    row = t.let(f"getelementptr i64, ptr %rows, i64 {t.let(f'mul i64 %each.i, {width}')}")
    storage = t.storage(header, "stored")
    values = [t.let(f"ptrtoint ptr {address} to i64") for address in (header, storage)]
    values += [t.word(header, at.autograd), *(t.word(storage, at.data + n) for n in range(_KEPT - 1))]
    values += [t.word(header, place) for place in (at.offset, *at.kind)]
    for n, value in enumerate(values):
        t.lines.append(f"  store i64 {value}, ptr {t.let(f'getelementptr i64, ptr {row}, i64 {n}')}, align 8")
    t.end("each")
    t.lines += ["  ret i64 0", "failed:", "  ret i64 -1", "}"]
    return "\n".join(t.lines)


_ARGUMENTS = ("count", "streams", "objects", "records", "numbers", "kinds", "sizes", "hints", "hinted", "addresses")


def _gather(at: Layout) -> str:
    """void gather(arguments): where gradients lie, if all is as it was; threads that call it share the work.

    count, streams.  objects[count][streams]: Python tensors, the first of each row a parameter.  records: of each what
    is kept of its storage, and the offset.  numbers[count][streams + 1]: of their kinds, and the gradient's.  kinds:
    with masks.  sizes: bytes of an element.  hints[count + ...][hinted]: lines of memory.  addresses: of the gradients.
    Behind these: how many parts were taken, and whether anything is not what or where it was.
    """
    t = _Text(at)
    t.lines += ["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)", "define void @gather(ptr %arguments) {", "entry:"]
    for n, name in enumerate(_ARGUMENTS):
        kind = "i64" if name in ("count", "streams", "hinted") else "ptr"
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
    soon = t.let(f"mul i64 %hinted, {t.let(f'add i64 {row}, {_AHEAD}')}")
    t.lines += ["  br label %hint", "hint:"]
    t.loop("line", "%hinted", "hint")
    hint = t.let(f"getelementptr ptr, ptr %hints, i64 {t.let(f'add i64 {soon}, %line.i')}")
    t.lines.append(f"  call void @llvm.prefetch.p0(ptr {t.let(f'load ptr, ptr {hint}, align 8')}, i32 0, i32 3, i32 1)")
    t.end("line")
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

    def __init__(self, layout: Layout) -> None:
        self._far = range(0, _WORD * max(layout.kind), _LINE)
        self._kind, self._masks = len(layout.kind), layout.masks().view(np.int64)
        self._engine, address = machine.code("\n".join([_peek(layout), _held(layout), _gather(layout)]), "gather")
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        # All are called with the interpreter's lock held, so that nobody changes a tensor meanwhile.
        self._peek = ctypes.PYFUNCTYPE(whole, *[pointer] * 3)(self._engine.get_function_address("peek"))
        self._held = ctypes.PYFUNCTYPE(whole, *[pointer] * 7)(self._engine.get_function_address("held"))
        self._gather = team.Call(address)
        self._look = ctypes.cast(ctypes.pythonapi.PyDict_GetItemWithError, pointer).value

    def _look_at(self, tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each tensor, a row each: addresses, what is kept of its storage, and its kind with the masks.  LookupError
        if the header of one does not hold it all."""
        found = np.empty((len(tensors), 3 + _KEPT + self._kind), np.int64)
        objects, dims = addresses_of(tensors), [t.dim() for t in tensors]
        if max(dims) > DIMENSIONS or self._peek(objects.ctypes.data, len(objects), found.ctypes.data):
            raise LookupError("tensors whose headers do not hold all")
        addresses, kept, kind = np.split(found, [3, 3 + _KEPT], 1)
        masks = self._masks[dims]
        return addresses, kept, np.concatenate([kind & masks, masks], 1)

    def watch(
        self, columns: Sequence[Sequence[Tensor]], grads: Sequence[Tensor], entries: Sequence[Any], names: Sequence[str]
    ) -> Callable[[], NDArray[np.int64]]:
        """Remember tensors: a function that says where the gradients lie, with LookupError if anything is not what or
        where it was.

        columns: parameters, for which these are the gradients, then what entries[i] holds for each under `names`, then
        anything else.  LookupError if headers do not hold it all.
        """
        tensors = [t for row in zip(*columns, strict=True) for t in row]
        kept = tensors, list(entries), list(names)  # alive, so that their addresses are theirs
        (at, records, own), (grads_at, _, theirs) = self._look_at(tensors), self._look_at(grads)
        count, width = len(grads), len(columns)
        objects, holders, keys = addresses_of(tensors), addresses_of(entries), addresses_of(names)
        rows = np.concatenate([own.reshape(count, width, -1), theirs.reshape(count, 1, -1)], 1)
        kinds, numbers = np.unique(rows.reshape(count * (width + 1), -1), axis=0, return_inverse=True)
        places = np.concatenate([at.reshape(count, width, -1), grads_at.reshape(count, 1, -1)], 1)
        hints = self._lines(objects.reshape(count, -1), places, holders)
        sizes = np.fromiter(map(Tensor.element_size, grads), np.int64, count)
        arrays = [objects, records, numbers.ravel(), kinds, sizes]
        arrays = [np.ascontiguousarray(a, np.int64) for a in arrays]
        found = np.empty(count, np.int64)
        inputs = [count, width, *(a.ctypes.data for a in (*arrays, hints)), hints.shape[1], found.ctypes.data, 0, 0]
        arguments = (ctypes.c_int64 * len(inputs))(*inputs)
        fields = count, width, objects.ctypes.data, holders.ctypes.data, keys.ctypes.data, len(keys), self._look

        def gradients() -> NDArray[np.int64]:
            arguments[-2:] = [0, 0]
            if not self._held(*fields):
                self._gather(arguments, min(torch.get_num_threads(), 1 + count // (4 * _PART)))
                if not arguments[-1]:
                    return found
            raise LookupError("a tensor has changed")

        gradients.kept = kept, arrays, hints, holders, keys  # type: ignore[attr-defined]
        return gradients

    def _lines(self, objects: Any, places: Any, holders: Any) -> NDArray[np.int64]:
        """Lines of memory that the look at each parameter needs; a line may have been given to something else since.

        places[parameter, stream]: of header, storage and autograd record; the gradient's last."""
        headers, storages = places[:, :, 0], places[:, :, 1]
        starts = [
            objects,
            places[:, :1, 2],
            *(headers + far for far in self._far),
            *(storages + far for far in (0, 32)),
        ]
        if len(holders):
            starts.append(holders[:, None])
        lines = np.concatenate(starts, 1)
        return np.ascontiguousarray(np.concatenate([lines, np.repeat(lines[-1:], _AHEAD, 0)]))


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
        return Headers(_found())
    except (LookupError, AttributeError, OSError, StopIteration, RuntimeError):
        return None
