"""The page is there before what answers its questions, and an interrupt ends it all without a word."""

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.app.serving import served

from stepscope.app.door import open_door
from stepscope.app.lobby import serve
from stepscope.app.security import Application, Receive, Scope, Send


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.request(method, path)
    answer = line.getresponse()
    body = answer.read()
    line.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"hello from {scope['path']}".encode()})


@contextmanager
def lobby(load: Callable[[], Application]) -> Iterator[tuple[int, threading.Thread, list[BaseException]]]:
    """`serve` in a thread: its port, the thread, and what it raised. It lasts as long as its process does."""
    door = open_door("play", host="127.0.0.1", port=0, show=False, say=lambda _: None)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            serve("play", load, door)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield door.listener.getsockname()[1], thread, raised


def test_the_page_is_served_while_its_answers_are_still_loading():
    go = threading.Event()

    def load() -> Application:
        assert go.wait(60)
        return hello

    with lobby(load) as (port, _, _):
        status, body, headers = get(port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"/static/play.js" in body
        assert "script-src 'self'" in headers["content-security-policy"]
        assert get(port, "/static/play.js")[2]["content-type"] == "text/javascript; charset=utf-8"
        assert get(port, "/static/play.js", "HEAD")[:2] == (200, b"")
        answers: list[bytes] = []
        asking = [threading.Thread(target=lambda: answers.append(get(port, "/api/x")[1])) for _ in range(3)]
        for one in asking:
            one.start()
        time.sleep(0.2)
        assert answers == []  # they wait, and are not turned away
        go.set()
        for one in asking:
            one.join(30)
        assert answers == [b"hello from /api/x"] * 3
        assert get(port, "/static/../static/play.js")[1] == b"hello from /static/../static/play.js"  # no path is made


def test_what_cannot_be_loaded_ends_the_server_with_the_reason():
    def load() -> Application:
        raise ImportError("a package is missing")

    with lobby(load) as (_, thread, raised):
        thread.join(30)
        assert [str(one) for one in raised] == ["a package is missing"]


COMMANDS = [("play",), ("watch", ".")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("wait", ["not", "for an answer"])
def test_an_interrupt_ends_a_page_at_once_without_a_word(command: tuple[str, ...], wait: str, tmp_path: Path):
    """Whether it is still loading or has been asked something: Ctrl-C is how these commands are meant to end."""
    with served(*command, cwd=tmp_path) as server:
        if wait == "for an answer":
            assert json.loads(get(server.port, "/api/openapi.json")[1])["openapi"]
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.process.stderr is not None
        assert server.process.stdout is not None
        assert (server.process.stdout.read(), server.process.stderr.read()) == ("", "")
        with socket.socket() as again:  # the port is free
            assert again.connect_ex(("127.0.0.1", server.port)) != 0


def test_an_interrupt_ends_a_sweep_that_a_browser_waits_for():
    """It would take many seconds more; ending takes the one that open answers are given."""
    wish = {
        "landscape": "ellipse",
        "methods": [{"rule": "adam"}],
        "start": [1, 1],
        "steps": 100_000,
        "size": 256,
        "x": {"name": "lr", "low": 1e-4, "high": 1e-1, "log": True},
        "y": {"name": "eps", "low": 1e-9, "high": 1e-1, "log": True},
    }
    with served("play") as server:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        line.request("POST", "/api/map", json.dumps(wish), {"Content-Type": "application/json"})
        answer = line.getresponse()
        assert answer.status == 200, answer.read()
        answer.read(4)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""
        line.close()
