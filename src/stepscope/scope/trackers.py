"""Trackers as sinks: a chosen part of the numbers goes to TensorBoard, wandb, MLflow and their like, off the training.

Trackers are known by their methods; none is imported. They cost 5 to 300 microseconds a number, so a thread of its own
feeds them from a bounded queue. When a tracker cannot keep up, numbers are dropped and not waited for.
"""

import contextvars
import fnmatch
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stepscope.errors import UserError

__all__ = ["COLUMNS", "Tracker"]

log = logging.getLogger("stepscope.scope")

Log = Callable[[Mapping[str, float], int], Any]

COLUMNS = ("spread_median", "factor_adam", "update_to_weight", "grad_norm", "nonfinite_share")
PATIENCE = 30.0  # seconds that the end of a run waits for a tracker


class Tracker:
    """A sink that hands numbers on to a tracker.

    target: what logs, told by its methods:
        add_scalar                  TensorBoard's SummaryWriter
        log_metrics                 the mlflow module (with an active run), Lightning's loggers, Comet
        log with define_metric      the wandb module (with a run) or a run of it
        log with trackers           an Accelerator: each of its trackers
        log                         trackio, one of Accelerate's trackers
        a function of (values, step)
    columns: which of a layer's columns.  layers: patterns, as for file names, of the layers they are logged of.
    What belongs to the whole run (the loss, lr, notes) is always logged.
    prefix: names are prefix/layer/column, and prefix/column for the whole run.
    capacity: steps that may wait for the tracker; what comes while so many do is dropped, with one warning.

    The step is the optimizer's, as in the run store. wandb counts calls of its own and drops what seems to come late,
    so that its runs get the step as a number, `prefix/step`, which is made the x axis of the others.
    Raises: UserError for a target with none of these methods, or without a run.
    """

    def __init__(
        self,
        target: Any,
        *,
        columns: Iterable[str] = COLUMNS,
        layers: str | Sequence[str] = "*",
        prefix: str = "stepscope",
        capacity: int = 256,
    ) -> None:
        self._prefix = prefix.rstrip("/")
        self._log = _logging(target, self._prefix)
        self.columns = tuple(columns)
        self._patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        self._known: dict[str, bool] = {}
        self._step, self._values = 0, dict[str, float]()
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._failed = False

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        """Take one row. Returns at once."""
        if step != self._step:
            self._send()
            self._step = step
        if not layer:
            self._values |= {f"{self._prefix}/{name}": float(value) for name, value in values.items()}
            self._send()  # the run's own row is the last of its step
        elif self._wanted(layer):
            chosen = {name: values[name] for name in self.columns if name in values}
            self._values |= {f"{self._prefix}/{layer}/{name}": float(value) for name, value in chosen.items()}

    def _wanted(self, layer: str) -> bool:
        if layer not in self._known:
            self._known[layer] = any(fnmatch.fnmatchcase(layer, pattern) for pattern in self._patterns)
        return self._known[layer]

    def _send(self) -> None:
        values, self._values = self._values, {}
        if not values:
            return
        if self._thread is None or not self._thread.is_alive():
            # In the creator's context: where some trackers keep the current run.
            run = functools.partial(contextvars.copy_context().run, self._work)
            self._thread = threading.Thread(target=run, name="stepscope-tracker", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((self._step, values))
        except queue.Full:
            if not self._dropped:
                log.warning("a tracker cannot keep up; from step %d on some numbers do not reach it", self._step)
            self._dropped += 1

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            step, values = item
            try:
                self._log(values, step)
            except Exception as error:
                if not self._failed:
                    log.warning("a tracker failed at step %d; training goes on: %r", step, error)
                self._failed = True

    def flush(self) -> None:
        """Wait until the tracker has everything, for at most half a minute, and end the thread."""
        self._send()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        end = time.monotonic() + PATIENCE
        try:
            self._queue.put(None, timeout=PATIENCE)
            thread.join(max(0.0, end - time.monotonic()))
        except queue.Full:
            pass
        if thread.is_alive():
            log.warning("a tracker did not finish within %.0f seconds; its last numbers may be missing", PATIENCE)

    def close(self) -> None:
        """The same: the tracker is its owner's."""
        self.flush()


# --- the one function that a target is called by ----------------------------------------------------------------------


def _logging(target: Any, prefix: str) -> Log:
    if hasattr(target, "add_scalar"):
        return functools.partial(_add_scalars, target)
    if hasattr(target, "log_metrics"):
        return _metrics(target)
    if hasattr(target, "define_metric") and hasattr(target, "log"):
        return _wandb(target, prefix)
    if hasattr(target, "log") and hasattr(target, "trackers"):
        return functools.partial(_all_of, _accelerate(target.trackers, prefix))
    if hasattr(target, "log"):
        return lambda values, step: target.log(values, step=step)
    if callable(target):
        return target  # type: ignore[no-any-return]
    raise UserError(
        f"{type(target).__name__} is no tracker: it has none of add_scalar, log_metrics and log, and cannot be called. "
        "Give the writer, logger or run itself, or a function of a dictionary and the step."
    )


def _add_scalars(writer: Any, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def _metrics(target: Any) -> Log:
    if not hasattr(target, "active_run"):
        return lambda values, step: target.log_metrics(values, step=step)
    run = target.active_run()  # MLflow keeps one for each thread, and would make another run in ours
    if run is None:
        raise UserError("MLflow has no active run: call mlflow.start_run() before the scope is made.")
    return lambda values, step: target.log_metrics(values, step=step, run_id=run.info.run_id)


def _wandb(target: Any, prefix: str) -> Log:
    run = getattr(target, "run", target)
    if run is None:
        raise UserError("wandb has no run: call wandb.init() before the scope is made.")
    axis = f"{prefix}/step"
    run.define_metric(axis)
    run.define_metric(f"{prefix}/*", step_metric=axis)
    return lambda values, step: run.log({**values, axis: step})


def _accelerate(trackers: Iterable[Any], prefix: str) -> list[Log]:
    """Accelerate hands wandb the step, which may be late there: its run is logged to instead."""
    logs: list[Log] = []
    for tracker in trackers:
        inner = getattr(tracker, "tracker", None)
        own = getattr(tracker, "name", "") == "wandb" and hasattr(inner, "define_metric")
        logs.append(_logging(inner if own else tracker, prefix))
    if not logs:
        raise UserError("the accelerator has no trackers: call init_trackers before the scope is made.")
    return logs


def _all_of(logs: Sequence[Log], values: Mapping[str, float], step: int) -> None:
    for log_to in logs:
        log_to(values, step)
