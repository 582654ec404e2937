"""Both pages come up in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.serving import served
from tests.app.web.playing import expect


@pytest.mark.parametrize("page", ["play", "watch"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_comes_up_in_the_colours_of_the_system(visit: Callable[..., Any], page: str, dark: bool, tmp_path: Path):
    with served(page, *([str(tmp_path)] if page == "watch" else [])) as server:
        view = visit(server.address, dark=dark).page
        expect(view.locator("h1")).to_have_text(re.compile(f"^stepscope {page}"))
        paper = "rgb(21, 23, 27)" if dark else "rgb(250, 249, 246)"
        expect(view.locator("body")).to_have_css("background-color", paper)
        view.click("#theme")  # light, whatever the system prefers
        expect(view.locator("body")).to_have_css("background-color", "rgb(250, 249, 246)")
        view.close()  # it asks the server for news, and would complain of its end
