"""The dashboard in a real browser, against what a page of its kind should take.

The browser draws with the processor (no graphics card), and the ratio is to the budget: below 1 it is met.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._browser import chromium, page_of, served
from stepscope.store import RunWriter

__all__ = ["measure"]

BUDGET = {
    "ten series x 10^5 points, redrawn": 30e-3,
    "from the writer's flush to the page": 1.0,
    "1000 layers, from the click to the first small lines": 1.0,
}
POINTS = "figure.chart canvas[data-points='{}']"


def measure() -> list[dict[str, Any]]:
    """One row a quantity."""
    with tempfile.TemporaryDirectory() as folder:
        layers = [f"block{i // 10}.part{i % 10}.weight" for i in range(1000)]
        with RunWriter(Path(folder) / "wide", tensors=[{"name": name} for name in layers]) as wide:
            for step in range(1, 101):
                for i, name in enumerate(layers):
                    wide.write(step, name, {"spread_median": 1.0 + (i * step) % 7})
        with RunWriter(Path(folder) / "live") as live, served("watch", folder) as address, chromium() as browser:
            page = page_of(browser)
            name = Path(folder).name
            page.goto(f"{address}#run={name}/wide")
            page.wait_for_selector("#tab-layers")
            found = {"ten series x 10^5 points, redrawn": _redraw(page)}
            begun = time.perf_counter()
            page.click("#tab-layers")
            page.wait_for_selector(".cell[data-points='100']")
            found["1000 layers, from the click to the first small lines"] = time.perf_counter() - begun
            page.goto(f"{address}#run={name}/live")
            found["from the writer's flush to the page"] = _follow(page, live)
            page.close()
    return [
        {"what": what, "seconds": found[what], "ratio": found[what] / budget, "to": f"a budget of {budget:g} s"}
        for what, budget in BUDGET.items()
    ]


def _redraw(page: Any) -> float:
    times: list[float] = page.evaluate("() => window.stepscope.redraws(10, 100000, 15)")
    return statistics.median(times[3:]) / 1e3


def _follow(page: Any, writer: RunWriter) -> float:
    """Median over steps."""
    late = []
    for step in range(1, 13):
        writer.write(step, "", {"loss": 1 / step})
        begun = time.perf_counter()
        writer.flush()
        page.wait_for_selector(POINTS.format(step))
        late.append(time.perf_counter() - begun)
    return statistics.median(late[2:])
