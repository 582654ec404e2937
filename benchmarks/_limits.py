"""What the processor can do at best: square roots and divisions, and multiply-adds, per second and core.

Independent chains in registers, no memory: a simulation cannot be faster than the operations that its rule must do.
"""

import ctypes
import time
from functools import cache
from typing import Any

from stepscope.graph import machine
from stepscope.graph.llvm import FORMATS, Emitter

LANES = 64
ROUNDS = 200_000


def _kernel(operations: str, precision: str) -> Any:
    """A loop over LANES independent lanes. operations: one letter each, r root, d division, m multiply-add."""
    e = Emitter(LANES, FORMATS[precision])
    kind = e.type_of(True)
    e.lines += [
        "define void @run(ptr %x, i64 %n) {",
        "entry:",
        f"  %a = load {kind}, ptr %x, align 8",
        "  br label %loop",
    ]
    e.lines += [
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %j, %loop ]",
        f"  %v = phi {kind} [ %a, %entry ], [ @V@, %loop ]",
    ]
    value, suffix = "%v", f"v{LANES}{e.number.suffix}"
    c = e.spread(e.number.literal(0.999))
    for letter in operations:
        if letter == "r":
            value = e.call(f"llvm.sqrt.{suffix}", kind, (kind, value))
        elif letter == "d":
            value = e.let(f"fdiv {kind} {c}, {value}")
        else:
            value = e.call(f"llvm.fma.{suffix}", kind, (kind, value), (kind, c), (kind, c))
    e.lines += ["  %j = add i64 %i, 1", "  %go = icmp ult i64 %j, %n", "  br i1 %go, label %loop, label %end", "end:"]
    e.lines += [f"  store {kind} {value}, ptr %x, align 8", "  ret void", "}"]
    text = "\n".join([*sorted(e.declarations), *e.lines]).replace("@V@", value)
    engine, address = machine.code(text, "run")
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)
    return engine, run


@cache
def kernel(operations: str, precision: str = "float64") -> Any:
    """The compiled loop, kept alive."""
    return _kernel(operations, precision)


def seconds_per_lane(operations: str, precision: str = "float64") -> float:
    """Seconds one core takes for the operations on one number, once."""
    import numpy as np

    x = np.linspace(0.5, 1.5, LANES).astype(precision)
    run = kernel(operations, precision)[1]
    begin = time.perf_counter()
    run(x.ctypes.data, ROUNDS)
    return (time.perf_counter() - begin) / (ROUNDS * LANES)
