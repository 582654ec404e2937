import pytest
import torch
from torch import nn

from stepscope.problems import load
from stepscope.problems.eigen import large_batch, make, small_batch


def test_the_parameter_count_by_hand():
    """Weights + biases of conv 5x5 3->32, 32->64, fully connected 8*8*64 -> 256 -> 10; BN between them."""
    expected = [75 * 32, 32, 32, 32, 25 * 32 * 64, 64, 64, 64, 4096 * 256, 256, 256, 256, 2560, 10]
    for problem in (large_batch, small_batch):
        assert [p.numel() for p in problem.model(0).parameters()] == expected
    assert sum(expected) == 1_105_802


def test_the_order_of_the_layers():
    kinds = [type(layer) for layer in large_batch.model(0)][1:]
    conv = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*conv, *conv, nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(("problem", "batch_size"), [(large_batch, 100), (small_batch, 16)])
def test_the_protocol(problem, batch_size):
    """Ten passes over the 40,000 images that are trained on; constant step size, no penalty, no augmentation."""
    protocol = problem.protocol
    assert (protocol.batch_size, protocol.steps * batch_size) == (batch_size, 10 * 40_000)
    assert (protocol.schedule, problem.penalty, problem.augment) == (None, None, None)
    assert load(problem.name).description == problem.description


def test_other_widths():
    problem = make(8, steps=5, name="narrow", channels=4, hidden=7)
    outputs = problem.model(0)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert outputs.shape == (2, 10)
    assert [p.shape[0] for p in problem.model(0).parameters()] == [4, 4, 4, 4, 8, 8, 8, 8, 7, 7, 7, 7, 10, 10]
