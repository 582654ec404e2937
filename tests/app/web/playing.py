"""What tests of the playground ask a page."""

import time
from typing import Any

__all__ = ["at_rest", "final", "number", "scene", "seek", "table", "until"]


def until(page: Any, expression: str, timeout: float = 60_000) -> None:
    """Wait until an expression is true. (Playwright's own way evaluates text in the page, which its policy forbids.)"""
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise AssertionError(f"never true: {expression}")
        time.sleep(0.03)


def at_rest(page: Any, timeout: float = 60_000) -> Any:
    """Wait until the page stands and every path is computed and drawn."""
    page.wait_for_selector("html[data-ready=true]", timeout=timeout)
    until(page, "window.stepscope.done()", timeout=timeout)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


def scene(page: Any) -> dict[str, Any]:
    return dict(page.evaluate("window.stepscope.scene()"))


def final(page: Any) -> list[list[float]]:
    """The last row of every method: everything carried, then the loss."""
    return [one["rows"] for one in page.evaluate("window.stepscope.final()")]


def seek(page: Any, step: int) -> None:
    page.fill("#at", str(step))
    page.press("#at", "Enter")
    until(page, f"document.documentElement.dataset.step === '{step}'")


def table(page: Any) -> list[dict[str, float]]:
    """The numbers of the table of losses, in full, a dict a method."""
    rows = page.eval_on_selector_all(
        "#losses tbody tr",
        """rows => rows.map(row =>
          Object.fromEntries([...row.querySelectorAll('td')].map(cell => [cell.dataset.name, cell.dataset.value])))""",
    )
    return [{name: float(value) for name, value in row.items()} for row in rows]


def number(page: Any, name: str) -> float:
    """One number of the panel about the inside of a step."""
    return float(page.get_attribute(f".numbers td[data-name='{name}']", "data-value"))
