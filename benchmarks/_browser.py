"""A browser and a server for the benchmarks of the pages; nothing here waits for ever."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Without a graphics card 3-D would be painted by the processor, a second a picture: it is off, and said so.
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-gpu", "--disable-3d-apis"]
LONGEST = 60.0  # seconds of any one wait


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("error: needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=1e3 * LONGEST)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """`stepscope ARGUMENTS` on a free port; gives the address that it prints."""
    command = [sys.executable, "-m", "stepscope.app.cli", *arguments, "--no-open", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    late = threading.Timer(LONGEST, server.kill)  # a line that never comes ends with the process
    late.start()
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        late.cancel()
        if "http://" not in line:
            sys.exit(f"error: {' '.join(command)} printed no address")
        yield "http://" + line.split("http://")[1].split()[0]
    finally:
        late.cancel()
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        assert server.stdout is not None
        server.stdout.close()


def page_of(browser: Any) -> Any:
    """A page whose every wait ends."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(1e3 * LONGEST)
    return page


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true, without text evaluated in the page, which its policy forbids."""
    end = time.monotonic() + LONGEST
    while not page.evaluate(expression):
        if time.monotonic() > end:
            sys.exit(f"error: never true: {expression}")
        time.sleep(0.005)


def evaluated(page: Any, expression: str) -> Any:
    """The value of a promise of the page, or an error when it is not kept: `page.evaluate` would wait for ever."""
    limit = f"new Promise((_, no) => setTimeout(() => no(new Error('not within {LONGEST:g} s')), {1e3 * LONGEST}))"
    return page.evaluate(f"() => Promise.race([({expression}), {limit}])")
