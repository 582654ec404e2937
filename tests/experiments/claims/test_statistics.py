"""The tests behind the verdicts, against scipy and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stepscope.experiments.claims.claim import Finding, Verdict, corrected
from stepscope.experiments.claims.statistics import decide_above, equivalent, mean_of, needed, sign_flip, wilson

VALUES = st.lists(st.floats(-5, 5), min_size=3, max_size=9).filter(lambda v: np.std(v) > 1e-3)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_mean_is_student_s(values):
    m = mean_of(values)
    theirs = stats.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    assert m.p == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)
    assert (m.low, m.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_the_sign_flip_test_counts_every_pattern(values):
    x = np.array(values)
    sums = [
        abs(sum(s * v for s, v in zip(signs, x, strict=True))) for signs in itertools.product((1, -1), repeat=len(x))
    ]
    assert sign_flip(x) == np.mean([s >= abs(x.sum()) * (1 - 1e-12) for s in sums])


def test_a_sampled_sign_flip_test_is_near_student_s_and_never_zero():
    x = np.random.default_rng(0).normal(0.4, 1, 40)
    assert sign_flip(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, rel=0.5, abs=0.01)
    assert sign_flip(np.ones(40)) > 0


def test_equivalence_has_three_answers():
    rng = np.random.default_rng(0)
    assert equivalent(rng.normal(0, 0.1, 50), 0.1)[0] is Verdict.HOLDS
    assert equivalent(rng.normal(1, 0.1, 50), 0.1)[0] is Verdict.FAILS
    assert equivalent(rng.normal(0.1, 1.0, 5), 0.1)[0] is Verdict.UNDECIDED


def test_equivalence_is_rarely_concluded_at_the_margin():
    """At a true mean on the margin the false-alarm rate is 5 %: 400 trials, standard error 1.1 %, 4 of them."""
    rng = np.random.default_rng(1)
    wrong = sum(equivalent(rng.normal(0.5, 1, 30), 0.5)[0] is Verdict.HOLDS for _ in range(400))
    assert wrong / 400 < 0.05 + 4 * 0.011


def test_deciding_against_a_threshold():
    m = mean_of([1.0, 1.1, 0.9])
    assert decide_above(m, 0.0) is Verdict.HOLDS
    assert decide_above(m, 1.0) is Verdict.UNDECIDED
    assert decide_above(m, 2.0) is Verdict.FAILS
    with pytest.raises(ValueError, match="two or more"):
        mean_of([1.0])


def test_the_number_needed_decides():
    """An experiment of that size has its interval's half width equal to the distance to the threshold."""
    rng = np.random.default_rng(2)
    m = mean_of(rng.normal(0.3, 1, 20))
    n = needed(m)
    assert 1.96 * m.error * np.sqrt(m.n) / np.sqrt(n) <= abs(m.mean) * 1.01


def test_wilson_covers_what_it_says():
    """Exact coverage at p = 0.3, n = 40, summed over the binomial distribution; 93 to 97 % is usual."""
    covered = sum(stats.binom.pmf(k, 40, 0.3) for k in range(41) if wilson(k, 40)[0] <= 0.3 <= wilson(k, 40)[1])
    assert 0.93 < covered < 0.97
    assert wilson(0, 10)[0] == 0
    with pytest.raises(ValueError, match="successes"):
        wilson(5, 4)


def test_a_family_is_corrected_together():
    """Holm: 0.03 among two tests becomes 0.06 unless the other one is smaller; alone it stands."""

    def finding(p):
        return Finding(Verdict.HOLDS, "", p=p)

    both = corrected({"a": finding(0.03), "b": finding(0.04)}, {"a": "f", "b": "f"})
    assert {f.verdict for f in both.values()} == {Verdict.UNDECIDED}
    one = corrected({"a": finding(0.001), "b": finding(0.04)}, {"a": "f", "b": "f"})
    assert one["a"].p == pytest.approx(0.002)
    assert one["b"].verdict is Verdict.HOLDS
    alone = corrected({"a": finding(0.03), "b": finding(0.04)}, {"a": "f", "b": ""})
    assert alone["a"].verdict is alone["b"].verdict is Verdict.HOLDS
