"""Stochastic quadratics whose answer is known before anything is trained; tests name them as "quadratics.py:NAME".

The parameters theta are pulled towards samples x ~ N(x*, nu^2 I): loss 0.5 mean (theta - x)' Q (theta - x), so that the
gradient of a mini-batch is Q (theta - x*) plus noise with covariance nu^2 Q Q / batch.   [balles2018, Sec. 2.1]
"""

import functools

import torch
from torch import Tensor, nn

from stepscope.problems import Data, Problem, Protocol, Split


class Distance(nn.Module):
    """theta - x for every x; theta starts at N(0, start^2 I), while x* = 0. ``pull`` scales theta."""

    def __init__(self, dimension: int, start: float, pull: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(start * torch.randn(dimension))
        self.pull = pull

    def forward(self, inputs: Tensor) -> Tensor:
        return self.pull * self.theta - inputs


def _model(dimension: int, start: float, pull: float, seed: int) -> nn.Module:
    return Distance(dimension, start, pull)


def _samples(dimension: int, noise: float) -> Data:
    """Train on 100 samples, test on 40."""
    inputs = noise * torch.randn(140, dimension)
    targets = torch.zeros(140)
    return Data(Split(inputs[:100], targets[:100]), Split(inputs[100:], targets[100:]))


def _loss(curvatures: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs.square() @ curvatures).mean()


def quadratic(name: str, curvatures: Tensor, noise: float, start: float = 1.0, pull: float = 1.0) -> Problem:
    return Problem(
        name,
        functools.partial(_samples, len(curvatures), noise),
        functools.partial(_model, len(curvatures), start, pull),
        functools.partial(_loss, curvatures),
        Protocol(batch_size=10, steps=100, evaluate_every=20),
        metric=None,
    )


sign_helps = quadratic("ill-conditioned", torch.cat([torch.ones(1), torch.full((599,), 3e-4)]), noise=0.02)
sign_hurts = quadratic("well-conditioned", torch.ones(30), noise=0.0)
nothing_matters = quadratic("no gradient", torch.ones(30), noise=1.0, pull=0.0)
little_matters = quadratic("little to gain", torch.ones(30), noise=1.0, start=0.1)
