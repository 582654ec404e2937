"""What a sweep does about trials that fail, and what it tells while it runs."""

import pytest

from stepscope.errors import UserError
from stepscope.experiments.arms import STANDARD as METHODS


def test_every_trial_is_told_once_and_the_total_is_right(small, diary):
    small(progress=diary)
    assert diary.total == 5 * (3 + 2)
    assert [event.done for event in diary.events] == list(range(1, 26))
    assert {event.total for event in diary.events} == {25}
    assert [event.kind for event in diary.events].count("replication") == 10
    assert not any(event.cached for event in diary.events)
    event = next(event for event in diary.events if event.kind == "replication")
    assert (event.status, event.trials) == ("ok", 1)
    assert event.lr > 0
    assert event.seed in (0, 1)
    assert event.seconds > 0
    assert {event.label for event in diary.events} == {"M-SGD", "M-SSD", "M-SVAG", "Adam", "Adam (one beta)"}


def test_searches_are_urgent_and_reports_are_not(small, here):
    submitted = []
    here.submit = lambda task: (submitted.append(task), here.tasks.append(task))
    small(executor=here)
    assert [task.urgent for task in submitted].count(True) == 15
    assert [task.urgent for task in submitted].count(False) == 10


def test_searches_of_all_methods_go_side_by_side(small, here):
    first, wait = [], here.wait
    here.wait = lambda: (first.append([task.args[0].method for task in here.tasks]), wait())[1]
    small(executor=here)
    assert first[0] == list(METHODS)


def test_a_trial_that_raises_is_a_failed_one_and_the_sweep_goes_on(small, diary):
    """Large steps make the weights of this problem too large for its own assertion."""
    grid = dict.fromkeys(METHODS, (0.01, 100.0))
    results = small("fragile", grid=grid, progress=diary).results
    for arm in results["arms"]:
        assert [(trial["lr"], trial["status"]) for trial in arm["tuning"]] == [(0.01, "ok"), (100.0, "failed")]
        assert arm["lr"] == 0.01
        assert arm["lr_at_edge"] == "lower"
    (note,) = (note for note in diary.notes if note.startswith("M-SGD"))
    assert note.startswith(
        "M-SGD with step size 100 and seed 1000 failed: AssertionError: the weights are too large (all of"
    )
    assert len(diary.notes) == 5


def test_a_failed_trial_is_tried_again_when_the_sweep_is(small, here, tmp_path):
    """Whatever made it fail may be gone; here it is not. A failure is no result, all else is."""
    grid = {"msgd": [0.01, 100.0], "mssd": [100.0], "msvag": [100.0], "adam": [100.0], "adam_one_beta": [100.0]}
    first = small("fragile", grid=grid)
    (first.folder / "results.json").unlink()
    again = small("fragile", grid=grid, executor=here)
    assert again.results == first.results
    assert len(here.ran) == 1 + 4 * 2


def test_a_method_without_a_stable_step_size_is_reported_and_the_others_are_compared(small, diary):
    results = small("regression", grid={"mssd": [1e20, 1e25]}, progress=diary).results
    by_method = {arm["method"]: arm for arm in results["arms"]}
    assert (by_method["mssd"]["lr"], by_method["mssd"]["lr_at_edge"], by_method["mssd"]["runs"]) == (None, None, [])
    assert len(by_method["msgd"]["runs"]) == 2
    assert diary.notes == ["M-SSD: no step size that was tried is stable."]
    assert diary.events[-1].done == diary.total
    assert [event.trials for event in diary.events if event.kind == "skipped"] == [2]
    assert {effect["verdict"] for effect in results["effects"]} == {"cannot tell"}
    assert "no step size that was tried is stable for M-SSD" in results["effects"][0]["sentence"]
    assert "mssd" not in results["dissection"]


def test_no_method_with_a_stable_step_size_is_the_users_to_mend(small, tmp_path):
    """The gradient of this problem points the wrong way."""
    with pytest.raises(UserError) as caught:
        small("uphill")
    assert str(caught.value) == (
        "no method has a stable step size on 'uphill' within 3 trials: "
        "give step sizes with --grid, a larger --budget, or look at the problem's loss and scale."
    )
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_problem_whose_trials_all_fail_says_how(small):
    grid = dict.fromkeys(METHODS, (100.0, 1000.0))
    with pytest.raises(UserError, match="the first that failed said: AssertionError: the weights are too large: give"):
        small("fragile", grid=grid)
