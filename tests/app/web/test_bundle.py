"""The built pages are those of the sources in web/, whole, and of the promised size."""

import gzip
import importlib.util
import re
from pathlib import Path

import pytest

from stepscope.app.first import first

ROOT = Path(__file__).resolve().parents[3]
STATIC = ROOT / "src" / "stepscope" / "app" / "static"


def test_the_bundle_is_current():
    """`make web` builds it again."""
    spec = importlib.util.spec_from_file_location("fingerprint", ROOT / "web" / "fingerprint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = (STATIC / "sources.sha256").read_text("utf-8").strip()
    assert stored == module.fingerprint(), "web/ has changed: run `make web` and commit what it builds"


def test_what_the_page_brings_along_is_what_the_server_would_answer():
    """`python -m stepscope.app.first` prints it again."""
    stored = (STATIC / "first.js").read_text("utf-8")
    assert stored == first(), "a rule or a landscape has changed: run `python -m stepscope.app.first` and commit"


@pytest.mark.parametrize("page", ["play", "watch"])
def test_a_page_loads_its_own_files_only_and_runs_nothing_inline(page: str):
    html = (STATIC / f"{page}.html").read_text("utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]*)"', html)
    more = {"/static/first.js"} if page == "play" else set()
    assert set(loaded) == {"data:,", f"/static/{page}.js", f"/static/{page}.css"} | more
    assert all(name.startswith("data:") or (STATIC / Path(name).name).is_file() for name in loaded)
    assert not re.search(r"<script(?![^>]*src=)|<style|style=| on[a-z]+=", html)


@pytest.mark.parametrize("page", ["play", "watch"])
def test_a_page_is_small(page: str):
    """200 KB compressed is what a page may weigh: under a second on a slow line."""
    files = [STATIC / f"{page}.{kind}" for kind in ("html", "js", "css")]
    files += [STATIC / "first.js"] if page == "play" else []
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) < 200_000
