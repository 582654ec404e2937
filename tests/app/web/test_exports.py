"""What a scene can be taken along as: each file is opened again and holds the scene."""

import base64
import csv
import io
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, expect, final, scene, settled, table, until

from stepscope import simulate
from stepscope.app.cli import run as main

Visitor = Callable[..., Any]


@pytest.fixture
def page(visit: Visitor, play: Server) -> Any:
    return at_rest(visit(play.address).page)


class Scripts(HTMLParser):
    """The scripts of a page, as a browser finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append(attrs)


# Plays a film to its end; its size and how many different pictures were seen.
PLAYED = """async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const film = document.createElement("video");
  const canvas = document.createElement("canvas"), seen = new Set();
  canvas.width = canvas.height = 48;
  film.muted = true;
  film.src = URL.createObjectURL(new Blob([bytes], { type: "video/webm" }));
  const ended = new Promise((yes, no) => {
    film.onended = yes;
    film.onerror = () => no(new Error(film.error.message));
  });
  const look = () => {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(film, 0, 0, 48, 48);
    seen.add(context.getImageData(0, 0, 48, 48).data.join());
    film.requestVideoFrameCallback(look);
  };
  film.requestVideoFrameCallback(look);
  film.playbackRate = 2;
  await film.play();
  await ended;
  return { width: film.videoWidth, height: film.videoHeight, pictures: seen.size };
}"""


def saved(page: Any, button: str, folder: Path) -> Path:
    settled(page)
    with page.expect_download(timeout=60_000) as waiting:
        page.click(button)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_python_computes_the_same(page: Any):
    page.select_option("#noise", "additive")
    at_rest(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-python")
    expect(page.locator("#status")).to_have_text("Python copied")
    text = page.evaluate("navigator.clipboard.readText()")
    assert text == page.input_value("#copied")
    names: dict[str, Any] = {}
    exec(compile(text.replace("print(", "str("), "copied", "exec"), names)
    for path, row in zip(names["paths"].values(), final(page), strict=True):
        assert path.theta[-1].tolist() == row[:2]
        assert path.loss[-1] == row[-1]


def test_the_link_is_the_scene(page: Any, visit: Visitor):
    page.fill("#lr", "0.031")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    expect(page.locator("#status")).to_have_text("link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert scene(at_rest(visit(link).page)) == scene(page)


def test_the_table_has_every_step_and_column(page: Any, tmp_path: Path):
    rows = list(csv.DictReader(io.StringIO(saved(page, "#save-csv", tmp_path).read_text("utf-8"))))
    assert len(rows) == 4 * 601
    path = simulate.run("adam", "ellipse", start=(1.6, 1.8), kappa=190, lr=0.01, steps=600)
    adam = [row for row in rows if row["method"] == "Adam"]
    for name, values in path.flat().items():
        mine = np.array([float(row[name]) if row[name] else np.nan for row in adam])
        np.testing.assert_array_equal(mine, values, err_msg=name)


def test_a_stored_path_is_shown_beside_the_others(page: Any, tmp_path: Path):
    """A file of `stepscope simulate --out`, the page's own table, and a file that is neither."""
    main(["simulate", "adam", "ellipse", "--start", "1,1", "--steps", "40", "--out", str(tmp_path / "adam.csv")])
    path = simulate.run("adam", "ellipse", start=(1, 1), steps=40)
    before = page.evaluate("document.querySelector('#map').toDataURL()")
    page.set_input_files("#open-csv", tmp_path / "adam.csv")
    expect(page.locator("#status")).to_have_text("shown beside: adam.csv")
    (shown,) = settled(page).evaluate("window.stepscope.stored()")
    assert shown == {"name": "adam.csv", "rows": 41, "last": path.theta[-1].tolist()}
    assert page.evaluate("document.querySelector('#map').toDataURL()") != before
    own = saved(page, "#save-csv", tmp_path)
    page.set_input_files("#open-csv", own)
    expect(page.locator("#status")).to_contain_text("stepscope.csv: RMSProp")
    assert [one["rows"] for one in settled(page).evaluate("window.stepscope.stored()")] == [601] * 4
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    page.set_input_files("#open-csv", tmp_path / "other.csv")
    expect(page.locator("#status")).to_contain_text("other.csv has no column step, loss, theta.x, theta.y")
    page.click("#close-csv")
    expect(page.locator("#close-csv")).to_be_hidden()
    assert settled(page).evaluate("window.stepscope.stored()") == []


def test_pictures(page: Any, tmp_path: Path):
    png = saved(page, "#save-png", tmp_path).read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (1800, 1280)
    for button in ("#save-svg", "#save-loss"):
        root = ET.parse(saved(page, button, tmp_path)).getroot()
        paths = [one for one in root.iter() if one.tag.endswith("path") and len(one.get("d", "")) > 100]
        assert len(paths) >= 4
        words = " ".join(one.text or "" for one in root.iter() if one.tag.endswith("text"))
        assert "Adam" in words
        assert "RMSProp" in words


def test_a_film(page: Any, tmp_path: Path):
    film = saved(page, "#save-film", tmp_path)
    content = film.read_bytes()
    assert content.startswith(b"\x1a\x45\xdf\xa3")  # Matroska, of which WebM is a kind
    assert film.suffix == ".webm"
    assert scene(page)["at"] == 150  # back where it was
    shown = page.evaluate(PLAYED, base64.b64encode(content).decode())
    assert shown["width"] >= 300
    assert shown["height"] >= 200
    assert shown["pictures"] >= 5  # on a machine that has better things to do than to draw 180


@pytest.mark.parametrize("preset", ["tutorial", "dissected", "flat"])
def test_the_page_itself_as_one_file(page: Any, visit: Visitor, tmp_path: Path, preset: str):
    if preset != "tutorial":  # which is shown already
        page.select_option("#preset", preset)
        until(page, f"window.stepscope.scene().preset === '{preset}'")
        at_rest(page)
    path = saved(page, "#save-html", tmp_path)
    assert path.stat().st_size <= 150_000
    one = visit(path.as_uri())
    other = at_rest(one.page)
    assert scene(other) == scene(page)
    assert final(other) == final(page)
    assert table(other) == table(page)
    other.fill("#steps", "50")  # it still computes
    at_rest(other)
    assert scene(other)["steps"] == 50
    assert not [url for url in one.requests if not url.startswith(("file:", "data:", "blob:"))]
    other.click("#tab-maps")
    expect(other.locator("#map-said")).to_contain_text("stepscope play")


def test_a_formula_cannot_break_out_of_the_saved_page(page: Any, tmp_path: Path, visit: Visitor):
    """Nothing a user typed is part of a program: the formula is data, packed, and the title's text."""
    page.select_option("#landscape", "own formula…")
    page.fill("#formula", "x^2 + y^2 + min(x, 3)")
    until(page, "window.stepscope.scene().landscape.includes('min')")
    at_rest(page)
    path = saved(page, "#save-html", tmp_path)
    text = path.read_text("utf-8")
    parser = Scripts()
    parser.feed(text)
    assert parser.scripts == [[("type", "text/plain"), ("id", "packed")], []]
    assert "min(x, 3)" in text.split("</title>")[0]  # as text of the title
    assert "min(x" not in text.split("</title>")[1]
    assert "://" not in text
    other = at_rest(visit(path.as_uri()).page)
    assert scene(other)["landscape"] == "x^2 + y^2 + min(x, 3)"
    assert other.locator("script:not([type]), script[type=module]").count() == 3  # what unpacks, the programs, the page
