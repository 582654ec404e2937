"""The page of a recorded run and that of two, read back as pages."""

import re
from pathlib import Path

import pytest
from tests.report.pages import Page
from tests.report.recorded import record

from stepscope import report
from stepscope.report.html import MAX_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("runs") / "first", 6, 0)


def test_a_run_has_alarms_heatmaps_and_a_table_of_every_layer(folder: Path, tmp_path: Path):
    document = report.write(folder, tmp_path / "run.html").read_text("utf-8")
    page = Page(document)
    assert page.loads == ["data:,"]  # no icon, said so that a browser does not ask for one
    assert len(page.ids) == len(set(page.ids))
    maps = re.findall(r'<svg class="panel heat"[^>]*aria-label="([^"]*)"', document)
    assert [alt.partition(":")[0] for alt in maps] == [
        "momentum_abs_mean",
        "spread_median",
        "update_abs_median_per_lr",
        "update_to_weight",
    ]  # not the one that is 0 throughout
    assert maps[0].startswith("momentum_abs_mean: 6 rows, steps 1 to 60")
    assert "<figcaption>median of sigma / |m|</figcaption>" in document
    assert document.count('<svg class="spark"') == 6 * 5
    words = " ".join(" ".join(page.words).split())
    assert "3 alarms" in words
    assert "no <gradient>" in words
    assert "40, 50" in words
    assert words.index("40, 50") > words.index("odd")  # without a step: first


def test_a_thousand_layers_fit_on_a_page_by_block(tmp_path: Path):
    record(tmp_path / "run", 1000, 0, steps=20)
    document = report.write(tmp_path / "run", tmp_path / "run.html").read_text("utf-8")
    assert len(document.encode()) < MAX_BYTES
    assert "a block of layers" in document
    page = Page(document)
    assert len(page.ids) == len(set(page.ids))


def test_two_runs_are_one_page(folder: Path, tmp_path: Path):
    other = record(tmp_path / "other", 6, 1)
    path, found = report.write_diff(folder, other, tmp_path / "diff.html")
    document = path.read_text("utf-8")
    page = Page(document)
    assert page.loads == ["data:,"]  # no icon, said so that a browser does not ask for one
    assert len(page.ids) == len(set(page.ids))
    assert found.first is not None
    assert found.first.step == 1
    assert "They differ from the first step on" in document
    assert len(document.encode()) < MAX_BYTES
    assert document.count('class="panel heat"') % 3 == 0
