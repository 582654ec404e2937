"""A real browser that looks at the pages."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.app.serving import Server, served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
def browsers() -> Iterator[Callable[[bool], Any]]:
    """browsers(solid): the system's Chromium, headless, without 3-D or with a (slow) software one; nothing is fetched.

    Machines that run tests have no graphics card.
    """
    if CHROMIUM is None:
        pytest.skip("needs chromium to look at pages")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started: dict[bool, Any] = {}

        def browser(solid: bool) -> Any:
            if solid not in started:
                three = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
                flags = [*QUIET, *(three if solid else ["--disable-3d-apis", "--disable-gpu"])]
                started[solid] = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
            return started[solid]

        yield browser
        for one in started.values():
            one.close()


@pytest.fixture(scope="session")
def play() -> Iterator[Server]:
    """One `stepscope play` for all tests that leave it as it was."""
    with served("play") as server:
        yield server


@dataclass
class Visit:
    """A page and everything it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browsers: Callable[[bool], Any]) -> Iterator[Callable[..., Visit]]:
    """visit(address, width=..., dark=..., solid=...): opens a page, with 3-D if `solid`.

    At the end no page may have complained, or asked anything of another server.
    """
    visits: list[tuple[Visit, Any, str]] = []

    def go(
        address: str, *, width: int = 1280, height: int = 900, dark: bool = False, solid: bool = False, **more: Any
    ) -> Visit:
        scheme = "dark" if dark else "light"
        context = browsers(solid).new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        page = context.new_page()
        one = Visit(page)
        page.on("console", lambda m: one.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        page.on("request", lambda request: one.requests.append(request.url))
        visits.append((one, context, address))
        page.goto(address)
        return one

    yield go
    for one, context, address in visits:
        own = "/".join(address.split("/", 3)[:3])
        elsewhere = [url for url in one.requests if not url.startswith((own, "data:", "blob:"))]
        context.close()
        assert not elsewhere
        # That the server refused a formula with 422 is noted by the browser and shown by the page.
        assert not [text for text in one.complaints if "status of 422" not in text]
