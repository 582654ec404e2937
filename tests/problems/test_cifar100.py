import torch
from torch import nn

from stepscope.problems import L2, Decrease
from stepscope.problems.cifar100 import problem


def count() -> int:
    """By hand: convolutions without biases, two numbers a channel for each normalisation, 256 -> 100."""
    total, before = 9 * 3 * 16, 16
    for width in (64, 128, 256):
        for unit in range(6):
            total += 2 * before + 9 * before * width + 2 * width + 9 * width * width
            total += before * width if unit == 0 else 0  # the shortcut
            before = width
    return total + 2 * 256 + 256 * 100 + 100


def test_the_parameter_count_by_hand():
    assert sum(p.numel() for p in problem.model(0).parameters()) == count() == 8_972_340


def test_forty_layers():
    """Convolutions and the last layer; shortcuts are not counted."""
    layers = [m for m in problem.model(0).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([layer for layer in layers if getattr(layer, "kernel_size", 3) != (1, 1)]) == 38
    assert len([layer for layer in layers if getattr(layer, "kernel_size", 3) == (1, 1)]) == 3


def test_each_group_but_the_first_halves_the_image():
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    shapes = {}
    model = problem.model(0).eval()
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            shapes[name] = tuple(x.shape[1:])
    assert [shapes[f"unit{group}_6"] for group in (1, 2, 3)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert shapes["fc"] == (100,)


def test_a_unit_by_hand():
    """BN, ReLU, conv, BN, ReLU, conv; what is added is the input, or a 1x1 conv of its first ReLU. Same operations."""
    model = problem.model(0).eval()
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for unit, wider in ((model.unit1_1, True), (model.unit1_2, False)):
            active = unit.bn1(x).clamp_min(0)
            y = unit.conv2(unit.bn2(unit.conv1(active)).clamp_min(0))
            expected = y + (unit.shortcut(active) if wider else x)
            torch.testing.assert_close(unit(x), expected, rtol=0, atol=0)
            x = expected


def test_batch_normalisation_is_tensorflows():
    """There averages are multiplied by 0.9 at each step; PyTorch's momentum is the other part."""
    for layer in problem.model(0).modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.momentum, layer.eps) == (0.1, 1e-5)


def test_the_protocol():
    protocol = problem.protocol
    assert (protocol.batch_size, protocol.steps) == (128, 80_000)
    assert protocol.schedule == Decrease(0.2, after=(0.3, 0.6, 0.8))
    assert protocol.schedule(80_000, 80_000) == 0.2**3
    assert problem.penalty == L2(5e-4)
