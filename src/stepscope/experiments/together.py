"""Trials of one small problem as one program: their parameters stacked, each operation done once for all of them.

The time of a small network's step is that of starting its operations, not of computing them. Trials that differ in seed
and step size only take their steps together: the loss under `torch.func.vmap`, the update on stacked tensors, one for
each step size. A trial keeps its id, its batches, its evaluations and its place in the folder; its numbers are those of
separate training within rounding, as matrices multiply in another order. What goes together follows from the plan, not
from the machine or from what is missing, so that the same sweep ends in the same bits.
"""

import contextlib
import copy
import itertools
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from stepscope.errors import UserError
from stepscope.experiments.attempt import (
    CHECKPOINT,
    CHECKPOINT_SECONDS,
    RESULT,
    alone,
    checkpoint,
    publish,
    run_trial,
    save,
    telling_a_full_disk,
)
from stepscope.experiments.shipping import Parcel, unpack
from stepscope.experiments.trial import Training, Trial, batches, make_optimizer
from stepscope.optim import Dissected, RuleOptimizer
from stepscope.problems import Problem
from stepscope.store import write_json

__all__ = ["Together", "Unfit", "bundles", "run_together"]

# Where it pays (benchmarks/together.py): a step by vmap takes a millisecond, as three small trials by themselves do.
LEAST: Final = 6  # trials
MOST: Final = 16
SMALL: Final = 6_000  # parameters of a trial
AGREE: Final = 1e-4  # of the first loss, relatively: float32 rounds at 6e-8, and a loss is a sum of some thousand terms


class Unfit(Exception):
    """These trials cannot be trained together."""


def bundles(trials: Sequence[Trial], problem: Problem) -> list[tuple[Trial, ...]]:
    """The trials in groups to train together, and alone where that is no slower or not possible.

    trials: all that are planned, whether or not they are done.
    """
    alike: dict[Trial, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(replace(trial, seed=0, lr=1.0), []).append(trial)
    fits = any(len(group) >= LEAST for group in alike.values()) and _is_small(problem)
    found: list[tuple[Trial, ...]] = []
    for kind, group in alike.items():
        if not fits or kind.record_every or len(group) < LEAST:
            found += [(trial,) for trial in group]
            continue
        parts = -(-len(group) // MOST)
        # Equal step sizes lie side by side, because one update does them all.
        ordered = sorted(group, key=lambda trial: (trial.lr, trial.seed))
        found += [tuple(ordered[len(group) * i // parts : len(group) * (i + 1) // parts]) for i in range(parts)]
    return found


def _is_small(problem: Problem) -> bool:
    """Whether its model is small, and nothing about it is known to differ when many are trained as one."""
    if problem.penalty is not None or problem.augment is not None or problem.protocol.in_order:
        return False
    return _is_plain(problem.model(0))


def _is_plain(model: nn.Module) -> bool:
    tensors = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    return (
        not tensors  # they may depend on the seed
        and not any(True for _ in model.buffers())
        and len(parameters) == sum(1 for _ in model.parameters())
        and not hasattr(model, "begin")
        and sum(p.numel() for p in parameters) <= SMALL
    )


class _Block:
    """Neighbours in the stack with one step size, and the one optimizer that updates them."""

    def __init__(self, trainings: Sequence[Training], stack: Sequence[Tensor], start: int) -> None:
        self.trainings, self.trial = trainings, trainings[0].trial
        self.rows = slice(start, start + len(trainings))
        self._holder = nn.Module()
        for i, tensor in enumerate(stack):
            self._holder.register_parameter(f"p{i}", nn.Parameter(tensor[self.rows]))
        self.parameters = list(self._holder.parameters())
        self.optimizer: RuleOptimizer = make_optimizer(self.trial, self._holder)

    def gather(self) -> None:
        """Take over what the trials' own optimizers know."""
        states = [training.optimizer.state_dict() for training in self.trainings]
        whole = dict(states[0])
        whole["state"] = {
            key: {name: _stacked([state["state"][key][name] for state in states]) for name in entry}
            for key, entry in states[0]["state"].items()
        }
        self.optimizer.load_state_dict(whole)

    def scatter(self) -> None:
        """Give it back to them."""
        whole = self.optimizer.state_dict()
        for i, training in enumerate(self.trainings):
            own = {
                key: {name: _row(value, i) for name, value in entry.items()} for key, entry in whole["state"].items()
            }
            training.optimizer.load_state_dict({**whole, "state": own})

    def step(self, gradients: Sequence[Tensor], factor: float) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient[self.rows]
        for group in self.optimizer.param_groups:
            group["lr"] = self.trial.lr * factor
        self.optimizer.step()


def _is_stacked(value: Any) -> bool:
    """Step counters are numbers, or tensors without dimensions."""
    return isinstance(value, Tensor) and value.ndim > 0


def _stacked(values: Sequence[Any]) -> Any:
    return torch.stack(list(values)) if _is_stacked(values[0]) else copy.deepcopy(values[0])


def _row(value: Any, i: int) -> Any:
    return value[i].clone() if _is_stacked(value) else copy.deepcopy(value)


class Together:
    """Trials under way, as one.

    trainings: of each trial; what is evaluated and kept is theirs.  step: how many all have taken.
    Raises: Unfit if they cannot be trained so: their models draw random numbers, say, or a first loss differs.
    """

    def __init__(self, trials: Sequence[Trial], problem: Problem) -> None:
        self.problem = problem
        self.trainings = [Training(trial, problem) for trial in trials]
        self._fit = self.trainings[0].fit
        if any(isinstance(one.optimizer, Dissected) and one.optimizer.takes_batch_variance for one in self.trainings):
            raise Unfit("a step needs the variance within its batch")
        if not all(_is_plain(one.model) for one in self.trainings):
            raise Unfit("a model has more than parameters, or too many")
        self._names = [name for name, _ in self.trainings[0].model.named_parameters()]
        self._base = self.trainings[0].model
        self._stack: list[Tensor] = []
        self._blocks: list[_Block] = []
        self.step = 0

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on where `states` were taken."""
        for training, state in zip(self.trainings, states, strict=True):
            training.load(state)
        self.step = max(training.step for training in self.trainings)

    def states(self) -> list[dict[str, Any]]:
        """To go on from here, each as a `Training` has it."""
        for block in self._blocks:
            block.scatter()
        found = [training.state() for training in self.trainings]
        for state in found:  # views of the stack: whoever saves one would save all
            state["model"] = {name: value.clone() for name, value in state["model"].items()}
        return found

    def _assemble(self) -> None:
        """Put all parameters into stacks, of which the models' own become views."""
        models = [training.model for training in self.trainings]
        for same in zip(*(model.parameters() for model in models), strict=True):
            stack = torch.stack([p.detach() for p in same])
            for i, p in enumerate(same):
                p.data = stack[i]
            self._stack.append(stack)
        start = 0
        for _, group in itertools.groupby(self.trainings, key=lambda training: training.trial.lr):
            block = _Block(list(group), self._stack, start)
            block.gather()
            start = block.rows.stop
            self._blocks.append(block)

    def _gradients(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Losses of shape (trials,), and their gradients, each trial's with respect to its own parameters."""
        leaves = [tensor.detach().requires_grad_() for tensor in self._stack]

        def loss(parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.problem.loss(functional_call(self._base, dict(zip(self._names, parameters, strict=True)), x), y)

        try:
            losses = vmap(loss)(leaves, inputs, targets)
            gradients = torch.autograd.grad(losses.sum(), leaves)
        except (RuntimeError, ValueError, TypeError) as error:
            if self.step:
                raise
            raise Unfit(str(error)) from error
        return losses.detach(), gradients

    def _check(self, inputs: Tensor, targets: Tensor, losses: Tensor) -> None:
        """Before the first step: is every loss that of the trial by itself?"""
        for training, x, y, found in zip(self.trainings, inputs, targets, losses.tolist(), strict=True):
            with torch.no_grad():
                alone = self.problem.loss(training.model(x), y).item()
            if not math.isclose(alone, found, rel_tol=AGREE, abs_tol=AGREE**2):
                raise Unfit(f"the first loss of seed {training.trial.seed} is {found} together, and {alone} alone")

    def steps(self) -> Iterator[int]:
        """Take the steps that are left, yielding the number of each one after it."""
        trial, protocol = self.trainings[0].trial, self.problem.protocol
        self._assemble()
        for training in self.trainings:
            training.begin()
        size = trial.batch_size
        orders = [
            itertools.islice(batches(len(self._fit), size, training.trial.seed), self.step, trial.steps)
            for training in self.trainings
        ]
        for together in zip(*orders, strict=True):
            if all(training.status != "ok" for training in self.trainings):
                return
            index = torch.stack(together)
            inputs, targets = self._fit.inputs[index], self._fit.targets[index]
            losses, gradients = self._gradients(inputs, targets)
            if self.step == 0:
                self._check(inputs, targets, losses)
            self.step += 1
            for training, value in zip(self.trainings, losses.tolist(), strict=True):
                training.note(self.step, value)
            factor = 1.0 if protocol.schedule is None else protocol.schedule(self.step, trial.steps)
            for block in self._blocks:
                block.step(gradients, factor)
            if self.step % trial.evaluate_every == 0 or self.step == trial.steps:
                for training in self.trainings:
                    training.look()
            yield self.step


def run_together(trials: Sequence[Trial], parcel: Parcel, folder: Path, seconds: float = CHECKPOINT_SECONDS) -> None:
    """As `attempt.run_trial`, for several at once: each appears as ``folder/<id>``, and is trained alone if need be.

    The checkpoint of all lies with the first one.
    """
    torch.set_num_threads(1)
    with telling_a_full_disk(folder, trials), contextlib.ExitStack() as stack:
        places = {trial: stack.enter_context(alone(folder / f".{trial.id}", folder / trial.id)) for trial in trials}
        left = {trial: place for trial, place in places.items() if place is not None}
        # Killed while results were written, all are trained again from the checkpoint: as many, for the same bits.
        fit = all((place / RESULT).exists() for place in left.values())
        fit = fit or _train(list(left), parcel, list(left.values()), seconds)
        if fit:
            for trial, attempt in left.items():
                publish(attempt, folder / trial.id)
    if not fit:
        _one_by_one(trials, parcel, folder, seconds)


def _one_by_one(trials: Sequence[Trial], parcel: Parcel, folder: Path, seconds: float) -> None:
    """Each has its chance before the first error is told."""
    errors = []
    for trial in trials:
        try:
            run_trial(trial, parcel, folder, seconds)
        except UserError:
            raise
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _train(trials: Sequence[Trial], parcel: Parcel, attempts: Sequence[Path], seconds: float) -> bool:
    """Write every trial's result into its attempt.  Returns whether they could be trained together."""
    first = attempts[0] / CHECKPOINT
    with (attempts[0] / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        problem = unpack(parcel)
        ids = [trial.id for trial in trials]
        state = checkpoint(first)
        if state is not None and state.get("trials") != ids:
            state = None
        started = time.perf_counter() - (state["seconds"] if state else 0.0)
        try:
            together = Together(trials, problem)
            if state is not None:
                together.load(state["states"])
            due = time.perf_counter() + seconds
            for _ in together.steps():
                if (now := time.perf_counter()) >= due:
                    save({"trials": ids, "states": together.states(), "seconds": now - started}, first)
                    due = time.perf_counter() + seconds
        except (Unfit, ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            print(f"trained one by one: {error!r}")  # noqa: T201 - into the log
            first.unlink(missing_ok=True)
            return False
    passed = (time.perf_counter() - started) / len(trials)
    for training, attempt in zip(together.trainings, attempts, strict=True):
        shutil.rmtree(attempt / "run", ignore_errors=True)
        write_json(attempt / "timing.json", {"seconds": round(passed, 4)})
        write_json(attempt / RESULT, training.result())
    return True
