"""What the dashboard's addresses answer, over the wire, against the run itself; and what they refuse."""

import http.client
import json
import math
from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pytest
from tests.app.serving import Server, served

from stepscope.store import Run, RunWriter


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("watched") / "runs"
    about = {"spread": {"unit": "1", "formula": "sigma / |m|", "estimator": "averages", "source": "[eigen2025]"}}
    tensors = [{"name": "a", "shape": [2, 3]}, {"name": "b", "shape": [3]}]
    with RunWriter(root / "one", tensors=tensors, config={"scope": {"optimizer": "Adam", "columns": about}}) as writer:
        for step in range(1, 101):
            writer.write(step, "", {"loss": 1 / step if step < 90 else math.nan})
            writer.write(step, "a", {"spread": math.sin(step), "size": 2.0})
            if step % 10 == 0:
                writer.write(step, "b", {"spread": step / 10})
        writer.event("alarm", step=90, layer="a", text="The loss is not finite.")
    with RunWriter(root / "two") as writer:
        writer.write(7, "a", {"spread": 1.0})
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("[]")
    with RunWriter(root.parent / "secret") as writer:
        writer.write(1, "", {"loss": 42.0})
    return root


@pytest.fixture(scope="module")
def server(root) -> Iterator[Server]:
    with served("watch", str(root)) as one:
        yield one


def ask(server, path, body=None, **headers):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    text = None if body is None else json.dumps(body)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    line.request("GET" if body is None else "POST", path, text, headers)
    answer = line.getresponse()
    data = answer.read()
    line.close()
    return answer.status, data


def got(server, path):
    status, data = ask(server, path)
    assert status == 200, data
    return json.loads(data)


def frames(data):
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        header = json.loads(data[4 : 4 + size])
        end = 4 + size + header["bytes"]
        body = np.frombuffer(data[4 + size : end], "<f8")
        found.append((header, body.reshape(header["shape"]) if "shape" in header else None))
        data = data[end:]
    return found


def test_the_list(server):
    found = got(server, "/api/runs")
    lines = {line["id"]: line for line in found["runs"]}
    assert {id: line["status"] for id, line in lines.items()} == {
        "runs/one": "finished",
        "runs/two": "finished",
        "runs/broken": "broken",
    }
    assert (lines["runs/one"]["last"], lines["runs/one"]["alarms"], lines["runs/one"]["optimizer"]) == (100, 1, "Adam")
    again = got(server, f"/api/runs?stamp={found['stamp']}")
    assert (again["unchanged"], again["runs"]) == (True, [])


def test_a_run(server):
    found = got(server, "/api/run?id=runs/one")
    assert (found["first"], found["last"]) == (1, 100)
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["spread"]["formula"] == "sigma / |m|"
    assert columns["size"]["formula"] == ""
    assert found["layers"] == [
        {"name": "", "shape": [], "weight": False},
        {"name": "a", "shape": [2, 3], "weight": True},
        {"name": "b", "shape": [3], "weight": False},
    ]
    (event,) = found["events"]
    assert (event["step"], event["text"]) == (90, "The loss is not finite.")
    broken = got(server, "/api/run?id=runs/broken")
    assert broken["line"]["status"] == "broken"
    assert broken["problems"]


def test_series_are_the_rows_of_the_run(server, root):
    query = {"runs": ["runs/one", "runs/two"], "columns": ["spread", "loss", "nothing"], "layers": ["", "a", "b"]}
    status, data = ask(server, "/api/series", query | {"buckets": 1000})
    assert status == 200
    found = {(header["run"], header["column"], header["layer"]): (header, body) for header, body in frames(data)}
    assert {key for key in found if key[0] == "runs/one"} == {
        ("runs/one", "spread", "a"),
        ("runs/one", "spread", "b"),
        ("runs/one", "loss", ""),
    }
    for (run, column, layer), (header, body) in found.items():
        table = Run(root.parent / run).table(column, layers=[layer])
        step, low, mean, high, end, finite, broken = body
        values = table[column].to_numpy()
        assert header["read"] == 1
        np.testing.assert_array_equal(step, table["step"].to_numpy())
        np.testing.assert_array_equal(mean, values)
        np.testing.assert_array_equal(end, values)
        np.testing.assert_array_equal(low, high)
        np.testing.assert_array_equal(finite, np.isfinite(values))
        np.testing.assert_array_equal(broken, ~np.isfinite(values))


def test_series_of_a_range_in_few_buckets(server):
    query = {"runs": ["runs/one"], "columns": ["spread"], "layers": ["a"], "first": 21, "last": 60, "buckets": 4}
    ((header, body),) = frames(ask(server, "/api/series", query)[1])
    assert header["scale"] == [21, 60, 4]
    values = np.sin(np.arange(21, 61)).reshape(4, 10)
    np.testing.assert_array_equal(body[1], values.min(1))
    np.testing.assert_allclose(body[2], values.mean(1), atol=1e-15)  # ten sines, each addition within 2^-53
    np.testing.assert_array_equal(body[3], values.max(1))
    np.testing.assert_array_equal(body[5], [10] * 4)


def test_a_matrix(server):
    query = {"run": "runs/one", "columns": ["spread", "nothing"], "layers": ["b", "a"], "buckets": 100, "value": "end"}
    ((header, body),) = frames(ask(server, "/api/matrix", query)[1])
    assert (header["column"], header["scale"]) == ("spread", [1, 100, 100])
    np.testing.assert_array_equal(body[1], np.sin(np.arange(1, 101)))
    np.testing.assert_array_equal(body[0, 9::10], np.arange(1, 11))
    assert np.isnan(body[0]).sum() == 90


def test_the_cells_of_a_histogram_come_without_being_named(tmp_path):
    """Sixty cells: more than a page could name in one request where a joint histogram has four thousand."""
    with RunWriter(tmp_path / "runs" / "cells", tensors=[{"name": "w"}]) as writer:
        for step in (1, 2):
            writer.write(step, "w", {f"octave[{k}]": k / step for k in range(-30, 30)} | {"octave_other": 1.0})
    with served("watch", str(tmp_path / "runs")) as server:
        query = {"run": "runs/cells", "columns": [], "histogram": "octave", "layers": ["w"], "buckets": 2}
        found = {header["column"]: body for header, body in frames(ask(server, "/api/matrix", query)[1])}
    assert found.keys() == {f"octave[{k}]" for k in range(-30, 30)}
    for k in range(-30, 30):
        np.testing.assert_array_equal(found[f"octave[{k}]"], [[k, k / 2]])


def test_an_unknown_layer_is_named_in_the_answer(server):
    query = {"runs": ["runs/one"], "columns": ["spread"], "layers": ["c"]}
    ((header, body),) = frames(ask(server, "/api/series", query)[1])
    assert body is None
    assert "unknown layer 'c'" in header["error"]


def test_the_curves_are_the_formulas(server):
    curves = got(server, "/api/curves")
    for spread, adam, svag, exact in zip(*(curves[name] for name in ("spread", "adam", "svag", "exact")), strict=True):
        # Two or three roundings each; erf is right within 2e-15 (tests/graph/test_elementary.py).
        assert adam == pytest.approx(1 / math.hypot(1, spread), rel=1e-15)
        assert svag == pytest.approx(1 / (1 + spread**2), rel=1e-15)
        assert exact == pytest.approx(math.erf(1 / (math.sqrt(2) * spread)), rel=4e-15)


@pytest.mark.parametrize(
    "id",
    [
        "../secret",
        "runs/../secret",
        "secret",
        "/etc/passwd",
        "runs/one/../../secret",
        "runs/one/run.json",
        "",
        "%2e%2e/secret",
    ],
)
def test_nothing_outside_the_folder_is_read(server, id):
    for path in (f"/api/run?id={quote(id, safe='')}", f"/api/run?id={id}", f"/api/dissection?id={quote(id)}"):
        status, data = ask(server, path)
        assert status in (400, 422)
        assert b"42" not in data
    for path, body in (
        ("/api/series", {"runs": [id], "columns": ["loss"], "layers": [""]}),
        ("/api/matrix", {"run": id, "columns": ["loss"], "layers": [""]}),
    ):
        assert ask(server, path, body)[0] in (400, 422)


@pytest.mark.parametrize(
    "path", ["/../secret/run.json", "/static/../../cli.py", "/static/..%2f..%2fcli.py", "/%2e%2e/x"]
)
def test_no_path_leads_to_a_file(server, path):
    status, data = ask(server, path)
    assert status == 404
    assert b"import" not in data


BASE = {"runs": ["runs/one"], "columns": ["spread"], "layers": ["a"]}


@pytest.mark.parametrize(
    "change",
    [
        {"buckets": 10**12},
        {"buckets": 0},
        {"buckets": 1.5},
        {"first": 10**30},
        {"first": "x"},
        {"runs": []},
        {"runs": ["runs/one"] * 21},
        {"columns": ["c"] * 51},
        {"layers": [str(i) for i in range(2001)]},
        {"layers": [str(i) for i in range(2000)], "buckets": 4000},
        {"layers": "a"},
        {"surprise": 1},
        {"runs": [{"$ne": ""}]},
    ],
)
def test_too_much_or_nonsense_is_refused(server, change):
    status, data = ask(server, "/api/series", BASE | change)
    assert status == 400
    assert json.loads(data)["error"]


def test_an_empty_range_is_refused_in_words(server):
    ((header, _),) = frames(ask(server, "/api/series", BASE | {"first": 5, "last": 4})[1])
    assert "ends before it begins" in header["error"]


def test_foreign_pages_are_refused(server):
    assert ask(server, "/api/runs", Host="evil.example")[0] == 421
    assert ask(server, "/api/runs", Origin="http://evil.example")[0] == 403
    assert ask(server, "/api/series", BASE, Origin="http://evil.example")[0] == 403
    assert ask(server, "/api/series", BASE, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(server, "/api/series", {"x": "x" * 70_000})[0] == 413


def test_the_addresses_are_described(server):
    paths = got(server, "/api/openapi.json")["paths"]
    assert set(paths) == {"/api/runs", "/api/run", "/api/series", "/api/matrix", "/api/curves", "/api/dissection"}
    assert paths["/api/series"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"] == [
        "runs",
        "columns",
        "layers",
    ]
