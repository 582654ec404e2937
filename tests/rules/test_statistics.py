"""The statistics of a step, against a naive twin that goes through the coordinates one by one, and their symmetries."""

import bisect
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.graph.expression import SYMBOLS, evaluate, symbol
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import TORCH
from stepscope.rules.statistics import (
    BINS,
    BINS_PER_OCTAVE,
    CENTRES,
    EVERYWHERE,
    HISTOGRAMS,
    JOINT,
    LOWEST,
    PLAIN,
    QUANTILE_ERROR,
    TERMS,
    Numbers,
    Step,
    bins_of,
    period,
    quantile,
    selection,
    statistics,
)

NUMBERS = Numbers(
    ascent=-1.0,
    downhill=-1.0,
    mean_scale=2.0,
    second_scale=4.0,
    per_lr=100.0,
    eps=1e-2,
    decay=0.125,
    coupled=0.25,
    odds=0.1,
    clip=1.5,
)
EVERYTHING = selection([*TERMS, *HISTOGRAMS])
DIMENSIONLESS = ("still", "spread_infinite", "sign_agreed", "sign_opposed", "variance_negative")
EDGES = [2 ** (LOWEST + (i - 0.5) / BINS_PER_OCTAVE) for i in range(BINS - 2)]


def noisy(n: int = 500, seed: int = 0) -> Step:
    """Steps of every kind: v < m^2, zeros of all sorts, spreads from none to infinite. Scales of 2 and 4 as NUMBERS."""
    rng = np.random.default_rng(seed)
    g, mean, before, update = rng.normal(size=(4, n))
    variance = rng.normal(0.3, 1.0, n) * 10.0 ** rng.uniform(-3, 3, n)
    for array, places in ((g, (0, 1)), (mean, (1, 2, 3)), (variance, (3, 4)), (update, (5,))):
        array[list(places)] = 0.0
    second = np.maximum(variance / 4 + mean * mean, 0.0)
    return Step(g, mean, second, before, before + update)


def found(step: Step, k: Any = NUMPY, **options: Any) -> Any:
    return statistics(k, step, NUMBERS, **{"raw": True, "chosen": EVERYTHING, **options})


def twin(g: float, mean: float, second: float, before: float, after: float) -> dict[str, float]:
    """One coordinate from the definitions, in words of the papers and with `if`s."""
    m, v, update = 2 * mean, 4 * second, after - before
    s = max(v - m * m, 0.0)
    move = -(update + 0.125 * before)
    sign = math.copysign(1.0, m) if m else 0.0
    msvag = m * m**2 / (m**2 + 0.1 * s) if m else 0.0
    adam = m / math.sqrt(m * m + s) if m else 0.0
    return {
        "broken": 0.0,
        "grad_square": g**2,
        "update_square": update**2,
        "theta_square": before**2,
        "sampled": 1.0,
        "grad_abs": abs(g),
        "momentum_abs": abs(m),
        "update_abs": abs(update),
        "still": float(m == 0),
        "sigma": math.sqrt(s),
        "spread_infinite": float(m == 0 and s > 0),
        "undecayed_abs": abs(update + 0.125 * before),
        "sign_agreed": float(-g * m > 0),
        "sign_opposed": float(-g * m < 0),
        "variance_negative": float(v < m * m),
        "epsilon_dominated": float(math.sqrt(v) <= 1e-2),
        "decay_dominated": float(abs(0.125 * before) > abs(move) or abs(0.25 * before) > abs(g)),
        "clipped": float(abs(g) >= 1.5),
        "grad_momentum": -g * m,
        "grad_square_sampled": g * g,
        "momentum_square": m * m,
        "move_square": move**2,
        "move_msgd": move * m,
        "move_mssd": move * sign,
        "move_msvag": move * msvag,
        "move_adam": move * adam,
        "msvag_square": msvag**2,
        "adam_square": adam**2,
    }


def bin_of(value: float) -> int:
    """The bin by looking for it among the edges."""
    if math.isnan(value):
        return 0
    return 1 + bisect.bisect_right(EDGES, value)


def test_every_term_equals_the_naive_one():
    """Some five roundings a term on either side: 8 EPS; measured 1."""
    step = noisy()
    sums = found(step).sums
    for i, coordinate in enumerate(zip(*step, strict=True)):
        for name, expected in twin(*map(float, coordinate)).items():
            value = np.broadcast_to(sums[name], step.g.shape)[i]
            assert value == pytest.approx(expected, rel=8 * EPS64, abs=8 * EPS64), name
    assert list(sums) == list(twin(1, 1, 1, 1, 1))
    assert list(sums).index("sampled") == EVERYWHERE


def test_bins_are_those_found_by_search_but_close_to_an_edge():
    """The polynomial that stands for the logarithm is within 0.0009 octaves of it: 1.5 % of the values may move."""
    step = noisy(4000)
    bins = found(step).bins
    moved = 0
    for i in range(4000):
        m, v = 2 * abs(step.mean[i]), 4 * step.second[i]
        s = max(v - m * m, 0.0)
        spread = math.sqrt(s) / m if m else math.inf if s else math.nan
        update = abs(step.after[i] - step.before[i])
        values = (spread, 100 * update, m, update / m if m else math.nan)
        for name, value in zip(HISTOGRAMS[:4], values, strict=True):
            here, there = int(bins[name][i]), bin_of(value)
            assert abs(here - there) <= 1
            if here != there:
                moved += 1
                assert abs(math.log2(value / EDGES[max(here, there) - 2])) < 0.0009
    assert 0 < moved < 0.015 * 16000


def test_a_cell_of_a_joint_histogram_is_found_by_whole_octaves():
    """Octaves come from the exponents of floating-point numbers: exact, but for a spread, which is a rounded root."""
    step = noisy(4000)
    bins = found(step).bins
    for i in range(4000):
        m, v = 2 * abs(step.mean[i]), 4 * step.second[i]
        s, update = max(v - m * m, 0.0), 100 * abs(step.after[i] - step.before[i])
        spread = math.sqrt(s) / m if m else math.inf if s else math.nan
        for name, value in (("momentum_update_joint", m), ("spread_update_joint", spread)):
            row, column = (
                min(max(math.floor(math.log2(x)) - LOWEST, 0), JOINT - 1) if 0 < x < math.inf else (x > 0) * (JOINT - 1)
                for x in (value, update)
            )
            expected = 0 if math.isnan(value) else 1 + JOINT * row + column
            assert int(bins[name][i]) == expected, (name, value, update)
            assert expected < bins_of(name)


def test_a_selection_is_in_the_order_of_the_table_and_has_what_is_always_taken():
    chosen = selection(["update_histogram", "move_adam", "sigma"])
    assert chosen.terms == (*TERMS[: EVERYWHERE + 1], "sigma", "move_adam")
    assert chosen.histograms == ("update_histogram",)
    with pytest.raises(ValueError, match="no term or histogram is called speed"):
        selection(["speed"])


def test_what_is_chosen_changes_no_other_number():
    step = noisy()
    everything, plain = found(step), found(step, chosen=PLAIN)
    assert (tuple(plain.sums), tuple(plain.bins)) == PLAIN
    for part, other in zip(plain[:2], everything[:2], strict=True):
        for name, value in part.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_the_ratio_from_one_bin_to_its_centre_is_what_is_said():
    """The edges as the definition has them, found by bisection in float64."""
    edges = []
    for i in range(2, 200):
        low, high = CENTRES[i - 1] / 1.05, CENTRES[i - 1]
        for _ in range(60):
            middle = (low * high) ** 0.5
            inside = found(Step(*np.zeros(4), np.array([middle / 100])), chosen=PLAIN).bins["update_histogram"][0] >= i
            low, high = (low, middle) if inside else (middle, high)
        edges.append(high)
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        assert max(CENTRES[i + 1] / low, high / CENTRES[i + 1]) < QUANTILE_ERROR * (1 + 1e-9)


def test_values_beyond_the_range_fall_into_the_outer_bins():
    updates = np.array([0, 2.0**-41, 2.0**-39, 1, 2.0**25, 2.0**23.99]) / 100
    bins = found(Step(*np.zeros((4, 6)), updates)).bins["update_histogram"].astype(int)
    assert bins.tolist() == [1, 1, 10, 322, BINS - 1, BINS - 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["g", "mean", "before", "after"])
def test_a_coordinate_that_is_not_finite_adds_nothing_and_is_counted(field: str, bad: float):
    step = noisy(20)
    getattr(step, field)[7] = bad
    with np.errstate(invalid="ignore"):
        terms = found(step)
    for name, term in terms.sums.items():
        assert term[7] == (name == "broken"), name
    assert {int(bins[7]) for bins in terms.bins.values()} == {0}
    with np.errstate(invalid="ignore"):
        trusting = found(step, trusting=True)
    shown = [trusting.gaps[0], *(trusting.sums[name] for name in TERMS[:EVERYWHERE])]
    assert not all(math.isfinite(x[7]) for x in map(np.broadcast_to, shown, [(20,)] * len(shown)))
    assert terms.gaps[0][8] == 0


def test_a_second_average_that_is_not_finite_is_no_part_of_the_sample():
    step = noisy(20)
    step.second[7] = math.inf
    with np.errstate(invalid="ignore"):
        terms = found(step)
    assert [terms.sums[name][7] for name in ("broken", "sampled", "sigma", "grad_abs")] == [0, 0, 0, 0]
    assert terms.sums["grad_square"][7] > 0
    assert terms.gaps[0][7] == 0
    assert math.isnan(terms.gaps[1][7])


def test_trust_changes_nothing_where_all_is_finite():
    step = noisy()
    for careful, trusting in zip(found(step)[:2], found(step, trusting=True)[:2], strict=True):
        for name, value in careful.items():
            np.testing.assert_array_equal(value, trusting[name], err_msg=name)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_torch_and_numpy_agree_bit_for_bit(dtype: torch.dtype, raw: bool):
    """Operations that IEEE rounds, but for the square root, which torch may leave to a library that is an ulp off, two
    of its square."""
    step = Step(*(torch.from_numpy(x).to(dtype) for x in noisy()))
    ours, theirs = found(step, TORCH, raw=raw), found(Step(*(x.numpy() for x in step)), raw=raw)
    for mine, other in ((ours.sums, theirs.sums), (ours.bins, theirs.bins)):
        for name, value in mine.items():
            ulps = {"sigma": 2, "move_adam": 2, "adam_square": 4}.get(name, 0) * torch.finfo(dtype).eps
            np.testing.assert_allclose(value.numpy(), other[name], rtol=ulps, err_msg=name)


def test_the_statistics_can_be_traced():
    """Only functions of the closed list, comparisons and no branch: a recorded graph computes the same bits."""
    step = noisy()
    inputs = {**step._asdict(), "inside": 1.0}
    recorded = found(Step(*map(symbol, Step._fields)), SYMBOLS, inside=symbol("inside"))
    for graphs, values in zip(recorded[:2], found(step)[:2], strict=True):
        for result, expected in zip(evaluate(list(graphs.values()), inputs, NUMPY), values.values(), strict=True):
            np.testing.assert_array_equal(result, expected)


@given(k=st.integers(-60, 60), seed=st.integers(0, 2**32 - 1))
def test_what_has_no_unit_ignores_the_unit_of_the_loss(k: int, seed: int):
    """A loss times c has m times c and v times c^2. Powers of two round nothing: tolerance zero."""
    step, c = noisy(50, seed), 2.0**k
    plain = found(step)
    scaled = found(step._replace(g=c * step.g, mean=c * step.mean, second=c * c * step.second))
    for name in DIMENSIONLESS:
        np.testing.assert_array_equal(plain.sums[name], scaled.sums[name], err_msg=name)
    for name in ("grad_abs", "momentum_abs", "sigma"):
        np.testing.assert_array_equal(c * plain.sums[name], scaled.sums[name], err_msg=name)
    np.testing.assert_array_equal(plain.bins["spread_histogram"], scaled.bins["spread_histogram"])


@given(seed=st.integers(0, 2**32 - 1))
def test_the_direction_of_the_gradient_does_not_matter(seed: int):
    step = noisy(50, seed)
    plain, other = found(step), found(Step(-step.g, -step.mean, step.second, -step.before, -step.after))
    for name, term in plain.sums.items():
        np.testing.assert_array_equal(term, other.sums[name], err_msg=name)


def test_the_sample_is_never_small_and_all_of_a_small_tensor():
    assert [period(n) for n in (1, 1000, 16_383, 16_384, 10**5, 10**8)] == [1, 1, 1, 2, 12, 64]
    for n in range(8_192, 3_000_000, 9_973):
        assert n // period(n) >= 8_192


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
