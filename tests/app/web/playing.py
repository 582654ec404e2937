"""What tests of the pages ask: each waits until the page has shown what was begun, then looks once.

A page draws with the next frame, and answers come when they come. Whoever looks right after a click sees the moment
before it, on a slow machine.
"""

import time
from typing import Any

from playwright.sync_api import expect

__all__ = ["at_rest", "expect", "final", "number", "press", "scene", "seek", "settled", "table", "until"]

expect.set_options(timeout=60_000)


def until(page: Any, expression: str, timeout: float = 60_000) -> None:
    """Wait until an expression is true. (Playwright's own way evaluates text in the page, which its policy forbids.)"""
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise AssertionError(f"never true: {expression}")
        time.sleep(0.03)


def settled(page: Any, timeout: float = 60_000) -> Any:
    """Wait until frames are drawn, answers shown and typing read; a path that takes longer may go on."""
    until(page, "Boolean(window.stepscope?.settled())", timeout)
    return page


def at_rest(page: Any, timeout: float = 60_000) -> Any:
    """Wait until the page stands and every path is computed and drawn."""
    page.wait_for_selector("html[data-ready=true]", timeout=timeout)
    until(page, "window.stepscope.done()", timeout)
    return page


def press(page: Any, *keys: str) -> None:
    """Press keys one after the other, each once the last one is drawn."""
    for key in keys:
        page.keyboard.press(key)
        settled(page)


def scene(page: Any) -> dict[str, Any]:
    return dict(settled(page).evaluate("window.stepscope.scene()"))


def final(page: Any) -> list[list[float]]:
    """The last row of every method: everything carried, then the loss."""
    return [one["rows"] for one in settled(page).evaluate("window.stepscope.final()")]


def seek(page: Any, step: int) -> None:
    page.fill("#at", str(step))
    page.press("#at", "Enter")
    until(page, f"document.documentElement.dataset.step === '{step}'")


def table(page: Any) -> list[dict[str, float]]:
    """The numbers of the table of losses, in full, a dict a method."""
    rows = settled(page).eval_on_selector_all(
        "#losses tbody tr",
        """rows => rows.map(row =>
          Object.fromEntries([...row.querySelectorAll('td')].map(cell => [cell.dataset.name, cell.dataset.value])))""",
    )
    return [{name: float(value) for name, value in row.items()} for row in rows]


def number(page: Any, name: str) -> float:
    """One number of the panel about the inside of a step."""
    return float(settled(page).get_attribute(f".numbers td[data-name='{name}']", "data-value"))
