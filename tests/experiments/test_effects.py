"""Contrasts, intervals and verdicts against hand computation, scipy and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stepscope.experiments.effects import ALPHA, RESOLUTION, Outcome, contrasts, effects, holm, student

CELLS = ("msgd", "mssd", "msvag", "adam")
NAMES = ("sign", "variance_adaptation", "interaction")


def outcome(rows, name="train_loss", higher_is_better=False, unit="loss"):
    """rows: one (msgd, mssd, msvag, adam) a seed."""
    values = {method: {seed: row[column] for seed, row in enumerate(rows)} for column, method in enumerate(CELLS)}
    return Outcome(name, unit, higher_is_better, values, is_share=name == "test_metric")


def by_name(rows, **options):
    return {effect.effect: effect for effect in effects(outcome(rows, **options), "adam")}


values = st.floats(-1e3, 1e3)


@given(values, values, values, values)
def test_contrasts_are_the_textbook_ones(msgd, mssd, msvag, adam):
    """Against the model value = mean + sign effect + adaptation effect + interaction / 2 in -1/2, +1/2 coding, solved.

    Sums of four numbers below 1e3 round by less than 1e-12 each.
    """
    design = np.array(
        [[1, sign, adapted, 2 * sign * adapted] for sign, adapted in itertools.product((-0.5, 0.5), repeat=2)]
    )
    _, sign, adapted, interaction = np.linalg.solve(design, [msgd, msvag, mssd, adam])
    got = contrasts(msgd, mssd, msvag, adam)
    assert list(got.values()) == pytest.approx([sign, adapted, 2 * interaction], abs=1e-11)


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 4), min_size=2, max_size=12, unique_by=lambda row: row[0]))
def test_effects_on_differences_are_paired_t_tests(rows):
    """scipy's paired test of (M-SSD + Adam)/2 against (M-SGD + M-SVAG)/2 is the main effect of the sign, and so on."""
    msgd, mssd, msvag, adam = np.array(rows).T
    pairs = {
        "sign": ((mssd + adam) / 2, (msgd + msvag) / 2),
        "variance_adaptation": ((msvag + adam) / 2, (msgd + mssd) / 2),
        "interaction": (adam - mssd, msvag - msgd),
    }
    got = by_name(rows, name="test_metric", higher_is_better=True)
    for name, (a, b) in pairs.items():
        if (
            np.ptp(a - b) < 1e-3
        ):  # equal differences have no t test; nearly equal ones cancel differently here and there
            continue
        expected = stats.ttest_rel(a, b)
        low, high = expected.confidence_interval(1 - ALPHA)
        # The two orders of summation differ by a few 1e-15 against a spread of 1e-3.
        assert (got[name].estimate, got[name].low, got[name].high) == pytest.approx(
            ((a - b).mean(), low, high), abs=1e-8
        )
        assert got[name].p == pytest.approx(expected.pvalue, rel=1e-6)


def test_losses_are_compared_by_factors():
    """Sign halves the loss on every seed, adaptation leaves it: each seed's contrast is log(1/2) up to the noise."""
    got = by_name([(1.0, 0.5, 1.01, 0.5), (2.0, 1.0, 2.0, 1.02), (3.0, 1.5, 3.0, 1.5), (1.0, 0.49, 1.0, 0.5)])
    logs = np.log([0.5 / math.sqrt(1.01), 0.5 * math.sqrt(1.02), 0.5, 0.5 * math.sqrt(0.98)])
    assert got["sign"].outcome.scale == "ratio"
    assert got["sign"].estimate == pytest.approx(math.exp(logs.mean()))
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    assert got["sign"].low == pytest.approx(math.exp(logs.mean() - half))
    assert got["sign"].per_seed == pytest.approx(np.exp(logs))
    assert got["sign"].verdict == "helps"
    assert got["variance_adaptation"].verdict == got["interaction"].verdict == "no difference"


def test_a_loss_that_is_not_positive_is_compared_by_differences():
    got = by_name([(1.0, 0.0, 1.1, 0.2), (1.0, 0.1, 0.9, 0.0)])
    assert got["sign"].outcome.scale == "difference"
    assert got["sign"].estimate == pytest.approx(-0.925)
    assert got["sign"].outcome.margin is None


@pytest.mark.parametrize(
    ("higher_is_better", "gain", "verdict"),
    [(True, 0.1, "helps"), (True, -0.1, "hurts"), (False, 0.1, "hurts"), (False, -0.1, "helps")],
)
def test_the_verdict_knows_which_way_is_better(higher_is_better, gain, verdict):
    rows = [(0.5, 0.5 + gain + noise, 0.5, 0.5 + gain) for noise in (0.001, 0.002, 0.0)]
    got = by_name(rows, name="test_metric", higher_is_better=higher_is_better)
    assert got["sign"].verdict == verdict
    assert got["variance_adaptation"].verdict != verdict


def test_one_seed_cannot_tell_and_has_no_interval():
    effect = by_name([(1.0, 0.5, 1.0, 0.4)])["sign"]
    assert effect.estimate == pytest.approx(math.sqrt(0.2))
    assert (effect.low, effect.high, effect.p, effect.p_holm, effect.verdict) == (None, None, None, None, "cannot tell")


def test_no_seed_cannot_tell_either():
    effect = by_name([(1.0, None, 1.0, 0.4)])["sign"]
    assert (effect.estimate, effect.low, effect.per_seed, effect.verdict) == (None, None, (), "cannot tell")
    assert effect.missing == {"mssd": (0,)}


def test_equal_runs_show_no_difference():
    """Seeds differ, methods do not: every contrast is exactly 0."""
    for effect in by_name([(1.0,) * 4, (2.0,) * 4]).values():
        assert (effect.estimate, effect.low, effect.high, effect.p_holm, effect.verdict) == (
            1,
            1,
            1,
            1,
            "no difference",
        )


def test_rounding_in_the_last_digit_is_no_effect():
    wobble = 1 + RESOLUTION / 4
    for effect in by_name([(1.0, wobble, 1.0, wobble), (1.0, wobble, 1.0, wobble)]).values():
        assert effect.verdict == "no difference"
    metric = by_name([(500.0, 500 * wobble, 500.0, 500 * wobble)] * 2, name="test_metric")
    assert metric["sign"].verdict == "no difference"


@pytest.mark.parametrize(("seeds", "verdict"), [(2, "cannot tell"), (3, "cannot tell"), (10, "helps")])
def test_equal_effects_are_as_certain_as_signs_that_all_agree(seeds, verdict):
    """An accuracy on few examples ties. How much it could vary is unknown: no interval, and p = 2^(1-n)."""
    rows = [(0.9 + i / 450, 0.9 + (i + 4) / 450, 0.9 + i / 450, 0.9 + (i + 4) / 450) for i in range(seeds)]
    effect = by_name(rows, name="test_metric", unit="accuracy", higher_is_better=True)["sign"]
    assert effect.estimate == pytest.approx(4 / 450)
    assert (effect.low, effect.high, effect.p, effect.verdict) == (None, None, 2.0 ** (1 - seeds), verdict)
    assert not effect.negligible


def test_the_fifth_arm_does_not_choose_the_scale_of_the_papers_cells():
    values = {method: {0: 1.0, 1: 2.0} for method in ("msgd", "mssd", "msvag", "adam")}
    outcome = Outcome("train_loss", "loss", False, values | {"adam_one_beta": {0: 0.0, 1: 1.0}})
    assert effects(outcome, "adam")[0].outcome.scale == "ratio"
    assert effects(outcome, "adam_one_beta")[0].outcome.scale == "difference"


def test_a_small_effect_can_be_certain():
    effect = by_name([(1.0, 0.98, 1.0, 0.98), (1.0, 0.981, 1.0, 0.981), (1.0, 0.979, 1.0, 0.979)])["sign"]
    assert effect.verdict == "helps"
    assert effect.negligible


def test_a_seed_that_one_method_did_not_finish_is_left_out():
    rows = [(1.0, 0.5, 1.0, 0.5), (1.0, None, 1.0, 0.5), (1.0, 0.4, 1.0, 0.5), (1.0, 0.5, None, 0.4)]
    effect = by_name(rows)["sign"]
    assert len(effect.per_seed) == 2
    assert effect.missing == {"mssd": (1,), "msvag": (3,)}


def test_a_method_without_runs_leaves_nothing_to_compare():
    values = {"msgd": {0: 1.0, 1: 1.0}, "mssd": {}, "msvag": {0: 1.0, 1: 1.0}, "adam": {0: 1.0, 1: 1.0}}
    for effect in effects(Outcome("train_loss", "loss", False, values), "adam"):
        assert (effect.verdict, effect.missing) == ("cannot tell", {"mssd": None})


def test_an_interval_beyond_the_largest_float_stays_finite():
    effect = by_name([(1e300, 1e-300, 1e300, 1e-300), (1.0, 1.0, 1.0, 1.0)])["sign"]
    assert effect.low is not None
    assert math.isfinite(effect.high)


def test_student_covers_the_truth_in_95_percent_of_samples():
    """20,000 samples each: a share of 0.95 has standard error 0.0015; four of them are one false alarm in 16,000."""
    rng = np.random.default_rng(5)
    for n in (2, 3, 10):
        intervals = [student(sample) for sample in rng.normal(1.0, 2.0, (20_000, n)).tolist()]
        covered = np.mean([test.low <= 1.0 <= test.high for test in intervals])
        assert abs(covered - 0.95) < 4 * 0.0015, n


def test_factors_cover_the_true_factor():
    """The whole way from losses to factors: true factor 0.8, log-normal noise, 3 seeds, 4000 times; error as above."""
    rng = np.random.default_rng(6)
    covered = []
    for noise in rng.normal(0.0, 0.3, (4_000, 3, 4)):
        rows = np.exp(noise) * [1.0, 0.8, 1.0, 0.8]
        effect = by_name([tuple(row) for row in rows.tolist()])["sign"]
        covered.append(effect.low <= 0.8 <= effect.high)
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4_000)


def test_under_the_null_a_false_verdict_comes_in_at_most_5_percent():
    """Four equal methods, 4000 experiments of 5 seeds: the share with "helps" or "hurts" anywhere in the three effects.

    Holm's bound is 0.05, and 1 - (1 - 0.05/3)^3 = 0.0492 for three independent tests, which these nearly are (their
    numerators are). The standard error of the share is 0.0034.
    """
    rng = np.random.default_rng(7)
    false = []
    for rows in rng.normal(0.0, 1.0, (4_000, 5, 4)).tolist():
        got = by_name(rows, name="test_metric", higher_is_better=True)
        false.append(any(effect.verdict in ("helps", "hurts") for effect in got.values()))
    assert abs(np.mean(false) - 0.0492) < 3 * 0.0034


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_as_the_step_down_procedure_does(p_values):
    """The procedure in words: sort, compare the i-th smallest with alpha / (m - i), stop at the first not below it."""
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if not (len(p_values) - rank) * p_values[index] < ALPHA:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p < ALPHA} == rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_never_lowers_a_p_value_nor_exceeds_one(p_values):
    assert all(before <= after <= 1 for before, after in zip(p_values, holm(p_values), strict=True))


def test_effects_come_in_a_fixed_order():
    assert [effect.effect for effect in effects(outcome([(1.0,) * 4]), "adam")] == list(NAMES)
