"""One training run: a problem, a method, a step size, a seed."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from stepscope import optim
from stepscope.errors import UserError
from stepscope.experiments.arms import make
from stepscope.problems import Data, Problem, Split
from stepscope.scope import Scope

__all__ = ["PARTS", "Training", "Trial", "batches", "divide", "evaluate", "make_optimizer", "train"]

PARTS: Final = ("train", "validation", "test")
DIVISION_SEED: Final = 20180713  # of the fixed division of the training set, the same for every trial of every sweep
# Added to a trial's seed, so that its weights, its batches and its dropout masks come from different random streams.
ORDER_STREAM, DROPOUT_STREAM = 10_000, 20_000
AUGMENT_BITS: Final = 20  # every step's augmentation has a seed of its own, above those streams: a million for a trial
EVALUATION_BATCH: Final = 1000
MICRO_BATCHES: Final = 8  # of a mini-batch whose variance is measured: 7 degrees of freedom for each coordinate


@dataclasses.dataclass(frozen=True)
class Trial:
    """Everything that a training run depends on; two trials that agree here end in the same bits on one machine,
    and in the same ones within rounding where they are trained together with others (see together).

    problem: its fingerprint (see shipping).  method: a name in optim.METHODS, or a point of the grid as `rules.Point`
    writes it.  beta: None for a method with its own numbers.  held_out: examples of the training set kept for
    validation.  parts: which of PARTS to evaluate.  record_every: 0, or record the optimizer's steps, every so many.
    options: further arguments of the optimizer, such as ("betas", (0.99, 0.99)).  record_beta: decay of the averages
    that are recorded where the method keeps none; None for its own beta, or 0.9.
    """

    problem: str
    method: str
    lr: float
    beta: float | None
    seed: int
    steps: int
    batch_size: int
    evaluate_every: int
    held_out: int
    parts: tuple[str, ...]
    record_every: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    record_beta: float | None = None

    @property
    def id(self) -> str:
        """12 hex digits of a hash over all fields."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def divide(data: Data, held_out: int, in_order: bool = False) -> dict[str, Split]:
    """The data as a trial uses it: "fit" is trained on; "train", "validation" and "test" are evaluated.

    held_out: examples of the training set that become "validation"; with 0 that part is absent.
    "train" is a fixed part of "fit" as large as the test set, or all of it [balles2018, Sec. 6.1].
    The division is random but the same for every seed and method, so that step sizes are chosen on the same examples.
    in_order: the last examples are held out instead, and the others stay in their order.
    """
    if in_order:
        fit, validation = torch.arange(len(data.train)).tensor_split([len(data.train) - held_out])
    else:
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(DIVISION_SEED))
        validation, fit = order[:held_out], order[held_out:]
    parts = {"fit": _take(data.train, fit), "train": _take(data.train, fit[: len(data.test)]), "test": data.test}
    return parts | ({"validation": _take(data.train, validation)} if held_out else {})


def make_optimizer(trial: Trial, model: nn.Module) -> optim.RuleOptimizer:
    """The trial's method over the model's parameters; torch's defaults for whatever the trial does not say."""
    return make(trial.method, model, trial.lr, trial.beta, dict(trial.options))


def batches(count: int, batch_size: int, seed: int, in_order: bool = False) -> Iterator[Tensor]:
    """Indices of mini-batches without end: every epoch a fresh permutation, its incomplete last batch left out.

    in_order: the examples as they come, in every epoch.

    The order depends on the seed only, so every method sees the same batches: that pairs their runs.
    """
    generator = torch.Generator().manual_seed(seed + ORDER_STREAM)
    while True:
        order = torch.arange(count) if in_order else torch.randperm(count, generator=generator)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def evaluate(model: nn.Module, problem: Problem, split: Split) -> tuple[float, float | None]:
    """Mean loss, penalty included, and mean metric (None if the problem has none) over a split, in evaluation mode.

    Leaves no trace: neither gradients nor the mode, the buffers or the global random numbers change.
    """
    modes = [(module, module.training) for module in model.modules()]
    loss, metric = 0.0, 0.0
    model.eval()
    _begin(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for start in range(0, len(split), EVALUATION_BATCH):
            chunk = slice(start, start + EVALUATION_BATCH)
            inputs, targets = split.inputs[chunk], split.targets[chunk]
            outputs = model(inputs)
            loss += problem.loss(outputs, targets).item() * len(inputs)
            if problem.metric is not None:
                metric += problem.metric.per_example(outputs, targets).double().sum().item()
        penalty = 0.0 if problem.penalty is None else problem.penalty(model).item()
    for module, training in modes:
        module.training = training
    return loss / len(split) + penalty, None if problem.metric is None else metric / len(split)


def train(trial: Trial, problem: Problem, run: Path | None = None) -> dict[str, Any]:
    """Train and evaluate at step 0, every ``evaluate_every`` steps and at the last one.

    run: folder for the recorded steps if the trial records.  Returns {"config", "status": "ok" | "diverged",
    "steps": taken, "evaluations": [{"step", "train_loss", "train_metric", "test_loss", ...}]} with None for what is not
    evaluated or not finite.  Training stops at the first loss or metric that is not finite.
    """
    training = Training(trial, problem, run)
    with training.recording():
        for _ in training.steps():
            pass
    return training.result()


class Training:
    """A trial under way. Its `state` between two steps is all that the steps to come depend on.

    evaluations, step, status: as in a result, so far.
    What the state holds of the model is its ``state_dict``, and of random numbers torch's own on the CPU; batches and
    augmentation follow from the seed and the step.
    Raises: UserError if the loss or the metric is not finite before any training.
    """

    def __init__(self, trial: Trial, problem: Problem, run: Path | None = None) -> None:
        self.trial, self.problem = trial, problem
        self.parts = divide(problem.data(), trial.held_out, problem.protocol.in_order)
        self.model = problem.model(trial.seed)
        self.optimizer = make_optimizer(trial, self.model)
        self.scope = _scope(trial, self.optimizer, self.model, run)
        torch.manual_seed(trial.seed + DROPOUT_STREAM)
        self.status, self.step = "ok", 0
        self.evaluations: list[dict[str, Any]] = []

    @property
    def fit(self) -> Split:
        """What is trained on."""
        return self.parts["fit"]

    def look(self) -> None:
        """Evaluate now, unless it has diverged."""
        if self.status != "ok":
            return
        found: dict[str, Any] = {"step": self.step}
        for part in PARTS:
            wanted = part in self.trial.parts
            values = evaluate(self.model, self.problem, self.parts[part]) if wanted else (None, None)
            found[f"{part}_loss"], found[f"{part}_metric"] = values
        self.evaluations.append(found)
        if not _finite(found):
            self.status = "diverged"

    def begin(self) -> None:
        """The evaluation before any training.  Raises: UserError if it is not finite."""
        if not self.evaluations:
            self.look()
            if self.status != "ok":
                name = self.problem.name
                raise UserError(f"problem {name!r}: the loss or the metric is not finite before any training.")

    def note(self, step: int, loss: float) -> None:
        """For whoever takes the steps instead: this one is being taken, and its loss is so much."""
        if self.status == "ok":
            self.step = step
            if not math.isfinite(loss):
                self.status = "diverged"

    def steps(self) -> Iterator[int]:
        """Take the steps that are left, one at a time: yields the number of each one after it."""
        trial, problem, optimizer, scope, fit = self.trial, self.problem, self.optimizer, self.scope, self.parts["fit"]
        schedule, epoch = problem.protocol.schedule, len(fit) // trial.batch_size
        self.begin()
        order = batches(len(fit), trial.batch_size, trial.seed, problem.protocol.in_order)
        for index in itertools.islice(order, self.step, trial.steps):
            if self.status != "ok":
                return
            if self.step % epoch == 0:
                _begin(self.model)
            self.step += 1
            if schedule is not None:
                for group in optimizer.param_groups:
                    group["lr"] = trial.lr * schedule(self.step, trial.steps)
            value = _backward(optimizer, self.model, problem, _batch(problem, fit, index, trial.seed, self.step))
            if not math.isfinite(value):
                self.status = "diverged"
                return
            optimizer.step()
            if scope is not None:
                scope.note(loss=value)
            if self.step % trial.evaluate_every == 0 or self.step == trial.steps:
                self.look()
            yield self.step

    def result(self) -> dict[str, Any]:
        """What `train` returns."""
        config = dataclasses.asdict(self.trial)
        return {"config": config, "status": self.status, "steps": self.step, "evaluations": self.evaluations}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the steps that are taken inside, if the trial records.

        Raises: UserError if the record could not be written.
        """
        if self.scope is None:
            yield
            return
        with self.scope:
            yield
        if self.scope.run.status != "finished":  # a scope never stops a training, so it says nothing of a full disk
            raise UserError(
                f"the record of {self.scope.run.folder} could not be written: is its disk full? "
                "Then run the same again."
            )

    def state(self) -> dict[str, Any]:
        """To go on from here in another process, for `load`; tensors are not copied. Recorded rows are on the disk."""
        return {
            "trial": self.trial.id,
            "step": self.step,
            "status": self.status,
            "evaluations": self.evaluations,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "scope": None if self.scope is None else self.scope.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state` of the same trial was taken; inside `recording`, if it was taken there.

        Raises: ValueError for another trial's.
        """
        if state["trial"] != self.trial.id:
            raise ValueError(f"a state of trial {state['trial']} for trial {self.trial.id}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step, self.status, self.evaluations = state["step"], state["status"], list(state["evaluations"])
        if self.scope is not None:
            self.scope.load_state_dict(state["scope"])


def _batch(problem: Problem, fit: Split, index: Tensor, seed: int, step: int) -> Split:
    """A training mini-batch; what is random in it follows from the trial's seed and the step alone."""
    batch = _take(fit, index)
    if problem.augment is None:
        return batch
    generator = torch.Generator().manual_seed((seed + 1 << AUGMENT_BITS) + step)
    return Split(problem.augment(batch.inputs, generator), batch.targets)


def _begin(model: nn.Module) -> None:
    """Tell a model that carries something from batch to batch that a pass over a split begins; see Protocol."""
    begin = getattr(model, "begin", None)
    if callable(begin):
        begin()


def _backward(optimizer: optim.RuleOptimizer, model: nn.Module, problem: Problem, batch: Split) -> float:
    """Leave the gradient of the mean loss over a mini-batch behind, if it is finite.  Returns that loss.

    Where a step needs the variance within the batch, from MICRO_BATCHES parts of it.
    """

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = problem.loss(model(inputs), targets)
        return loss if problem.penalty is None else loss + problem.penalty(model)

    optimizer.zero_grad()
    if not (isinstance(optimizer, optim.Dissected) and optimizer.takes_batch_variance):
        loss = loss_of(batch.inputs, batch.targets)
        if math.isfinite(value := loss.item()):
            loss.backward()  # type: ignore[no-untyped-call]
        return value
    total = 0.0
    pieces = min(MICRO_BATCHES, len(batch))
    with optimizer.within_batch() as within:
        for inputs, targets in zip(batch.inputs.tensor_split(pieces), batch.targets.tensor_split(pieces), strict=True):
            loss = loss_of(inputs, targets)
            total += loss.item() * len(inputs) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            within.add(examples=len(inputs))
    return total


def _scope(trial: Trial, optimizer: optim.RuleOptimizer, model: nn.Module, run: Path | None) -> Scope | None:
    if not trial.record_every or run is None:
        return None
    beta = next(beta for beta in (trial.record_beta, trial.beta, 0.9) if beta is not None)
    return Scope(optimizer, model, run=run, every=trial.record_every, beta=beta, config=dataclasses.asdict(trial))


def _finite(evaluation: dict[str, Any]) -> bool:
    return all(value is None or math.isfinite(value) for value in evaluation.values())


def _take(split: Split, index: Tensor) -> Split:
    return Split(split.inputs[index], split.targets[index])
