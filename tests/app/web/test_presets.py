"""The presets' numbers are the engine's, and show what their texts say."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, expect, final, scene, seek, table, until

from stepscope import simulate

PRESETS = [
    "tutorial",
    "theta-squared",
    "line-fit",
    "smooth-valley",
    "sharp-valley",
    "burst",
    "saddle",
    "flat",
    "spread",
    "dissected",
    "rotated",
]


@pytest.fixture
def page(visit: Callable[..., Any], play: Server) -> Any:
    return at_rest(visit(play.address).page)


def engine(now: dict[str, Any], k: int, steps: int) -> simulate.Trajectory:
    one = now["methods"][k]
    noise = None if now["noise"] == "none" else now["noise"]
    return simulate.run(
        one["rule"], now["landscape"], start=now["start"], steps=steps, every=max(1, steps), noise=noise,
        sigma=now["sigma"] if noise else 0.0, seed=now["seed"], **now["params"], **one["hyper"],
    )  # fmt: skip


def shown(page: Any, preset: str) -> list[dict[str, float]]:
    """The table of losses of a preset that is not the one shown."""
    if scene(page)["preset"] != preset:
        page.select_option("#preset", preset)
        until(page, f"window.stepscope.scene().preset === '{preset}'")
        at_rest(page)
    return table(page)


def test_the_list_is_complete(page: Any):
    names = page.eval_on_selector_all("#preset option", "all => all.map(o => o.value).filter(Boolean)")
    assert names == PRESETS


def test_every_preset_has_the_engines_numbers(page: Any):
    """To 1e-9 of the path's size: step scalars of the browser are a few ulp off for rules with one beta.

    After the burst the last bit decides the path, so it is compared before.
    """
    for preset in PRESETS:
        shown(page, preset)
        now = scene(page)
        steps = min(now["steps"], 20_000)
        seek(page, steps)
        for k, row in enumerate(table(page)):
            path = engine(now, k, steps)
            size = np.abs(path.theta).max()
            point = [row[f"theta.{i}"] for i in range(len(now["start"]))]
            np.testing.assert_allclose(point, path.theta[-1], rtol=1e-9, atol=1e-9 * size, err_msg=f"{preset} {k}")
        expect(page.locator("#preset-text")).to_have_text(re.compile(r"\..*\."))
        expect(page.locator("#preset-source")).to_have_text(re.compile("."))


def test_817_steps_do_not_minimise_theta_squared(page: Any):
    shown(page, "theta-squared")
    assert scene(page)["at"] == 817
    assert table(page)[0]["theta.0"] > 4


def test_the_step_counts_of_the_texts(page: Any):
    """Of the valleys and the saddle: the step that a preset opens at is the one its text names."""
    for preset, far in (("smooth-valley", 1e-3), ("sharp-valley", 1e-3)):
        row = shown(page, preset)[3]
        assert np.hypot(row["theta.0"], row["theta.1"]) <= far
        seek(page, scene(page)["at"] - 1)
        row = table(page)[3]
        assert np.hypot(row["theta.0"], row["theta.1"]) > far
    shown(page, "saddle")
    for method, step in ((0, 4608), (2, 131), (3, 627)):
        seek(page, step)
        assert abs(table(page)[method]["theta.0"]) > 1
        seek(page, step - 1)
        assert abs(table(page)[method]["theta.0"]) <= 1


def test_the_other_numbers_of_the_texts(page: Any):
    shown(page, "flat")
    seek(page, 250)
    rates = [(row["theta.0"] - 1) / 1e-3 for row in table(page)]
    assert rates[:2] == [pytest.approx(1, abs=0.1), pytest.approx(70, abs=1)]
    assert rates[3] == pytest.approx(11, abs=0.5)
    assert shown(page, "rotated")[0]["loss"] == pytest.approx(0.41, abs=0.01)
    page.get_by_label("angle", exact=True).fill("0")
    at_rest(page)
    assert table(page)[0]["loss"] == pytest.approx(3.8e-6, rel=0.01)


def test_the_burst_is_there(page: Any):
    shown(page, "burst")
    seek(page, 20_000)
    quiet = abs(table(page)[0]["theta.0"])
    seek(page, 21_400)
    assert abs(table(page)[0]["theta.0"]) > 1e6 * quiet
    assert len(final(page)) == 1
