"""Problem P3 of Balles and Hennig (2018): the wide residual network WRN-40-4 on CIFAR-100.

The main text names the network [zagoruyko2016] and a decrease of the step size that is the same for all methods; its
supplement gives the rest and was not to hand. Layers, initialisation, penalty, augmentation and batch size are those of
`cifar100_wrn404` of DeepOBS, with its 8,972,340 parameters. Where we chose:

- 80,000 steps, reported for the paper and unverified: 200 passes over all training images, as in DeepOBS, are 78,000;
- the step size falls to a fifth after 30, 60 and 80 % of the steps: passes 60, 120 and 160 of 200 [zagoruyko2016];
- the penalty is part of every loss that is shown;
- 1/5 of the training images is held out, as many as there are test images.
"""

import functools
from collections import OrderedDict

import torch
from torch import Tensor, nn

from stepscope.problems.cifar import Standardise, augment, glorot, images
from stepscope.problems.problem import L2, Data, Decrease, Problem, Protocol

__all__ = ["problem"]

UNITS = 6  # a group; 3 groups of 6 units of 2 convolutions, 1 before, 3 shortcuts: 40
WIDTHS = (64, 128, 256)


@functools.cache
def _data() -> Data:
    return images("cifar-100")


class _Unit(nn.Module):
    """Pre-activation unit: BN, ReLU, conv, BN, ReLU, conv; a 1x1 conv on the first ReLU where the width changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn1(x))
        y: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


def _model(seed: int) -> nn.Module:
    """Batch normalisation as in TensorFlow: averages keep 0.9 of themselves at each step, epsilon 1e-5."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        standardise=Standardise(), conv=nn.Conv2d(3, 16, 3, padding=1, bias=False)
    )
    before = 16
    for group, width in enumerate(WIDTHS, start=1):
        for unit in range(1, UNITS + 1):
            layers[f"unit{group}_{unit}"] = _Unit(before, width, stride=2 if group > 1 and unit == 1 else 1)
            before = width
    layers |= OrderedDict(
        bn=nn.BatchNorm2d(before),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(before, 100),
    )
    net = nn.Sequential(layers)
    glorot(net)
    return net


problem = Problem(
    name="cifar100",
    data=_data,
    model=_model,
    loss=nn.functional.cross_entropy,
    protocol=Protocol(
        batch_size=128,
        steps=80_000,
        evaluate_every=2000,
        validation_share=1 / 5,
        schedule=Decrease(0.2, after=(0.3, 0.6, 0.8)),
    ),
    description="CIFAR-100, wide residual network WRN-40-4: problem P3 of Balles and Hennig (2018)",
    penalty=L2(5e-4),
    augment=augment,
)
