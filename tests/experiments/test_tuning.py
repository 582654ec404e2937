"""The step-size search against synthetic outcome functions whose best step size is known."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.errors import UserError
from stepscope.experiments.arms import STANDARD, anchor
from stepscope.experiments.tuning import Tried, best, check_grid, edge, judge, propose, step_size

places = st.integers(-24, 24)
budgets = st.integers(1, 30)


def search(outcome: Callable[[float], Tried], anchor: float, budget: int) -> dict[float, Tried]:
    tried: dict[float, Tried] = {}
    while (lr := propose(tried, anchor, budget)) is not None:
        assert lr not in tried
        tried[lr] = outcome(lr)
    return tried


def unimodal(peak: int, limit: int) -> Callable[[float], Tried]:
    """Score falls with the distance in decades from the peak; from the limit on, steps are unstable."""

    def outcome(lr: float) -> Tried:
        place = 4 * math.log10(lr)
        if place > limit - 0.5:
            return Tried("unstable" if place < limit + 3 else "diverged")
        return Tried("ok", score=-abs(place - peak), loss=abs(place - peak))

    return outcome


@given(peak=places, gap=st.integers(1, 12), anchor=places, budget=budgets)
def test_every_search_takes_exactly_its_budget(peak, gap, anchor, budget):
    assert len(search(unimodal(peak, peak + gap), step_size(anchor), budget)) == budget


@given(data=st.data(), anchor=places, budget=st.integers(1, 15))
def test_a_search_over_chaos_ends_too(data, anchor, budget):
    """Whatever comes out of the trials: the budget holds, and no step size comes twice."""

    def outcome(lr: float) -> Tried:
        status = data.draw(st.sampled_from(["ok", "unstable", "diverged", "failed"]))
        return Tried(status, score=data.draw(st.floats(-1, 1)), loss=0.0) if status == "ok" else Tried(status)

    tried = search(outcome, step_size(anchor), budget)
    assert len(tried) == budget
    assert all(lr > 0 and math.isfinite(lr) for lr in tried)


@given(peak=places, gap=st.integers(1, 12), anchor=places, budget=budgets)
def test_the_next_step_size_depends_on_what_was_tried_and_not_on_the_order(peak, gap, anchor, budget):
    """An interrupted search continues as if nothing had happened, whatever order its results are read in."""
    tried = search(unimodal(peak, peak + gap), step_size(anchor), budget)
    partial = dict(sorted(list(tried.items())[: len(tried) // 2]))
    while (lr := propose(partial, step_size(anchor), budget)) is not None:
        partial[lr] = unimodal(peak, peak + gap)(lr)
    assert partial == tried


@given(peak=places, gap=st.integers(1, 12), anchor=places)
def test_the_search_finds_the_peak_when_the_budget_suffices(peak, gap, anchor):
    """From the anchor to the limit and back to the peak takes at most (24 + 24 + 12) / 2 + 12 / 2 half decades, and the
    neighbours at quarter decades a few more: 45 trials are enough for all of these."""
    tried = search(unimodal(peak, peak + gap), step_size(anchor), 45)
    winner = best(tried)
    assert winner == step_size(peak)
    assert edge(tried, winner) is None


@given(peak=places, gap=st.integers(1, 12), anchor=places, budget=budgets)
def test_an_edge_is_left_open_only_by_an_exhausted_climb_or_descent(peak, gap, anchor, budget):
    """Where the best is at an edge, every trial went towards that edge: no trial was spent on anything else."""
    tried = search(unimodal(peak, peak + gap), step_size(anchor), budget)
    if not any(outcome.stable for outcome in tried.values()) or budget == 1:
        return
    side = edge(tried, best(tried))
    order = list(tried)
    if side == "upper":
        assert order == sorted(order)
    elif side == "lower":
        descent = order[order.index(max(order)) :]
        assert descent == sorted(descent, reverse=True) or min(order) == order[-1]


def test_the_search_goes_up_to_the_first_unstable_step_size_then_down_then_refines():
    tried = search(unimodal(peak=-6, limit=0), anchor=0.1, budget=8)
    assert list(tried) == [0.1, 0.316, 1.0, 0.0316, 0.01, 0.0178, 0.0562, 0.00562]
    assert best(tried) == 0.0316


def test_an_unstable_anchor_is_left_downwards():
    assert list(search(unimodal(peak=-11, limit=-9), anchor=0.1, budget=6))[:4] == [0.1, 0.0316, 0.01, 0.00316]


def test_on_a_bounded_loss_the_climb_ends_two_half_decades_above_the_best():
    tried = search(lambda lr: Tried("ok", score=-abs(math.log10(lr)), loss=0.0), anchor=1.0, budget=8)
    assert max(tried) == 10.0
    assert best(tried) == 1.0


def test_a_method_without_a_stable_step_size_spends_its_budget_and_has_no_best():
    tried = search(lambda lr: Tried("diverged"), anchor=0.01, budget=5)
    assert list(tried) == [0.01, 0.00316, 0.001, 0.000316, 0.0001]
    with pytest.raises(ValueError, match="empty"):
        best(tried)


def test_ties_go_to_the_lower_loss_and_then_to_the_smaller_step_size():
    assert best({0.1: Tried("ok", 0.9, 0.5), 0.3: Tried("ok", 0.9, 0.4), 1.0: Tried("unstable", 1.0, 0.1)}) == 0.3
    assert best({0.3: Tried("ok", 0.9, 0.4), 0.1: Tried("ok", 0.9, 0.4)}) == 0.1


def test_the_edge_says_where_a_better_step_size_may_lie():
    ok, bad = Tried("ok", 1.0, 0.0), Tried("unstable")
    assert edge({0.1: ok, 0.3: ok}, 0.1) == "lower"
    assert edge({0.1: ok, 0.3: ok}, 0.3) == "upper"
    assert edge({0.1: ok, 0.3: ok, 1.0: bad}, 0.3) is None
    assert edge({0.1: ok}, 0.1) is None
    assert edge({}, 0.1) is None


def test_every_anchor_is_on_the_grid():
    for start in map(anchor, (*STANDARD, "adadelta", "lion", "g:svag:batch", "sign_m:erf")):
        assert step_size(round(4 * math.log10(start))) == start


def evaluation(step, train, validation=None, test=None, train_loss=1.0, validation_loss=1.0, test_loss=1.0):
    return {
        "step": step,
        "train_loss": train_loss,
        "train_metric": train,
        "validation_loss": validation_loss,
        "validation_metric": validation,
        "test_loss": test_loss,
        "test_metric": test,
    }


def test_the_score_is_the_best_metric_at_any_evaluation():
    course = [
        evaluation(0, 0.1, 0.1, 0.1, 2.0),
        evaluation(10, 0.9, 0.8, 0.7, 0.5, 0.6),
        evaluation(20, 1, 0.7, 0.9, 0.2),
    ]
    assert judge(course, "ok", "validation", True) == Tried("ok", 0.8, 0.6, 0.2)
    assert judge(course, "ok", "paper", True) == Tried("ok", 0.9, 0.2, 0.2)


def test_a_metric_that_should_be_low_is_turned_round():
    course = [evaluation(0, 9, 9.0, 9.0, 2.0), evaluation(10, 3, 4.0, 5.0, 0.5, 0.6)]
    assert judge(course, "ok", "validation", False) == Tried("ok", -4.0, 0.6, 0.5)


def test_without_a_metric_the_lowest_loss_counts():
    course = [
        evaluation(0, None, validation_loss=3.0, test_loss=4.0),
        evaluation(5, None, validation_loss=2.0, test_loss=1.5),
    ]
    assert judge(course, "ok", "validation", True).score == -2.0
    assert judge(course, "ok", "paper", True).score == -1.5


@pytest.mark.parametrize(("last", "status"), [(0.9, "ok"), (1.0, "ok"), (1.0001, "unstable")])
def test_a_step_size_is_stable_if_the_training_loss_does_not_end_above_its_start(last, status):
    course = [
        evaluation(0, 0.1, 0.1, train_loss=1.0),
        evaluation(5, 0.9, 0.9, train_loss=7.0),
        evaluation(9, 1, 1, train_loss=last),
    ]
    assert judge(course, "ok", "validation", True).status == status


def test_a_run_that_did_not_end_is_not_scored():
    assert judge([evaluation(0, 0.1, 0.1)], "diverged", "validation", True) == Tried("diverged")
    assert judge([], "failed", "paper", True) == Tried("failed")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "the grid for msgd is empty: give at least one step size, as in msgd=0.1,0.3."),
        ([0.1, 0.0], "a step size must be a finite number above 0, got 0 in the grid for msgd."),
        ([0.1, -1.0], "a step size must be a finite number above 0, got -1 in the grid for msgd."),
        ([math.nan], "a step size must be a finite number above 0, got nan in the grid for msgd."),
        ([math.inf], "a step size must be a finite number above 0, got inf in the grid for msgd."),
        ([0.1, 0.3, 0.1], "the grid for msgd names a step size twice: 0.1, 0.1, 0.3."),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(values, text):
    with pytest.raises(UserError) as caught:
        check_grid("msgd", values)
    assert str(caught.value) == text


def test_a_grid_is_sorted():
    assert check_grid("msgd", [1, 0.1]) == (0.1, 1.0)
