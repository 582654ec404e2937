"""The statistics of a step, against a naive twin that goes through the coordinates one by one, and their symmetries."""

import bisect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS32, EPS64

from stepscope.graph.expression import SYMBOLS, evaluate, symbol
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import TORCH
from stepscope.rules.statistics import (
    BINS,
    BINS_PER_OCTAVE,
    LOWEST,
    QUANTILE_ERROR,
    Step,
    quantile,
    statistics,
)

NUMBERS = {"per_lr": 100.0, "eps": 1e-2, "correction": 1.25, "odds": 0.0625}
DIMENSIONLESS = ("spread", "spread_noisy", "spread_log", "factor_adam", "factor_svag", "factor_exact", "factor_msvag")


EDGES = [2 ** (LOWEST + (i - 0.5) / BINS_PER_OCTAVE) for i in range(BINS - 2)]


def noisy(n: int = 500, seed: int = 0) -> dict[str, Any]:
    """Steps of every kind: v < m^2, zeros of all sorts, spreads from none to infinite."""
    rng = np.random.default_rng(seed)
    g, m, theta, update = rng.normal(size=(4, n))
    variance = rng.normal(0.3, 1.0, n) * 10.0 ** rng.uniform(-3, 3, n)
    for array, places in ((g, (0, 1)), (m, (1, 2, 3)), (variance, (3, 4)), (update, (5,))):
        array[list(places)] = 0.0
    second = np.maximum(variance + m * m, 0.0)
    return {
        "g": g,
        "m": m,
        "variance": variance,
        "second": second,
        "theta": theta,
        "update": update,
        "undecayed": 0.5 * update,
    }


def twin(g: float, m: float, variance: float, second: float, theta: float, update: float, undecayed: float) -> dict:
    """One coordinate from the definitions, in words of the papers and with `if`s."""
    s = max(variance, 0.0)
    spread = math.sqrt(s) / abs(m) if m else math.inf if s else math.nan
    sure = m != 0
    eta2 = spread**2
    return {
        "grad_abs": abs(g),
        "grad_square": g**2,
        "momentum_abs": abs(m),
        "moving": float(sure),
        "sigma": math.sqrt(s),
        "spread": spread if sure else 0.0,
        "spread_noisy": float(0 < spread < math.inf),
        "spread_log": math.log(spread) if 0 < spread < math.inf else 0.0,
        "spread_infinite": float(spread == math.inf),
        "factor_adam": abs(m) / math.sqrt(m**2 + s) if sure else 0.0,
        "factor_svag": m**2 / (m**2 + 1.25 * s) if sure else 0.0,
        "factor_exact": (math.erf(1 / math.sqrt(2 * 1.25 * eta2)) if spread else 1.0) if sure else 0.0,
        "factor_msvag": m**2 / (m**2 + 0.0625 * s) if sure else 0.0,
        "update_abs": abs(update),
        "update_square": update**2,
        "undecayed_abs": abs(undecayed),
        "theta_square": theta**2,
        "sign_compared": float(g != 0 and m != 0),
        "sign_agreed": float(g * m > 0),
        "variance_negative": float(variance < 0),
        "epsilon_dominated": float(math.sqrt(second) <= 1e-2),
    }


def bin_of(value: float) -> int:
    """The bin by looking for it among the edges."""
    if math.isnan(value):
        return 0
    return 1 + bisect.bisect_right(EDGES, value)


def test_every_term_equals_the_naive_one():
    """Some ten roundings a term on either side, and 1 ulp each from sqrt, log and erf: 16 EPS; measured 1.5."""
    arrays = noisy()
    sums = statistics(NUMPY, Step(**arrays, **NUMBERS)).sums
    for i, coordinate in enumerate(zip(*arrays.values(), strict=True)):
        for name, expected in twin(*map(float, coordinate)).items():
            assert sums[name][i] == pytest.approx(expected, rel=16 * EPS64, abs=16 * EPS64), name
    assert len(sums) == len(twin(1, 1, 1, 1, 1, 1, 1))


def test_positions_are_the_bins_found_by_search():
    """The logarithm, times 12, may put a value within 1e-13 of an edge on its other side; these are none."""
    arrays = noisy()
    positions = statistics(NUMPY, Step(**arrays, **NUMBERS)).positions
    for i in range(len(arrays["g"])):
        s, m = max(arrays["variance"][i], 0.0), abs(arrays["m"][i])
        assert int(positions["spread"][i]) == bin_of(math.sqrt(s) / m if m else math.inf if s else math.nan)
        assert int(positions["update"][i]) == bin_of(abs(arrays["update"][i]) * 100)


def test_values_beyond_the_range_fall_into_the_outer_bins():
    tiny, huge = 2.0**-41, 2.0**25
    step = Step(**{**noisy(7), "update": np.array([0, tiny, 2.0**-39, 1, huge, np.inf, 2.0**23.99])}, **NUMBERS)
    bins = statistics(NUMPY, step._replace(per_lr=1.0)).positions["update"].astype(int)
    assert bins.tolist() == [1, 1, 10, 322, BINS - 1, BINS - 1, BINS - 2]


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float64, EPS64), (torch.float32, EPS32)], ids=["float64", "float32"])
def test_torch_and_numpy_agree(dtype: torch.dtype, eps: float):
    """Same operations, so equal but for log and erf, which may differ by an ulp or two, doubled by what follows."""
    arrays = {name: torch.from_numpy(array).to(dtype) for name, array in noisy().items()}
    ours = statistics(TORCH, Step(**arrays, **NUMBERS))
    theirs = statistics(NUMPY, Step(**{name: array.numpy() for name, array in arrays.items()}, **NUMBERS))
    for name, term in ours.sums.items():
        np.testing.assert_allclose(term.numpy(), theirs.sums[name], rtol=8 * eps, atol=8 * eps, err_msg=name)
    for name, position in ours.positions.items():
        np.testing.assert_allclose(position.numpy(), theirs.positions[name], atol=8 * BINS * eps)


def test_the_statistics_can_be_traced():
    """Only functions of the closed list, comparisons and no branch: a recorded graph computes the same bits."""
    arrays = {**noisy(), **{name: np.float64(value) for name, value in NUMBERS.items()}}
    recorded = statistics(SYMBOLS, Step(**{name: symbol(name) for name in arrays}))
    direct = statistics(NUMPY, Step(**arrays))
    for graphs, values in zip(recorded, direct, strict=True):
        for found, expected in zip(evaluate(list(graphs.values()), arrays, NUMPY), values.values(), strict=True):
            np.testing.assert_array_equal(found, expected)


@given(k=st.integers(-60, 60), seed=st.integers(0, 2**32 - 1))
def test_spread_and_factors_ignore_the_unit_of_the_loss(k: int, seed: int):
    """A loss times c has m times c and v - m^2 times c^2. Powers of two round nothing: tolerance zero."""
    arrays = noisy(50, seed)
    c = 2.0**k
    scaled = arrays | {name: c * arrays[name] for name in ("g", "m")}
    scaled |= {name: c * c * arrays[name] for name in ("variance", "second")}
    plain, other = (statistics(TORCH, _torch(a)) for a in (arrays, scaled))
    for name in (*DIMENSIONLESS, "moving", "spread_infinite", "sign_compared", "sign_agreed", "variance_negative"):
        assert torch.equal(plain.sums[name], other.sums[name]), name
    for name in ("grad_abs", "momentum_abs", "sigma"):
        assert torch.equal(c * plain.sums[name], other.sums[name]), name
    assert torch.equal(plain.positions["spread"], other.positions["spread"])


@given(seed=st.integers(0, 2**32 - 1))
def test_the_direction_of_the_gradient_does_not_matter(seed: int):
    arrays = noisy(50, seed)
    mirrored = arrays | {name: -arrays[name] for name in ("g", "m", "theta", "update", "undecayed")}
    plain, other = (statistics(TORCH, _torch(a)) for a in (arrays, mirrored))
    for name, term in plain.sums.items():
        assert torch.equal(term, other.sums[name]), name


@given(seed=st.integers(0, 2**32 - 1))
def test_factors_are_shrinkages_in_the_order_of_figure_3(seed: int):
    """0 <= SVAG <= exact and Adam <= 1 at the same relative variance (here correction 1)."""
    step = _torch(noisy(50, seed))._replace(correction=1.0)
    sums = statistics(TORCH, step).sums
    svag, adam, exact = sums["factor_svag"], sums["factor_adam"], sums["factor_exact"]
    assert ((svag >= 0) & (svag <= adam) & (adam <= 1) & (exact <= 1)).all()
    assert (svag <= exact + 8 * EPS64).all()


def _torch(arrays: dict[str, Any]) -> Step:
    return Step(**{name: torch.from_numpy(array) for name, array in arrays.items()}, **NUMBERS)


# --- quantiles --------------------------------------------------------------------------------------------------------


def histogram(values: np.ndarray) -> np.ndarray:
    return np.bincount([bin_of(float(x)) for x in values], minlength=BINS).astype(float)


@given(
    values=st.lists(st.floats(2.0**-40, 2.0**23), min_size=1, max_size=40),
    q=st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]),
)
def test_a_quantile_is_right_within_half_a_bin(values: list[float], q: float):
    exact = np.quantile(values, q, method="inverted_cdf")
    found = quantile(NUMPY, histogram(np.array(values)), q)
    assert (found / exact) * (1 + 4 * EPS64) >= 1 / QUANTILE_ERROR
    assert found / exact <= QUANTILE_ERROR * (1 + 4 * EPS64)


def test_quantiles_outside_the_range_are_zero_or_infinite():
    below, above, none = histogram(np.zeros(3)), histogram(np.full(3, 2.0**25)), histogram(np.full(3, np.nan))
    found = quantile(NUMPY, np.stack([below, above, none]), 0.5)
    np.testing.assert_array_equal(found, [0.0, math.inf, math.nan])


def test_what_has_no_value_does_not_count():
    assert quantile(NUMPY, histogram(np.array([1.0, math.nan, math.nan, 4.0])), 0.5) == pytest.approx(
        1.0, rel=QUANTILE_ERROR - 1
    )


def test_quantiles_of_tensors_are_the_same():
    """Torch makes float32 of a difference of integers."""
    counts = histogram(np.geomspace(1e-3, 1e3, 99))
    assert float(quantile(TORCH, torch.from_numpy(counts), 0.9)) == pytest.approx(
        quantile(NUMPY, counts, 0.9), rel=1e-5
    )


@pytest.mark.parametrize("total", range(1, 60))
def test_the_rounding_of_a_rank_skips_no_value(total: int):
    """0.1 * 30 is 3.0000000000000004 in some orders of operation; the third of thirty values is meant."""
    values = np.geomspace(1, 1e6, total)
    for q in (0.1, 0.2, 0.3, 0.6, 0.7, 0.9):
        rank = math.ceil(q * total - 1e-9)
        assert quantile(NUMPY, histogram(values), q) == pytest.approx(values[rank - 1], rel=QUANTILE_ERROR - 1)
