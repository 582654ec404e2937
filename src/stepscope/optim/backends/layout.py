"""Where tensors' headers in memory hold what, found by experiment.

It differs between versions of torch and is no public part of it. A word counts as the address of the storage if it is
that for every one of some tensors whose storage is known; so with the others. The headers lie in memory that was made
dirty before, so that bits which are never set are told from those that say something.
"""

import ctypes
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DIMENSIONS", "WORD", "Layout", "found", "soil"]

WORD = 8  # bytes
DIMENSIONS = 5  # whose sizes and strides a header holds itself
_FURTHEST = 24  # words of a header that experiments look at


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


def found() -> Layout:
    """The layout in this process.  LookupError, AttributeError or OSError where it cannot be found."""
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("*c10.*"))))
    grad_of = library._ZNK3c1010TensorImpl4gradEv  # c10::TensorImpl::grad() const
    grad_of.restype, grad_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    some = [t for fill in (0x00, 0xFF, 0x5A) for t in _samples(fill)]
    heads = [_header(t) for t in some]
    storages = [t.untyped_storage() for t in some]
    size = Tensor.__basicsize__ // WORD
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
    soil(fill)
    plain = [torch.zeros((2, 3, 4, 5, 6)[:d]) for d in range(1, DIMENSIONS + 1) for _ in range(2)]
    soil(fill)
    views = [torch.zeros(n + 15)[n:].view(3, 5) for n in (3, 7, 11)]
    views += [torch.zeros(2, 3, 5).transpose(0, 2), torch.zeros(2, 4, 3, 5).permute(0, 3, 1, 2)]
    # Storage that numpy owns has its data and its owner at different addresses.
    borrowed = [torch.from_numpy(np.zeros((3, n), np.float32)) for n in (5, 7)]
    held = [torch.nn.Parameter(torch.zeros(3, n)) for n in (5, 7)]
    for p in held:
        p.grad = torch.zeros_like(p)
    return [*plain, *views, *borrowed, *(p.grad for p in held if p.grad is not None)]


def soil(fill: int) -> None:
    """Fill memory that the next headers are likely to lie in, and set it free."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [(library.malloc(size), size) for size in range(8 * 16, WORD * 40, 16) for _ in range(24)]
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
    return {(i, n // WORD) for i, n in far if 0 <= n < 16 * WORD and n % WORD == 0}


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
