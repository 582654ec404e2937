"""Histograms read from a run, against one that is counted by hand, and their pictures."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stepscope import report
from stepscope.report.distributions import Distribution, Joint, pictures, read
from stepscope.report.source import load
from stepscope.store import Run, RunWriter

LAYERS, STEPS = ("a", "b"), range(1, 41)


def numbers(step: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Two quantities of 50 coordinates: what a histogram is made of."""
    dice = np.random.default_rng([step, LAYERS.index(layer)])
    spread = np.exp2(dice.uniform(-2, 3, 50))
    return spread, 1 / np.sqrt(1 + spread**2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells that are 0 are left out, as a scope does it; layer b has its rows at every second step."""
    folder = tmp_path_factory.mktemp("runs") / "histograms"
    with RunWriter(folder) as run:
        for step in STEPS:
            for layer in LAYERS[: 1 + (step % 2 == 0)]:
                spread, update = numbers(step, layer)
                octaves = Counter(np.floor(np.log2(spread)).astype(int).tolist())
                pairs = Counter(
                    zip(*(np.floor(np.log2(x)).astype(int).tolist() for x in (spread, update)), strict=True)
                )
                run.write(step, layer, {f"spread_octave[{k}]": n / 50 for k, n in octaves.items()})
                run.write(step, layer, {f"spread_update[{a},{b}]": n / 50 for (a, b), n in pairs.items()})
                run.write(step, layer, {"grad_norm": 1.0})
    return folder


def test_shares_are_means_over_rows_with_what_was_left_out_as_nothing(folder: Path):
    octaves, joint = read(Run(folder))
    assert isinstance(octaves, Distribution)
    assert isinstance(joint, Joint)
    assert (octaves.column, joint.column) == ("spread_octave", "spread_update")
    assert octaves.edges[0] == 1
    assert octaves.edges[-1] == 41
    buckets = len(octaves.edges) - 1
    assert np.allclose(octaves.shares.sum(axis=0), 1)  # each coordinate is somewhere
    for bucket in range(buckets):
        steps = [step for step in STEPS if octaves.edges[bucket] <= step < octaves.edges[bucket + 1]]
        rows = [numbers(step, layer)[0] for step in steps for layer in LAYERS[: 1 + (step % 2 == 0)]]
        for place, octave in enumerate(octaves.octaves):
            share = math.fsum(sum(2.0**octave <= x < 2.0 ** (octave + 1) for x in row) / 50 for row in rows) / len(rows)
            assert octaves.shares[place, bucket] == pytest.approx(share, abs=1e-12)
    rows = [numbers(step, layer) for step in STEPS for layer in LAYERS[: 1 + (step % 2 == 0)]]
    for i, a in enumerate(joint.rows):
        for j, b in enumerate(joint.columns):
            inside = sum(
                2.0**a <= x < 2.0 ** (a + 1) and 2.0**b <= y < 2.0 ** (b + 1)
                for row in rows
                for x, y in zip(*row, strict=True)
            )
            assert joint.shares[i, j] == pytest.approx(inside / 50 / len(rows), abs=1e-12)
    assert joint.steps == 40


def test_a_span_and_a_run_without_histograms(folder: Path, tmp_path: Path):
    octaves, joint = read(Run(folder), (11, 20))
    assert isinstance(octaves, Distribution)
    assert isinstance(joint, Joint)
    assert octaves.edges[[0, -1]].tolist() == [11, 21]
    assert joint.steps == 10
    with RunWriter(tmp_path / "plain") as run:
        run.write(1, "a", {"grad_norm": 1.0})
    assert read(Run(tmp_path / "plain")) == []


def test_the_theoretical_curve_runs_through_the_cells(folder: Path):
    """The coordinates lie on it: each of its points is in a cell that is not empty, or at the border of one."""
    (joint,) = (one for one in read(Run(folder)) if isinstance(one, Joint))
    ((_, picture),) = pictures([joint])
    found = re.search(r'<polyline points="([^"]*)"', picture)
    assert found is not None
    across, up = 300 / len(joint.rows), 300 / len(joint.columns)
    for point in found[1].split():
        x, y = map(float, point.split(","))
        i, j = (x - 60) / across, (322 - y) / up
        near = {(round(i + di - 0.5), round(j + dj - 0.5)) for di in (-0.1, 0, 0.1) for dj in (-0.1, 0, 0.1)}
        shares = [joint.shares[a, b] for a, b in near if 0 <= a < len(joint.rows) and 0 <= b < len(joint.columns)]
        assert max(shares) > 0, point


def test_the_page_of_a_run_shows_them(folder: Path, tmp_path: Path):
    document = report.write(folder, tmp_path / "run.html").read_text("utf-8")
    assert "Over the coordinates" in document
    assert document.count('<svg class="panel joint"') == 1
    assert "the theoretical step 1/sqrt(1 + spread^2)" in document
    assert re.search(r'class="panel heat" id="distribution-0"[^>]*aria-label="spread_octave: ', document)
    assert len(load(folder).distributions) == 2
