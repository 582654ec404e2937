"""`Scope`: watches every `optimizer.step()` and writes what it was made of."""

import functools
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from stepscope.errors import UserError
from stepscope.rules import Hyper
from stepscope.scope.hooks import Hook, is_nested, unwrapped
from stepscope.scope.instruments import INSTRUMENTS, read
from stepscope.scope.names import names_of
from stepscope.scope.observer import Observer
from stepscope.scope.sharded import leads, refuse_flattened
from stepscope.scope.trackers import Tracker

if TYPE_CHECKING:
    from stepscope.store import Run, Sink

__all__ = ["Scope"]

log = logging.getLogger("stepscope.scope")


class Memory:
    """A sink that keeps rows as dictionaries: step, layer and the values."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        """Keep one row."""
        self.rows.append({"step": step, "layer": layer, **values})

    def flush(self) -> None:
        """Rows are there at once."""

    def close(self) -> None:
        """Rows stay."""


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """A failure to observe is reported once and never reaches the training loop."""

    @functools.wraps(method)
    def run(self: "Scope", *args: Any) -> None:
        try:
            method(self, *args)
        except Exception:
            if not self._reported:
                self._reported = True
                # As text: a traceback object would keep the step's tensors alive.
                text = "could not record step %d; training goes on, and further failures are not reported\n%s"
                log.error(text, self.steps, traceback.format_exc())

    return run


class Scope:
    """Observes an optimizer without changing a bit of the run.

    optimizer: any torch optimizer.  model: gives the tensors their names.
    run: a folder to record to, or a sink (`write`, `flush`, `close`), or None: rows are kept in `rows`.
    every: record step 1 and every n-th step, or the steps for which a function of the step's number is true.
    beta: decay rate of the averages kept beside optimizers that keep no mean and second moment of their own. They see
    the raw gradients, of every step.
    config: kept with a recorded run.
    sinks: further sinks, and trackers (see `Tracker`): a TensorBoard writer, a wandb or MLflow run, a Lightning logger.
    writes: whether this process writes. By default only rank 0 of `torch.distributed` does. Attach a scope in every
    process: of sharded parameters (`fully_shard`) each measures its own part.

    stepscope's optimizers measure their steps while they take them. Beside any other one, a recorded step holds a
    second copy of the weights until it is over. Scopes on several optimizers work side by side.
    Raises: UserError if it is given no optimizer, or a run that is neither a folder nor a sink; ValueError for `every`
    or `beta` out of range; `attach` raises what `store.RunWriter` raises.
    """

    steps: int
    """Optimizer steps seen; the first is 1. Set it when a run is resumed."""

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        run: "str | os.PathLike[str] | Sink | None" = None,
        *,
        every: int | Callable[[int], bool] = 1,
        beta: float = 0.9,
        config: Mapping[str, Any] | None = None,
        sinks: Iterable[Any] = (),
        writes: bool | None = None,
    ) -> None:
        self._optimizer = unwrapped(optimizer)
        if not isinstance(self._optimizer, Optimizer):
            raise UserError(
                f"Scope observes a torch optimizer, got {type(optimizer).__name__}: "
                "write Scope(optimizer, model) with an instance of torch.optim.Optimizer."
            )
        if not callable(every) and every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        Hyper("beta", 0.9, 0.0, 1.0).check(beta)
        self._folder = Path(run) if isinstance(run, str | os.PathLike) else None
        if self._folder is None and run is not None and not hasattr(run, "write"):
            raise UserError(f"run must be a folder or a sink with write, flush and close, got {type(run).__name__}.")
        self._wanted, self._others = tuple(sinks), list[Any]()
        self._memory = Memory()
        self._sink: Any = self._memory if run is None or self._folder else run
        self._model, self._every, self._beta, self._config = model, every, beta, dict(config or {})
        self._writes = writes
        self.steps = 0
        self._handles: list[Any] = []
        self._reported = False
        self._forget()

    def _forget(self) -> None:
        """Let go of everything that belongs to the steps so far."""
        self._depth = 0
        self._recording = False
        self._names: dict[Tensor, str] = {}
        self._notes: dict[str, float | Tensor] = {}
        self._observer = Observer(self._optimizer, self._beta)
        self._active = True

    # --- life ---------------------------------------------------------------------------------------------------------

    def attach(self) -> Self:
        """Start observing; a second call does nothing."""
        if not self._handles:
            refuse_flattened(self._model)
            self._names = names_of(self._optimizer, self._model)
            self._active = leads() if self._writes is None else self._writes
            every = self._every if isinstance(self._every, int) else "a function"
            setup = f"every={every}, beta={self._beta}, {self.steps} steps seen"
            self._observer = Observer(self._optimizer, self._beta, writes=self._active, setup=setup)
            if self._active:
                self._others = [sink if hasattr(sink, "write") else Tracker(sink) for sink in self._wanted]
            if self._folder and self._active:
                from stepscope.store import RunWriter

                self._sink = RunWriter(self._folder, config=self._described(), tensors=list(self._tensors()))
            self._handles = [
                self._optimizer.register_step_pre_hook(Hook(self._before)),
                self._optimizer.register_step_post_hook(Hook(self._after)),
            ]
        return self

    def detach(self) -> None:
        """Stop observing, write what is left and free all memory; a folder's run is finished. May be called twice."""
        self._detach("finished")

    def _detach(self, status: str) -> None:
        if self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            self._finish(status)
            self._forget()
            self._others = []

    @_guarded
    def _finish(self, status: str) -> None:
        try:
            self._write(self.steps, "", _numbers(self._notes))
            self._to_sinks(lambda sink: sink.flush())
        finally:
            if self._folder and self._active:
                self._sink.close(status)

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach("finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed")

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is detached and keeps its rows in memory."""
        return _detached, (self._optimizer, self._model, self._every, self._beta)

    # --- what was recorded --------------------------------------------------------------------------------------------

    @property
    def run(self) -> "Run":
        """The recorded run, also while it is being recorded.  Raises: UserError if the scope records to no folder."""
        if self._folder is None:
            raise UserError("this scope records to no folder: give Scope(..., run='folder'), or read scope.rows.")
        from stepscope.store import Run

        if self._handles and self._active:
            self._sink.flush()
        return Run(self._folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows kept in memory (run=None): step, layer and the values by name."""
        unwritten = [{"step": self.steps, "layer": "", **_numbers(self._notes)}] if self._notes else []
        return [*self._memory.rows, *unwritten] if self._sink is self._memory else []

    @property
    def recording(self) -> bool:
        """Whether the step that is running, or else the last one, is recorded."""
        return self._recording

    def note(self, **values: float) -> None:
        """Add run-level values, such as the loss, to the current step: call it after `optimizer.step()`.

        They are written when the next step is over, or on detaching; every call counts, also at a step that is not
        recorded.
        """
        self._note(values)

    @_guarded
    def _note(self, values: Mapping[str, float]) -> None:
        self._notes.update({name: _number(value) for name, value in values.items()})

    def _described(self) -> dict[str, Any]:
        """The run's configuration: the caller's, and what the columns mean."""
        columns = {
            i.name: {"unit": i.unit, "formula": i.formula, "estimator": i.estimator, "source": i.source}
            for i in INSTRUMENTS
        }
        every = self._every if isinstance(self._every, int) else getattr(self._every, "__name__", "function")
        scope = {"optimizer": type(self._optimizer).__name__, "every": every, "beta": self._beta, "columns": columns}
        return {**self._config, "scope": scope}

    def _tensors(self) -> Iterator[dict[str, Any]]:
        for i, group in enumerate(self._optimizer.param_groups):
            for p in group["params"]:
                yield {
                    "name": self._names[p],
                    "shape": list(p.shape),
                    "dtype": str(p.dtype).removeprefix("torch."),
                    "numel": p.numel(),
                    "group": i,
                }

    # --- around a step ------------------------------------------------------------------------------------------------
    # The gradient is read after the step: only then has a closure made it, and loss scaling and clipping are over.
    # Nothing of the run is written to, and no random number is drawn.

    @_guarded
    def _before(self) -> None:
        if self._depth and is_nested(self._optimizer):
            self._depth += 1
            return
        self._depth, self._recording = 1, False
        step = self.steps + 1
        self._recording = bool(self._every(step) if callable(self._every) else step == 1 or step % self._every == 0)
        self._observer.before(self._recording)

    @_guarded
    def _after(self) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        if self._depth == 0:
            return  # attached while this step was running
        self._depth = 0
        notes, self._notes = _numbers(self._notes), {}
        self.steps += 1
        rows = {}
        # Observing comes first: if writing fails, the averages have seen the gradients all the same.
        try:
            if self._recording or not self._observer.settled:
                with torch.no_grad():
                    rows = self._observe()
        finally:
            self._write(self.steps - 1, "", notes)
        for p, values in rows.items():
            self._write(self.steps, self._name(p), values)

    def _observe(self) -> dict[Tensor, dict[str, float]]:
        """Take note of the step's gradients.  Returns the columns of every tensor measured, if the step is recorded."""
        if self._recording:
            self._notes["lr"] = float(self._optimizer.param_groups[0]["lr"])
        found_inf = getattr(self._optimizer, "found_inf", None)  # set by GradScaler for optimizers that unscale
        skipped = found_inf is not None and float(found_inf) != 0
        if skipped and self._recording:
            self._notes["skipped"] = 1.0
        found = self._observer.after(self._recording, skipped=skipped)
        if found is None or not self._active:
            return {}
        tensors, sums = found
        columns = {name: values.tolist() for name, values in read(sums).items()}
        return {p: {name: values[i] for name, values in columns.items()} for i, p in enumerate(tensors)}

    def _write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        if values and self._active:
            self._to_sinks(lambda sink: sink.write(step, layer, values))

    def _to_sinks(self, act: Callable[[Any], None]) -> None:
        """Serve every sink, then raise the first failure of one."""
        failures = []
        for sink in (self._sink, *self._others):
            try:
                act(sink)
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def _name(self, p: Tensor) -> str:
        if p not in self._names:  # a parameter group that was added later
            self._names = names_of(self._optimizer, self._model)
        return self._names[p]


def _number(value: Any) -> float | Tensor:
    """A number, or a copy of one that is on a device: reading it now would wait for the device."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach().clone()
    return float(value)


def _numbers(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _detached(optimizer: Optimizer, model: nn.Module | None, every: int | Callable[[int], bool], beta: float) -> Scope:
    return Scope(optimizer, model, every=every, beta=beta)
