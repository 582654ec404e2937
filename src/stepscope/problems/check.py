"""One try-out of a problem before hours are spent on it."""

import math
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from stepscope.errors import UserError
from stepscope.problems.problem import Data, Metric, Problem, Split, private_randomness

__all__ = ["check", "describe"]


def check(problem: Problem) -> None:
    """Load the data, build the model, and take one training batch forward and backward and one test batch forward.

    Leaves the global random states as they were. Costs one load of the data and two models.
    Raises: UserError, one line, for the first thing that is wrong: the data or the model raises; an empty split; a
    batch larger than the training examples; nothing to train; a loss that is not a finite scalar mean; a metric that
    is not one number for each example. Its cause is the problem's own exception, where there was one.
    """
    with private_randomness(0), warnings.catch_warnings():
        # torch only warns where (n, 1) against (n,) is broadcast to n x n and the loss is nonsense.
        warnings.filterwarnings("error", message="Using a target size")
        with _blame(problem, "data()"):
            data = problem.data()
        _check_data(problem, data)
        _check_schedule(problem)
        model = _check_model(problem)
        outputs, batch = _check_training(problem, model, data.train)
        _check_mean(problem, outputs, batch.targets)
        _check_test(problem, model, data.test)


def describe(error: BaseException, file: str = "") -> str:
    """An exception on one line: its type, its text and, where it passed through `file`, the last line it passed."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:297] + "..."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


@contextmanager
def _blame(problem: Problem, culprit: str) -> Iterator[None]:
    """Turn any exception of the problem's own code into one line; our own errors already are one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        file = problem.spec.rpartition(":")[0]
        raise _wrong(problem, f"{culprit} raised {describe(error, file)}") from error


def _wrong(problem: Problem, text: str) -> UserError:
    return UserError(f"problem {problem.name!r}: {text}")


def _check_data(problem: Problem, data: Data) -> None:
    if not isinstance(data, Data):
        raise _wrong(problem, f"data() must return Data(train, test), got {type(data).__qualname__}.")
    for name, split in (("training", data.train), ("test", data.test)):
        if len(split) == 0:
            raise _wrong(problem, f"the {name} split is empty.")
    protocol, examples = problem.protocol, len(data.train)
    held_out = protocol.validation_examples(examples)
    if protocol.validation_share > 0 and held_out == 0:
        raise _wrong(
            problem,
            f"validation_share {protocol.validation_share:.3g} of {examples} training examples is none at all; "
            "raise it, or set it to 0.",
        )
    if protocol.batch_size > examples - held_out:
        raise _wrong(
            problem,
            f"batch_size {protocol.batch_size} is larger than the {examples - held_out} examples left to train on "
            f"({held_out} of {examples} are held out for validation); lower one of the two.",
        )


def _check_schedule(problem: Problem) -> None:
    steps, schedule = problem.protocol.steps, problem.protocol.schedule
    if schedule is None:
        return
    for step in sorted({1, (steps + 1) // 2, steps}):
        with _blame(problem, f"the schedule, at step {step} of {steps},"):
            factor = schedule(step, steps)
            good = math.isfinite(factor) and factor >= 0
        if not good:
            raise _wrong(problem, f"the schedule must give a number >= 0, got {factor!r} at step {step} of {steps}.")


def _check_model(problem: Problem) -> nn.Module:
    with _blame(problem, "model(seed)"):
        model, twin = problem.model(0), problem.model(0)
    if not isinstance(model, nn.Module):
        raise _wrong(problem, f"model(seed) must return a torch.nn.Module, got {type(model).__qualname__}.")
    if model is twin:
        raise _wrong(problem, "model(seed) returns the same model on each call; build a new one.")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise _wrong(problem, "the model has no trainable parameters.")
    if any(nn.parameter.is_lazy(parameter) for parameter in trainable):
        raise _wrong(problem, "the model has lazy layers without a size; give their sizes.")
    for (name, one), two in zip(model.named_parameters(), twin.parameters(), strict=False):
        if not torch.equal(one, two):
            raise _wrong(
                problem,
                f"model(0) gives another {name!r} on each call; draw it from torch's global random numbers, "
                "which are seeded for you.",
            )
    return model


def _check_training(problem: Problem, model: nn.Module, train: Split) -> tuple[Tensor, Split]:
    batch = Split(train.inputs[: problem.protocol.batch_size], train.targets[: problem.protocol.batch_size])
    if problem.augment is not None:
        with _blame(problem, f"augment, on a training batch of shape {tuple(batch.inputs.shape)},"):
            inputs = problem.augment(batch.inputs, torch.Generator().manual_seed(0))
            twin = problem.augment(batch.inputs, torch.Generator().manual_seed(0))
        if not isinstance(inputs, Tensor) or len(inputs) != len(batch):
            raise _wrong(problem, f"augment must return the {len(batch)} inputs it was given, got {_shape(inputs)}.")
        if not torch.equal(inputs, twin):
            raise _wrong(problem, "augment gives other inputs on each call; draw from the generator it is given.")
        batch = Split(inputs, batch.targets)
    model.train()
    outputs, loss = _run(problem, model, batch, "training")
    if not loss.requires_grad:
        raise _wrong(
            problem, "the loss does not depend on the model's parameters (detach, item or no_grad on the way?)."
        )
    if not loss.isfinite():
        raise _wrong(problem, f"the first loss is {loss.item():g}, before any training{_not_finite(train)}.")
    with _blame(problem, "the loss's backward()"):
        torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise _wrong(problem, f"the first gradient of {name!r} is not finite{_not_finite(train)}.")
    return outputs.detach(), batch


def _check_mean(problem: Problem, outputs: Tensor, targets: Tensor) -> None:
    """A sum doubles with the batch; a mean stays. Only doubling is called wrong: some losses couple their examples."""
    if outputs.shape[:1] != targets.shape[:1]:
        return  # no rows to double
    with torch.no_grad(), _blame(problem, "the loss"):
        once = problem.loss(outputs, targets).item()
        twice = problem.loss(torch.cat([outputs, outputs]), torch.cat([targets, targets])).item()
    if once != 0 and abs(twice / once - 2) < 1e-3:
        raise _wrong(problem, "the loss sums over the batch: it doubles with twice the examples; take the mean.")


def _check_test(problem: Problem, model: nn.Module, test: Split) -> None:
    batch = Split(test.inputs[: problem.protocol.batch_size], test.targets[: problem.protocol.batch_size])
    model.eval()
    with torch.no_grad():
        outputs, _ = _run(problem, model, batch, "test")
        if problem.metric is not None:
            _check_metric(problem, problem.metric, outputs, batch)


def _check_metric(problem: Problem, metric: Metric, outputs: Tensor, batch: Split) -> None:
    with _blame(problem, f"the metric {metric.name!r}"):
        values = metric.per_example(outputs, batch.targets)
    if not isinstance(values, Tensor) or values.shape != (len(batch),):
        raise _wrong(
            problem,
            f"the metric {metric.name!r} must give one number for each example, shape ({len(batch)},), "
            f"got {_shape(values)}.",
        )


def _run(problem: Problem, model: nn.Module, batch: Split, which: str) -> tuple[Tensor, Tensor]:
    with _blame(problem, f"the model, on a {which} batch of shape {tuple(batch.inputs.shape)},"):
        outputs = model(batch.inputs)
    if not isinstance(outputs, Tensor):
        raise _wrong(problem, f"the model must return a tensor, got {type(outputs).__qualname__}.")
    with _blame(problem, f"the loss, on {_shape(outputs)} outputs and {_shape(batch.targets)} targets,"):
        loss = problem.loss(outputs, batch.targets)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise _wrong(problem, f"the loss must be a scalar tensor, got {_shape(loss)}; take the mean over the batch.")
    if problem.penalty is not None:
        with _blame(problem, "the penalty"):
            penalty = problem.penalty(model)
        if not isinstance(penalty, Tensor) or penalty.ndim != 0:
            raise _wrong(problem, f"the penalty must be a scalar tensor, got {_shape(penalty)}.")
        loss = loss + penalty
    return outputs, loss


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__qualname__


def _not_finite(split: Split) -> str:
    bad = [
        name for name, values in (("inputs", split.inputs), ("targets", split.targets)) if not values.isfinite().all()
    ]
    return f"; the training {' and '.join(bad)} hold values that are not finite" if bad else ""
