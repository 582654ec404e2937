"""The Triton emitter: every operation against NumPy, and the instructions that a GPU would run."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cases import NO_TRITON
from tests.tolerances import EPS32, EPS64

from stepscope.graph import FUNCTIONS, PRIMITIVES, evaluate
from stepscope.graph.expression import SYMBOLS, primitive, symbol
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.graph.streams import Stream
from stepscope.graph.triton import printed
from stepscope.optim.backends import cpu, cuda

pytestmark = pytest.mark.skipif(bool(NO_TRITON), reason=NO_TRITON)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
A, B = symbol("a"), symbol("b")
SPECIAL = [0.0, -0.0, 1.0, -1.5, 2.0**-126, 3e38, math.inf, -math.inf, math.nan]
PAIRS = np.array(list(itertools.product(SPECIAL, SPECIAL))).T
# One operation each; & and comparisons through where, fma with exact products so that one rounding and two agree.
OPERATIONS = {
    "+": A + B, "-": A - B, "*": A * B, "/": A / B, "neg": -A, "sqrt": SYMBOLS.sqrt(A), "abs": SYMBOLS.abs(A),
    "sign": SYMBOLS.sign(A), "min": SYMBOLS.min(A, B), "max": SYMBOLS.max(A, B), "fma": SYMBOLS.fma(A, 1.0, B),
    "<": SYMBOLS.where(A < B, 1.0, 0.0), "<=": SYMBOLS.where(A <= B, 1.0, 0.0), ">": SYMBOLS.where(A > B, 1.0, 0.0),
    ">=": SYMBOLS.where(A >= B, 1.0, 0.0), "&": SYMBOLS.where((A > 0) & (B > 0), A, B),
    "minus zero": SYMBOLS.where(A > B, -0.0, A), "infinity": SYMBOLS.where(A > B, math.inf, math.nan),
}  # fmt: skip
TRANSCENDENTAL = ("exp", "log", "sin", "cos", "tanh", "erf")


@pytest.fixture(autouse=True)
def _quiet_interpreter():
    """Triton's interpreter computes with NumPy, which would warn of 0/0 and of sqrt(-1)."""
    with np.errstate(all="ignore"):
        yield


def computed(root, a, b, precision="float64"):
    """The root for inputs a and b, element by element."""
    kernel = cuda.Kernel(precision, [Stream("a", precision, root), Stream("b", precision)])
    program = cpu.Program(kernel, np.dtype(precision).type)
    a, b = (torch.tensor(x, dtype=getattr(torch, precision), device=DEVICE) for x in (a, b))
    cuda.launch(program, cuda.Batch([[a], [b]]), [program.shared({})])
    return a.cpu().numpy()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_numpy_s_on_special_values(name, precision):
    """nan, infinities and signed zeros included; but NumPy's sign of -0 is 0, ours is -0 as torch's is."""
    a, b = PAIRS.astype(precision)
    theirs = np.broadcast_to(evaluate([OPERATIONS[name]], {"a": a, "b": b}, NUMPY)[0], a.shape)
    ours = computed(OPERATIONS[name], a, b, precision)
    np.testing.assert_array_equal(ours, theirs.astype(precision))
    zero = (ours == 0) & (name != "sign")
    np.testing.assert_array_equal(np.signbit(ours[zero]), np.signbit(theirs[zero]))


def test_every_operation_has_a_case():
    assert set(FUNCTIONS) - set(TRANSCENDENTAL) - {"where"} <= set(OPERATIONS)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", TRANSCENDENTAL)
def test_functions_are_the_graph_s_own(name, precision):
    """Against NumPy, in float64 to 8 ulps, of x itself for sin and cos: the interpreter rounds a fused product twice.
    float32 is computed in float64 and rounded: half an ulp, and NumPy's own reference is float64 here."""
    x = np.concatenate([np.linspace(0.01, 3, 400), np.linspace(3, 60, 200)]).astype(precision)
    theirs = getattr(NUMPY, name)(x.astype(np.float64))
    ours = computed(getattr(SYMBOLS, name)(A), x, x, precision)
    eps = 8 * EPS64 if precision == "float64" else EPS32 / 2 * (1 + 1e-6)
    reduced = {"sin": 60 * EPS64, "cos": 60 * EPS64, "log": EPS64}
    np.testing.assert_allclose(ours, theirs.astype(np.float64), rtol=eps, atol=reduced.get(name, 0))


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_are_exact(name, precision):
    a = {
        "rint": np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999, 7.0, -8.3, 1e30, -1e30, 8388609.0, 4194304.5]),
        "pow2": np.array([0.0, 1.0, -1.0, 17.0, -126.0, 127.0]),
    }.get(name, np.array([1.0, 1.999, 2.0, 0.75, 2.0**-126, 3.4e38, 1e-30, 6.5]))
    a = a.astype(precision)
    np.testing.assert_array_equal(computed(primitive(name, A), a, a, precision), getattr(NUMPY, name)(a))


def test_the_text_is_the_same_wherever_and_whenever_it_is_printed():
    """Triton caches by text: a name that depended on the order of imports would compile everything again."""
    texts = {
        subprocess.run([sys.executable, "-c", f"{before}; {SHOW}"], check=True, capture_output=True, text=True).stdout
        for before in (
            "pass",
            "from stepscope.graph.expression import symbol; s = [symbol(f'x{i}') + 1 for i in range(9)]",
        )
    }
    assert len(texts) == 1
    assert "tl.sqrt_rn" in texts.pop()


SHOW = (
    "from stepscope.graph import trace, triton; from stepscope.graph.streams import Stream; "
    "from stepscope.rules import METHODS; t = trace(METHODS['adam']); "
    "print(triton.printed('float32', [Stream('theta', 'float32', t.theta), Stream('g', 'float32'), "
    "*(Stream('state.' + n, 'float32', r) for n, r in t.state.items())]).source)"
)


def test_an_operation_without_a_text_is_refused():
    from stepscope.graph.expression import Symbol

    with pytest.raises(NotImplementedError, match="the Triton backend has no gamma"):
        printed("float32", [Stream("a", "float32", Symbol("gamma", A))])


# --- machine code -----------------------------------------------------------------------------------------------------

COMPILED = [
    ("adam", "float32", False, 80),
    ("adam", "float32", True, 90),
    ("adam", "float64", False, 90),
    ("adam", "bfloat16", False, 80),
    ("msvag", "float32", True, 80),
    ("msvag", "float16", False, 90),
    ("adam_erf", "float32", False, 90),
]


@pytest.fixture(scope="module")
def machine_code():
    """What Triton makes of some passes, for two generations of GPUs; none has to be there."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("triton_listing.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(COMPILED)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(COMPILED)), ids=["-".join(map(str, c)) for c in COMPILED])
def test_a_gpu_rounds_every_operation_as_the_graph_says(machine_code, number):
    """Products and sums are fused where the graph has fma and nowhere else, quotients and roots are IEEE's, all as many
    as the graph has; and numbers below the normal ones are not flushed to zero."""
    found, each = machine_code["results"][number], machine_code["elements"]
    instructions, graph = found["instructions"], found["graph"]

    def count(*starts):
        return sum(n for name, n in instructions.items() if name.startswith(starts))

    assert count("fma.", "mad.f") == each * graph.get("fma", 0)
    assert count("div.rn.f") == count("div.f", "div.a", "div.r") == each * graph.get("/", 0)
    assert count("sqrt.rn.") == count("sqrt.") == each * graph.get("sqrt", 0)
    assert not [name for name in instructions if ".approx" in name or ".full" in name or ".ftz" in name]


def test_a_gpu_reads_whole_vectors(machine_code):
    """16 bytes at a time, from each of Adam's four streams."""
    count = machine_code["results"][0]["instructions"]
    assert count["ld.global.v4.b32"] == 4 * machine_code["elements"] // 4
