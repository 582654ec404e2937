import torch
from torch import nn

from stepscope.problems import L2, check
from stepscope.problems.cifar import augment
from stepscope.problems.cifar10 import problem


def test_the_parameter_count_by_hand():
    """Weights + biases of conv 5x5 3->64, 3x3 64->96, 3x3 96->128, fully connected 1152 -> 512 -> 256 -> 10."""
    expected = [75 * 64, 64, 9 * 64 * 96, 96, 9 * 96 * 128, 128, 1152 * 512, 512, 512 * 256, 256, 2560, 10]
    assert [p.numel() for p in problem.model(0).parameters()] == expected
    assert sum(expected) == 895_210


def test_the_sizes_between_the_layers():
    sizes, x = [], torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for name, layer in problem.model(0).named_children():
        x = layer(x)
        if name[:4] in ("conv", "pool"):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(64, 28, 28), (64, 14, 14), (96, 12, 12), (96, 6, 6), (128, 6, 6), (128, 3, 3)]


def test_the_protocol():
    protocol = problem.protocol
    assert (protocol.batch_size, protocol.steps, protocol.schedule) == (128, 40_000, None)
    assert protocol.validation_examples(50_000) == 10_000
    assert problem.penalty == L2(0.002)
    assert problem.augment is augment


def test_weights_start_with_glorots_variance():
    """Normal in convolutions, uniform elsewhere; biases 0. The sample variance is off by about sqrt(2/n) of itself."""
    model = problem.model(0)
    for layer, fans in ((model.conv2, 9 * (64 + 96)), (model.fc1, 1152 + 512)):
        n = layer.weight.numel()
        assert abs(layer.weight.double().var().item() * fans / 2 - 1) < 5 * (2 / n) ** 0.5
    assert model.fc1.weight.abs().max() <= (6 / (1152 + 512)) ** 0.5 < 0.061
    assert not any(layer.bias.any() for layer in model if isinstance(layer, nn.Conv2d | nn.Linear))


def test_same_seed_same_network():
    one, two, other = (problem.model(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_the_penalty_leaves_biases_alone(tiny_data):
    check(problem)
    model = problem.model(0)
    expected = 0.001 * sum((p.double() ** 2).sum().item() for n, p in model.named_parameters() if n.endswith("weight"))
    assert abs(problem.penalty(model).item() / expected - 1) < 1e-5  # float32 sums of 895,000 squares
    problem.penalty(model).backward()
    assert all((p.grad is None) == n.endswith("bias") for n, p in model.named_parameters())
