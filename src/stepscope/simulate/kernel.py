"""A program compiled by LLVM for this machine: blocks of lanes stay in registers for all their steps.

A kernel handles blocks [b0, b1) from step t0 to step t1, with Python's lock released, so threads share one sweep by its
blocks. The arithmetic of a lane does not depend on its neighbours, the number of threads or the block it lies in.
"""

import ctypes
import platform
from collections.abc import Sequence
from typing import Any

from stepscope.graph import machine
from stepscope.graph.elementary import rewrite
from stepscope.graph.llvm import FORMATS, Emitter, Format, Value
from stepscope.graph.machine import available
from stepscope.simulate.noise import emit_normals
from stepscope.simulate.program import Program

__all__ = ["Kernel", "available", "compiled", "on_x86"]

_KEPT = 256  # kernels in memory at a time

_ARGUMENTS = (
    "ptr %lanes, i64 %stride, ptr %shared, ptr %tables, ptr %lengths, ptr %rows, ptr %keys, "
    "i64 %b0, i64 %b1, i64 %t0, i64 %t1, ptr %out, i64 %every"
)


def on_x86() -> bool:
    """Whether this processor has 80-bit numbers and the SSE mode register."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _align(f: Format) -> int:
    return {"double": 8, "float": 4, "x86_fp80": 16}[f.llvm]


class _Text:
    """Writes the one function of a kernel."""

    def __init__(self, program: Program, width: int, f: Format, in_lanes: frozenset[str]) -> None:
        self.p, self.f, self.width, self.in_lanes = program, f, width, in_lanes
        self.e = Emitter(width, f)
        self.inputs: dict[str, Value] = {}
        self.vector = width > 1
        self.carried, self.columns, self.finals = self._rewritten()
        self.slots = [*program.carried, *(n for n in program.inputs if n in in_lanes), *program.finals]

    def _rewritten(self) -> tuple[list[Any], list[Any], list[Any]]:
        p = self.p
        roots = [*p.carried.values(), *p.columns.values(), *p.finals.values()]
        if self.f.name == "float64":  # the other formats call the library's functions, one lane at a time
            roots = rewrite(roots)
        a, b = len(p.carried), len(p.carried) + len(p.columns)
        return roots[:a], roots[a:b], roots[b:]

    def _place(self, slot: int) -> str:
        """Where this block's lanes of a slot lie."""
        e = self.e
        start = e.let(f"add i64 {e.let(f'mul i64 %stride, {slot}')}, %lane")
        return e.let(f"getelementptr {self.f.llvm}, ptr %lanes, i64 {start}")

    def _load(self, place: str) -> str:
        return self.e.let(f"load {self.e.type_of(True)}, ptr {place}, align {_align(self.f)}")

    def _store(self, name: str, place: str) -> None:
        self.e.line(f"store {self.e.type_of(True)} {name}, ptr {place}, align {_align(self.f)}")

    def _in_lanes(self, value: Value) -> str:
        return value.name if value.vector else self.e.spread(value.name)

    def text(self) -> str:
        e, lane_type = self.e, self.e.type_of(True)
        e.lines += [f"define void @run({_ARGUMENTS}) {{", "entry:"]
        self._float_environment()
        e.lines += ["  %some = icmp ult i64 %b0, %b1", "  br i1 %some, label %block, label %end"]
        e.start_block("block", keep=False)
        e.line("%b = phi i64 [ %b0, %entry ], [ %b_next, %done ]")
        e.line(f"%lane = mul i64 %b, {self.width}")
        first = {name: self._load(self._place(i)) for i, name in enumerate(self.slots[: len(self.p.carried)])}
        self._constants()
        pointers = self._table_pointers()
        key = ""
        if self.p.normals:
            at = e.let("getelementptr i64, ptr %keys, i64 %lane")
            key = e.let(f"load {e.type_of(True, 'i64')}, ptr {at}, align 8")
        # Constants spread here dominate the loop; what the loop makes does not outlive it.
        e.line("br label %loop")
        e.start_block("loop")
        e.line("%t = phi i64 [ %t0, %block ], [ %t_next, %next ]")
        if self.columns:
            e.line("%left = phi i64 [ 0, %block ], [ %left_next, %next ]")
        names = {}
        for i, name in enumerate(self.p.carried):
            names[name] = f"%c{i}"
            e.line(f"%c{i} = phi {lane_type} [ {first[name]}, %block ], [ @NEXT{i}@, %next ]")
            self.inputs[name] = Value(f"%c{i}", self.vector)
        self.inputs["t"] = Value(e.let(f"uitofp i64 %t to {self.f.llvm}"), False)
        self._scalars(pointers)
        if self.p.normals:
            for i, z in enumerate(emit_normals(e, key, "%t", self.p.normals)):
                self.inputs[f"noise.{i}"] = Value(z, self.vector)
        after = e.emit(self.carried, self.inputs)
        nexts = [self._in_lanes(value) for value in after]
        e.line("%last = icmp uge i64 %t, %t1")
        if self.columns:
            self._record()
        else:
            e.line("br i1 %last, label %done, label %next")
        e.start_block("next")
        e.lines += ["  %t_next = add i64 %t, 1", "  br label %loop"]
        e.start_block("done")
        self._finish(names, nexts)
        text = "\n".join(e.lines)
        for i, name in enumerate(nexts):
            text = text.replace(f"@NEXT{i}@", name)
        return "\n".join([*sorted(e.declarations), text])

    def _constants(self) -> None:
        e, f, shared = self.e, self.f, 0
        for name in self.p.inputs:
            if name in self.in_lanes:
                self.inputs[name] = Value(self._load(self._place(self.slots.index(name))), self.vector)
            else:  # one number per block
                place = e.let(f"add i64 {e.let(f'mul i64 %blocks, {shared}')}, %b")
                at = e.let(f"getelementptr {f.llvm}, ptr %shared, i64 {place}")
                self.inputs[name] = Value(e.let(f"load {f.llvm}, ptr {at}, align {_align(f)}"), False)
                shared += 1

    def _table_pointers(self) -> list[str]:
        """For each step scalar: the address of the block's table row, or the addresses of its lanes' rows."""
        e, out = self.e, []
        for i, name in enumerate(self.p.scalars):
            in_lanes = self._scalar_in_lanes(name)
            at = e.let(f"getelementptr ptr, ptr %tables, i64 {i}")
            table = e.let(f"load ptr, ptr {at}, align 8")
            at = e.let(f"getelementptr i64, ptr %lengths, i64 {i}")
            e.line(f"%length{i} = load i64, ptr {at}, align 8")
            e.line(f"%final{i} = sub i64 %length{i}, 1")
            start = e.let(f"mul i64 %stride, {i}")
            if in_lanes:
                at = e.let(f"getelementptr i64, ptr %rows, i64 {e.let(f'add i64 {start}, %lane')}")
                kind = e.type_of(True, "i64")
                rows = e.let(f"load {kind}, ptr {at}, align 8")
                offset = e.let(f"mul {kind} {rows}, {e.spread(f'%length{i}', 'i64')}")
                out.append(e.let(f"getelementptr {self.f.llvm}, ptr {table}, {kind} {offset}"))
            else:
                at = e.let(f"getelementptr i64, ptr %rows, i64 {e.let(f'add i64 {start}, %lane')}")
                row = e.let(f"load i64, ptr {at}, align 8")
                out.append(
                    e.let(f"getelementptr {self.f.llvm}, ptr {table}, i64 {e.let(f'mul i64 {row}, %length{i}')}")
                )
        return out

    def _scalar_in_lanes(self, name: str) -> bool:
        return self.vector and any(f"hyper.{h}" in self.in_lanes for h in self.p.scalars[name].needs)

    def _scalars(self, pointers: Sequence[str]) -> None:
        e, f = self.e, self.f
        for i, (name, pointer) in enumerate(zip(self.p.scalars, pointers, strict=True)):
            beyond = e.let(f"icmp ugt i64 %t, %final{i}")
            index = e.let(f"select i1 {beyond}, i64 %final{i}, i64 %t")
            if self._scalar_in_lanes(name):
                kind, places = e.type_of(True), e.type_of(True, "ptr")
                where = e.let(f"getelementptr {f.llvm}, {places} {pointer}, i64 {index}")
                suffix = f"v{e.width}{f.suffix}.v{e.width}p0"
                truth = e.type_of(True, "i1")
                every = e.spread("true", "i1")
                call = (kind, ((places, where), ("i32", str(_align(f))), (truth, every), (kind, "poison")))
                e.declarations.add(
                    f"declare {kind} @llvm.masked.gather.{suffix}({places}, i32 immarg, {truth}, {kind})"
                )
                arguments = ", ".join(f"{a} {b}" for a, b in call[1])
                value = e.let(f"call {kind} @llvm.masked.gather.{suffix}({arguments})")
                self.inputs[f"scalars.{name}"] = Value(value, True)
            else:
                at = e.let(f"getelementptr {f.llvm}, ptr {pointer}, i64 {index}")
                value = e.let(f"load {f.llvm}, ptr {at}, align {_align(f)}")
                self.inputs[f"scalars.{name}"] = Value(value, False)

    def _record(self) -> None:
        """At each `every`-th step and the last one, one row of columns, one lane after the other."""
        e = self.e
        e.line("%due = icmp eq i64 %left, 0")
        e.line("%now = or i1 %due, %last")
        e.line("br i1 %now, label %record, label %skip")
        mark = e.mark()
        e.start_block("record")
        passed = e.let("sub i64 %t, %t0")
        above = e.let(f"add i64 {passed}, {e.let('sub i64 %every, 1')}")
        row = e.let(f"udiv i64 {above}, %every")
        base = e.let(f"mul i64 {row}, {len(self.columns)}")
        for i, value in enumerate(e.emit(self.columns, self.inputs)):
            start = e.let(f"mul i64 {e.let(f'add i64 {base}, {i}')}, %stride")
            at = e.let(f"getelementptr {self.f.llvm}, ptr %out, i64 {e.let(f'add i64 {start}, %lane')}")
            self._store(self._in_lanes(value), at)
        e.line("br label %skip")
        e.restore(mark)
        e.start_block("skip")
        e.line("%full = select i1 %due, i64 %every, i64 %left")
        e.line("%left_next = sub i64 %full, 1")
        e.line("br i1 %last, label %done, label %next")

    def _finish(self, names: dict[str, str], nexts: Sequence[str]) -> None:
        e = self.e
        for i, name in enumerate(self.p.carried):
            # An observer has looked at the last point too; the point itself is the one before the step not taken.
            self._store(nexts[i] if name.startswith("seen.") else names[name], self._place(i))
        for i, value in enumerate(e.emit(self.finals, self.inputs)):
            self._store(self._in_lanes(value), self._place(len(self.slots) - len(self.finals) + i))
        e.lines += [
            "  %b_next = add i64 %b, 1",
            "  %more = icmp ult i64 %b_next, %b1",
            "  br i1 %more, label %block, label %end",
            "end:",
        ]
        if self.floats_set:
            e.line("call void @llvm.x86.sse.ldmxcsr(ptr %mode)")
        e.lines += ["  ret void", "}"]

    def _float_environment(self) -> None:
        """Subnormal numbers stay what they are, whatever mode the calling thread is in (torch can set another)."""
        e = self.e
        self.floats_set = on_x86()
        if self.floats_set:
            e.declarations |= {"declare void @llvm.x86.sse.stmxcsr(ptr)", "declare void @llvm.x86.sse.ldmxcsr(ptr)"}
            e.lines += [
                "  %mode = alloca i32, align 4",
                "  %plain = alloca i32, align 4",
                "  call void @llvm.x86.sse.stmxcsr(ptr %mode)",
                f"  store i32 {0x1F80}, ptr %plain, align 4",
                "  call void @llvm.x86.sse.ldmxcsr(ptr %plain)",
            ]
        e.line(f"%blocks = udiv i64 %stride, {self.width}")


class Kernel:
    """The machine code of a program for one number format and block width."""

    def __init__(self, program: Program, width: int, precision: str, in_lanes: frozenset[str]) -> None:
        writer = _Text(program, width, FORMATS[precision], in_lanes)
        self.slots = writer.slots
        self.shared = [name for name in program.inputs if name not in in_lanes]
        self.width, self.source = width, writer.text()
        self._engine, address = machine.code(self.source, "run")
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        kinds = [pointer, whole, *[pointer] * 5, *[whole] * 4, pointer, whole]
        self.run: Any = ctypes.CFUNCTYPE(None, *kinds)(address)


_kernels: dict[tuple[int, int, str, frozenset[str]], tuple[Program, Kernel]] = {}


def compiled(program: Program, width: int, precision: str, in_lanes: frozenset[str]) -> Kernel:
    """The kernel of a program, compiled on first use. `in_lanes`: the inputs that differ inside a block."""
    key = (id(program), width, precision, in_lanes)
    if key not in _kernels:
        if len(_kernels) >= _KEPT:
            _kernels.pop(next(iter(_kernels)))
        # The program is kept with its kernel, so that its identity stays its own.
        _kernels[key] = (program, Kernel(program, width, precision, in_lanes))
    return _kernels[key][1]
