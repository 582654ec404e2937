"""The addresses of the playground over HTTP: what they give, what they refuse, and that they stop when nobody waits."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server, served

from stepscope import simulate
from stepscope.rules import METHODS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served("play") as one:
        yield one


def call(server: Server, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    line.request(method, path, body if isinstance(body, str | None) else json.dumps(body), headers)
    answer = line.getresponse()
    content = answer.read()
    line.close()
    return answer.status, content


def frames(content: bytes) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    at = 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        header = json.loads(content[at + 4 : at + 4 + size])
        at += 4 + size
        data = np.frombuffer(content[at : at + header["bytes"]], header.get("dtype", "u1"))
        yield header, data.reshape(header.get("shape", -1))
        at += header["bytes"]


def picture(content: bytes) -> np.ndarray:
    """The last, finest picture of a map."""
    cells: dict[int, list[np.ndarray]] = {}
    for header, rows in frames(content):
        assert header["row"] == sum(len(one) for one in cells.get(header["size"], []))
        cells.setdefault(header["size"], []).append(rows)
    assert header["done"]
    return np.concatenate(cells[max(cells)])


MAP: dict[str, Any] = {
    "landscape": "smooth_valley",
    "methods": [{"rule": "adam", "hyper": {"beta1": 0.8}}],
    "x": {"name": "start.x", "low": -1, "high": 1},
    "y": {"name": "lr", "low": 1e-4, "high": 1, "log": True},
    "start": [0.5, 0.9],
    "steps": 200,
    "size": 64,
}


def test_the_catalogue_is_the_librarys(server: Server):
    status, content = call(server, "GET", "/api/catalogue")
    told = json.loads(content)
    assert status == 200
    assert [one["name"] for one in told["rules"]] == list(METHODS)
    assert [one["name"] for one in told["landscapes"]] == list(simulate.LANDSCAPES)
    adam = next(one for one in told["rules"] if one["name"] == "adam")
    assert adam["hyper"][1] == {"name": "beta1", "default": 0.9, "low": 0.0, "high": 1.0, "open_end": True}
    assert adam["hyper"][0]["high"] is None


def test_a_map_is_a_sweep(server: Server):
    status, content = call(server, "POST", "/api/map", MAP)
    assert status == 200
    middle = (np.arange(64) + 0.5) / 64
    start, rates = ((-1 + 2 * middle)[None, :], 0.9), (1e-4 * 1e4**middle)[:, None]
    wanted = simulate.sweep("adam", "smooth_valley", start=start, lr=rates, beta1=0.8, steps=200).loss
    np.testing.assert_array_equal(picture(content), wanted.astype(np.float32))


def test_a_coarse_picture_comes_first(server: Server):
    _, content = call(server, "POST", "/api/map", MAP | {"size": 128})
    sizes = [header["size"] for header, _ in frames(content)]
    assert sizes[0] == 48
    assert sorted(sizes) == sizes
    assert sizes[-1] == 128


def test_basins_are_the_nearest_minimum(server: Server):
    """Gradient flow on Himmelblau's function: from close to a minimum, that minimum."""
    body = MAP | {
        "landscape": "himmelblau", "methods": [{"rule": "sgd", "hyper": {"lr": 0.005}}], "quantity": "basin",
        "start": [0, 0],
        "x": {"name": "start.x", "low": -5, "high": 5}, "y": {"name": "start.y", "low": -5, "high": 5}, "steps": 2000,
    }  # fmt: skip
    status, content = call(server, "POST", "/api/map", body)
    assert status == 200
    cells = picture(content)
    for k, (x, y) in enumerate(simulate.LANDSCAPES["himmelblau"].minima):
        assert cells[int((y + 5) / 10 * 64), int((x + 5) / 10 * 64)] == k
    assert set(np.unique(cells[~np.isnan(cells)])) == {0, 1, 2, 3}


def test_the_winner_is_the_method_with_the_lowest_loss(server: Server):
    methods = [{"rule": "sgd", "hyper": {}}, {"rule": "adam", "hyper": {}}]
    _, content = call(server, "POST", "/api/map", MAP | {"methods": methods, "quantity": "winner"})
    alone = [picture(call(server, "POST", "/api/map", MAP | {"methods": [one]})[1]) for one in methods]
    cells = picture(content)
    clear = np.abs(alone[0] - alone[1]) > 1e-6 * np.abs(alone[0])
    np.testing.assert_array_equal(cells[clear], (alone[1] < alone[0])[clear])


REFUSED = [
    ({"steps": 10**12}, 400, "steps must lie between 1 and 1e+06"),
    ({"steps": 1_000_000, "size": 512}, 422, "take fewer cells or steps"),
    ({"size": 100_000}, 400, "size must lie between"),
    ({"steps": 1.5}, 400, "steps must be a whole number"),
    ({"steps": "1e400"}, 400, "steps must be a whole number"),
    ({"landscape": "x" * 501}, 400, "the length of landscape"),
    ({"landscape": "__import__('os').system('true')"}, 422, "is not allowed in a formula"),
    ({"landscape": "x + __import__(y)"}, 422, "'__import__' is not known"),
    ({"landscape": "nowhere"}, 422, "unknown landscape 'nowhere'"),
    ({"methods": []}, 400, "the length of methods"),
    ({"methods": [{"rule": "adam"}] * 9}, 400, "the length of methods"),
    ({"methods": [{"rule": "os.system"}]}, 422, "unknown update rule"),
    ({"methods": [{"rule": "adam", "hyper": {"steps": 5.0}}]}, 422, "unknown setting"),
    ({"methods": [{"rule": "adam", "hyper": {"threads": 5.0}}]}, 422, "unknown setting"),
    ({"methods": [{"rule": "adam", "hyper": {"beta1": 2.0}}]}, 422, "beta1 must lie in"),
    ({"x": {"name": "start.x", "low": 1, "high": 0}}, 422, "the range of start.x is empty"),
    ({"y": {"name": "lr", "low": -1, "high": 1, "log": True}}, 422, "must lie above 0"),
    ({"y": {"name": "start.x", "low": -1, "high": 1}}, 422, "two axes must be different"),
    ({"x": {"name": "start.q", "low": -1, "high": 1}}, 422, "unknown setting"),
    ({"x": {"name": "noise", "low": -1, "high": 1}}, 422, "unknown setting"),
    ({"start": [1.0]}, 422, "start has 1 numbers"),
    ({"quantity": "eval"}, 400, "quantity must be one of"),
    ({"unknown": 1}, 400, "'unknown' is not known here"),
    ({"params": {"dtype": 1.0}}, 422, "unknown setting"),
]


@pytest.mark.parametrize(("change", "status", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_wrong_map_is_refused_in_words(server: Server, change: dict[str, Any], status: int, words: str):
    got, content = call(server, "POST", "/api/map", MAP | change)
    said = json.loads(content)["error"]
    assert (got, words in said) == (status, True), said
    assert len(said) < 1000


@pytest.mark.parametrize("body", ["", "{", "[" * 30_000, "null", "[]", '"x"', "NaN", '{"steps": NaN}', "\x00", "{}"])
def test_a_body_that_is_no_request_is_refused(server: Server, body: str):
    assert call(server, "POST", "/api/map", body)[0] == 400


def test_pickle_is_not_read(server: Server):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    assert call(server, "POST", "/api/map", pickle.dumps(Evil()).decode("latin-1"))[0] == 400
    sources = Path(simulate.__file__).parents[1] / "app"
    assert not [path for path in sources.rglob("*.py") if "pickle" in path.read_text("utf-8")]


def test_a_mistake_in_a_formula_has_a_place(server: Server):
    for path in ("/api/landscape", "/api/landscape.js"):
        status, content = call(server, "GET", f"{path}?landscape=x%5E2%20%2B%20foo(y)")
        assert status == 422
        assert json.loads(content) == {"error": "'foo' is not known; the variables are x, y", "position": 6}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "landscape=",
        "landscape=x&landscape=y",
        "landscape=x&more=1",
        "landscape=" + "x" * 501,
        "landscape=%FF%FE",
        "rule=adam",
    ],
)
def test_wrong_queries_are_refused(server: Server, query: str):
    assert call(server, "GET", f"/api/landscape?{query}")[0] in (400, 422)


def test_programs_are_scripts_and_hold_nothing_that_was_typed(server: Server):
    line = http.client.HTTPConnection("127.0.0.1", server.port)
    line.request("GET", "/api/path.js?rule=adam&landscape=x%5E2%2B7777y%5E2&noise=shift")
    answer = line.getresponse()
    text = answer.read().decode()
    assert answer.headers["content-type"].startswith("text/javascript")
    assert text.startswith("export default ({ fma")
    assert "7777" in text
    assert "x^2" not in text
    line.close()
    assert call(server, "GET", "/api/path.js?rule=nothing&landscape=x")[0] == 422
    assert call(server, "GET", "/api/path.js?rule=adam&landscape=x&noise=loud")[0] == 400


def test_the_description_lists_every_address(server: Server):
    told = json.loads(call(server, "GET", "/api/openapi.json")[1])
    assert told["openapi"].startswith("3.1")
    assert set(told["paths"]) == {
        "/api/catalogue", "/api/landscape", "/api/path.js", "/api/landscape.js", "/api/curves.js", "/api/map",
    }  # fmt: skip
    body = told["paths"]["/api/map"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["steps"] == {"type": "integer", "minimum": 1, "maximum": 1_000_000}
    assert body["required"] == ["landscape", "methods", "x", "y", "start"]


def seconds_of(server: Server) -> float:
    """Processor time of the server so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether it stopped")
def test_a_map_stops_when_the_browser_leaves(server: Server):
    """The whole map would take a minute of processor time; after leaving it spends next to nothing."""
    body = json.dumps(MAP | {"size": 512, "steps": 60_000})
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        head = f"POST /api/map HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert line.recv(12).endswith(b"200")
        time.sleep(0.3)
    time.sleep(3)  # it notices at the next band
    before = seconds_of(server)
    time.sleep(2)
    assert seconds_of(server) - before < 0.2
    assert call(server, "GET", "/api/catalogue")[0] == 200
