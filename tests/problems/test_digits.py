import importlib.util
import sys

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from stepscope.problems import digits
from stepscope.problems.digits import problem


@pytest.fixture(scope="module")
def data():
    return problem.data()


def test_every_image_of_the_data_set_is_in_one_split(data):
    """Undo the scaling (an affine map of 0..16, two float32 roundings, hence 1e-4) and compare as a collection."""
    ours = torch.cat([data.train.inputs, data.test.inputs]).flatten(1).double()
    ours = (ours - ours.min()) / (ours.max() - ours.min()) * 16
    assert (ours - ours.round()).abs().max() < 1e-4
    labels = torch.cat([data.train.targets, data.test.targets])
    pixels, classes = load_digits(return_X_y=True)
    theirs = sorted([*map(int, row), int(digit)] for row, digit in zip(pixels, classes, strict=True))
    assert (
        sorted([*row, digit] for row, digit in zip(ours.round().int().tolist(), labels.tolist(), strict=True)) == theirs
    )


def test_a_quarter_of_each_class_is_for_testing(data):
    train, test = (split.targets.bincount(minlength=10) for split in (data.train, data.test))
    assert (len(data.train), len(data.test)) == (1352, 445)
    assert torch.equal(test, (train + test) // 4)


def test_examples_are_shuffled(data):
    """The file is sorted by writers and counts through the digits; a first batch must hold more than that order."""
    assert data.train.targets[:32].tolist() != sorted(data.train.targets[:32].tolist())
    assert len(data.train.targets[:100].unique()) == 10


def test_the_split_is_fixed(data):
    """Results are compared over years. The first labels were written down when the split was made."""
    assert data.train.targets[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
    assert data.test.targets[:12].tolist() == [6, 8, 2, 7, 9, 4, 1, 8, 6, 7, 0, 5]


def test_training_pixels_are_standardised_as_one(data):
    """Float32 sums over 86,528 values: relative errors below 1e-5."""
    assert abs(data.train.inputs.mean().item()) < 1e-5
    assert abs(data.train.inputs.std().item() - 1) < 1e-5
    assert data.train.inputs.shape[1:] == (1, 8, 8)


def test_scikit_learn_is_not_imported(monkeypatch):
    """Its import takes longer than a training run."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # an import now raises
    assert digits._table()[0].shape == (1797, 64)


def test_without_scikit_learn_s_file_its_function_gives_the_same(monkeypatch):
    pixels, classes = digits._table()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    same_pixels, same_classes = digits._table()
    assert (pixels == same_pixels).all()
    assert (classes == same_classes).all()


def test_the_model_has_two_conv_and_two_fully_connected_layers():
    """Weights + biases: 9*16 + 16, 9*16*32 + 32, 128*64 + 64, 64*10 + 10."""
    model = problem.model(0)
    kinds = [type(layer) for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear]
    assert sum(p.numel() for p in model.parameters()) == 160 + 4640 + 8256 + 650


def test_the_protocol_trains_well_but_not_to_the_end(data):
    """Adam at its usual 3e-3: measured 97-99 % of test accuracy and a training loss of 0.01-0.03 over seeds.

    Below 0.9 the problem is broken; a training loss below 1e-3 would leave no difference between methods to see.
    """
    model, generator = problem.model(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train, protocol = data.train, problem.protocol
    for _ in range(protocol.steps):
        batch = torch.randint(len(train), (protocol.batch_size,), generator=generator)
        optimizer.zero_grad()
        problem.loss(model(train.inputs[batch]), train.targets[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        loss = problem.loss(model(train.inputs), train.targets).item()
        hits = problem.metric.per_example(model(data.test.inputs), data.test.targets).mean().item()
    assert hits > 0.9
    assert 1e-3 < loss < 0.2
