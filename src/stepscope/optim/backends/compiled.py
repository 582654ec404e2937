"""Rules as one compiled pass over a CPU tensor: every element of theta, g and state is read and written once.

The rule's graph is the one that the simulation engine compiles. What depends on hyper-parameters and step scalars alone
is computed on the host in float64, as the eager backend does, and rounded to the tensor's format once.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepscope.graph import machine
from stepscope.graph.expression import Symbol, evaluate, order, symbol, trace
from stepscope.graph.llvm import FORMATS, Emitter, Value
from stepscope.rules import Rule

__all__ = ["Prepared", "available", "can_step"]

available = machine.available

_PRECISIONS = {torch.float32: ("float32", np.float32), torch.float64: ("float64", np.float64)}
_WIDTH = 16
_PART = 1 << 16  # elements a thread takes at a time: they stay in its cache
_TRUTHS = ("<", "<=", ">", ">=", "&")


def can_step(theta: Tensor, g: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Whether these tensors can be stepped by a kernel: plain, dense, on the CPU, one format, one after the other."""
    tensors = (theta, g, *state.values())
    return theta.dtype in _PRECISIONS and all(
        type(t) in (Tensor, torch.nn.Parameter)
        and t.layout is torch.strided
        and t.device.type == "cpu"
        and t.dtype == theta.dtype
        and t.is_contiguous()
        and not t.is_neg()
        for t in tensors
    )


class _Kernel:
    """The machine code of one rule in one format."""

    def __init__(self, rule: Rule, precision: str) -> None:
        self.host, roots = _split(trace(rule).roots)
        text = _text(roots, len(self.host), rule.state, precision)
        self._engine, address = machine.code(text, "step", unroll=True)
        pointer = ctypes.c_void_p
        self.run = ctypes.CFUNCTYPE(None, *[pointer] * 4, ctypes.c_int64, ctypes.c_int64)(address)


def _split(roots: Sequence[Symbol]) -> tuple[list[Symbol], list[Symbol]]:
    """The parts of the roots that tensors do not enter, and the roots with inputs shared.<i> in their place."""
    inside: dict[int, bool] = {}
    values: dict[int, Symbol] = {}
    host: dict[int, int] = {}
    parts: list[Symbol] = []

    def shared(node: Symbol) -> Symbol:
        if node.op == "const":
            return node
        if node.number not in host:
            host[node.number] = len(parts)
            parts.append(node)
        place = symbol(f"shared.{host[node.number]}")
        return place > 0.5 if node.op in _TRUTHS else place

    for node in order(roots):
        if node.op == "const" or (node.op == "input" and node.args[0].split(".")[0] in ("hyper", "scalars")):
            inside[node.number] = True
        elif node.op == "input":
            inside[node.number], values[node.number] = False, node
        else:
            inside[node.number] = all(inside[a.number] for a in node.args)
            if not inside[node.number]:
                arguments = [shared(a) if inside[a.number] else values[a.number] for a in node.args]
                values[node.number] = Symbol(node.op, *arguments)
    return parts, [shared(r) if inside[r.number] else values[r.number] for r in roots]


def _text(roots: Sequence[Symbol], count: int, names: Sequence[str], precision: str) -> str:
    """step(theta, g, states, shared, first, last): a loop over vectors and one over the elements that are left."""
    f = FORMATS[precision]
    align = f.bits // 8
    wide, narrow = Emitter(_WIDTH, f), Emitter(1, f)
    lines = [
        "define void @step(ptr %theta, ptr %g, ptr %states, ptr %shared, i64 %first, i64 %last) {",
        "entry:",
    ]
    for i in range(len(names)):
        lines += [f"  %p{i} = getelementptr ptr, ptr %states, i64 {i}", f"  %s{i} = load ptr, ptr %p{i}, align 8"]
    for i in range(count):
        lines += [
            f"  %n{i} = getelementptr {f.llvm}, ptr %shared, i64 {i}",
            f"  %h{i} = load {f.llvm}, ptr %n{i}, align {align}",
        ]
    lines += [
        "  %length = sub i64 %last, %first",
        f"  %blocks = udiv i64 %length, {_WIDTH}",
        f"  %covered = mul i64 %blocks, {_WIDTH}",
        "  %middle = add i64 %first, %covered",
        "  %any = icmp ult i64 %first, %middle",
        "  br i1 %any, label %wide, label %between",
    ]
    for label, e, start, step, end, after in (
        ("wide", wide, "%first", _WIDTH, "%middle", "between"),
        ("narrow", narrow, "%middle", 1, "%last", "done"),
    ):
        before = "entry" if label == "wide" else "between"
        e.lines.append(f"{label}:")
        e.line(f"%{label}.i = phi i64 [ {start}, %{before} ], [ %{label}.next, %{label} ]")
        e._count = 0 if label == "wide" else 100_000  # names must differ between the two loops
        kind, lanes = e.type_of(True), e.width > 1
        inputs = {f"shared.{i}": Value(f"%h{i}", False) for i in range(count)}
        places = {"theta": "%theta", "g": "%g"} | {f"state.{n}": f"%s{i}" for i, n in enumerate(names)}
        at = {n: e.let(f"getelementptr {f.llvm}, ptr {p}, i64 %{label}.i") for n, p in places.items()}
        inputs |= {n: Value(e.let(f"load {kind}, ptr {a}, align {align}"), lanes) for n, a in at.items()}
        results = e.emit(roots, inputs)
        for name, value in zip(("theta", *(f"state.{n}" for n in names)), results, strict=True):
            said = value.name if value.vector or e.width == 1 else e.spread(value.name)
            e.line(f"store {kind} {said}, ptr {at[name]}, align {align}")
        e.line(f"%{label}.next = add i64 %{label}.i, {step}")
        e.line(f"%{label}.more = icmp ult i64 %{label}.next, {end}")
        e.line(f"br i1 %{label}.more, label %{label}, label %{after}")
        lines += e.lines
        if label == "wide":
            lines += [
                "between:",
                "  %rest = icmp ult i64 %middle, %last",
                "  br i1 %rest, label %narrow, label %done",
            ]
    lines += ["done:", "  ret void", "}"]
    return "\n".join([*sorted(wide.declarations | narrow.declarations), *lines])


@cache
def _kernel(rule: Rule, precision: str) -> _Kernel:
    return _Kernel(rule, precision)


def _where(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


# Host numbers are Python floats: the same arithmetic as in the eager backend.
_HOST: Any = SimpleNamespace(sqrt=lambda x: x**0.5, abs=abs, where=_where, min=min, max=max)

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


class Prepared:
    """A rule with the numbers of one step: all tensors that are stepped with them share it."""

    def __init__(
        self, rule: Rule, dtype: torch.dtype, hyper: Mapping[str, float], scalars: Mapping[str, float]
    ) -> None:
        precision, kind = _PRECISIONS[dtype]
        self.rule, self.kernel = rule, _kernel(rule, precision)
        inputs = {f"hyper.{n}": v for n, v in hyper.items()} | {f"scalars.{n}": v for n, v in scalars.items()}
        self.shared = np.array([float(v) for v in evaluate(self.kernel.host, inputs, _HOST)] or [0.0], kind)
        self.address = self.shared.ctypes.data

    def step(self, theta: Tensor, g: Tensor, state: Mapping[str, Tensor]) -> None:
        """Update `theta` and `state` in place; the tensors are such that `can_step`."""
        pointers = [state[name].data_ptr() for name in self.rule.state]
        states = (ctypes.c_void_p * max(len(pointers), 1))(*pointers)
        addresses = (theta.data_ptr(), g.data_ptr(), ctypes.addressof(states), self.address)
        count = theta.numel()
        threads = 1 if count <= _PART else min(torch.get_num_threads(), -(-count // _PART))
        if threads <= 1:
            self.kernel.run(*addresses, 0, count)
        else:
            pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, thread_name_prefix="stepscope"))
            parts = [(low, min(low + _PART, count)) for low in range(0, count, _PART)]
            for _ in pool.map(lambda part: self.kernel.run(*addresses, *part), parts):
                pass
        torch.autograd.graph.increment_version([theta, *state.values()])
