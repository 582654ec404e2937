import dataclasses
import re

import pytest
import torch
from torch import nn

from stepscope.errors import DamagedData, UserError
from stepscope.problems import Data, Metric, Problem, Protocol, Split, check, load, names

INPUTS = torch.linspace(-1, 1, 24).reshape(12, 2)
GOOD = Problem(
    "moons",
    data=lambda: Data(Split(INPUTS, torch.arange(12) % 2), Split(INPUTS[:3], torch.tensor([0, 1, 1]))),
    model=lambda seed: nn.Linear(2, 2),
    loss=nn.functional.cross_entropy,
    protocol=Protocol(batch_size=4, steps=10, evaluate_every=5),
)


def data(inputs=INPUTS, targets=None, test=None) -> dict:
    train = Split(inputs, torch.zeros(len(inputs), dtype=torch.long) if targets is None else targets)
    return {"data": lambda: Data(train, train if test is None else test)}


def raises(error: Exception):
    def function(*_args):
        raise error

    return function


class Frozen(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.requires_grad_(False)


class Tuple(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class TrainsOnly(nn.Linear):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("never evaluated")
        return super().forward(x)


SHARED = nn.Linear(2, 2)
COLUMN = torch.zeros(12, 1)
UNSEEDED = torch.Generator()
TWO_TARGETS = Metric("both", lambda y, t: torch.zeros(len(t), 2))

BAD = {
    "data raises": ({"data": raises(OSError("disk\nfull"))}, "data() raised OSError: disk full"),
    "data raises silently": ({"data": raises(KeyError())}, "data() raised KeyError"),
    "no Data": ({"data": lambda: (INPUTS, INPUTS)}, "data() must return Data(train, test), got tuple."),
    "empty train": (data(INPUTS[:0]), "the training split is empty."),
    "empty test": (data(test=Split(INPUTS[:0], INPUTS[:0])), "the test split is empty."),
    "big batch": (
        {"protocol": Protocol(11, 1, 1)},
        "batch_size 11 is larger than the 10 examples left to train on (2 of 12 are held out for validation)",
    ),
    "no validation": ({"protocol": Protocol(1, 1, 1, 0.01)}, "validation_share 0.01 of 12 training examples is none"),
    "model raises": ({"model": raises(ValueError("no"))}, "model(seed) raised ValueError: no"),
    "no model": ({"model": lambda seed: torch.sin}, "model(seed) must return a torch.nn.Module, got builtin"),
    "shared model": (
        {"model": lambda seed: SHARED},
        "model(seed) returns the same model on each call; build a new one.",
    ),
    "no parameters": ({"model": lambda seed: nn.ReLU()}, "the model has no trainable parameters."),
    "frozen": ({"model": lambda seed: Frozen()}, "the model has no trainable parameters."),
    "lazy": ({"model": lambda seed: nn.LazyLinear(2)}, "the model has lazy layers without a size"),
    "own generator": (
        {"model": lambda seed: nn.Embedding(1, 1, _weight=torch.rand(1, 1, generator=UNSEEDED))},
        "model(0) gives another 'weight' on each call",
    ),
    "shapes": (
        {"model": lambda seed: nn.Linear(3, 2)},
        "the model, on a training batch of shape (4, 2), raised RuntimeError: mat1 and mat2 shapes",
    ),
    "test shapes": (
        data(test=Split(INPUTS.reshape(8, 3), torch.zeros(8, dtype=torch.long))),
        "the model, on a test batch of shape (4, 3), raised RuntimeError",
    ),
    "eval mode": (
        {"model": lambda seed: TrainsOnly(2, 2)},
        "the model, on a test batch of shape (3, 2), raised RuntimeError: never evaluated",
    ),
    "tuple": ({"model": lambda seed: Tuple(2, 2)}, "the model must return a tensor, got tuple."),
    "class out of range": (
        data(targets=torch.full((12,), 2)),
        "the loss, on shape (4, 2) outputs and shape (4,) targets, raised IndexError: Target 2 is out of bounds.",
    ),
    "broadcast loss": (
        {"loss": nn.MSELoss(), "model": lambda seed: nn.Linear(2, 1), **data(targets=torch.zeros(12))},
        "the loss, on shape (4, 1) outputs and shape (4,) targets, raised UserWarning: Using a target size",
    ),
    "loss per example": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        "the loss must be a scalar tensor, got shape (4,); take the mean",
    ),
    "loss a float": ({"loss": lambda y, t: 1.0}, "the loss must be a scalar tensor, got float"),
    "loss detached": ({"loss": lambda y, t: y.detach().mean()}, "the loss does not depend on the model's parameters"),
    "loss infinite": ({"loss": lambda y, t: y.mean() / 0}, "inf, before any training."),
    "inputs not finite": (
        data(INPUTS.clone().fill_(float("nan"))),
        "the first loss is nan, before any training; the training inputs hold values that are not finite.",
    ),
    "gradient not finite": (
        {"loss": lambda y, t: (0 * y).sqrt().mean(), "metric": None},
        "the first gradient of 'weight' is not finite.",
    ),
    "loss a sum": (
        {"loss": nn.CrossEntropyLoss(reduction="sum")},
        "the loss sums over the batch: it doubles with twice the examples; take the mean.",
    ),
    "metric raises": (
        {"metric": Metric("error", raises(TypeError("bad")))},
        "the metric 'error' raised TypeError: bad",
    ),
    "metric shape": (
        {"metric": TWO_TARGETS},
        "the metric 'both' must give one number for each example, shape (3,), got shape (3, 2).",
    ),
    "metric of a column": (
        {"loss": nn.MSELoss(), "model": lambda seed: nn.Linear(2, 1), **data(targets=COLUMN.long().float())},
        "accuracy needs whole class numbers as targets, got torch.float32",
    ),
}


@pytest.mark.parametrize(("changes", "text"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_one_line(changes, text, global_states):
    problem = dataclasses.replace(GOOD, **changes)
    before = global_states()
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        check(problem)
    assert "\n" not in str(caught.value)
    assert global_states() == before


class OwnLoss(nn.Linear):
    def forward(self, x):
        return super().forward(x).square().mean()


FINE = {
    "metric": GOOD,
    "no metric": dataclasses.replace(GOOD, metric=None),
    "no validation": dataclasses.replace(GOOD, protocol=Protocol(12, 1, 100, 0.0)),
    "outputs without rows": dataclasses.replace(
        GOOD, model=lambda seed: OwnLoss(2, 2), loss=lambda y, t: y, metric=None
    ),
}


@pytest.mark.parametrize("problem", FINE.values(), ids=FINE.keys())
def test_a_good_problem_passes_and_leaves_the_random_numbers_alone(problem, global_states):
    before = global_states()
    check(problem)
    assert global_states() == before


def test_the_cause_is_kept():
    cause = ValueError("no")
    with pytest.raises(UserError) as caught:
        check(dataclasses.replace(GOOD, model=raises(cause)))
    assert caught.value.__cause__ is cause


def test_our_own_errors_pass_unchanged():
    """A damaged file stays a DamagedData, so a caller may still tell it from a mistake in the problem."""
    error = DamagedData("file x is damaged")
    with pytest.raises(DamagedData) as caught:
        check(dataclasses.replace(GOOD, data=raises(error)))
    assert caught.value is error


def test_a_stranger_s_long_message_is_cut():
    with pytest.raises(UserError) as caught:
        check(dataclasses.replace(GOOD, data=raises(ValueError("x" * 5000))))
    assert len(str(caught.value)) < 400


def test_the_line_in_the_user_s_file_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from stepscope.problems import *\n"
        "def data():\n"
        "    return 1 / 0\n"
        "problem = Problem('p', data, print, print, Protocol(1, 1, 1))\n"
    )
    with pytest.raises(UserError, match=r"data\(\) raised ZeroDivisionError: division by zero \(mine\.py, line 3\)"):
        check(load(str(file)))


def test_built_in_problems_pass(here):
    for name in ("digits", "fashion-mnist"):
        if here(name):
            check(load(name))


def test_built_in_networks_pass_on_tiny_data(tiny_data):
    """With batches of 4 images, as a step of the residual network on 128 takes minutes on one core."""
    for name in set(names()) - {"digits", "fashion-mnist"}:
        problem = load(name)
        protocol = problem.protocol
        small = protocol if protocol.in_order else dataclasses.replace(protocol, batch_size=4)
        check(dataclasses.replace(problem, protocol=small))


SCHEDULE = "the schedule must give a number >= 0, got -1 at step 3 of 3"
EXTRAS = [
    ({"protocol": Protocol(2, 3, 1, schedule=lambda step, steps: 2 - step)}, SCHEDULE),
    ({"protocol": Protocol(2, 3, 1, schedule=lambda step, steps: 1 / (step - 1))}, "step 1 of 3, raised ZeroDivision"),
    ({"penalty": lambda model: torch.zeros(2)}, r"the penalty must be a scalar tensor, got shape \(2,\)"),
    ({"penalty": lambda model: 1 / 0}, "the penalty raised ZeroDivisionError"),
    ({"augment": lambda inputs, generator: inputs[:1]}, r"augment must return the 2 inputs it was given, got shape"),
    ({"augment": lambda inputs, generator: inputs + torch.rand(1)}, "augment gives other inputs on each call"),
    ({"augment": lambda inputs, generator: 1 / 0}, r"augment, on a training batch of shape \(2, 1\), raised ZeroDiv"),
]


@pytest.mark.parametrize(("changes", "text"), EXTRAS)
def test_what_a_problem_may_have_beside_is_tried_too(changes, text):
    split = Split(torch.arange(12.0)[:, None], torch.arange(12.0)[:, None])
    good = Problem(
        "p", lambda: Data(split, split), lambda seed: nn.Linear(1, 1), nn.functional.mse_loss, Protocol(2, 3, 1), None
    )
    check(good)
    with pytest.raises(UserError, match=text):
        check(dataclasses.replace(good, **changes))
