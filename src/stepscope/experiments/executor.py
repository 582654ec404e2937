"""Running tasks: what a sweep needs from an engine, and the engine for one machine, a process for each task.

One process per task, because a process pool loses the whole sweep when one worker is killed. Processes come from a fork
server that has torch loaded already, so each one starts in about 10 ms and none inherits threads or locks.
"""

import contextlib
import heapq
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from stepscope.errors import UserError

__all__ = [
    "Executor",
    "Finished",
    "Job",
    "Processes",
    "Task",
    "Waiting",
    "attempt",
    "inside_worker",
    "mark_as_worker",
    "usable_cores",
]

DEATHS_FORGIVEN: Final = 2  # a killed worker says nothing about its task: memory ran out, or somebody sent a signal
ERRORS_FORGIVEN: Final = 1  # an exception usually comes again

_inside_worker = False


@dataclass(frozen=True)
class Task:
    """``function(*args)`` under a name.  function: at the top level of an importable module.  urgent: goes first."""

    key: str
    function: Callable[..., None]
    args: tuple[Any, ...]
    urgent: bool = False


@dataclass(frozen=True)
class Finished:
    """A task that will not run again.  error: None, or the last attempt's traceback or cause of death."""

    key: str
    error: str | None = None


class Executor(Protocol):
    """Where tasks run. Results travel through files, so that the same sweep resumes on any engine."""

    def submit(self, task: Task) -> None:
        """Queue a task; returns at once."""

    def wait(self) -> list[Finished]:
        """Block until at least one submitted task has finished.  Raises UserError if a task raised one."""

    def close(self) -> None:
        """Stop whatever still runs, at once. Tasks have to survive being killed at any moment."""


@dataclass
class Job:
    """A task on its way, with what befell its earlier attempts."""

    task: Task
    errors: int = 0
    deaths: int = 0

    def forgives(self, kind: str) -> bool:
        """Count an attempt that "died" or "raised".  Returns whether there is to be another one."""
        self.deaths += kind == "died"
        self.errors += kind == "raised"
        return self.deaths <= DEATHS_FORGIVEN and self.errors <= ERRORS_FORGIVEN


class Waiting:
    """Jobs that wait for a place: urgent ones first, then in order of submission."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, Job]] = []
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def put(self, job: Job) -> None:
        """Let a job wait."""
        heapq.heappush(self._heap, (not job.task.urgent, next(self._count), job))

    def take(self) -> Job:
        """The next job."""
        *_, job = heapq.heappop(self._heap)
        return job

    def clear(self) -> None:
        """Forget them all."""
        self._heap.clear()

    def settle(self, job: Job, kind: str, text: str) -> list[Finished]:
        """What came of an attempt, told as `attempt` does or "died": the end of its task, or another attempt waits.

        Raises: UserError for "stop".
        """
        if kind == "stop":
            raise UserError(text)
        if kind == "done":
            return [Finished(job.task.key)]
        if job.forgives(kind):
            self.put(job)
            return []
        return [Finished(job.task.key, text)]


class Processes:
    """The executor for one machine: at most ``jobs`` processes at once, each dying with this one.

    jobs >= 1: usable cores unless given.  preload: modules that every process needs, imported once.
    A task whose process dies is tried up to three times, one that raises twice. The script that called is not imported
    in the processes, so it needs no ``if __name__ == "__main__"``.
    """

    def __init__(self, jobs: int | None = None, preload: Sequence[str] = ("torch",)) -> None:
        _open_standard_streams()
        self.jobs = usable_cores() if jobs is None else jobs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._queue = Waiting()
        self._running: dict[Connection, tuple[Job, BaseProcess]] = {}

    def submit(self, task: Task) -> None:
        """Queue a task; it starts when a place is free, urgent ones first, then in order of submission.

        Raises: UserError if the system starts no more processes.
        """
        self._queue.put(Job(task))
        self._fill()

    def wait(self) -> list[Finished]:
        """Block until at least one submitted task has finished.  Raises UserError if a task raised one."""
        finished: list[Finished] = []
        while not finished:
            assert self._running, "nothing was submitted"
            for connection in wait(list(self._running)):
                assert isinstance(connection, Connection)
                finished += self._collect(connection)
            self._fill()
        return finished

    def close(self) -> None:
        """Kill what runs and forget what waits."""
        self._queue.clear()
        for _, process in self._running.values():
            process.kill()
        for connection, (_, process) in self._running.items():
            _bury(connection, process)
        self._running.clear()

    def _fill(self) -> None:
        while self._queue and len(self._running) < self.jobs:
            job = self._queue.take()
            ours, theirs = self._context.Pipe(duplex=False)
            work = (theirs, Path.cwd(), job.task.function, job.task.args)
            process = self._context.Process(target=_work, args=work, daemon=True)
            try:
                with theirs, _main_module_hidden():
                    process.start()
            except (EOFError, OSError) as error:
                ours.close()
                raise UserError(f"no process could be started ({error!r}): is there memory left?") from error
            self._running[ours] = (job, process)

    def _collect(self, connection: Connection) -> list[Finished]:
        """The end of one attempt: a message, or the end of the file where the process died without one."""
        job, process = self._running.pop(connection)
        try:
            kind, text = connection.recv()
        except (EOFError, ConnectionResetError):
            kind, text = "died", ""
        _bury(connection, process)
        return self._queue.settle(job, kind, _cause_of_death(process.exitcode) if kind == "died" else text)


def usable_cores() -> int:
    """How many cores this process may use, at least 1."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def inside_worker() -> bool:
    """Whether this process was started to run a task."""
    return _inside_worker


def mark_as_worker() -> None:
    """For an engine to call in a process that it started to run tasks."""
    global _inside_worker  # noqa: PLW0603 - a fact about the process
    _inside_worker = True


def _work(report: Connection, cwd: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    """What a worker runs: one task, reported as `attempt` tells it."""
    mark_as_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    threading.Thread(target=_die_with_driver, daemon=True).start()
    os.chdir(cwd)  # multiprocessing goes back to where the driver was when it was imported
    report.send(attempt(function, args))


def attempt(function: Callable[..., None], args: tuple[Any, ...]) -> tuple[str, str]:
    """Run a task: ("done", ""), ("raised", the traceback), or ("stop", text) where the user has to act."""
    try:
        function(*args)
    except UserError as error:
        return "stop", str(error)
    except Exception:
        return "raised", traceback.format_exc()
    return "done", ""


def _die_with_driver() -> None:
    """Block on the pipe from the driver, which ends when the driver does, however it ends."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _bury(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.join(timeout=5)  # it has reported or died; an exit handler of a library may hang all the same
    if process.exitcode is None:
        process.kill()
        process.join()


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        cause = f"was killed by {signal.Signals(-exitcode).name}"
        hint = " (out of memory?)" if -exitcode == signal.SIGKILL else ""
    else:
        cause, hint = f"exited with code {exitcode}", ""
    return f"the process {cause} and so did {DEATHS_FORGIVEN} before it{hint}"


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Let the started process not import the caller's script, which may call us again at its top level."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _open_standard_streams() -> None:
    """Fill closed standard streams, or a pipe would get the number of one and be closed or written to as such."""
    while (stream := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(stream, True)
    os.close(stream)
