"""`Scope`: watches every `optimizer.step()` and writes what it was made of."""
# Long because all that users call is in one class, with its documentation.

import functools
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from stepscope.errors import UserError
from stepscope.rules import Hyper
from stepscope.scope.alarms import Alarm, Alarms
from stepscope.scope.demand import OnDemand
from stepscope.scope.hooks import Hook, is_nested, unwrapped
from stepscope.scope.instruments import Instrument, choose, needed
from stepscope.scope.names import Only, names_of
from stepscope.scope.observer import Observer
from stepscope.scope.reduce import Packed
from stepscope.scope.rows import Rows, label
from stepscope.scope.settings import in_common, settings, tensors
from stepscope.scope.sharded import leads, refuse_flattened
from stepscope.scope.sinks import Memory, number, plain, serve, written
from stepscope.scope.trackers import Tracker

if TYPE_CHECKING:
    from stepscope.store import Run, Sink

__all__ = ["Scope"]

log = logging.getLogger("stepscope.scope")


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """A failure to observe is reported once and never reaches the training loop."""

    @functools.wraps(method)
    def run(self: "Scope", *args: Any, **options: Any) -> None:
        try:
            method(self, *args, **options)
        except Exception:
            if not self._reported:
                self._reported = True
                # As text: a traceback object would keep the step's tensors alive.
                text = "could not record step %d; training goes on, and further failures are not reported\n%s"
                log.error(text, self.steps, traceback.format_exc())

    return run


BITS = 21  # of each recorded value: what lies behind them is rounding of the sums, and would double a run's size


class Scope:
    """Observes one optimizer or several without changing a bit of the run.

    optimizer: any torch optimizer, or a list of them.  model: gives the tensors their names.
    run: a folder to record to, or a sink (`write`, `flush`, `close`), or None: rows are kept in `rows`.
    every: record step 1 and every n-th step, or the steps for which a function of the step's number is true
    (`stepscope.scope.schedules` has some).
    instruments: names of columns, of groups of them ("default", "recombinations", "all" ...), or `Instrument`s.
    include, exclude: patterns as in a shell; tensors are looked at whose name matches one of the first and none of the
    second.
    layers: what a row is about: a "tensor", its "module", the first so many parts of its name, or what a function makes
    of that.
    beta: decay rate of the averages kept beside optimizers that keep no mean and second moment of their own. They see
    the raw gradients, of every step.
    alarms: judge what is recorded (`scope.alarms`); a function is told of each alarm. Alarms are logged, kept in
    `alarms`, and events of a recorded run.
    clip_value: what gradients are clipped to by `clip_grad_value_`, if they are: adds the column clipped_share.
    config: kept with a recorded run.  max_bytes: what it may take on the disk; old stretches are thinned out to keep it
    (see `store.RunWriter`). Values of layers are recorded to a relative error below 5e-7.
    sinks: further sinks, and trackers (see `Tracker`): a TensorBoard writer, a wandb or MLflow run, a Lightning logger.
    writes: whether this process writes. By default only rank 0 of `torch.distributed` does. Attach a scope in every
    process: of sharded parameters (`fully_shard`) each measures its own part.

    stepscope's optimizers measure their steps while they take them. Beside any other one, a recorded step holds a
    second copy of the weights, until one is not recorded. Of several optimizers, each counts its own steps.
    Raises: UserError if it is given no optimizer, a run that is neither a folder nor a sink, or an unknown instrument;
    ValueError for `every`, `beta`, `layers` or `clip_value` out of range; `attach` raises what `store.RunWriter`
    raises.
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        model: nn.Module | None = None,
        run: "str | os.PathLike[str] | Sink | None" = None,
        *,
        every: int | Callable[[int], bool] = 1,
        instruments: str | Instrument | Iterable[str | Instrument] = "default",
        include: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        layers: str | int | Callable[[str], str] = "tensor",
        beta: float = 0.9,
        clip_value: float | None = None,
        alarms: bool | Callable[[Alarm], None] = True,
        config: Mapping[str, Any] | None = None,
        max_bytes: int | None = None,
        sinks: Iterable[Any] = (),
        writes: bool | None = None,
    ) -> None:
        several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        optimizers = [unwrapped(one) for one in several]
        for one, given in zip(optimizers, several, strict=True):
            if not isinstance(one, Optimizer):
                raise UserError(
                    f"Scope observes a torch optimizer, got {type(given).__name__}: "
                    "write Scope(optimizer, model) with an instance of torch.optim.Optimizer, or a list of them."
                )
        if not optimizers:
            raise UserError("Scope observes torch optimizers, got an empty list.")
        if not callable(every) and every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        Hyper("beta", 0.9, 0.0, 1.0).check(beta)
        if clip_value is not None and not clip_value > 0:
            raise ValueError(f"clip_value must be positive, got {clip_value}")
        self._folder = Path(run) if isinstance(run, str | os.PathLike) else None
        if self._folder is None and run is not None and not hasattr(run, "write"):
            raise UserError(f"run must be a folder or a sink with write, flush and close, got {type(run).__name__}.")
        self._options: dict[str, Any] = {
            "every": every,
            "instruments": instruments if isinstance(instruments, str | Instrument) else list(instruments),
            "include": include,
            "exclude": exclude,
            "layers": layers,
            "beta": beta,
            "clip_value": clip_value,
            "alarms": alarms,
        }
        chosen = choose(self._options["instruments"])
        if clip_value:
            chosen += tuple(one for one in choose("clipping") if one not in chosen)
        patterns = [[part] if isinstance(part, str) else list(part) for part in (include, exclude)]
        only = Only(patterns[0], patterns[1], self._name) if patterns != [["*"], []] else None
        self._wanted, self._writes = tuple(sinks), writes
        self._others: list[Any] = []  # sinks beside the first one, while attached
        self._active = True
        self._memory = Memory()
        self._sink: Any = self._memory if run is None or self._folder else run
        self._model, self._every, self._config = model, every, dict(config or {})
        self._max_bytes = max_bytes
        self._instruments = chosen
        follows = any(one.follows for one in chosen)
        self._traces = any(one.traces for one in chosen)
        self._observers = [
            Observer(one, beta, needed(chosen), clip_value or 0.0, only, follows, self._traces) for one in optimizers
        ]
        self._label = label(layers)
        self._demand = OnDemand(self._observers, model)
        self._rows = Rows(chosen, needed(chosen), self._label)
        self._judge = Alarms(alarms if callable(alarms) else None, self._is_matrix) if alarms else None
        self._handles: list[Any] = []
        self._reported = False
        self._forget()

    def _forget(self) -> None:
        """Let go of everything that belongs to the steps so far."""
        self._names: dict[Tensor, str] = {}
        self._matrices: dict[str, bool] = {}
        self._notes: dict[str, float | Tensor] = {}
        self._ahead: dict[str, float] = {}  # of the step that comes
        self._samples = 0
        self._others = []
        self._rows.forget()
        for observer in self._observers:
            observer.forget()

    @property
    def steps(self) -> int:
        """Optimizer steps seen, of the optimizer with the most; the first is 1. Set it when a run is resumed."""
        return max(observer.steps for observer in self._observers)

    @steps.setter
    def steps(self, steps: int) -> None:
        for observer in self._observers:
            observer.steps = steps

    # --- life ---------------------------------------------------------------------------------------------------------

    def attach(self) -> Self:
        """Start observing; a second call does nothing."""
        if not self._handles:
            refuse_flattened(self._model)
            self._names = self._named()
            self._active = leads() if self._writes is None else self._writes
            if self._active:
                self._others = [sink if hasattr(sink, "write") else Tracker(sink) for sink in self._wanted]
            for observer in self._observers:
                observer.writes, observer.setup = self._active, in_common(self._options, self._instruments, self.steps)
                observer.forget()
            if self._folder and self._active:
                from stepscope.store import RunWriter

                told = settings(self._optimizers, self._options, self._instruments)
                listed = tensors(self._optimizers, self._names, self._traces)
                config = {**self._config, "scope": told}
                self._sink = RunWriter(
                    self._folder, config=config, tensors=listed, bits=BITS, max_bytes=self._max_bytes
                )
            for observer in self._observers:
                before, after = self._around(observer)
                self._handles += [
                    observer.optimizer.register_step_pre_hook(Hook(before)),
                    observer.optimizer.register_step_post_hook(Hook(after)),
                ]
        return self

    @property
    def _optimizers(self) -> list[Optimizer]:
        return [observer.optimizer for observer in self._observers]

    def _around(self, observer: Observer) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: self._before(observer), lambda: self._after(observer)

    def detach(self) -> None:
        """Stop observing, write what is left and free all memory; a folder's run is finished. May be called twice."""
        self._detach("finished")

    def _detach(self, status: str) -> None:
        if self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            for observer in self._observers:
                observer.leave()
            self._finish(status)
            self._forget()

    @_guarded
    def _finish(self, status: str) -> None:
        try:
            if self._notes and self._active:
                self._rows.note(self.steps, plain(self._notes))
            self._write()
            serve(self._sinks, lambda sink: sink.flush())
        finally:
            if self._folder and self._active:
                self._sink.close(status)

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach("finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint between two steps; hands every row so far to the sinks. Tensors are not copied.

        Holds the steps seen, the averages kept beside the optimizers, what was noted of the last step, and what the
        alarms go by. Instruments that compare a step with those before it start anew.
        """
        self._write()
        serve(self._sinks, lambda sink: sink.flush())
        return {
            "steps": [observer.steps for observer in self._observers],
            "averages": [{self._name(p): kept for p, kept in one.kept().items()} for one in self._observers],
            "notes": plain(self._notes),
            "alarms": None if self._judge is None else self._judge.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: call it on a scope that is attached, before the first step.

        A run in a folder is continued: rows of steps that are taken again replace the former ones.
        """
        tensors = {name: p for p, name in self._named().items()}
        for observer, steps, kept in zip(self._observers, state["steps"], state["averages"], strict=True):
            observer.steps = steps
            observer.keep({tensors[name]: average for name, average in kept.items()})
        self._notes = dict(state["notes"])
        if self._judge is not None and state["alarms"] is not None:
            self._judge.load(state["alarms"])

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is detached and keeps its rows in memory."""
        return _detached, (self._optimizers, self._model, self._options)

    # --- what was recorded --------------------------------------------------------------------------------------------

    @property
    def run(self) -> "Run":
        """The recorded run, also while it is being recorded.  Raises: UserError if the scope records to no folder."""
        if self._folder is None:
            raise UserError("this scope records to no folder: give Scope(..., run='folder'), or read scope.rows.")
        from stepscope.store import Run

        if self._handles and self._active:
            self._write()
            self._sink.flush()
        return Run(self._folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows kept in memory (run=None): step, layer and the values by name."""
        if self._sink is not self._memory:
            return []
        self._write()
        notes = plain(self._notes) if self._active else {}
        unwritten = [{"step": self.steps, "layer": "", **notes}] if notes else []
        return [*self._memory.rows, *unwritten]

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms that were raised, the last 1000."""
        if self._handles:
            self._write()
        return list(self._judge.raised) if self._judge else []

    @property
    def _sinks(self) -> list[Any]:
        return [self._sink, *self._others]

    @property
    def recording(self) -> bool:
        """Whether the step that is running, or else the last one, is recorded."""
        return any(observer.recording for observer in self._observers)

    def note(self, **values: float) -> None:
        """Add run-level values, such as the loss, to the current step: call it after `optimizer.step()`.

        They are written when the next step is over, or on detaching; every call counts, also at a step that is not
        recorded.
        """
        self._note(values)

    @_guarded
    def _note(self, values: Mapping[str, float]) -> None:
        noted = {name: number(value) for name, value in values.items()}
        self._notes.update(noted)
        self._judge_notes(self.steps, {name: value for name, value in noted.items() if isinstance(value, float)})

    def _judge_notes(self, step: int, values: Mapping[str, float]) -> None:
        """Show what is noted to whoever acts on it."""
        if values and hasattr(self._every, "saw"):
            self._every.saw(step, values)
        if values and self._judge is not None and self._active:
            self._tell(self._judge.noted(step, values))

    # --- on demand ----------------------------------------------------------------------------------------------------

    @_guarded
    def curvature(self, loss: Callable[[], Tensor], *, every: int = 1, iterations: int = 20, probes: int = 8) -> None:
        """Note the curvature of the loss that `loss()` returns, and how close the optimizer is to instability.

        Call it before `optimizer.step()`; it acts at the first and every n-th step, and leaves no trace in the run.
        Costs some 2 iterations + 2 probes times a step. See `scope.curvature` for the columns and what they mean.
        """
        step = self.steps + 1
        if step == 1 or step % every == 0:
            self._ahead |= self._demand.curvature(loss, step, iterations, probes)

    @_guarded
    def noise(self, loss: Callable[..., Tensor], *batch: Tensor, parts: int = 8, every: int = 1) -> None:
        """Note the gradient noise scale of a batch, from the gradients of so many parts of it (at least 2).

        Call it before `optimizer.step()`; it acts at the first and every n-th step, and leaves no trace in the run.
        loss(*part): the mean loss of a part, which is cut from the batch's tensors along their first dimension.
        """
        step = self.steps + 1
        if step == 1 or step % every == 0:
            self._ahead |= self._demand.noise(loss, batch, parts)

    @_guarded
    def chunk(self, samples: int) -> None:
        """Tell that the gradient of a chunk of so many samples has been accumulated: call it after every `backward()`.

        Where a step has two chunks or more, their noise scale is noted. Keeps two copies of the gradient.
        """
        self._samples = samples
        self._demand.chunk()

    # --- around a step ------------------------------------------------------------------------------------------------
    # The gradient is read after the step: only then has a closure made it, and loss scaling and clipping are over.
    # Nothing of the run is written to, and no random number is drawn.

    @_guarded
    def _before(self, observer: Observer) -> None:
        if observer.depth and is_nested(observer.optimizer):
            observer.depth += 1
            return
        observer.depth, observer.recording = 1, False
        if observer.looks_on:
            return
        step = observer.steps + 1
        observer.recording = bool(self._every(step) if callable(self._every) else step == 1 or step % self._every == 0)
        if hasattr(self._every, "saw"):  # what it saw may be another thing in another process
            observer.agree()
        observer.before()

    @_guarded
    def _after(self, observer: Observer) -> None:
        if observer.depth > 1:
            observer.depth -= 1
            return
        if observer.depth == 0:
            return  # attached while this step was running
        observer.depth = 0
        seen = self.steps
        observer.steps += 1
        notes: dict[str, float] = {}
        if self.steps > seen:
            late = {name for name, value in self._notes.items() if isinstance(value, Tensor)}
            notes, self._notes = plain(self._notes), {**self._ahead}
            if self._samples:
                self._notes |= self._demand.chunks(self._samples)
            self._ahead, self._samples = {}, 0
            self._judge_notes(seen, {name: notes[name] for name in late})
        found = None
        # Observing comes first: if writing fails, the averages have seen the gradients all the same.
        try:
            if (observer.recording or not observer.idle) and not observer.looks_on:
                with torch.no_grad():
                    found = self._observe(observer)
        finally:
            if notes and self._active:
                self._rows.note(seen, notes)
            if found is not None and self._active:
                tensors, packed = found
                self._rows.add(observer.steps, list(map(self._name, tensors)), packed)
            if self._rows.due:
                self._write()

    def _observe(self, observer: Observer) -> tuple[list[Tensor], Packed] | None:
        """Take note of the step's gradients.  Returns the tensors measured and their sums, if the step is recorded."""
        if observer.recording:
            place = self._observers.index(observer)
            self._notes[f"lr[{place}]" if place else "lr"] = float(observer.optimizer.param_groups[0]["lr"])
        found_inf = getattr(observer.optimizer, "found_inf", None)  # set by GradScaler for optimizers that unscale
        if found_inf is not None and float(found_inf) != 0:
            if observer.recording:
                self._notes["skipped"] = 1.0
            observer.skipped()
            return None
        return observer.after()

    def _write(self) -> None:
        """Hand the rows that wait to the sink, and judge them."""
        taken, failure = self._rows.take(), None
        for sink in self._sinks:
            failure = written(sink, taken) or failure
        if self._judge is not None:
            self._tell(self._judge.taken(taken))
        if failure is not None:
            raise failure

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        """Add alarms to the events of the run, where the sink takes any."""
        for alarm in alarms:
            if hasattr(self._sink, "event"):
                told = {"alarm": alarm.id, "step": alarm.step, "layer": alarm.layer, "evidence": alarm.evidence}
                self._sink.event("alarm", **told, text=alarm.text, helps=alarm.helps)

    def _is_matrix(self, layer: str) -> bool:
        """Whether a layer has a matrix or kernel among its tensors."""
        if layer not in self._matrices:
            self._matrices = dict.fromkeys(self._names.values(), False)
            for p, name in self._names.items():
                place = self._label(name) if self._label else name
                self._matrices[place] = self._matrices.get(place, False) or p.dim() > 1
        return self._matrices.get(layer, False)

    def _named(self) -> dict[Tensor, str]:
        return names_of(self._optimizers, self._model)

    def _name(self, p: Tensor) -> str:
        if p not in self._names:  # a parameter group that was added later
            self._names = self._named()
        return self._names[p]


def _detached(optimizers: list[Optimizer], model: nn.Module | None, options: Mapping[str, Any]) -> Scope:
    return Scope(optimizers, model, **options)
