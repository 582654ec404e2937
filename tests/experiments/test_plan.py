"""Settings and the trials that follow from them."""

import json
import shlex
from collections.abc import Callable

import pytest

from stepscope import problems
from stepscope.errors import UserError
from stepscope.experiments.arms import STANDARD as METHODS
from stepscope.experiments.plan import TUNING_SEED, Plan, is_tuning, make_plan

FINE = {"validation_loss": 1.0, "validation_metric": 0.5, "test_loss": 1.0, "test_metric": 0.5, "train_metric": 0.5}


@pytest.fixture
def plan(tiny) -> Callable[..., Plan]:
    def make(name: str = "problem", **changes) -> Plan:
        problem = problems.load(tiny(name))
        settings = {"seeds": None, "steps": None, "budget": 4, "select": "validation", "profile": "demo"}
        settings |= {"beta": 0.9, "grid": None, "record_every": None} | changes
        return make_plan(problem, problem.data(), "mark", **settings)

    return make


def result(status="ok", train=0.5, metric=0.5):
    start, end = {"train_loss": 1.0, **FINE}, {"train_loss": train, **FINE, "validation_metric": metric}
    return {"status": status, "evaluations": [start, end]}


def everything(plan: Plan, method: str) -> dict[str, dict]:
    """Results of all trials of a method, as they come up."""
    results: dict[str, dict] = {}
    while wanted := plan.arm(method, results).wanted:
        results |= {trial.id: result() for trial in wanted}
    return results


@pytest.mark.parametrize(("profile", "seeds"), [("demo", 3), ("paper", 10)])
def test_the_profile_sets_the_number_of_seeds_unless_one_is_given(plan, profile, seeds):
    assert plan(profile=profile).seeds == tuple(range(seeds))
    assert plan(profile=profile, seeds=4).seeds == (0, 1, 2, 3)


def test_the_total_is_known_and_right(plan):
    made = plan(grid={"msgd": [0.1, 0.3], "adam": [0.001]}, seeds=2)
    assert made.total == (2 + 4 + 4 + 0 + 4) + 5 * 2
    assert made.total == sum(len(everything(made, method)) for method in METHODS)


def test_every_method_gets_the_same_budget(plan):
    made = plan(budget=7)
    for method in METHODS:
        arm = made.arm(method, everything(made, method))
        assert len(arm.tried) == 7
        assert len(arm.replications) == 3
        assert not arm.wanted


def test_tuning_and_evaluation_never_share_a_seed(plan):
    made = plan(seeds=1000)
    trials = made.arm("msgd", everything(made, "msgd")).done
    assert {trial.seed for trial in trials if is_tuning(trial)} == {TUNING_SEED}
    assert {trial.seed for trial in trials if not is_tuning(trial)} == set(range(1000))


def test_only_the_first_seed_is_recorded_and_about_200_steps_of_it(plan):
    made = plan(steps=1001)
    records = [trial.record_every for trial in made.arm("mssd", everything(made, "mssd")).done]
    assert sorted(records) == [0] * 6 + [6]
    assert plan(steps=12).record_every == 1
    assert plan(record_every=5).record_every == 5


def test_no_test_example_is_seen_while_tuning_by_validation(plan):
    for select, part in (("validation", "validation"), ("paper", "test")):
        made = plan(select=select)
        (trial,) = made.arm("msgd", {}).wanted
        assert trial.parts == ("train", part)
        assert trial.held_out == made.validation_examples == (10 if select == "validation" else 0)
        assert made.train_examples == 60 - made.validation_examples
        assert "test" in made.replication("msgd", 0.1, 0).parts


def test_adam_keeps_its_betas_and_the_others_share_one(plan):
    made = plan(beta=0.5)
    assert {method: made.tuning(method, 0.1).beta for method in METHODS} == dict.fromkeys(METHODS, 0.5) | {"adam": None}


def test_given_step_sizes_are_all_tried_at_once(plan):
    made = plan(grid={"msgd": [1, 0.1, 0.01]})
    arm = made.arm("msgd", {})
    assert [trial.lr for trial in arm.wanted] == [0.01, 0.1, 1.0]
    results = {trial.id: result(metric=trial.lr) for trial in arm.wanted}
    assert made.arm("msgd", results).lr == 1.0
    last = arm.wanted[-1].id
    assert [trial.id for trial in made.arm("msgd", {key: results[key] for key in results if key != last}).wanted] == [
        last
    ]


def test_a_single_given_step_size_is_not_tuned(plan):
    arm = plan(grid={"msgd": [0.3]}).arm("msgd", {})
    assert (arm.lr, len(arm.wanted), len(arm.tried)) == (0.3, 3, 0)


def test_a_method_that_is_never_stable_is_hopeless(plan):
    made = plan(budget=2)
    results: dict[str, dict] = {}
    while wanted := made.arm("adam", results).wanted:
        assert not made.arm("adam", results).hopeless
        results |= {trial.id: result(status="diverged") for trial in wanted}
    arm = made.arm("adam", results)
    assert arm.hopeless
    assert (arm.lr, len(arm.done)) == (None, 2)


def test_the_command_line_repeats_the_settings(plan):
    made = plan(seeds=2, grid={"msgd": [0.1, 0.3]}, beta=0.5, select="paper", steps=7)
    words = shlex.join(made.command)
    assert words.startswith("stepscope dissect /")
    for option in ("--seeds 2", "--steps 7", "--select paper", "--beta 0.5", "--grid msgd=0.1,0.3", "--record-every 1"):
        assert option in words


def test_settings_are_json_and_their_digest_follows_them(plan):
    assert json.loads(json.dumps(plan().settings())) == plan().settings()
    assert plan().digest == plan().digest != plan(beta=0.8).digest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seeds": 0}, "seeds must be a whole number of at least 1 and at most 1000, got 0."),
        ({"seeds": 1001}, "seeds must be a whole number of at least 1 and at most 1000, got 1001."),
        ({"seeds": True}, "seeds must be a whole number of at least 1 and at most 1000, got True."),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0."),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5."),
        ({"budget": 0}, "budget must be a whole number of at least 1 and at most 100, got 0."),
        ({"budget": 101}, "budget must be a whole number of at least 1 and at most 100, got 101."),
        ({"record_every": 0}, "record_every must be a whole number of at least 1, got 0."),
        ({"beta": 1.0}, "beta must lie in [0, 1), got 1.0."),
        ({"beta": float("nan")}, "beta must lie in [0, 1), got nan."),
        ({"profile": "dmeo"}, "unknown profile 'dmeo': did you mean 'demo'? Known: demo, paper."),
        (
            {"select": "test"},
            "unknown way to select step sizes 'test': Known: paper, validation.",
        ),
        (
            {"grid": {"sgd": [0.1]}},
            "unknown method in the grid 'sgd': did you mean 'msgd'? Known: adam, adam_one_beta, msgd, mssd, msvag.",
        ),
        ({"grid": {"msgd": [-1]}}, "a step size must be a finite number above 0, got -1 in the grid for msgd."),
    ],
)
def test_settings_that_make_no_sense_are_refused(plan, changes, text):
    with pytest.raises(UserError) as caught:
        plan(**changes)
    assert str(caught.value) == text


def test_selection_by_validation_needs_validation_examples(plan):
    with pytest.raises(UserError, match="'nothing held out' holds out no validation examples: raise validation_share"):
        plan("not_held_out")
    assert plan("not_held_out", select="paper").validation_examples == 0
