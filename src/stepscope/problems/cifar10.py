"""Problem P2 of Balles and Hennig (2018): three conv and three fully connected layers on CIFAR-10.

The main text gives the numbers of layers, the data and a constant step size; its supplement gives the rest and was not
to hand. Layers, padding, initialisation, penalty, augmentation and batch size are those of `cifar10_3c3d` of DeepOBS,
the benchmark of the same group, with its 895,210 parameters. Where we chose:

- 40,000 steps, reported for the paper and unverified: 100 passes over all training images, as in DeepOBS, are 39,000;
- normal weights are not cut off at two deviations, as TensorFlow's are;
- the penalty is part of every loss that is shown;
- 1/5 of the training images is held out, as many as there are test images.
"""

import functools
from collections import OrderedDict

from torch import nn

from stepscope.problems.cifar import Standardise, augment, glorot, images
from stepscope.problems.problem import L2, Data, Problem, Protocol

__all__ = ["problem"]


@functools.cache
def _data() -> Data:
    return images("cifar-10")


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)  # the windows of TensorFlow's "same" on an even size


def _model(seed: int) -> nn.Module:
    """Sizes of the image: 32, 28, 14, 12, 6, 6, 3."""
    net = nn.Sequential(
        OrderedDict(
            standardise=Standardise(),
            conv1=nn.Conv2d(3, 64, 5),
            relu1=nn.ReLU(),
            pool1=_pool(),
            conv2=nn.Conv2d(64, 96, 3),
            relu2=nn.ReLU(),
            pool2=_pool(),
            conv3=nn.Conv2d(96, 128, 3, padding=1),
            relu3=nn.ReLU(),
            pool3=_pool(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(3 * 3 * 128, 512),
            relu4=nn.ReLU(),
            fc2=nn.Linear(512, 256),
            relu5=nn.ReLU(),
            fc3=nn.Linear(256, 10),
        )
    )
    glorot(net, normal=(nn.Conv2d,))
    return net


problem = Problem(
    name="cifar10",
    data=_data,
    model=_model,
    loss=nn.functional.cross_entropy,
    protocol=Protocol(batch_size=128, steps=40_000, evaluate_every=1000, validation_share=1 / 5),
    description="CIFAR-10, three conv and three fully connected layers: problem P2 of Balles and Hennig (2018)",
    penalty=L2(0.002),
    augment=augment,
)
