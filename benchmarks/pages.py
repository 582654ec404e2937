"""The playground in a real browser, against what a page of its kind should take.

The browser draws with the processor (no graphics card), and the ratio is to the budget: below 1 it is met.
"""

import gzip
import os
import shutil
import statistics
import subprocess
import sys
import time
from importlib.resources import files
from typing import Any

__all__ = ["measure"]

BUDGET = {
    "slider to new numbers: script, four methods x 2000 steps": 5e-3,
    "ten series x 10^5 points, redrawn": 30e-3,
    "10^6 steps x four methods: until the first numbers": 100e-3,
    "512 x 512 paths x 1000 steps on the server: first picture": 100e-3,
    "stepscope play: from the command to a page that answers": 1.0,
}
FLAGS = ["--no-sandbox", "--disable-quic", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

# Sliders are moved 60 times; the compiler of a browser is warm after the first few, as under a hand.
SLIDE = """async () => {
  const slider = document.querySelector("input[type=range][aria-label='learning rate (slider)']"), times = [];
  for (let k = 0; k < 60; k++) {
    slider.value = String(500 + k);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    times.push(window.stepscope.latency());
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
  return times.slice(10);
}"""


def measure() -> list[dict[str, Any]]:
    """One row a quantity."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("error: needs chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page()
        begun = time.perf_counter()
        command = [sys.executable, "-m", "stepscope.app.cli", "play", "--no-open", "--port", "0"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert server.stdout is not None
        try:
            address = "http://" + server.stdout.readline().split("http://")[1].split()[0]
            page.goto(address)
            page.wait_for_selector("html[data-ready]")
            ready = time.perf_counter() - begun
            found = _inside(page) | {"stepscope play: from the command to a page that answers": ready}
            exported = len(page.evaluate("window.stepscope.standalone()").encode())
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
            chromium.close()
    rows = [{"what": what, "seconds": found[what], "ratio": found[what] / most, "to": f"its budget, {most:g} s"}
            for what, most in BUDGET.items()]  # fmt: skip
    weight = sum(len(gzip.compress((files("stepscope.app") / "static" / f"play.{kind}").read_bytes()))
                 for kind in ("html", "js", "css"))  # fmt: skip
    for what, size, most in (("page, compressed", weight, 200_000), ("saved as one file", exported, 150_000)):
        # Sizes are rows like the others: the seconds are those a line of one megabyte a second takes.
        rows.append({"what": f"{what}: {size:,} bytes", "seconds": size / 1e6, "ratio": size / most, "to": f"{most:,}"})
    return rows


def _until(page: Any, expression: str, timeout: float = 60_000) -> None:
    """Wait until an expression is true, without text evaluated in the page, which its policy forbids."""
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression):
        if time.monotonic() > end:
            sys.exit(f"error: never true: {expression}")
        time.sleep(0.02)


def _inside(page: Any) -> dict[str, float]:
    page.fill("#steps", "2000")
    _until(page, "window.stepscope.done()")
    slide = statistics.median(page.evaluate(SLIDE))
    chart = page.evaluate("window.stepscope.chartTime(10, 100000)")
    page.fill("#steps", "1000000")
    page.wait_for_timeout(50)
    long = page.evaluate("window.stepscope.latency()")
    page.fill("#steps", "1000")
    _until(page, "window.stepscope.done()")
    page.click("#tab-maps")
    page.select_option("#size", "512")
    page.wait_for_selector("#phase[data-done='512']", timeout=60_000)
    page.select_option("#quantity", "min_loss")  # a second one: the first has compiled the program
    before = page.evaluate("window.stepscope.maps().whole")
    _until(page, f"window.stepscope.maps().whole !== {before}")
    first = page.evaluate("window.stepscope.maps().first")
    names = list(BUDGET)
    return dict(zip(names[:4], (slide / 1e3, chart / 1e3, long / 1e3, first / 1e3), strict=True))
