"""Eigen's network (2025, Sec. 3): two conv and two fully connected layers with batch normalisation, on CIFAR-10.

The paper gives the order of the layers, max pooling, batch normalisation and ReLU between the weighted ones, and the
batch sizes 16 and 100. It says neither widths nor sizes of kernels, nor step sizes, epochs or how pixels are scaled.
Where we chose: 32 and 64 channels, kernels of 5 x 5, pooling 2 x 2, 256 hidden units, PyTorch's default
initialisation; images standardised one by one, not augmented; no penalty; ten passes over the four fifths of the
training images that are not held out, for either batch size. `make` takes other widths.
"""

import functools
from collections import OrderedDict

from torch import nn

from stepscope.problems.cifar import Standardise, images
from stepscope.problems.problem import Data, Problem, Protocol

__all__ = ["large_batch", "make", "small_batch"]


@functools.cache
def _data() -> Data:
    return images("cifar-10")


def _model(seed: int, channels: int = 32, hidden: int = 256) -> nn.Module:
    """The second conv layer has twice the channels of the first."""
    return nn.Sequential(
        OrderedDict(
            standardise=Standardise(),
            conv1=nn.Conv2d(3, channels, 5, padding=2),
            bn1=nn.BatchNorm2d(channels),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(channels, 2 * channels, 5, padding=2),
            bn2=nn.BatchNorm2d(2 * channels),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(8 * 8 * 2 * channels, hidden),
            bn3=nn.BatchNorm1d(hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, 10),
        )
    )


def make(batch_size: int, *, steps: int, name: str, channels: int = 32, hidden: int = 256) -> Problem:
    """The network with other widths or on other batches. channels, hidden >= 1."""
    return Problem(
        name=name,
        data=_data,
        model=functools.partial(_model, channels=channels, hidden=hidden),
        loss=nn.functional.cross_entropy,
        protocol=Protocol(batch_size, steps, evaluate_every=max(1, steps // 20), validation_share=1 / 5),
        description=f"CIFAR-10, two conv and two fully connected layers, batches of {batch_size}: Eigen (2025), Sec. 3",
    )


large_batch = make(100, steps=4000, name="eigen")
small_batch = make(16, steps=25_000, name="eigen-16")
