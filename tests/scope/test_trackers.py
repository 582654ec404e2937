"""Trackers as sinks: which numbers reach them, under which step, and what a slow or failing one does to a training."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from stepscope import Scope, UserError
from stepscope.scope import Tracker, trackers

Logged = list[tuple[int, dict[str, float]]]


def collector(found: Logged) -> Callable[[Mapping[str, float], int], None]:
    return lambda values, step: found.append((step, dict(values)))


def train(steps: int = 3, **options: Any) -> Scope:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    with Scope(optimizer, model, **options) as scope:
        for t in range(1, steps + 1):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            scope.note(loss=t / 2)
    return scope


# --- what is logged ---------------------------------------------------------------------------------------------------


def test_the_chosen_columns_of_the_chosen_layers_and_all_of_the_runs_own():
    found: Logged = []
    scope = train(4, every=2, sinks=[Tracker(collector(found), columns=["grad_norm", "lr"], layers=["*.bias"])])
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [set(values) for _, values in found[:3:2]] == [
        {"stepscope/loss", "stepscope/lr"}
        | {f"stepscope/{i}.bias/{name}" for i in (0, 1) for name in ("grad_norm", "lr")},
        {"stepscope/loss"},
    ]
    assert [values["stepscope/loss"] for _, values in found] == [0.5, 1.0, 1.5, 2.0]
    rows = {(row["step"], row["layer"]): row for row in scope.rows}
    for step, values in found:
        if step != 3:
            assert values["stepscope/1.bias/grad_norm"] == rows[step, "1.bias"]["grad_norm"]


def test_a_plain_function_is_a_tracker_and_a_sink_stays_what_it_is():
    found: Logged = []

    class Sink:
        rows = 0

        def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
            Sink.rows += 1

        def flush(self) -> None:
            pass

    scope = train(2, sinks=[collector(found), Sink()])
    assert len(found) == 2
    assert set(found[0][1]) == {
        *(f"stepscope/{i}.{kind}/{name}" for i in (0, 1) for kind in ("weight", "bias") for name in trackers.COLUMNS),
        "stepscope/lr",
        "stepscope/loss",
    }
    assert Sink.rows == len(scope.rows) == 10


def test_numbers_are_logged_in_another_thread_with_the_makers_context():
    """Some trackers keep the current run in a context variable."""
    variable = contextvars.ContextVar("run", default="none")
    variable.set("mine")
    seen: list[tuple[bool, str]] = []
    main = threading.current_thread()
    train(2, sinks=[lambda values, step: seen.append((threading.current_thread() is main, variable.get()))])
    assert seen == [(False, "mine")] * 2
    assert not [thread for thread in threading.enumerate() if thread.name == "stepscope-tracker"]


def test_another_rank_logs_nothing():
    found: Logged = []
    train(writes=False, sinks=[collector(found)])
    assert found == []


# --- slow and failing ones --------------------------------------------------------------------------------------------


def test_a_tracker_that_cannot_keep_up_loses_numbers_and_holds_up_nothing(caplog: pytest.LogCaptureFixture):
    found: Logged = []
    release = threading.Event()

    def slow(values: Mapping[str, float], step: int) -> None:
        release.wait(30)
        found.append((step, dict(values)))

    tracker = Tracker(slow, capacity=5)
    for step in range(1, 2001):
        tracker.write(step, "", {"loss": step})
    assert not release.is_set()  # two thousand writes, and the tracker has not logged one
    release.set()
    tracker.flush()
    steps = [step for step, _ in found]
    assert steps == sorted(steps)
    assert 5 <= len(steps) <= 7
    (record,) = caplog.records
    assert "cannot keep up; from step" in record.getMessage()


def test_a_failing_tracker_is_reported_once_and_others_get_everything(caplog: pytest.LogCaptureFixture):
    found: Logged = []

    def failing(values: Mapping[str, float], step: int) -> None:
        if step % 2:
            raise ConnectionError("no network")
        found.append((step, dict(values)))

    everything: Logged = []
    plain = train(6)
    watched = train(6, sinks=[failing, collector(everything)])
    assert str(watched.rows) == str(plain.rows)
    assert [step for step, _ in found] == [2, 4, 6]
    assert [step for step, _ in everything] == [1, 2, 3, 4, 5, 6]
    (record,) = caplog.records
    assert "a tracker failed at step 1; training goes on: ConnectionError('no network')" in record.getMessage()


def test_the_end_of_a_run_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    release = threading.Event()
    tracker = Tracker(lambda values, step: release.wait(30))
    tracker.write(1, "", {"loss": 1.0})
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker.flush()
    assert time.monotonic() - begun < 10
    assert "did not finish within" in caplog.text
    release.set()


def test_a_tracker_goes_on_after_a_flush():
    found: Logged = []
    tracker = Tracker(collector(found))
    for step in (1, 2):
        tracker.write(step, "", {"loss": step})
        tracker.flush()
    tracker.close()
    assert found == [(1, {"stepscope/loss": 1.0}), (2, {"stepscope/loss": 2.0})]


def test_what_is_no_tracker_is_refused():
    with pytest.raises(UserError, match="int is no tracker: it has none of add_scalar, log_metrics and log"):
        Tracker(3)


# --- the trackers there are -------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_optimizers_steps(tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    scope = train(5, every=2, sinks=[writer])
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {(e.step, "1.bias"): e.value for e in events.Scalars("stepscope/1.bias/update_to_weight")}
    rows = {(row["step"], row["layer"]): row["update_to_weight"] for row in scope.rows if row["layer"] == "1.bias"}
    assert found == pytest.approx(rows, rel=1e-6)  # kept in float32
    assert [e.step for e in events.Scalars("stepscope/loss")] == [1, 2, 3, 4, 5]


class MLflow:
    """The part of the module that is used, with its signature (3.17); a thread without a run of its own makes one."""

    def __init__(self) -> None:
        self.runs, self.found = threading.local(), list[tuple[Any, ...]]()

    def active_run(self) -> Any:
        return getattr(self.runs, "run", None)

    def log_metrics(
        self,
        metrics: dict[str, float],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> None:
        self.found.append((run_id or "a new run", step, metrics))


def test_mlflow_logs_to_the_run_of_the_thread_that_trains():
    mlflow = MLflow()
    with pytest.raises(UserError, match="no active run"):
        Tracker(mlflow)
    mlflow.runs.run = SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    train(2, sinks=[mlflow])
    assert [(run, step, metrics["stepscope/loss"]) for run, step, metrics in mlflow.found] == [
        ("abc", 1, 0.5),
        ("abc", 2, 1.0),
    ]


class Wandb:
    """A run of wandb (0.31): a step below its own counter is dropped, a call without one raises the counter."""

    def __init__(self) -> None:
        self.counter, self.axes, self.history = 0, dict[str, str | None](), list[dict[str, Any]]()

    def define_metric(self, name: str, step_metric: str | None = None, **kwargs: Any) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None, "may lie behind the counter"
        self.history.append(data)


def test_wandb_gets_the_step_as_a_number_of_its_own():
    run = Wandb()
    train(3, sinks=[run])
    assert run.axes == {"stepscope/step": None, "stepscope/*": "stepscope/step"}
    assert [row["stepscope/step"] for row in run.history] == [1, 2, 3]
    with pytest.raises(UserError, match=r"call wandb\.init\(\) before"):
        Tracker(SimpleNamespace(run=None, log=print, define_metric=print))
    module, other = SimpleNamespace(run=Wandb(), log=None, define_metric=None), Wandb()
    train(1, sinks=[module])
    assert len(module.run.history) == 1
    assert other.history == []


def test_an_accelerators_wandb_run_is_logged_to_past_the_step_it_would_drop():
    """Its wrapper passes the step on, which lies behind wandb's counter when the loop has logged meanwhile."""

    class Wrapper:
        name = "wandb"

        def __init__(self) -> None:
            self.tracker = Wandb()

        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            raise AssertionError("with a step")

    found: Logged = []
    other = SimpleNamespace(name="own", log=lambda values, step: found.append((step, values)))
    accelerator = SimpleNamespace(trackers=[Wrapper(), other], log=None)
    train(2, sinks=[accelerator])
    assert [row["stepscope/step"] for row in accelerator.trackers[0].tracker.history] == [1, 2]
    assert [step for step, _ in found] == [1, 2]


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_a_real_wandb_run_keeps_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a run that is given, and of the one that the module has."""
    wandb = pytest.importorskip("wandb", exc_type=ImportError)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tmp_path, project="here")
    train(3, sinks=[run])
    train(3, sinks=[wandb])
    path = next(Path(run.dir).parent.glob("*.wandb"))
    run.finish()
    from wandb.proto.wandb_internal_pb2 import Record

    def steps() -> list[int]:
        found = []
        for message in records(path.read_bytes()):
            history = {".".join(x.nested_key) or x.key: x.value_json for x in Record.FromString(message).history.item}
            found += [int(history["stepscope/step"])] if "stepscope/step" in history else []
        return found

    end = time.monotonic() + 60
    while len(steps()) < 6 and time.monotonic() < end:  # another process writes, and finish does not wait for it
        time.sleep(0.1)
    assert steps() == [1, 2, 3, 1, 2, 3]


def records(log: bytes) -> Iterator[bytes]:
    """The messages of wandb's file: LevelDB's log format, blocks of 32 KiB, after a header of seven bytes."""
    at, message = 7, b""
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:  # no room for the header of another piece
            at += 32768 - at % 32768
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        message += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or its last piece
            yield message
            message = b""


@pytest.mark.filterwarnings("ignore")
def test_a_real_trackio_run_gets_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It keeps the current run in a context variable."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio", exc_type=ImportError)
    run = trackio.init(project="here", name="first")
    inner, found = run.log, []
    monkeypatch.setattr(run, "log", lambda *a, **k: (found.append((a, k)), inner(*a, **k)))
    train(3, sinks=[trackio])
    trackio.finish()
    assert len(found) == 3


@pytest.mark.filterwarnings("ignore")
def test_a_real_mlflow_run_gets_every_step(tmp_path: Path):
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    pytest.importorskip("sqlalchemy")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        train(3, sinks=[mlflow])
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, "stepscope/1.bias/grad_norm")
    assert [metric.step for metric in found] == [1, 2, 3]
