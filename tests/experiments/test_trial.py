"""One training run against a loop written by hand, and what it leaves behind."""

import dataclasses
import io
import random
from pathlib import Path

import pytest
import torch

from stepscope import problems, store
from stepscope.errors import UserError
from stepscope.experiments import trial as module
from stepscope.experiments.arms import takes_beta
from stepscope.experiments.trial import Training, Trial, batches, divide, evaluate, make_optimizer, train
from stepscope.optim import METHODS
from stepscope.problems import L2, Data, Decrease, Problem, Protocol, Split

TINY = Path(__file__).parent / "tiny.py"


def load(name: str) -> Problem:
    return problems.load(f"{TINY}:{name}")


def make(**changes) -> Trial:
    defaults = {
        "problem": "fingerprint",
        "method": "adam_one_beta",
        "lr": 0.05,
        "beta": 0.9,
        "seed": 3,
        "steps": 12,
        "batch_size": 8,
        "evaluate_every": 5,
        "held_out": 10,
        "parts": ("train", "validation", "test"),
    }
    return Trial(**(defaults | changes))


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def numbered(train: int, test: int) -> Data:
    return Data(*(Split(torch.arange(n) + start, torch.arange(n) + start) for n, start in ((train, 0), (test, 1000))))


def test_the_division_is_fixed_and_its_parts_do_not_overlap():
    data = numbered(60, 20)
    parts = divide(data, 15)
    assert {name: len(part) for name, part in parts.items()} == {"fit": 45, "train": 20, "test": 20, "validation": 15}
    fit, validation = set(parts["fit"].inputs.tolist()), set(parts["validation"].inputs.tolist())
    assert fit | validation == set(range(60))
    assert set(parts["train"].inputs.tolist()) < fit
    assert torch.equal(parts["test"].inputs, data.test.inputs)
    again = divide(data, 15)
    assert all(torch.equal(parts[name].targets, again[name].targets) for name in parts)


def test_nothing_is_held_out_for_selection_by_test_results():
    parts = divide(numbered(30, 50), 0)
    assert "validation" not in parts
    assert len(parts["fit"]) == len(parts["train"]) == 30


def test_an_epoch_is_a_permutation_without_its_incomplete_batch():
    order = batches(10, 4, seed=5)
    first, second = torch.cat([next(order), next(order)]), torch.cat([next(order), next(order)])
    for epoch in (first, second):
        assert len(set(epoch.tolist())) == 8
    assert not torch.equal(first, second)


def test_batches_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = [next(batches(100, 10, seed=5)).tolist() for _ in range(2)]
    torch.manual_seed(2)
    assert one[0] == one[1] == next(batches(100, 10, seed=5)).tolist()
    assert one[0] != next(batches(100, 10, seed=6)).tolist()


@pytest.mark.parametrize("method", ["msgd", "adam"])
def test_a_trial_is_the_loop_one_would_write_by_hand(method):
    """Same bits: the losses are float32 averages of at most 60 numbers, in the same order."""
    trial, problem = make(method=method, beta=None if method == "adam" else 0.9), load("dropout")
    parts = divide(problem.data(), 10)
    x, y = parts["fit"].inputs, parts["fit"].targets
    model = problem.model(3)
    optimizer = METHODS[method](model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(10_003)
    torch.manual_seed(20_003)
    losses = []
    for step in range(12):
        if step % 6 == 0:  # 50 examples are six batches of 8
            order = torch.randperm(50, generator=generator)
        batch = order[8 * (step % 6) : 8 * (step % 6 + 1)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if step in (4, 9, 11):
            state = torch.get_rng_state()
            model.eval()
            with torch.no_grad():
                outputs = model(parts["test"].inputs)
            losses.append(torch.nn.functional.cross_entropy(outputs, parts["test"].targets).item())
            accuracy = (outputs.argmax(1) == parts["test"].targets).double().mean().item()
            model.train()
            torch.set_rng_state(state)
    result = train(trial, problem)
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [0, 5, 10, 12]
    assert [evaluation["test_loss"] for evaluation in result["evaluations"][1:]] == losses
    assert result["evaluations"][-1]["test_metric"] == accuracy
    assert (result["status"], result["steps"]) == ("ok", 12)


def test_looking_more_often_changes_nothing():
    problem = load("dropout")
    seldom, often = train(make(), problem), train(make(evaluate_every=1), problem)
    by_step = {evaluation["step"]: evaluation for evaluation in often["evaluations"]}
    assert all(by_step[evaluation["step"]] == evaluation for evaluation in seldom["evaluations"])


def test_recording_changes_nothing(tmp_path):
    problem = load("dropout")
    plain, recorded = train(make(), problem), train(make(record_every=1), problem, tmp_path / "run")
    assert plain["evaluations"] == recorded["evaluations"]
    run = store.Run(tmp_path / "run")
    assert run.status == "finished"
    assert run.table("loss")["step"].to_pylist() == list(range(1, 13))
    assert "0.weight" in run.layers


def test_global_random_numbers_do_not_matter():
    problem = load("dropout")
    torch.manual_seed(1)
    random.seed(1)
    first = train(make(), problem)
    torch.manual_seed(2)
    random.seed(2)
    assert train(make(), problem) == first
    assert train(make(seed=4), problem)["evaluations"] != first["evaluations"]


def test_an_evaluation_leaves_no_trace():
    problem = load("dropout")
    model = problem.model(0)
    model[1].eval()  # frozen on purpose by whoever built the model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    evaluate(model, problem, problem.data().test)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_split_is_evaluated_in_batches(monkeypatch):
    """Means over 30 examples in batches of 7; float32 losses agree to some 1e-7."""
    problem = load("problem")
    model, test = problem.model(0), problem.data().test
    whole = evaluate(model, problem, test)
    monkeypatch.setattr(module, "EVALUATION_BATCH", 7)
    assert evaluate(model, problem, test) == (pytest.approx(whole[0], rel=1e-6), whole[1])


def test_only_the_parts_asked_for_are_evaluated():
    last = train(make(parts=("train", "validation")), load("problem"))["evaluations"][-1]
    assert last["test_loss"] is last["test_metric"] is None
    assert last["train_loss"] is not None
    assert last["validation_metric"] is not None


def test_without_a_metric_there_is_the_loss():
    last = train(make(held_out=0, parts=("train", "test")), load("regression"))["evaluations"][-1]
    assert last["test_metric"] is None
    assert last["test_loss"] > 0


def test_training_stops_at_the_first_loss_that_is_not_finite():
    result = train(make(method="msgd", lr=1e30), load("regression"))
    assert result["status"] == "diverged"
    assert result["steps"] < 5
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [0]


def test_an_evaluation_that_is_not_finite_ends_training_too():
    """One step is enough to overflow the test loss, and the next batch is never seen."""
    result = train(make(method="msgd", lr=1e30, evaluate_every=1), load("regression"))
    assert result["status"] == "diverged"
    assert result["steps"] == result["evaluations"][-1]["step"] == 1


def test_a_problem_that_is_not_finite_from_the_start_is_the_users(tmp_path):
    def data() -> Data:
        inputs = torch.ones(40, 1)
        return Data(Split(inputs, inputs), Split(inputs, inputs / 0))

    with pytest.raises(UserError, match="the loss or the metric is not finite before any training"):
        train(make(), dataclasses.replace(load("regression"), data=data))


def test_adam_keeps_its_own_two_betas():
    adam = make_optimizer(make(method="adam", beta=None), torch.nn.Linear(2, 2))
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
    assert adam.param_groups[0]["eps"] == 1e-8
    assert make_optimizer(make(beta=0.7), torch.nn.Linear(2, 2)).param_groups[0]["beta"] == 0.7


def test_the_id_is_the_configuration():
    assert make().id == make().id
    assert len({make().id, make(seed=4).id, make(lr=0.1).id, make(problem="x").id, make(record_every=1).id}) == 5


def test_a_record_that_could_not_be_written_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(store.Run, "status", "interrupted")
    with pytest.raises(UserError, match="could not be written: is its disk full"):
        train(make(record_every=1), load("problem"), tmp_path / "run")


def test_schedule_penalty_augmentation_and_order_are_the_loop_one_would_write_by_hand():
    """Same bits: the same operations in the same order."""

    def noisy(inputs, generator):
        return inputs + torch.randn(inputs.shape, generator=generator)

    base = load("problem")
    protocol = dataclasses.replace(base.protocol, schedule=Decrease(0.5, after=(0.5,)), in_order=True)
    problem = dataclasses.replace(base, protocol=protocol, penalty=L2(0.1), augment=noisy)
    result = train(make(method="msgd", parts=("test",)), problem)
    data, model = problem.data(), problem.model(3)
    optimizer = METHODS["msgd"](model.parameters(), lr=0.05)
    for step in range(1, 13):
        first = 8 * ((step - 1) % 6)  # of 50 examples in order; the last ten are held out
        x, y = data.train.inputs[first : first + 8], data.train.targets[first : first + 8]
        x = noisy(x, torch.Generator().manual_seed(4 * 2**20 + step))
        optimizer.param_groups[0]["lr"] = 0.05 if step <= 6 else 0.025
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(model(x), y) + L2(0.1)(model)).backward()
        optimizer.step()
    outputs = model(data.test.inputs)
    expected = torch.nn.functional.cross_entropy(outputs, data.test.targets).item() + L2(0.1)(model).item()
    assert result["evaluations"][-1]["test_loss"] == expected


def images() -> Problem:
    """With convolutions whose weights lie in memory in another order, and a model that carries something on."""

    def model(seed: int) -> torch.nn.Module:
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.3), torch.nn.Flatten(),
            torch.nn.LazyLinear(3),
        )  # fmt: skip
        net(torch.zeros(1, 3, 6, 6))
        return net.to(memory_format=torch.channels_last)

    def data() -> Data:
        whole = Split(torch.randn(60, 3, 6, 6), torch.randint(3, (60,)))
        return Data(whole, whole)

    protocol = Protocol(8, 12, 5, schedule=Decrease(0.3, after=(0.4, 0.7)))
    return Problem("images", data, model, torch.nn.functional.cross_entropy, protocol, penalty=L2(0.01))


@pytest.mark.parametrize(
    "method", ["msgd", "mssd", "msvag", "adam", "adam_one_beta", "svag", "lion", "m:svag_rho:batch"]
)
def test_a_state_is_all_that_the_next_steps_depend_on(tmp_path, method):
    """Saved and loaded as a checkpoint is, after each third step, by a training in which the first one never was."""
    problem = images()
    trial = make(method=method, beta=0.9 if takes_beta(method) else None, record_every=1)
    whole = train(trial, problem, tmp_path / "whole")
    state, result = None, None
    for start in (0, 3, 6, 9):
        training = Training(trial, problem, tmp_path / "parts")
        with training.recording():
            if state is not None:
                training.load(state)
            for step in training.steps():
                if step == start + 3 and step < 12:
                    break
            file = io.BytesIO()
            torch.save(training.state(), file)
            file.seek(0)
            state, result = torch.load(file, weights_only=False), training.result()
        torch.manual_seed(start)
    assert result == whole
    parts, at_once = store.Run(tmp_path / "parts"), store.Run(tmp_path / "whole")
    tables = [run.table(*sorted(run.names)).to_pylist() for run in (parts, at_once)]
    assert sorted(map(repr, tables[0])) == sorted(map(repr, tables[1]))  # as text, NaN equals NaN


def test_a_state_of_another_trial_is_refused():
    with pytest.raises(ValueError, match="a state of trial"):
        Training(make(), load("problem")).load(Training(make(seed=4), load("problem")).state())
