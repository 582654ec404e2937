"""Problem P1 of Balles and Hennig (2018): a conv net of 3.3 million parameters on Fashion-MNIST.

The paper names the layers, their sizes and the protocol. Three choices are ours, after `fmnist_2c2d` of DeepOBS, the
benchmark of the same group, which has the same layers and, with our padding, the same 3,274,634 parameters:

- padding is TensorFlow's "same" throughout: convolutions keep the size, each pooling halves it (28, 14, 7);
- weights start normal with standard deviation 0.05, cut off at two of them; biases start at 0.05. PyTorch's default
  starts the large layer a quarter as wide; it trains, too, but more slowly over the first hundred steps;
- 1/6 of the training images is held out, as many as there are test images.
"""

import functools
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from stepscope.problems import data
from stepscope.problems.problem import Data, Problem, Protocol, Split

__all__ = ["problem"]


@functools.cache
def _data() -> Data:
    """60,000 training and 10,000 test images of 28 x 28 pixels in [0, 1]; ten classes."""
    return Data(train=_split("train"), test=_split("t10k"))


def _split(part: str) -> Split:
    images = data.load("fashion-mnist", f"{part}-images-idx3-ubyte").astype(np.float32)
    labels = data.load("fashion-mnist", f"{part}-labels-idx1-ubyte").astype(np.int64)
    return Split(torch.from_numpy(images).div_(255).unsqueeze(1), torch.from_numpy(labels))


def _model(seed: int) -> nn.Module:
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # the windows of TensorFlow's "same", at the same places
            conv2=nn.Conv2d(32, 64, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            flatten=nn.Flatten(),
            fc1=nn.Linear(7 * 7 * 64, 1024),
            relu3=nn.ReLU(),
            fc2=nn.Linear(1024, 10),
        )
    )
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            nn.init.trunc_normal_(parameter, std=0.05, a=-0.1, b=0.1)
        else:
            nn.init.constant_(parameter, 0.05)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place; a step takes a fifth less time
    return net


problem = Problem(
    name="fashion-mnist",
    data=_data,
    model=_model,
    loss=nn.functional.cross_entropy,
    protocol=Protocol(batch_size=64, steps=6000, evaluate_every=500),
    description="Fashion-MNIST, two conv and two fully connected layers: problem P1 of Balles and Hennig (2018)",
)
