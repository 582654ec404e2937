"""The playground in a real browser, against what a page of its kind should take.

The browser draws with the processor (no graphics card, and no 3-D), and the ratio is to the budget: below 1 it is met.
"""

import gzip
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from benchmarks._browser import chromium, evaluated, page_of, served, until
from stepscope.rules import METHODS
from stepscope.simulate import LANDSCAPES, find
from stepscope.simulate.javascript import path_module

__all__ = ["measure"]

BUDGET = {
    "slider to new numbers: script, four methods x 2000 steps": 5e-3,
    "ten series x 10^5 points, redrawn": 30e-3,
    "10^6 steps x four methods: until the first numbers": 100e-3,
    "512 x 512 paths x 1000 steps on the server: first picture": 100e-3,
    "the same: whole picture": None,
    "stepscope play: from the command to a page that answers": 1.0,
    "of that, what this browser takes for a page with one line": None,
}
STARTS = 9
ONE_LINE = b"<!doctype html><title>one</title><script>document.documentElement.dataset.ready = 'true'</script>line"

# Sliders are moved 60 times; the compiler of a browser is warm after the first few, as under a hand.
SLIDE = """(async () => {
  const slider = document.querySelector("input[type=range][aria-label='learning rate (slider)']"), times = [];
  for (let k = 0; k < 60; k++) {
    slider.value = String(500 + k);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    times.push(window.stepscope.latency());
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
  return times.slice(10);
})()"""


def measure() -> list[dict[str, Any]]:
    """One row a quantity.

    A start is that of the command, in a process of its own, and its end a page that has computed and drawn the first
    picture and whose controls answer: the page says so itself, in the frame that draws it. The browser is running, as
    a user's is, with a window that has come to rest; what it shows is new to it, so nothing comes from a cache.
    """
    with chromium() as browser:
        starts, least = [], []
        with _one_line() as plain:
            for _ in range(STARTS):
                page = _resting(browser)
                begun = time.perf_counter()
                with served("play") as address:
                    _shown(page, address)
                    starts.append(time.perf_counter() - begun)
                    page.close()
                page = _resting(browser)
                begun = time.perf_counter()
                _shown(page, plain)
                least.append(time.perf_counter() - begun)
                page.close()
        with served("play") as address:
            page = page_of(browser)
            page.goto(address)
            page.wait_for_selector("html[data-ready]")
            found = _inside(page)
            exported = _largest_export(page)
            page.close()
    found["stepscope play: from the command to a page that answers"] = statistics.median(starts)
    found["of that, what this browser takes for a page with one line"] = statistics.median(least)
    rows: list[dict[str, Any]] = [
        {"what": what, "seconds": found[what]}
        | ({"ratio": found[what] / most, "to": f"its budget, {most:g} s"} if most else {})
        for what, most in BUDGET.items()
    ]
    weight = sum(len(gzip.compress((files("stepscope.app") / "static" / f"play.{kind}").read_bytes()))
                 for kind in ("html", "js", "css"))  # fmt: skip
    weight += len(gzip.compress((files("stepscope.app") / "static" / "first.js").read_bytes()))
    sizes = (("page, compressed", weight, 200_000), (f"saved as one file, {exported[0]}", exported[1], 150_000))
    for what, size, most in sizes:
        # Sizes are rows like the others: the seconds are those a line of one megabyte a second takes.
        rows.append({"what": f"{what}: {size:,} bytes", "seconds": size / 1e6, "ratio": size / most, "to": f"{most:,}"})
    return rows


def _resting(browser: Any) -> Any:
    page = page_of(browser)
    page.wait_for_timeout(1000)
    return page


def _shown(page: Any, address: str) -> None:
    page.goto(address, wait_until="commit")
    page.wait_for_selector("html[data-ready]")


@contextmanager
def _one_line() -> Iterator[str]:
    """The address of a server of this process that has a page with one line and a script that says that it is there."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(ONE_LINE)))
            self.end_headers()
            self.wfile.write(ONE_LINE)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def _inside(page: Any) -> dict[str, float]:
    page.fill("#steps", "2000")
    until(page, "window.stepscope.done()")
    slide = statistics.median(evaluated(page, SLIDE))
    chart = page.evaluate("window.stepscope.chartTime(10, 100000)")
    long = []
    for steps in (1_000_000, 999_000, 998_000, 997_000, 996_000):
        page.fill("#steps", str(steps))
        page.wait_for_timeout(50)
        long.append(page.evaluate("window.stepscope.latency()"))
    page.fill("#steps", "1000")
    until(page, "window.stepscope.done()")
    page.click("#tab-maps")
    page.select_option("#size", "512")
    until(page, "window.stepscope.settled()")
    first, whole = [], []
    for quantity in ("min_loss", "loss", "min_loss", "loss"):  # each the first time compiles its program
        page.select_option("#quantity", quantity)
        until(page, "window.stepscope.settled()")
        times = page.evaluate("window.stepscope.maps()")
        first.append(times["first"])
        whole.append(times["whole"])
    numbers = (slide, chart, statistics.median(long), first[-1], whole[-1])
    return dict(zip(list(BUDGET)[:5], (n / 1e3 for n in numbers), strict=True))


# Noise, the eight methods whose programs are longest, and each landscape; a formula of its own with every function.
FORMULA = "exp(sin(x)) + tanh(x y) erf(cos(x + y)) + log(1 + exp(x)) + sqrt(1 + x^2) + exp(-x^2/9) cos(3 y) + |x - y|"
LARGEST = """(async () => {
  const rules = %s, sizes = {};
  for (const landscape of %s) {
    const wish = { landscape, noise: "shift", methods: rules.map((rule) => ({ rule })) };
    sizes[landscape] = (await window.stepscope.standalone(wish)).length;
  }
  return sizes;
})()"""


def _largest_export(page: Any) -> tuple[str, int]:
    place = find("ellipse")
    rules = sorted(METHODS, key=lambda name: -len(path_module(METHODS[name], place, "shift")))[:8]
    places = [*LANDSCAPES, FORMULA]
    sizes: dict[str, int] = {}
    for landscape in places:
        sizes |= evaluated(page, LARGEST % (json.dumps(rules), json.dumps([landscape])))
    return max(sizes.items(), key=lambda one: one[1])
