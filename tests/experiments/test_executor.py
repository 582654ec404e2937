"""Processes that fail, die, hang and are left alone. Tasks are source code for `exec`, which any worker can import."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from stepscope.errors import UserError
from stepscope.experiments.executor import Finished, Processes, Task, inside_worker, usable_cores

PRELOAD = ("stepscope.experiments",)
PATIENCE = 20.0  # seconds for what takes well under one


def task(key: str, code: str, urgent: bool = False) -> Task:
    return Task(key, exec, (code, {}), urgent)


def run(tasks: list[Task], jobs: int = 2) -> dict[str, Finished]:
    done: dict[str, Finished] = {}
    with closing(Processes(jobs, preload=PRELOAD)) as executor:
        for one in tasks:
            executor.submit(one)
        while len(done) < len(tasks):
            done |= {finished.key: finished for finished in executor.wait()}
    return done


def gone(pid: int) -> bool:
    """Whether a process ends within a while (a zombie of somebody else's child has ended)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if file.exists() and (text := file.read_text()).endswith("\n"):
            return text
        time.sleep(0.01)
    raise TimeoutError(file)


def log(file: Path, what: str = "'x'") -> str:
    return f"open({str(file)!r}, 'a').write(str({what}) + '\\n');"


def test_tasks_run_and_say_when_they_are_done(tmp_path):
    done = run([task(str(n), log(tmp_path / str(n))) for n in range(5)])
    assert done == {str(n): Finished(str(n)) for n in range(5)}
    assert all((tmp_path / str(n)).exists() for n in range(5))


def test_no_more_than_jobs_run_at_once(tmp_path):
    """Each task notes how many others are alive when it starts: files exist while a task runs."""
    code = "import os, pathlib, time; p = pathlib.Path({0!r}); n = len(list(p.glob('run*'))); (p / 'run{1}').touch();"
    code += "time.sleep(0.05); open(p / 'log', 'a').write(str(n) + '\\n'); (p / 'run{1}').unlink()"
    run([task(str(n), code.format(str(tmp_path), n)) for n in range(6)], jobs=2)
    assert max(map(int, (tmp_path / "log").read_text().split())) <= 1


def test_urgent_tasks_go_first(tmp_path):
    order = tmp_path / "order"
    tasks = [
        task("first", log(order, "'first'")),
        task("b", log(order, "'b'")),
        task("c", log(order, "'c'"), urgent=True),
    ]
    run(tasks, jobs=1)  # "first" starts before the others are known
    assert order.read_text().split() == ["first", "c", "b"]


def test_an_exception_comes_back_as_text_after_a_second_try(tmp_path):
    tries = tmp_path / "tries"
    error = run([task("a", log(tries) + "raise ZeroDivisionError('so it is')")])["a"].error
    assert error is not None
    assert error.startswith("Traceback")
    assert error.strip().endswith("ZeroDivisionError: so it is")
    assert len(tries.read_text().split()) == 2


def test_an_exception_that_does_not_come_again_is_forgotten(tmp_path):
    tries = tmp_path / "tries"
    code = log(tries) + f"assert len(open({str(tries)!r}).read().split()) > 1"
    assert run([task("a", code)]) == {"a": Finished("a")}


def test_a_traceback_larger_than_a_pipe_arrives_whole():
    error = run([task("a", "raise ValueError('x' * 1_000_000)")])["a"].error
    assert error is not None
    assert len(error) > 1_000_000


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL and so did 2 before it (out of memory?)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV and so did 2 before it"),
        ("os._exit(3)", "exited with code 3 and so did 2 before it"),
    ],
)
def test_a_process_that_dies_is_tried_three_times(tmp_path, code, cause):
    tries = tmp_path / "tries"
    done = run([task("a", f"import os, signal; {log(tries)} {code}"), task("b", "")])
    assert done == {"a": Finished("a", f"the process {cause}"), "b": Finished("b")}
    assert len(tries.read_text().split()) == 3


def test_a_process_that_dies_once_does_not_matter(tmp_path):
    tries = tmp_path / "tries"
    code = f"import os; {log(tries)} len(open({str(tries)!r}).read().split()) > 1 or os.kill(os.getpid(), 9)"
    assert run([task("a", code)]) == {"a": Finished("a")}


def test_what_the_user_has_to_mend_stops_everything(tmp_path):
    pid = tmp_path / "pid"
    sleeper = task("a", f"import os, time; {log(pid, 'os.getpid()')} time.sleep(600)")
    fault = f"import time, pathlib\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)\n"
    fault += "from stepscope.errors import UserError\nraise UserError('the disk is full')"
    with pytest.raises(UserError, match="the disk is full"):
        run([sleeper, task("b", fault)])
    assert gone(int(wait_for(pid)))


def test_closing_is_quick_and_leaves_nobody(tmp_path):
    pid = tmp_path / "pid"
    with closing(Processes(1, preload=PRELOAD)) as executor:
        executor.submit(task("a", f"import os, time; {log(pid, 'os.getpid()')} time.sleep(600)"))
        executor.submit(task("b", "raise RuntimeError"))
        number = int(wait_for(pid))
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert gone(number)


def test_workers_leave_ctrl_c_to_the_driver(tmp_path):
    pid = tmp_path / "pid"
    with closing(Processes(1, preload=PRELOAD)) as executor:
        executor.submit(task("a", f"import os, time; {log(pid, 'os.getpid()')} time.sleep(0.3)"))
        os.kill(int(wait_for(pid)), signal.SIGINT)
        assert executor.wait() == [Finished("a")]


def test_a_worker_knows_that_it_is_one(tmp_path):
    assert not inside_worker()
    code = "from stepscope.experiments.executor import inside_worker; assert inside_worker()"
    assert run([task("a", code)]) == {"a": Finished("a")}


def test_a_worker_works_where_the_driver_does(tmp_path, monkeypatch):
    """Also when the driver has moved since it started."""
    monkeypatch.chdir(tmp_path)
    assert run([task("a", "open('here', 'w').close()")]) == {"a": Finished("a")}
    assert (tmp_path / "here").exists()


def test_usable_cores_obey_the_affinity():
    assert usable_cores() == len(os.sched_getaffinity(0))


SCRIPT = """
import contextlib
import sys
from stepscope.experiments.executor import Processes, Task
with contextlib.closing(Processes(2, preload=["stepscope.experiments"])) as executor:  # no __main__ guard
    for n in range(2):
        executor.submit(Task(str(n), exec, (sys.argv[1], {})))
    done = []
    while len(done) < 2:
        done += executor.wait()
open(sys.argv[2], "w").write(repr([finished.error for finished in done]) + "\\n")
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    return file


def test_a_driver_that_is_killed_takes_its_workers_along(tmp_path, script):
    pids = tmp_path / "pids"
    code = f"import os, time; {log(pids, 'os.getpid()')} time.sleep(600)"
    with subprocess.Popen([sys.executable, script, code, tmp_path / "out"]) as driver:
        deadline = time.monotonic() + PATIENCE
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        driver.kill()
    assert all(gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-"])
def test_a_driver_without_standard_streams_works(tmp_path, script, closed):
    out = tmp_path / "out"
    subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, script, "print(1)", out], check=True, timeout=60
    )
    assert out.read_text() == "[None, None]\n"


def test_a_system_that_starts_no_more_processes_is_one_line(monkeypatch):
    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with closing(Processes(1, preload=PRELOAD)) as executor:
        monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
        with pytest.raises(UserError, match=r"^no process could be started \(BlockingIOError.*is there memory left"):
            executor.submit(task("a", ""))


def test_a_failed_start_is_not_waited_for():
    with closing(Processes(1, preload=PRELOAD)) as executor, pytest.raises(AssertionError, match="nothing"):
        executor.wait()
