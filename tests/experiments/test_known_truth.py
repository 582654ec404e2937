"""Problems whose answer follows from how they are made: the verdict has to be that answer."""

import functools
from pathlib import Path
from typing import Any

import pytest

from stepscope.experiments import dissect


@pytest.fixture
def verdict(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Dissect a problem of quadratics.py with 4 seeds; the effects by (Adam cell, outcome, effect)."""

    def run(name: str) -> tuple[dict[tuple[str, str, str], dict[str, Any]], str]:
        spec = f"{request.path.parent / 'quadratics.py'}:{name}"
        results = dissect(spec, seeds=4, budget=6, out=tmp_path / "out", record_every=50).results
        effects = {(row["adam_cell"], row["outcome"], row["effect"]): row for row in results["effects"]}
        return effects, results["verdict"]["headline"]

    return functools.cache(run)


def test_the_sign_helps_where_curvatures_differ_along_the_axes(verdict):
    """One direction of curvature 1, 599 of 3e-4, noisy gradients, 100 steps.

    Steps along the gradient are stable for lr < 2 (1 + beta) / (1 - beta) = 38 at most, so after 100 steps with
    lr = 10 the flat directions, 599 * 3e-4 / 2 = 0.09 of the loss at the start, keep exp(-2 * 100 * 10 * 3e-4) = 0.55
    of theirs: 0.049. A sign moves every coordinate by lr: 100 steps of 0.05 cross a distance of N(0, 1) in every
    direction alike, and leave 0.05^2 (0.09 + 0.5) = 0.0015 or so. Expected factor: about 1/30, or less.
    """
    effects, headline = verdict("sign_helps")
    for cell in ("adam", "adam_one_beta"):
        for outcome in ("train_loss", "test_loss"):
            sign = effects[cell, outcome, "sign"]
            assert sign["verdict"] == "helps"
            assert sign["high"] < 1 / 10
    assert "taking the sign helps" in headline or "the sign is the ingredient that matters" in headline


def test_the_sign_hurts_where_the_gradient_points_to_the_minimum(verdict):
    """Curvature 1 everywhere, no noise: the gradient is the way to the minimum.

    M-SGD with lr = 1 shrinks the distance by sqrt(beta) a step, so by 0.9^50 = 0.005 in 100 steps, and the loss by the
    square of that. The sign of m keeps the length of a step whatever the distance, and lr has to be about 0.03 to get
    there at all: the loss stays at some 0.03^2 for each coordinate. (Adapting to the variance shortens the steps.)
    """
    effects, headline = verdict("sign_hurts")
    for cell in ("adam", "adam_one_beta"):
        sign = effects[cell, "train_loss", "sign"]
        assert sign["verdict"] == "hurts"
        assert sign["low"] > 10
    assert "taking the sign hurts" in headline or "the sign is the ingredient that matters" in headline


def test_without_a_gradient_nothing_makes_a_difference(verdict):
    """The model's output does not depend on its parameters: every run of a seed is the same, to the bit."""
    effects, headline = verdict("nothing_matters")
    assert {row["verdict"] for row in effects.values()} == {"no difference"}
    assert {(row["estimate"], row["low"], row["high"], row["p_holm"]) for row in effects.values()} == {(1, 1, 1, 1)}
    assert headline.startswith("On no gradient, neither the sign nor variance adaptation makes more than a negligible")


def test_where_there_is_little_to_gain_nothing_is_said_to_matter(verdict):
    """30 directions of curvature 1 with noise of variance 1: no theta has a loss below 15, and training starts at
    15 + 30 * 0.1^2 / 2 = 15.15. A stable run ends between the two, so every effect lies within 2 %, whoever wins.
    """
    effects, headline = verdict("little_matters")
    for row in effects.values():
        assert row["verdict"] != "cannot tell"
        assert 1 / 1.05 < row["low"] <= row["high"] < 1.05
    assert "neither the sign nor variance adaptation makes more than a negligible" in headline
