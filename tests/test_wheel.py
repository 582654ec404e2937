"""What is installed is all there is: pages, the browser's runtime, templates, the marker of types."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What .gitignore names is left out by the builder without a word."""
    build = pytest.importorskip("hatchling.build", reason="needs hatchling")
    monkeypatch.chdir(ROOT)
    source = ROOT / "src"
    files = [path for path in (source / "stepscope").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert held == {path.relative_to(source).as_posix() for path in files}
        for name in ("app/static/play.js", "app/static/watch.html", "graph/runtime.js"):
            assert wheel.read(f"stepscope/{name}") == (source / "stepscope" / name).read_bytes()
