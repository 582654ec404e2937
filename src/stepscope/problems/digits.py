"""Real handwritten digits at the size of a demo: 1797 images of 8 x 8 pixels in ten classes, and a small conv net."""

import functools
import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stepscope.problems.problem import Data, Problem, Protocol, Split

__all__ = ["problem"]


@functools.cache
def _data() -> Data:
    """A quarter of each class for testing, drawn once and for all; pixels in [0, 1], then standardised as one.

    Mean and standard deviation are those of the training pixels. Source: E. Alpaydin and C. Kaynak, "Optical
    Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its test part), as in scikit-learn.
    """
    pixels, classes = _table()
    draw = np.random.RandomState(0)  # its stream is frozen for good; default_rng's may change
    order = draw.permutation(len(classes))
    rank_in_class = np.empty(len(classes), dtype=np.int64)
    for digit in range(10):
        members = order[classes[order] == digit]
        rank_in_class[members] = np.arange(len(members))
    is_test = rank_in_class[order] % 4 == 3
    images = torch.from_numpy(pixels.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(classes.astype(np.int64))
    train, test = torch.from_numpy(order[~is_test]), torch.from_numpy(order[is_test])
    images = (images - images[train].mean()) / images[train].std()
    return Data(Split(images[train], targets[train]), Split(images[test], targets[test]))


def _table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pixels of shape (1797, 64) in 0..16 and classes of shape (1797,)."""
    # Importing sklearn.datasets takes longer than a whole training run, and each run has a process of its own.
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            if table.shape == (1797, 65):
                return table[:, :64], table[:, 64]
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    return pixels, classes.astype(np.float64)


def _model(seed: int) -> nn.Module:
    """Two convolutional and two fully connected layers, PyTorch's default initialisation; 13,706 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(2 * 2 * 32, 64),
            relu3=nn.ReLU(),
            fc2=nn.Linear(64, 10),
        )
    )


problem = Problem(
    name="digits",
    data=_data,
    model=_model,
    loss=nn.functional.cross_entropy,
    # 200 steps are 11 passes: well-tuned methods come to 97-99 % of test accuracy and differ most in training loss.
    protocol=Protocol(batch_size=64, steps=200, evaluate_every=20),
    description="1797 real handwritten digits of 8 x 8 pixels (scikit-learn), two conv and two fully connected layers",
)
