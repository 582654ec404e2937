import dataclasses
import pickle
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from stepscope.errors import UserError
from stepscope.problems import L2, Data, Decrease, Metric, Problem, Protocol, Split, accuracy
from stepscope.problems.problem import private_randomness

ROWS = torch.zeros(3, 2)
SPLIT = Split(ROWS, torch.zeros(3))
PROTOCOL = Protocol(batch_size=2, steps=1, evaluate_every=1)


def legacy_rand() -> float:
    return float(np.random.rand())  # noqa: NPY002 - what problems of others still do


def noisy_data() -> Data:
    train = Split(torch.randn(4, 2), torch.tensor([legacy_rand(), random.random(), 0.0, 0.0]))
    return Data(train, Split(torch.randn(1, 2), torch.randn(1)))


def noisy_model(seed: int) -> nn.Module:
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.bias, legacy_rand() + random.random())
    return layer


def problem(**changes) -> Problem:
    fields = {"name": "p", "data": noisy_data, "model": noisy_model, "loss": nn.MSELoss(), "protocol": PROTOCOL}
    return Problem(**(fields | changes))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Split(np.zeros((3, 2)), ROWS), "a Split's inputs must be a torch.Tensor, got ndarray"),
        (lambda: Split(ROWS, [1, 2, 3]), "a Split's targets must be a torch.Tensor, got list"),
        (lambda: Split(ROWS, torch.tensor(1.0)), "a Split's targets must have one row for each example"),
        (lambda: Split(ROWS, torch.zeros(2)), "3 inputs but 2 targets"),
        (lambda: Data(SPLIT, (ROWS, ROWS)), "Data's test must be a Split, got tuple"),
        (lambda: Metric("", len), "a Metric's name must be one line of text, got ''"),
        (lambda: Metric("error", 3), "Metric's per_example must be a function, got int"),
        (lambda: Protocol(0, 1, 1), "batch_size must be a whole number of at least 1, got 0"),
        (lambda: Protocol(1, 2.0, 1), "steps must be a whole number of at least 1, got 2.0"),
        (lambda: Protocol(1, 1, True), "evaluate_every must be a whole number of at least 1, got True"),
        (lambda: Protocol(1, 1, 1, 1.0), "validation_share must lie in [0, 1), got 1.0"),
        (lambda: Protocol(1, 1, 1, float("nan")), "validation_share must lie in [0, 1), got nan"),
        (lambda: Protocol(1, 1, 1, None), "validation_share must lie in [0, 1), got None"),
        (lambda: problem(name="two\nlines"), "a Problem's name must be one line of text, got 'two\\nlines'"),
        (lambda: problem(data=SPLIT), "Problem's data must be a function, got Split"),
        (lambda: problem(model=None), "Problem's model must be a function, got NoneType"),
        (lambda: problem(loss="mse"), "Problem's loss must be a function, got str"),
        (lambda: problem(protocol=(1, 1, 1)), "Problem's protocol must be a Protocol, got tuple"),
        (lambda: problem(metric=len), "Problem's metric must be a Metric or None, got builtin_function_or_method"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_was(build, text):
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_split_counts_its_examples():
    assert len(SPLIT) == 3


@pytest.mark.parametrize(("share", "examples", "held_out"), [(1 / 6, 60_000, 10_000), (0.0, 7, 0), (0.1, 26, 3)])
def test_the_validation_share_is_rounded_to_whole_examples(share, examples, held_out):
    assert Protocol(1, 1, 1, share).validation_examples(examples) == held_out


def test_accuracy_counts_the_rows_whose_largest_output_is_the_target():
    outputs = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0], [0.0, 0.0, 0.1]])
    assert accuracy.per_example(outputs, torch.tensor([1, 2, 2])).tolist() == [1.0, 0.0, 1.0]


def test_accuracy_of_numbers_is_refused():
    """Comparing a class with a float would be 0 almost everywhere, and nobody would notice."""
    with pytest.raises(UserError, match=r"accuracy needs whole class numbers as targets, got torch\.float32"):
        accuracy.per_example(torch.zeros(2, 1), torch.zeros(2))


def test_models_and_data_draw_from_private_random_numbers(global_states):
    """All three global generators: same seed, same numbers; another seed, others; nothing moves outside."""
    p = problem()
    before = global_states()
    first, again, other = (p.model(seed).state_dict() for seed in (1, 1, 2))
    data, same_data = p.data(), p.data()
    assert global_states() == before
    for name in ("weight", "bias"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert torch.equal(data.train.inputs, same_data.train.inputs)
    assert torch.equal(data.train.targets, same_data.train.targets)


def test_a_model_that_seeds_for_itself_disturbs_nothing(global_states):
    def model(seed):
        torch.manual_seed(seed)
        return nn.Linear(2, 1)

    before = global_states()
    problem(model=model).model(5)
    assert global_states() == before


def test_private_random_numbers_end_with_an_exception(global_states):
    before = global_states()
    with pytest.raises(ZeroDivisionError), private_randomness(3):
        torch.rand(1).item() + legacy_rand() + random.random() + 1 / 0
    assert global_states() == before


def test_a_changed_copy_builds_the_same_model():
    copy = dataclasses.replace(problem(), spec="elsewhere")
    assert torch.equal(problem().model(1).weight, copy.model(1).weight)
    assert copy.spec == "elsewhere"
    assert dataclasses.replace(copy, spec="") == problem(loss=copy.loss)


def test_a_problem_made_of_named_functions_can_be_pickled():
    copy = pickle.loads(pickle.dumps(problem(model=nn.Identity, data=dict, loss=nn.functional.mse_loss)))
    assert copy == problem(model=nn.Identity, data=dict, loss=nn.functional.mse_loss)


def test_a_decrease_falls_after_each_share_of_the_run():
    """Zagoruyko and Komodakis: to a fifth after 60, 120 and 160 of 200 passes; here a pass is two steps."""
    schedule = Decrease(0.2, after=(0.3, 0.6, 0.8))
    factors = [schedule(step, 400) for step in range(1, 401)]
    assert factors == [0.2 ** sum(step > 2 * passes for passes in (60, 120, 160)) for step in range(1, 401)]
    assert [schedule(step, 10) for step in range(1, 11)] == [1, 1, 1, 0.2, 0.2, 0.2, 0.2**2, 0.2**2, 0.2**3, 0.2**3]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Decrease(0, (0.5,)), "factor must be a positive number, got 0"),
        (lambda: Decrease(float("inf"), (0.5,)), "factor must be a positive number"),
        (lambda: Decrease(0.5, (0.5, 0.4)), "ascending shares between 0 and 1"),
        (lambda: Decrease(0.5, (60, 120)), "ascending shares between 0 and 1"),
        (lambda: Protocol(1, 1, 1, schedule=0.5), "Protocol's schedule must be a function, got float"),
        (lambda: problem(penalty=0.1), "Problem's penalty must be a function, got float"),
        (lambda: problem(augment="flip"), "Problem's augment must be a function, got str"),
    ],
)
def test_wrong_extras_are_named(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_l2_is_half_the_squares_of_the_weights_and_its_gradient_shrinks_them():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
    model[2].weight.requires_grad_(False)
    penalty = L2(0.3)(model)
    assert penalty.item() == pytest.approx(0.15 * sum(w * w for w in model[0].weight.flatten().tolist()), rel=1e-14)
    penalty.backward()
    torch.testing.assert_close(model[0].weight.grad, 0.3 * model[0].weight, rtol=4e-16, atol=0)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"0.weight"}
