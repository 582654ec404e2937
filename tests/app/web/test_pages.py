"""Both pages come up in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.serving import served


@pytest.mark.parametrize("page", ["play", "watch"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_comes_up_in_the_colours_of_the_system(visit: Callable[..., Any], page: str, dark: bool, tmp_path: Path):
    with served(page, *([str(tmp_path)] if page == "watch" else [])) as server:
        view = visit(server.address, dark=dark).page
        assert view.inner_text("h1").startswith(f"stepscope {page}")
        paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(21, 23, 27)") == dark
        view.click("#theme")  # light, whatever the system prefers
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
        view.close()  # it asks the server for news, and would complain of its end
