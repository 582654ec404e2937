import math

import pytest
import torch
from torch import nn

from stepscope.problems.fashion_mnist import problem


def test_the_parameter_count_by_hand():
    """Weights + biases of conv 5x5 1->32, conv 5x5 32->64, fully connected 7*7*64 -> 1024 -> 10."""
    expected = [25 * 32, 32, 25 * 32 * 64, 64, 3136 * 1024, 1024, 1024 * 10, 10]
    model = problem.model(0)
    assert [p.numel() for p in model.parameters()] == expected
    assert sum(expected) == 3_274_634


def test_the_protocol_is_the_papers():
    protocol = problem.protocol
    assert (protocol.batch_size, protocol.steps, protocol.evaluate_every) == (64, 6000, 500)
    assert protocol.validation_examples(60_000) == 10_000


def test_convolutions_keep_the_size_and_poolings_halve_it():
    shapes, x = [], torch.zeros(1, 1, 28, 28)
    model = problem.model(0)
    for name in ("conv1", "pool1", "conv2", "pool2"):
        x = model.get_submodule(name)(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7)]


@pytest.mark.parametrize("size", [28, 14])
def test_pooling_is_tensorflow_s_same(size):
    """TensorFlow pads max(0, (out-1)*2 + 3 - size) = 1 in all, the odd one behind: windows start at 2i."""
    x = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    ours = problem.model(0).pool1(x[None, None])[0, 0]
    for i in range(size // 2):
        for j in range(size // 2):
            assert ours[i, j] == x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max()


def test_relu_between_all_layers_and_nothing_random_in_them():
    kinds = [type(layer).__name__ for layer in problem.model(0)]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]


def test_weights_start_truncated_normal_and_biases_at_a_constant():
    """A normal cut off at 2 has variance 1 - 4 phi(2) / (2 Phi(2) - 1), i.e. deviation 0.8796.

    The sample deviation of n = 3.2e6 draws is off by at most about 1/sqrt(2n) = 4e-4 of itself; 5 of those are allowed.
    """
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    deviation = 0.05 * math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    for layer in problem.model(0):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.abs().max() <= 0.1
            assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.05))
    weights = problem.model(0).fc1.weight
    assert abs(weights.std().item() / deviation - 1) < 5 / math.sqrt(2 * weights.numel())


def test_the_data_are_fashion_mnist(here):
    """Balanced classes; mean and deviation of the training pixels are the well-known 0.2860 and 0.3530."""
    if not here("fashion-mnist"):
        pytest.skip("Fashion-MNIST is not on this machine")
    data = problem.data()
    for split, examples in ((data.train, 60_000), (data.test, 10_000)):
        assert split.inputs.shape == (examples, 1, 28, 28)
        assert split.targets.bincount().tolist() == [examples // 10] * 10
        assert (split.inputs.min(), split.inputs.max()) == (0, 1)
    assert round(data.train.inputs.double().mean().item(), 4) == 0.2860
    assert round(data.train.inputs.double().std().item(), 4) == 0.3530
    assert data.train.targets[:5].tolist() == [9, 0, 0, 3, 0]
    assert problem.data() is data  # decoded once a process
