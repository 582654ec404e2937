"""Problems that train in a fraction of a second; tests name them as "tiny.py:NAME"."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from stepscope.problems import Data, Metric, Problem, Protocol, Split


def _blobs() -> Data:
    """Two overlapping clouds of points in the plane, 60 to train on, 30 to test on."""
    labels = torch.arange(90) % 2
    points = torch.randn(90, 2) + 1.5 * (labels[:, None] - 0.5)
    return Data(Split(points[:60], labels[:60]), Split(points[60:], labels[60:]))


def _linear(seed: int) -> nn.Module:
    return nn.Linear(2, 2)


def _dropout(seed: int) -> nn.Module:
    """With everything that makes a training run depend on its mode and on random numbers."""
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


PROTOCOL = Protocol(batch_size=8, steps=12, evaluate_every=5)
cross_entropy = nn.functional.cross_entropy

problem = Problem("tiny", _blobs, _linear, cross_entropy, PROTOCOL, description="two clouds")
dropout = Problem("dropout", _blobs, _dropout, cross_entropy, PROTOCOL)


def _line() -> Data:
    inputs = torch.linspace(-1, 1, 40)[:, None]
    return Data(Split(inputs, 3 * inputs), Split(inputs[::2], 3 * inputs[::2]))


def _slope(seed: int) -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def _absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().flatten()


regression = Problem("line", _line, _slope, nn.functional.mse_loss, PROTOCOL, metric=None)
error = Problem(
    "line", _line, _slope, nn.functional.mse_loss, PROTOCOL, Metric("error", _absolute, higher_is_better=False)
)


class Fragile(nn.Linear):
    """Raises when its weights get large, as code with assertions does."""

    def forward(self, inputs: Tensor) -> Tensor:
        print("forward", file=__import__("sys").stderr)
        assert self.weight.abs().max() < 5, "the weights are too large"
        return super().forward(inputs)


def _fragile(seed: int) -> nn.Module:
    return Fragile(2, 2)


fragile = Problem("fragile", _blobs, _fragile, cross_entropy, PROTOCOL)


class Hopeless(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


class Uphill(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return Hopeless.apply(super().forward(inputs))


def _uphill(seed: int) -> nn.Module:
    return Uphill(2, 2)


uphill = Problem("uphill", _blobs, _uphill, cross_entropy, PROTOCOL)

not_held_out = Problem(
    "nothing held out",
    _blobs,
    _linear,
    cross_entropy,
    Protocol(batch_size=8, steps=12, evaluate_every=5, validation_share=0),
)


def _pictures() -> Data:
    return Data(*(Split(torch.randn(n, 1, 8, 8), torch.arange(n) % 2) for n in (48, 16)))


def _two_conv_two_fc(seed: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 2, 3),
            bn1=nn.BatchNorm2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(2, 3, 3),
            flatten=nn.Flatten(),
            fc1=nn.Linear(48, 4),
            relu2=nn.ReLU(),
            fc2=nn.Linear(4, 2),
        )
    )


pictures = Problem("pictures", _pictures, _two_conv_two_fc, cross_entropy, PROTOCOL)
