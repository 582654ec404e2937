"""The JavaScript that graphs are printed as, run by Node, against exact arithmetic and against the host."""

import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from tests.node import needs_node, node

from stepscope.graph import elementary
from stepscope.graph.expression import FUNCTIONS, PRIMITIVES, SYMBOLS, symbol
from stepscope.graph.javascript import RUNTIME, Printer, literal, scalar
from stepscope.rules import METHODS, averages

pytestmark = needs_node


def hard_numbers(count: int, seed: int) -> np.ndarray:
    """Triples for a b + c that cancel, tie, underflow, overflow, and plain ones."""
    rng = np.random.default_rng(seed)

    def anything(low, high):
        return rng.choice([-1.0, 1.0], count) * np.exp2(rng.uniform(low, high, count)) * rng.uniform(1, 2, count)

    a, b = anything(-30, 30), anything(-30, 30)
    rows = [
        (a, b, anything(-60, 60)),
        (a, b, -(a * b)),  # all but the low half cancels
        (a, b, -(a * b) * (1 + np.exp2(rng.integers(-60, -1, count)))),
        (a, b, anything(-120, -60)),
        # short significands: exact ties and near ties
        (np.round(a * 2.0**20) / 2.0**20, np.round(b * 2.0**8) / 2.0**8, np.exp2(rng.integers(-80, 80, count))),
        (1 + 2.0 ** -rng.integers(1, 53, count), 1 + 2.0 ** -rng.integers(1, 53, count), -np.ones(count)),
        (anything(-600, -480), anything(-600, -480), anything(-1074, -960)),  # results that are subnormal
        (anything(-540, -500), anything(-540, -500), anything(-1074, -1000)),
        (anything(-500, -300), anything(-520, -300), anything(-1000, -600)),
        (anything(400, 511), anything(400, 511), anything(900, 1022)),
        (anything(-1022, 1022), anything(-1022, 1022), anything(-1022, 1022)),
        (anything(-1074, -1022), anything(0, 50), anything(-1074, -1000)),
    ]  # fmt: skip
    special = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 5e-324, 2.0**-1022, 1.7976931348623157e308]
    grid = np.array(np.meshgrid(special, special, special)).reshape(3, -1).T
    with np.errstate(all="ignore"):
        return np.concatenate([np.stack(row, axis=1) for row in rows] + [grid])


def exact_fma(a: float, b: float, c: float) -> float:
    """By whole-number arithmetic; Python rounds a fraction once."""
    if not all(map(math.isfinite, (a, b, c))) or a == 0 or b == 0:
        with np.errstate(all="ignore"):
            return float(np.float64(a) * np.float64(b) + np.float64(c))
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    try:
        return float(total.numerator / total.denominator)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def test_fma_rounds_once_everywhere(tmp_path: Path):
    """Bit for bit, signs of zero too. Python divides whole numbers with one rounding, subnormal results too."""
    triples = hard_numbers(4000, 0)
    out = node(
        tmp_path,
        """
        const x = given('x'), y = [];
        for (let i = 0; i < x.length; i += 3) y.push(R.fma(x[i], x[i + 1], x[i + 2]));
        give('y', y);
        """,
        x=triples.reshape(-1),
    )["y"]
    wanted = np.array([exact_fma(*map(float, row)) for row in triples])
    with np.errstate(all="ignore"):
        twice = triples[:, 0] * triples[:, 1] + triples[:, 2]
    assert np.mean(np.isfinite(wanted) & (twice != wanted)) > 0.05  # so rounding twice would have been noticed
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(np.signbit(out[~np.isnan(out)]), np.signbit(wanted[~np.isnan(wanted)]))


def test_powers_of_a_decay_rate_are_those_of_pow(tmp_path: Path):
    """Twice the digits, rounded once: pow's correct value but for near ties. The C library's own pow errs by 0.52 ulp,
    so of its values no more than a few in a hundred may differ, by one ulp."""
    bases = [0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0, 1 / 3, 1.5, 7.25]
    steps = [*range(1200), 5000, 40_000, 1_000_000, 2**31, 2**53]
    out = node(
        tmp_path,
        """
        const b = given('b'), t = given('t'), y = [];
        for (const x of b) for (const n of t) y.push(R.power(x, n));
        give('y', y);
        """,
        b=bases,
        t=steps,
    )["y"].reshape(len(bases), -1)
    with mpmath.workprec(2200), np.errstate(over="ignore"):
        true = np.array([[float(mpmath.mpf(b) ** n) for n in steps] for b in bases])
    normal = (true > 1e-280) & (true < 1e280)
    np.testing.assert_array_equal(out[normal], true[normal])
    np.testing.assert_allclose(out[~normal], true[~normal], rtol=1e-12, atol=1e-290)
    with np.errstate(over="ignore"):
        host = np.array([[float(np.float64(b) ** n) if b > 1 else b**n for n in steps] for b in bases])
    assert np.mean(out[normal] != host[normal]) < 0.02


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if FUNCTIONS[n] == 1 and n not in ("sqrt", "abs", "sign")])
def test_elementary_functions_have_the_bits_of_the_compiled_ones(name: str, tmp_path: Path):
    """Tolerance 0: one polynomial, the same operations in the same order, and an exact fma."""
    from stepscope.simulate import Landscape, sweep

    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-40, 40, 300), rng.normal(size=300), 10.0 ** rng.uniform(-320, 5, 300)])
    x = np.abs(x) if name == "log" else x
    x = np.concatenate([x, [0.0, -0.0, 1.0, 700.0, -740.0, 1e6, math.inf, -math.inf, math.nan]])
    (root,) = elementary.rewrite([getattr(SYMBOLS, name)(symbol("x"))])
    lines, (value,) = Printer([root], {"x": "x"}).statements([root])
    module = f"export default ({{ {', '.join(RUNTIME)} }}) => (x) => {{ {' '.join(lines)} return {value}; }};"
    out = node(tmp_path, "import make from './f.mjs'; give('y', given('x').map(make(R)));", {"f": module}, x=x)["y"]
    place = Landscape("f", "", ("x",), lambda k, p, _: getattr(k, name)(p[0]), (0.0,))
    wanted = sweep("sgd", place, start=(x,), steps=0, observe=("loss",)).loss
    np.testing.assert_array_equal(out, wanted)


def test_primitives_and_choices(tmp_path: Path):
    from stepscope.graph.numpy_namespace import NUMPY

    x = np.array([0.0, -0.0, 0.3, -0.3, 0.5, 1.5, 2.5, -2.5, 1e300, 2.0**52 + 1, 3.7, -1e-5, math.inf, math.nan])
    pairs = np.array(np.meshgrid(x, x)).reshape(2, -1)
    out = node(
        tmp_path,
        """
        const x = given('x'), a = given('a'), b = given('b');
        give('rint', x.map(R.rint)); give('sign', x.map(R.sign));
        give('exponent', given('p').map(R.exponent)); give('mantissa', given('p').map(R.mantissa));
        give('pow2', given('n').map(R.pow2));
        give('min', a.map((v, i) => R.min(v, b[i]))); give('max', a.map((v, i) => R.max(v, b[i])));
        """,
        x=x, a=pairs[0], b=pairs[1], p=[1.0, 1.999, 2.0, 0.3, 1e300, 2.0**-1022], n=[-1022.0, -1.0, 0.0, 1.0, 1023.0],
    )  # fmt: skip
    for name in ("rint", "sign"):
        np.testing.assert_array_equal(out[name], getattr(NUMPY, name)(x))
    np.testing.assert_array_equal(np.signbit(out["rint"]), np.signbit(np.rint(x)))
    for name in ("min", "max"):
        np.testing.assert_array_equal(out[name], getattr(NUMPY, name)(*pairs))
    positive, whole = [1.0, 1.999, 2.0, 0.3, 1e300, 2.0**-1022], [-1022.0, -1.0, 0.0, 1.0, 1023.0]
    for name, values in (("exponent", positive), ("mantissa", positive), ("pow2", whole)):
        np.testing.assert_array_equal(out[name], getattr(NUMPY, name)(np.array(values)))
    assert set(PRIMITIVES) | {"sign", "min", "max", "fma"} <= set(RUNTIME)


SETTINGS = [
    {},
    {"beta": 0.0},
    {"beta": 0.5},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"dampening": 0.3},
    {"lr_decay": 0.1},
]


@pytest.mark.parametrize("rule", METHODS.values(), ids=METHODS)
def test_step_scalars_are_those_of_the_host(rule, tmp_path: Path):
    """Both C's and V8's pow, log and expm1 err by less than 1 ulp. In 1 - beta^t and -expm1(t log beta) that is at most
    t log(1/beta) beta^t/(1 - beta^t) <= 1 ulp from the logarithm and 1 from the function, on either side; a quotient of
    two such values, its own rounding and a factor doubles that: 8 ulp. Measured: 3."""
    if not rule.scalars:
        return
    ts = [*range(1, 400), 1000, 30_000, 10**6, 2**53]
    hypers = [rule.defaults | extra for extra in SETTINGS if set(extra) <= set(rule.defaults)]
    for name, one in rule.scalars.items():
        settings = [[h[n] for n in one.needs] for h in hypers]
        out = node(
            tmp_path,
            f"import make from './f.mjs'; const f = make(R), s = {settings}; const y = [];"
            "for (const one of s) for (const t of given('t')) y.push(f(t, ...one)); give('y', y);",
            {"f": f"export default ({{ power }}) => ({scalar(one.value, one.needs)});"},
            t=ts,
        )["y"].reshape(len(settings), -1)
        wanted = np.array([[one.value(t, *numbers) for t in ts] for numbers in settings])
        np.testing.assert_array_max_ulp(out, wanted, 8), name


def test_tables_end_where_a_scalar_is_final(tmp_path: Path):
    out = node(
        tmp_path,
        """
        const f = (t, beta) => 1 - R.power(beta, t);
        give('short', R.table(f, [0.9], 100000)); give('long', R.table(f, [0.9], 50));
        give('none', R.table((t) => 1 + t, [], 7));
        """,
    )
    wanted = [1 - averages_power for averages_power in (0.9**t for t in range(1, 400))]
    assert out["short"][-1] == 1.0
    assert len(out["short"]) == next(i for i, v in enumerate(wanted, 1) if v == 1.0)
    np.testing.assert_array_max_ulp(out["short"], np.array(wanted[: len(out["short"])]), 1)
    assert len(out["long"]) == 50
    assert out["none"].tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_literals_give_their_number_back():
    rng = np.random.default_rng(3)
    for value in [*rng.normal(size=100), *(10.0 ** rng.uniform(-320, 308, 100)), 0.0, 5e-324, 1e22, 123456789.0]:
        for signed in (float(value), -float(value)):
            text = literal(signed)
            assert float(text.strip("()")) == signed
            assert text.startswith("(-") == (math.copysign(1, signed) < 0)
    assert [literal(v) for v in (math.inf, -math.inf, math.nan)] == ["Infinity", "(-Infinity)", "NaN"]


def test_an_average_of_a_decay_rate_of_zero_is_traced():
    assert averages.ema_weight(0.0, 1) == averages.ema_weight(0.0, 5) == 1.0
    assert "expm1" in scalar(lambda t, beta: averages.ema_weight(beta, t), ["beta"])
