"""What one pass over tensors computes and on which ones it may run, in terms that every compiled backend shares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stepscope.graph.expression import SYMBOLS, as_symbol, symbol, trace
from stepscope.graph.streams import Measured, Stream
from stepscope.rules import Rule
from stepscope.rules.averages import welford
from stepscope.rules.statistics import EVERYWHERE, Numbers, Step, statistics

__all__ = [
    "MEAN_KEPT",
    "STORAGE",
    "Described",
    "Layout",
    "looking",
    "number_type",
    "state_dtype",
    "stepping",
    "unfit",
]

STORAGE = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "float32",
    torch.complex128: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_PLAIN = (Tensor, torch.nn.Parameter)
MEAN_KEPT = "kept.m", "kept.S"  # streams of averages that are kept beside a rule


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state of a parameter of this dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def unfit(theta: Tensor, g: Tensor, state: Iterable[Any]) -> str | None:
    """Why no kernel steps these tensors, or None: plain, dense, on one device, laid out alike."""
    if theta.dtype not in STORAGE:
        return f"dtype {theta.dtype}"
    tensors = (theta, g, *state)
    for test, name in _UNFIT.items():
        if any(map(test, tensors)):
            return name
    if any(t.device != theta.device for t in tensors):
        return "tensors on other devices"
    wide = state_dtype(theta.dtype)
    alike = g.dtype == theta.dtype and all(t.dtype == wide for t in tensors[2:])
    if not alike or any(t.shape != theta.shape for t in tensors):
        return "a gradient or state of another shape or dtype"
    if all(map(Tensor.is_contiguous, tensors)):
        return None
    alike = _is_dense(theta.shape, theta.stride()) and all(t.stride() == theta.stride() for t in tensors)
    return None if alike else "strided tensors"


_UNFIT: Mapping[Callable[[Any], bool], str] = {
    lambda t: type(t) not in _PLAIN: "tensors of other classes",
    lambda t: t.layout is not torch.strided: "tensors that are not dense",
    lambda t: t.is_neg() or t.is_conj(): "lazily negated or conjugated tensors",
}


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill a piece of memory, each its own place: any order of dimensions, no gaps."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


class Layout(NamedTuple):
    """The streams of the two averages; raw: of g and g^2 from 0 on, else a bias-corrected mean and v - m^2."""

    mean: str
    second: str
    raw: bool


def _measured(step: Step, raw: bool) -> tuple[tuple[str, ...], Measured]:
    """Names of the sums, and the graphs of the statistics."""
    numbers = Numbers(*(symbol(f"number.{name}") for name in Numbers._fields))
    careful = statistics(SYMBOLS, step, numbers, raw=raw, inside=symbol("inside"))
    trusting = statistics(SYMBOLS, step, numbers, raw=raw, trusting=True)
    graphs = [[as_symbol(x) for part in found[:2] for x in part.values()] for found in (careful, trusting)]
    count = len(careful.sums)
    return tuple(careful.sums), Measured(EVERYWHERE, graphs[0][:count], graphs[0][count:], careful.gaps, graphs[1])


class Described(NamedTuple):
    """What a program computes, in any backend's terms: precision, streams, what is measured and the terms' names."""

    precision: str
    streams: list[Stream]
    graphs: Measured | None = None
    terms: tuple[str, ...] = ()


def stepping(rule: Rule, dtype: torch.dtype, averaged: bool, measured: Layout | None) -> Described:
    """The step of a rule in a dtype.

    averaged: streams MEAN_KEPT hold averages of g that are kept beside the rule.
    measured: the streams of the two averages that are measured; None measures nothing.
    """
    storage = STORAGE[dtype]
    wide = "float64" if storage == "float64" else "float32"
    g = symbol("g")
    traced = trace(rule)
    streams = [Stream("theta", storage, traced.theta), Stream("g", storage)]
    streams += [Stream(f"state.{name}", wide, root) for name, root in traced.state.items()]
    if averaged:
        kept = welford(SYMBOLS, g, symbol(MEAN_KEPT[0]), symbol(MEAN_KEPT[1]), symbol("number.weight"))
        streams += [Stream(name, wide, root) for name, root in zip(MEAN_KEPT, kept, strict=True)]
    if measured is None:
        return Described(wide, streams)
    mean, second = symbol(f"new.{measured.mean}"), symbol(f"new.{measured.second}")
    names, graphs = _measured(Step(g, mean, second, symbol("theta"), symbol("new.theta")), measured.raw)
    return Described(wide, streams, graphs, names)


def looking(storage: torch.dtype, averages: torch.dtype, raw: bool) -> Described:
    """The measurement of a step that is over: streams g, mean, second, before, after.

    storage: dtype of the gradient and the weights.  averages: of the two averages.
    """
    stored, kept = STORAGE[storage], STORAGE[averages]
    wide = "float64" if "float64" in (stored, kept) else "float32"
    streams = [Stream(name, kept if name in ("mean", "second") else stored) for name in Step._fields]
    names, graphs = _measured(Step(*map(symbol, Step._fields)), raw)
    return Described(wide, streams, graphs, names)


def number_type(precision: str) -> Any:
    """NumPy's type of the shared numbers."""
    return np.float64 if precision == "float64" else np.float32
