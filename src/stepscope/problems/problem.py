"""What a problem is: data, a model, a loss and a protocol. Everything else in stepscope trains what is written here."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepscope.errors import UserError

__all__ = [
    "L2",
    "Augment",
    "Data",
    "Decrease",
    "Metric",
    "Penalty",
    "Problem",
    "Protocol",
    "Schedule",
    "Split",
    "accuracy",
    "private_randomness",
]

#: (step, steps) -> what the step size is multiplied with; steps count from 1, `steps` is the length of the run.
Schedule = Callable[[int, int], float]
#: (inputs of a mini-batch, generator) -> the inputs to train on, as many; all its random numbers from the generator.
Augment = Callable[[Tensor, torch.Generator], Tensor]
#: model -> scalar, added to the loss.
Penalty = Callable[[nn.Module], Tensor]


def _require_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"a {kind}'s name must be one line of text, got {name!r}.")


def _require_function(kind: str, field: str, value: object) -> None:
    if not callable(value):
        raise UserError(f"{kind}'s {field} must be a function, got {_kind(value)}.")


def _kind(value: object) -> str:
    return type(value).__qualname__


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: one input and one target a row.

    inputs, targets: tensors whose first dimension counts the examples.
    Raises: UserError if one is not a tensor of at least one dimension, or their lengths differ.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(value, Tensor):
                raise UserError(f"a Split's {name} must be a torch.Tensor, got {_kind(value)}; see torch.as_tensor.")
            if value.ndim == 0:
                raise UserError(f"a Split's {name} must have one row for each example, got a single number.")
        if len(self.inputs) != len(self.targets):
            raise UserError(
                f"a Split has {len(self.inputs)} inputs but {len(self.targets)} targets: give each input one target."
            )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Data:
    """What to train on and what to test on. The validation examples are held out of `train` by whoever trains.

    Raises: UserError if one of them is not a Split.
    """

    train: Split
    test: Split

    def __post_init__(self) -> None:
        for name, value in (("train", self.train), ("test", self.test)):
            if not isinstance(value, Split):
                raise UserError(f"Data's {name} must be a Split, got {_kind(value)}; write Split(inputs, targets).")


@dataclass(frozen=True)
class Metric:
    """A number for each example, averaged over a split, beside the loss.

    per_example: (outputs, targets) of n examples -> tensor of shape (n,).
    is_share: whether its average is a share between 0 and 1; differences are then told in points of a hundred.
    Raises: UserError if the name is empty or per_example cannot be called.
    """

    name: str
    per_example: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True
    is_share: bool = False

    def __post_init__(self) -> None:
        _require_name("Metric", self.name)
        _require_function("Metric", "per_example", self.per_example)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        raise UserError(f"accuracy needs whole class numbers as targets, got {targets.dtype}; for others, metric=None.")
    return (outputs.argmax(dim=1) == targets).float()


#: Share of examples whose largest output is at the target's class, in [0, 1].
accuracy = Metric("accuracy", _hits, is_share=True)


@dataclass(frozen=True)
class Decrease:
    """A `Schedule` in stairs: the step size is multiplied with `factor` after each share of the run in `after`.

    factor > 0; after: shares in (0, 1), ascending. A shorter run has the same stairs, closer together.
    Raises: UserError for a value out of range.

    >>> halve = Decrease(0.5, after=(0.5, 0.75))
    >>> [halve(step, 8) for step in (1, 4, 5, 6, 7, 8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    factor: float
    after: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise UserError(f"Decrease's factor must be a positive number, got {self.factor!r}.")
        ends = (0, *self.after, 1)
        if not all(low < high for low, high in itertools.pairwise(ends)):
            raise UserError(f"Decrease's after must be ascending shares between 0 and 1, got {self.after!r}.")

    def __call__(self, step: int, steps: int) -> float:
        """The factor at a step, counted from 1, of a run of so many."""
        return float(self.factor ** sum(step > round(share * steps) for share in self.after))


@dataclass(frozen=True)
class L2:
    """A `Penalty`: half of `strength` times the sum of all squared weights.

    Weights are parameters of two dimensions or more: biases and the scales of normalisations are left out.
    """

    strength: float

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty, a scalar >= 0, with its gradient."""
        squares = [p.square().sum() for p in model.parameters() if p.requires_grad and p.ndim > 1]
        return torch.stack(squares).sum() * (self.strength / 2)


@dataclass(frozen=True)
class Protocol:
    """How long one training run is. One step is one mini-batch; steps count from 1.

    batch_size, steps, evaluate_every: whole numbers >= 1.
    validation_share in [0, 1): share of the training split that is held out, to choose step sizes on.
    schedule: None for a constant step size; a pure function of the step, so that a run can be gone on with anywhere.
    in_order: take the mini-batches in the order of the rows instead of shuffled, pass after pass, and hold out the
        last ones. For text that goes on from batch to batch: a model with a method `begin()` is told there when a
        pass over a split begins, while training and, in evaluation mode, while evaluating.
    Raises: UserError for a value out of range.
    """

    batch_size: int
    steps: int
    evaluate_every: int
    validation_share: float = 1 / 6
    schedule: Schedule | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "evaluate_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"Protocol's {name} must be a whole number of at least 1, got {value!r}.")
        share = self.validation_share
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise UserError(f"Protocol's validation_share must lie in [0, 1), got {share!r}.")
        if self.schedule is not None:
            _require_function("Protocol", "schedule", self.schedule)

    def validation_examples(self, examples: int) -> int:
        """How many of a training split's examples are held out for validation: the share, rounded.

        >>> Protocol(batch_size=64, steps=6000, evaluate_every=500).validation_examples(60_000)
        10000
        """
        return round(self.validation_share * examples)


@dataclass(frozen=True)
class Problem:
    """A learning problem: everything about a training run except the optimizer and the seed.

    name: one line, shown in reports.
    data: () -> Data, the same on every call.
    model: seed -> a freshly initialised model on the CPU. It may draw from torch's, NumPy's and Python's global
        random numbers without seeding them: they are seeded with `seed` before the call and put back after it.
        `data` is called in the same way, with seed 0.
    loss: (outputs, targets) of one mini-batch -> scalar, the mean over the batch.
    metric: None where the loss says everything (regression, for instance).
    penalty: added to the loss wherever it is taken, in training and in evaluation; L2 for instance.
    augment: changes the inputs of each training mini-batch at random; evaluations see them as they are.
    spec: what `load` takes to find this problem again in another process; `load` fills it in.
    Raises: UserError for a field of the wrong kind. `check` finds the mistakes that only show when the problem runs.
    """

    name: str
    data: Callable[[], Data]
    model: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    protocol: Protocol
    metric: Metric | None = accuracy
    description: str = ""
    spec: str = ""
    penalty: Penalty | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        _require_name("Problem", self.name)
        for field in ("data", "model", "loss", "penalty", "augment"):
            if getattr(self, field) is not None or field in ("data", "model", "loss"):
                _require_function("Problem", field, getattr(self, field))
        if not isinstance(self.protocol, Protocol):
            raise UserError(f"Problem's protocol must be a Protocol, got {_kind(self.protocol)}.")
        if self.metric is not None and not isinstance(self.metric, Metric):
            raise UserError(f"Problem's metric must be a Metric or None, got {_kind(self.metric)}.")
        for field in ("data", "model"):
            build = getattr(self, field)
            object.__setattr__(self, field, build if isinstance(build, _Privately) else _Privately(build))


@dataclass(frozen=True)
class _Privately:
    """A function that builds data or a model, called with random numbers of its own. Pickles as far as it does."""

    build: Callable[..., Any]

    def __call__(self, seed: int | None = None) -> Any:
        with private_randomness(seed or 0):
            return self.build() if seed is None else self.build(seed)


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside the block; put their global random states back behind it.

    seed >= 0. CPU only: the generators of other devices are left alone.
    """
    # Models and data written by others draw from NumPy's legacy global state, so that is the state to guard.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach into every device
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
