"""Reading tensors' headers in memory says what asking the tensors says, whatever happens to them."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepscope import optim
from stepscope.optim import watch
from stepscope.optim.backends import layout
from stepscope.optim.backends.headers import headers

SHAPES = [(7,), (3, 5), (4, 4), (2, 3, 4), (2, 3, 4, 4), (2, 2, 2, 3, 3), ()]


class World:
    """Parameters with gradients and states, watched by both ways at once."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, grads: Callable[[Tensor], Tensor] = torch.randn_like
    ) -> None:
        self.params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES for _ in range(2)]
        for p in self.params:
            p.grad = grads(p.detach())
        self.entries: list[dict[str, Any]] = [{n: torch.zeros_like(p) for n in ("step", "m")} for p in self.params]
        self.beside = [torch.zeros_like(p) for p in self.params]
        given = self.params, [p.grad for p in self.params], self.entries, ("step", "m"), [self.beside]
        reader = headers()
        assert reader is not None, "this version of torch lays its tensors out in another way"
        columns = [self.params, *([e[n] for e in self.entries] for n in ("step", "m")), self.beside]
        self.read = reader.watch(columns, given[1], self.entries, ("step", "m"))
        self.ask = watch.Watch(*given, ask=True).gradients

    def both(self) -> list[list[int] | None]:
        """What each way says: addresses, or None for a change."""
        found: list[list[int] | None] = []
        for way in (self.read, self.ask):
            try:
                found.append(list(map(int, way())))
            except LookupError:
                found.append(None)
        return found

    def expected(self) -> list[int]:
        return [p.grad.data_ptr() for p in self.params if p.grad is not None]


def _set_data(w: World, x: Tensor) -> None:
    w.params[2].data = x


def _set_storage(p: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        p.set_(x)  # type: ignore[call-overload]


MEANWHILE: dict[str, Callable[[World], Any]] = {
    "nothing": lambda w: None,
    "weights written": lambda w: [p.data.add_(1) for p in w.params],
    "new gradients": lambda w: [setattr(p, "grad", torch.randn_like(p)) for p in w.params],
    "gradients that are views": lambda w: [
        setattr(p, "grad", torch.randn(p.numel() + 9)[4 : 4 + p.numel()].view(p.shape)) for p in w.params
    ],
    "gradients by autograd": lambda w: (
        [setattr(p, "grad", None) for p in w.params] and sum((p * p).sum() for p in w.params).backward()
    ),  # type: ignore[union-attr]
    "gradients held by others": lambda w: w.__dict__.update(held=[[p.grad for p in w.params] for _ in range(5)]),
    "collection": lambda w: gc.collect(),
}
CHANGES: dict[str, Callable[[World], Any]] = {
    "no gradient": lambda w: setattr(w.params[3], "grad", None),
    "gradient of other strides": lambda w: setattr(w.params[4], "grad", torch.randn(4, 4).t()),
    "gradient with gaps": lambda w: setattr(w.params[2], "grad", torch.randn(3, 10)[:, ::2]),
    "gradient that is expanded": lambda w: setattr(w.params[2], "grad", torch.randn(5).expand(3, 5)),
    "gradient in channels last": lambda w: setattr(
        w.params[8], "grad", torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    ),
    "gradient that is sparse": lambda w: setattr(w.params[2], "grad", torch.randn(3, 5).to_sparse()),
    "gradient that is lazily negated": lambda w: setattr(w.params[2], "grad", torch._neg_view(torch.randn(3, 5))),
    "weights elsewhere": lambda w: _set_data(w, torch.randn(3, 5)),
    "weights turned": lambda w: w.params[4].data.t_() is None or setattr(w.params[4], "data", w.params[4].data.t()),
    "weights set": lambda w: _set_storage(w.params[0], torch.randn(9)[2:]),
    "state replaced": lambda w: w.entries[5].__setitem__("m", torch.zeros_like(w.params[5])),
    "state removed": lambda w: w.entries[5].pop("m"),
    "state emptied": lambda w: w.entries[5]["m"].untyped_storage().resize_(0),
    "state elsewhere": lambda w: setattr(w.entries[1]["step"], "data", torch.zeros(7)),
    "state shifted": lambda w: setattr(w.entries[0]["m"], "data", torch.zeros(9)[2:]),
    "what is kept beside moved": lambda w: setattr(w.beside[1], "data", torch.zeros(7)),
}


@pytest.mark.parametrize("name", MEANWHILE)
def test_what_is_the_same_is_found_where_it_is(name: str):
    world = World()
    MEANWHILE[name](world)
    assert world.both() == [world.expected()] * 2
    assert world.both() == [world.expected()] * 2


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(name: str):
    world = World()
    assert world.both() == [world.expected()] * 2
    CHANGES[name](world)
    assert world.both() == [None, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_every_dtype(dtype: torch.dtype):
    world = World(dtype)
    for p in world.params:
        p.grad = torch.randn(p.numel() + 3).to(dtype)[3:].view(p.shape)
    assert world.both() == [world.expected()] * 2
    if dtype is torch.complex64:
        world.params[2].grad = torch.randn(3, 5, dtype=dtype).conj()
        assert world.both() == [None, None]


def test_a_copy_on_write_is_noticed():
    """Its weights lie where they lay, but are not ours alone any more."""
    world = World()
    clone = torch._lazy_clone(world.params[2].detach())
    found = []
    try:
        world.read()
    except LookupError:
        found.append("changed")
    assert found == ["changed"]
    assert clone.shape == (3, 5)


def test_gradients_are_not_kept_alive():
    world = World()
    grads = [weakref.ref(p.grad) for p in world.params if p.grad is not None]
    world.both()
    for p in world.params:
        p.grad = None
    gc.collect()
    assert [g() for g in grads] == [None] * len(world.params)


def test_more_dimensions_than_a_header_holds_are_asked_for():
    params = [nn.Parameter(torch.randn(1, 2, 1, 2, 1, 2)) for _ in range(40)]
    for p in params:
        p.grad = torch.randn_like(p)
    reader = headers()
    assert reader is not None
    with pytest.raises(LookupError):
        reader.watch([params], [p.grad for p in params if p.grad is not None], [], ())
    reference = [nn.Parameter(p.detach().clone()) for p in params]
    ours, theirs = optim.Adam(params), torch.optim.Adam(reference, foreach=False)
    for _ in range(3):
        for p, q in zip(params, reference, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for p, q in zip(params, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)  # a few roundings of float32


def test_the_layout_is_found_again_in_dirty_memory():
    """Whatever lies in memory, the experiments find the same places."""
    first = layout.found()
    for fill in (0x11, 0xEE, 0xFF, 0x00):
        layout.soil(fill)
        other = layout.found()
        assert other._replace(marks=()) == first._replace(marks=())
        assert [i for i, _ in other.marks] == [i for i, _ in first.marks]


def descended(steps: int) -> list[nn.Parameter]:
    """Forty weights of 1 that so many steps of equal size, exact in float32, take to 0."""
    params = [nn.Parameter(torch.ones(3)) for _ in range(40)]
    optimizer = optim.SGD(params, lr=1 / steps)
    for _ in range(steps):
        for p in params:
            p.grad = torch.ones(3)
        optimizer.step()
    return params


def test_a_wrong_layout_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Headers are not read where an experiment fails."""

    def failing() -> layout.Layout:
        raise LookupError("2 places fit")

    monkeypatch.setattr(layout, "found", failing)
    headers.cache_clear()
    try:
        assert headers() is None
        assert all(p.tolist() == [0.0] * 3 for p in descended(2))
    finally:
        headers.cache_clear()


def test_headers_that_never_fit_are_given_up(monkeypatch: pytest.MonkeyPatch):
    """A part of a header that changes at each step, and says nothing, costs a few rebuilt steps, not all."""
    asked: list[bool] = []

    class Suspicious(watch.Watch):
        def __init__(self, *given: Any, ask: bool = False, **more: Any) -> None:
            super().__init__(*given, ask=ask, **more)
            asked.append(ask)
            if not ask and given[0]:

                def never() -> Any:
                    raise LookupError("never")

                self.gradients = never

    from stepscope.optim import dispatch

    monkeypatch.setattr(dispatch, "Watch", Suspicious)
    assert all(p.tolist() == [0.0] * 3 for p in descended(8))
    assert asked == sorted(asked)
    assert sum(asked) == 1  # once they are not trusted, nothing is rebuilt


def test_records_follow_the_headers():
    """The words that are compared are the ones that a look at each tensor in Python gives."""
    at = layout.found()
    t = torch.randn(40)[3:18].view(3, 5)
    words = list((ctypes.c_uint64 * 24).from_address(t._cdata))
    storage = t.untyped_storage()
    assert words[at.storage] == storage._cdata
    assert words[at.offset] == t.storage_offset() == 3
    assert words[at.dims] == 2
    assert words[at.sizes : at.sizes + 2] == [3, 5]
    assert words[at.strides : at.strides + 2] == [5, 1]
    held = list((ctypes.c_uint64 * 6).from_address(storage._cdata))
    assert held[at.data] == storage.data_ptr()
    assert np.all(at.masks()[0][1 : 1 + 2 * layout.DIMENSIONS] == 0)
