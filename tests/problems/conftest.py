"""A mirror on this machine that can be told to misbehave, and data folders that nobody else sees."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from tests.problems import archives

import stepscope.problems.data as data_module
from stepscope.problems.sources import DATASETS, DataSet, File


@pytest.fixture
def global_states() -> Callable[[], tuple]:
    """Call it before and after: the states of torch's, NumPy's and Python's global random numbers."""
    return lambda: (torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002


@pytest.fixture
def here() -> Callable[[str], bool]:
    """Whether a data set is on this machine: tests download nothing from the internet."""
    return lambda name: {info.name: info.where for info in data_module.datasets()}[name] != "not here"


@dataclass
class Mirror:
    """What the server has and how it fails. `requests` lists (path, Range header)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    resumes: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def mirror(monkeypatch) -> Iterator[Mirror]:
    """A real HTTP server on 127.0.0.1."""
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            start = 0
            if wanted and state.resumes:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else len(body)
            self.wfile.write(body[start : start + cut])

        def log_message(self, format, *args):
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/"
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def places(monkeypatch, tmp_path):
    """No data anywhere: an empty system folder and cache, and no STEPSCOPE_DATA."""
    monkeypatch.setattr(data_module, "_SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("STEPSCOPE_DATA", raising=False)
    return tmp_path


@pytest.fixture
def tiny_data(monkeypatch, places) -> Iterator[None]:
    """Tiny data sets in the official formats in the place of the real ones."""
    archives.install(monkeypatch, places / "mine")
    yield
    archives.forget()


@pytest.fixture
def tiny(monkeypatch, mirror, places):
    """A data set of one IDX file of 2 x 3 bytes, known under the name "tiny" and to no mirror yet."""
    contents = b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(range(6))
    file = File("pixels", len(contents), hashlib.sha256(contents).hexdigest())
    dataset = DataSet(
        "tiny",
        licence="none",
        download_size=50,
        files=(file,),
        subfolders=("", "tiny"),
        mirrors=(mirror.url,),
        debian_package="dataset-tiny",
    )
    monkeypatch.setitem(DATASETS, "tiny", dataset)
    return contents
