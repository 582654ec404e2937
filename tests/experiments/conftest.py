"""An executor without processes, a progress that remembers, and dissections small enough for many tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stepscope import problems
from stepscope.experiments import Dissection, Finished, Task, TrialEvent, dissect
from stepscope.problems import registry

TINY = Path(__file__).parent / "tiny.py"


class Here:
    """Runs tasks in this process when it is asked for results, latest first, to be unlike a queue."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.ran: list[str] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def wait(self) -> list[Finished]:
        task = self.tasks.pop()
        self.ran.append(task.key)
        try:
            task.function(*task.args)
        except AssertionError as error:
            return [Finished(task.key, f"Traceback\nAssertionError: {error}\n")]
        return [Finished(task.key)]

    def close(self) -> None:
        self.tasks.clear()


class Diary:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.total = 0
        self.events: list[TrialEvent] = []
        self.notes: list[str] = []

    def start(self, total: int) -> None:
        self.total = total

    def advance(self, event: TrialEvent) -> None:
        self.events.append(event)

    def note(self, text: str) -> None:
        self.notes.append(text)


SMALL = {"seeds": 2, "budget": 3, "steps": 6}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Trials set one thread for their process; in this process that must not outlive the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _outside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results name the commit of the working folder, and somebody may commit while a test runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def tiny() -> Callable[[str], str]:
    """What to load to get a problem of tiny.py."""
    return lambda name: f"{TINY}:{name}"


@pytest.fixture
def small(tmp_path: Path, tiny: Callable[[str], str]) -> Callable[..., Dissection]:
    """Dissect a problem of tiny.py in this process: 5 methods, 3 trials to tune each, 2 seeds of 6 steps."""

    def run(name: str = "problem", out: str = "out", **options: Any) -> Dissection:
        return dissect(tiny(name), out=tmp_path / out, **({"executor": Here()} | SMALL | options))

    return run


@pytest.fixture
def built_in(tiny: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a problem of tiny.py one of the built-in ones. Returns its name."""

    def add(name: str) -> str:
        monkeypatch.setitem(registry._BUILT_IN, name, problems.load(tiny(name)))
        return name

    return add
