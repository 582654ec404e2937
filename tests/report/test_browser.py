"""The page in a real browser: nothing sticks out, no label covers another one, no type is tiny, no complaint."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.report.recorded import record

from stepscope import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium to measure the page in")

WIDTHS = (390, 1280)

# Frames have the width of a phone and of a laptop (the browser's own window cannot be as narrow as a phone).
MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, problems = [];
  const wide = page.documentElement;
  if (wide.scrollWidth > wide.clientWidth) problems.push("page is " + wide.scrollWidth + " px wide");
  let type = Infinity, panels = 0, labels = 0;
  const name = svg => svg.getAttribute("aria-label").slice(0, 60);
  for (const details of page.querySelectorAll("details")) details.open = true;
  const seen = new Set();
  const tabs = [...page.querySelectorAll("input[name=pane]")];
  for (const tab of tabs.length ? tabs : [{}]) {
  tab.checked = true;
  for (const svg of page.querySelectorAll("svg.panel")) {
    const box = svg.getBoundingClientRect();
    if (!box.width || seen.has(svg)) continue;
    seen.add(svg);
    panels += 1;
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    const size = parseFloat(frame.contentWindow.getComputedStyle(svg.querySelector("text")).fontSize);
    type = Math.min(type, size * box.width / svg.viewBox.baseVal.width);
    for (const [i, [word, a]] of texts.entries()) {
      labels += 1;
      if (a.right > box.right + 2 || a.left < box.left - 2) problems.push(name(svg) + ": sticks out: " + word);
      for (const [other, b] of texts.slice(i + 1)) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        // Boxes are as high as the line; letters fill about two thirds of it.
        if (across > 1 && down > 0.35 * Math.min(a.height, b.height))
          problems.push(name(svg) + ": " + word + " covers " + other);
      }
    }
  }
  }
  return {problems, type, panels, labels};
}
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.body.innerHTML = "";
  document.body.append("<<" + JSON.stringify(found) + ">>");
});
"""


def browse(folder: Path, document: str, *flags: str) -> tuple[str, str]:
    """The document after it has loaded, and what the browser wrote to its log."""
    (folder / "page.html").write_text(document, "utf-8")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet, *flags]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{folder / 'page.html'}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def measured(folder: Path, document: str) -> list[dict[str, Any]]:
    frames = "".join(
        f'<iframe srcdoc="{html.escape(document)}" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in WIDTHS
    )
    dumped, log = browse(folder, f"<!doctype html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script></body>")
    assert "CONSOLE" not in log, log
    (found,) = re.findall(r"&lt;&lt;(.*)&gt;&gt;", dumped)
    return list(json.loads(html.unescape(found)))


@pytest.fixture(scope="module")
def views(page: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return measured(tmp_path_factory.mktemp("browser"), page.read_text("utf-8"))


def test_nothing_sticks_out_or_covers_anything(views: list[dict[str, Any]]):
    assert [view["problems"] for view in views] == [[], []]


def test_everything_was_looked_at(views: list[dict[str, Any]]):
    """Effects, curves, searches; for each method averages, three per weight, two per bias and what is not 0."""
    assert [view["panels"] for view in views] == [2 + 4 + 5 + 5 * (4 + 3 * 4 + 2 * 4 + 2) + 1] * 2
    assert min(view["labels"] for view in views) > 1000


def test_the_measurement_can_fail(page: Path, tmp_path: Path):
    document = page.read_text("utf-8")
    document = document.replace(">taking the sign</text>", f">{'sign ' * 30}</text>")
    document = document.replace(">Adam</text>", f">{'Adam ' * 9}</text>")
    document = document.replace("<header>", '<header><div style="width:2000px">wide</div>')
    for view in measured(tmp_path, document):
        assert any("px wide" in problem for problem in view["problems"])
        assert any("sticks out: sign sign" in problem for problem in view["problems"])
        assert any("Adam Adam" in problem and "covers" in problem for problem in view["problems"])


def test_type_in_pictures_can_be_read(views: list[dict[str, Any]]):
    """Browsers' own minimum is about 10 px; a phone shows a px as large as a laptop does."""
    assert min(view["type"] for view in views) >= 11


def test_pages_of_runs_are_in_order_too(tmp_path: Path):
    """A run of 200 tensors in 50 blocks, and two runs side by side; every heatmap has some labels."""
    runs = [
        record(tmp_path / f"a_run_with_a_rather_long_name_{seed}", 200, seed, steps=60, later=1 + 50.0 * seed)
        for seed in (0, 1)
    ]
    pages = [report.write(runs[0], tmp_path / "run.html"), report.write_diff(*runs, tmp_path / "diff.html")[0]]
    for path in pages:
        for view in measured(tmp_path, path.read_text("utf-8")):
            assert view["problems"] == []
            assert view["panels"] >= 3
            assert view["type"] >= 11
