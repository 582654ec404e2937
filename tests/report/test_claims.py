"""Figures of claims: every kind of series is drawn, into all three formats."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepscope.experiments.claims.figure import Band, Figure, Levels, Line, Map, Panel, Points
from stepscope.report.claims import draw, write_figure

T = np.arange(1, 30)
GRID = np.linspace(-1, 1, 12)
FIGURE = Figure(
    [
        Panel(
            (Line(T, 1 / T, "a"), Line(T, T * 0.1, "b", accent=True), Band(T, 0.5 / T, 2 / T)),
            "lines",
            "step",
            "loss",
            x_log=True,
            y_log=True,
        ),
        Panel((Points(T, T**2, "c", value=T), Points(T, T, "d")), "points"),
        Panel((Map(GRID, GRID, np.add.outer(GRID, GRID) > 0, names=("no", "yes")),), "categories", scale="equal"),
        Panel((Map(GRID, GRID, np.exp(np.add.outer(GRID, GRID)), "loss", log=True),), "values", x_range=(-1, 0)),
        Panel((Levels(GRID, GRID, np.add.outer(GRID**2, GRID**2)), Line(GRID, GRID)), "contours", y_range=(-1, 1)),
    ],
    "Everything at once.",
    3,
)


def test_three_formats_and_a_caption(tmp_path: Path):
    paths = write_figure(FIGURE, tmp_path)
    assert [p.suffix for p in paths] == [".pdf", ".svg", ".png"]
    assert paths[0].read_bytes().startswith(b"%PDF")
    assert "<svg" in paths[1].read_text()
    assert (tmp_path / "caption.txt").read_text() == "Everything at once.\n"
    colours = len(np.unique(np.asarray(Image.open(paths[2]).convert("RGB")).reshape(-1, 3), axis=0))
    assert colours > 50


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = write_figure(FIGURE, tmp_path / "a"), write_figure(FIGURE, tmp_path / "b")
    assert [x.read_bytes() for x in a] == [x.read_bytes() for x in b]


def test_axes_say_what_the_panel_says():
    canvas = draw(FIGURE)
    first, third = canvas.axes[0], canvas.axes[2]
    assert (first.get_xscale(), first.get_yscale(), first.get_xlabel()) == ("log", "log", "step")
    assert third.get_aspect() == 1
    assert [t.get_text() for t in first.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize("values", [np.full((12, 12), np.nan), np.zeros((12, 12))])
def test_a_map_without_positive_values_can_be_drawn(values):
    draw(Figure([Panel((Map(GRID, GRID, values, log=True),))], ""))
