"""A problem of your own: the progress of a disease, from ten measurements of each of 442 patients."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from stepscope.problems import Data, Problem, Protocol, Split


def data() -> Data:
    """Inputs and targets with unit spread; the last hundred patients test."""
    inputs, targets = (torch.tensor(array, dtype=torch.float32) for array in load_diabetes(return_X_y=True))
    inputs, targets = inputs / inputs.std(), (targets - targets.mean()) / targets.std()
    return Data(train=Split(inputs[:-100], targets[:-100, None]), test=Split(inputs[-100:], targets[-100:, None]))


def model(seed: int) -> nn.Module:
    """Two layers; torch's random numbers are already seeded here."""
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))


protocol = Protocol(batch_size=32, steps=300, evaluate_every=30)
problem = Problem("diabetes", data, model, loss=nn.MSELoss(), protocol=protocol, metric=None)
