"""The executor for a cluster: Ray tasks instead of processes, with the same trials, ids, retries and resuming.

Ray decides where a task runs and says when a worker or a node is lost; what is retried, and how often, is decided here,
as on one machine. Every node needs this package and its Python, and the folder of the sweep under the same path.
"""

import os
from pathlib import Path
from typing import Any, Final

from stepscope.errors import UserError
from stepscope.experiments import executor
from stepscope.experiments.executor import DEATHS_FORGIVEN, Finished, Job, Task, Waiting, attempt

__all__ = ["Ray"]

LOOK: Final = 5.0  # seconds after which the size of the cluster is asked again


class Ray:
    """Runs each task in a process of its own somewhere in a Ray cluster, one core for each.

    address: of a running cluster, "auto" for the one that this machine belongs to, "local" for one of its own.
    cores: of one task.  A task whose process or node dies is tried up to three times, one that raises twice.
    Raises: UserError if Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str = "auto", cores: float = 1.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--executor ray needs Ray: pip install 'stepscope[ray]'.") from error
        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}): start one with `ray start --head`, "
                    "or name its address with --address."
                ) from error
        self._cores = cores
        # Every task gets a fresh process: what a former one left in it must not matter.
        self._remote: Any = ray.remote(num_cpus=cores, max_retries=0, max_calls=1)(_work)
        self._queue = Waiting()
        self._running: dict[Any, Job] = {}

    def submit(self, task: Task) -> None:
        """Queue a task; it starts when the cluster has a place, urgent ones first, then in order of submission."""
        self._queue.put(Job(task))
        self._fill()

    def wait(self) -> list[Finished]:
        """Block until at least one submitted task has finished.  Raises UserError if a task raised one."""
        finished: list[Finished] = []
        while not finished:
            assert self._running, "nothing was submitted"
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK)
            for reference in done:
                finished += self._collect(reference)
            self._fill()
        return finished

    def close(self) -> None:
        """Stop what runs, forget what waits, and leave the cluster if it was joined here."""
        self._queue.clear()
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._mine:
            self._ray.shutdown()

    def _fill(self) -> None:
        """Hand over no more than there is room for: Ray knows no urgency. A cluster without a core gets one task."""
        places = max(1, int(self._ray.cluster_resources().get("CPU", 0) / self._cores)) if self._queue else 0
        while self._queue and len(self._running) < places:
            job = self._queue.take()
            reference = self._remote.remote(str(Path.cwd()), job.task.function, job.task.args)
            self._running[reference] = job

    def _collect(self, reference: Any) -> list[Finished]:
        job = self._running.pop(reference)
        try:
            kind, text = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # it could not even be begun
            kind, text = "raised", str(error)
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            kind, text = "died", f"its process was lost and so were {DEATHS_FORGIVEN} before it: {lines[0]}"
        return self._queue.settle(job, kind, text)


def _work(cwd: str, function: Any, args: tuple[Any, ...]) -> tuple[str, str]:
    """What a worker runs.  cwd: of the driver; another node may not have it, and then works where it is."""
    executor.mark_as_worker()
    if Path(cwd).is_dir():
        os.chdir(cwd)
    return attempt(function, args)
