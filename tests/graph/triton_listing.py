"""Compile passes for GPUs that are not there and print what their machine code is made of, as JSON.

Run in a process of its own: Triton's compiler and its interpreter exclude each other.
"""

import json
import re
import sys
from collections import Counter

import torch
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stepscope.graph.elementary import rewrite
from stepscope.graph.expression import order
from stepscope.graph.streams import BLOCK, split
from stepscope.optim.backends import cpu, cuda
from stepscope.rules import METHODS
from stepscope.rules.statistics import PLAIN

TYPES = {"table": "*i64", "chunks": "*i64", "sums": "*fp64", "counts": "*i32", "starts": "*i64", "out": "*fp64"}
MEASURED = {
    "msvag": cpu.Layout("state.m", "state.S", False),
    "adam": cpu.Layout("state.exp_avg", "state.exp_avg_sq", True),
}


ROOTS = {}


class Kernel(cuda.Kernel):
    """Remembers what it was made of."""

    def __init__(self, precision, streams, measured=None, bins=()):
        super().__init__(precision, streams, measured, bins)
        ROOTS[self] = [s.root for s in streams if s.root is not None]
        ROOTS[self] += [*measured.terms, *measured.places] if measured else []


def listing(kernel, constants, number, capability):
    """How often each instruction occurs in the PTX."""
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else TYPES.get(name, number) for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants}
    source = ASTSource(kernel, types, values, attrs=aligned)
    found = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=dict(cuda.OPTIONS))
    return Counter(re.findall(r"^\s*(?:@%\w+ )?([a-z]\w*(?:[.:]+\w+)*)", found.asm["ptx"], re.MULTILINE))


def main():
    results = []
    for rule, dtype, measured, capability in json.loads(sys.argv[1]):
        layout = MEASURED[rule] if measured else None
        program = cpu.program(METHODS[rule], getattr(torch, dtype), False, layout, PLAIN, Kernel)
        number = "*fp64" if dtype == "float64" else "*fp32"
        step = listing(program.kernel.step, {"ALIGNED": True}, number, capability)
        graph = Counter(node.op for node in order(rewrite(split(ROOTS[program.kernel])[1])))
        if measured:
            listing(program.kernel.combine, {"TERMS": len(PLAIN.terms), "WIDTH": 32}, number, capability)
        results.append({"instructions": step, "graph": graph})
    json.dump({"results": results, "elements": BLOCK // (32 * cuda.OPTIONS["num_warps"])}, sys.stdout)


if __name__ == "__main__":
    main()
