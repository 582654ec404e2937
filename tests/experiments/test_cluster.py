"""A real Ray cluster of two nodes on this machine, one of which is killed half-way. Skipped without Ray."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from stepscope.errors import UserError
from stepscope.experiments import Finished, Processes, Task, dissect
from stepscope.experiments.cluster import Ray

PATIENCE = 120.0  # a node takes some ten seconds to start on a busy machine


def test_without_ray_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'stepscope\[ray\]'"):
        Ray()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Node:
    """`ray start` in the foreground of a process group of its own, so that all of a node can be killed at once."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        environment = {**os.environ, "RAY_TMPDIR": "/tmp", "PYTHONWARNINGS": "ignore"}
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        paths = [str(Path(__file__).parents[2] / "src"), *sys.path[1:]]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = subprocess.Popen(
            [*command, *options], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, last = [], {pid}
    while last:
        last = {child for child, parent in parents.items() if parent in last}
        found += sorted(last)
    return found


@pytest.fixture
def cluster() -> Iterator[tuple[str, Node]]:
    """Address, and the second node."""
    ray = pytest.importorskip("ray")
    port = _free_port()
    address = f"127.0.0.1:{port}"
    common = ("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000")
    nodes = [Node("--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1", *common)]
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the head did not start"
                time.sleep(0.2)
        nodes.append(Node(f"--address={address}", "--node-ip-address=127.0.0.1", *common))
        yield address, nodes[1]
    finally:
        ray.shutdown()
        for node in nodes:
            node.kill()


def _wait_for_nodes(number: int) -> None:
    import ray

    deadline = time.monotonic() + PATIENCE
    while ray.cluster_resources().get("CPU", 0) < number:
        assert time.monotonic() < deadline, ray.nodes()
        time.sleep(0.2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_a_sweep_survives_the_death_of_a_node_and_gives_the_same_bytes(cluster, tmp_path, tiny):
    address, second = cluster
    settings = {"seeds": 2, "steps": 6, "grid": {m: [0.1] for m in ("msgd", "mssd")}, "points": ["msgd", "mssd"]}
    here = dissect(tiny("problem"), out=tmp_path / "here", executor=Processes(1, preload=()), **settings)
    engine = Ray(address)
    _wait_for_nodes(2)
    # A task on each node; that of the second node dies with it, and is done by the first.
    log = tmp_path / "log"
    code = f"import os, time; open({str(log)!r}, 'a').write(str(os.getppid()) + '\\n'); time.sleep({{}})"
    with closing(engine):
        for key in "ab":
            engine.submit(Task(key, exec, (code.format(4), {})))
        deadline = time.monotonic() + PATIENCE
        while not log.exists() or len(set(log.read_text().split())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second.kill()
        done: list[Finished] = []
        while len(done) < 2:
            done += engine.wait()
        assert sorted(one.key for one in done) == ["a", "b"]
        assert [one.error for one in done] == [None, None]
        assert len(log.read_text().split()) == 3
        there = dissect(tiny("problem"), out=tmp_path / "there", executor=engine, **settings)
    assert there.results == {**here.results, "environment": there.results["environment"]}


def test_an_address_without_a_cluster_is_one_line(monkeypatch):
    def refuse(**options):
        raise ConnectionError("Could not find any running Ray instance.\nAnd more.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=refuse))
    with pytest.raises(
        UserError, match=r"no Ray cluster at 'auto' \(Could not find any running Ray instance\.\): start"
    ):
        Ray()
