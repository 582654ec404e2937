"""Stochastic quadratics whose answer is known before anything is trained; tests name them as "quadratics.py:NAME".

The parameters theta are pulled towards samples x ~ N(x*, nu^2 I): loss 0.5 mean (theta - x)' Q (theta - x), so that the
gradient of a mini-batch is Q (theta - x*) plus noise with covariance nu^2 Q Q / batch.   [balles2018, Sec. 2.1]
"""

import functools

import torch
from torch import Tensor, nn

from stepscope.problems import Data, Problem, Protocol, Split

DIMENSION = 30


class Distance(nn.Module):
    """theta - x for every x; theta starts at N(0, I) / 1 away from x* = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(DIMENSION))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta - inputs


def _model(seed: int) -> nn.Module:
    return Distance()


def _samples(noise: float) -> Data:
    """Train on 400 samples, test on 200."""
    inputs = noise * torch.randn(600, DIMENSION)
    targets = torch.zeros(600)
    return Data(Split(inputs[:400], targets[:400]), Split(inputs[400:], targets[400:]))


def _loss(curvatures: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs.square() @ curvatures).mean()


def quadratic(name: str, curvatures: Tensor, noise: float) -> Problem:
    return Problem(
        name,
        functools.partial(_samples, noise),
        _model,
        functools.partial(_loss, curvatures),
        Protocol(batch_size=10, steps=100, evaluate_every=20),
        metric=None,
    )


sign_helps = quadratic("ill-conditioned", torch.logspace(-5, 0, DIMENSION), noise=0.02)
sign_hurts = quadratic("well-conditioned", torch.ones(DIMENSION), noise=0.0)
