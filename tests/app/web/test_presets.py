"""The presets' numbers are the engine's, and show what their texts say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, final, scene, seek, table

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


def test_the_list_is_complete(page: Any):
    shown = page.eval_on_selector_all("#preset option", "all => all.map(o => o.value).filter(Boolean)")
    assert shown == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_engines_numbers(page: Any, preset: str):
    """To 1e-9 of the path's size: step scalars of the browser are a few ulp off for rules with one beta.

    After the burst the last bit decides the path, so it is compared before.
    """
    page.select_option("#preset", preset)
    page.wait_for_function(f"window.stepscope.scene().preset === '{preset}'")
    at_rest(page)
    now = scene(page)
    steps = min(now["steps"], 20_000)
    seek(page, steps)
    for k, row in enumerate(table(page)):
        path = engine(now, k, steps)
        size = np.abs(path.theta).max()
        shown = [row[f"theta.{i}"] for i in range(len(now["start"]))]
        np.testing.assert_allclose(shown, path.theta[-1], rtol=1e-9, atol=1e-9 * size, err_msg=f"{preset} {k}")
    assert page.inner_text("#preset-text").count(".") >= 2
    assert page.inner_text(".source")


def test_817_steps_do_not_minimise_theta_squared(page: Any):
    page.select_option("#preset", "theta-squared")
    page.wait_for_function("window.stepscope.scene().preset === 'theta-squared'")
    at_rest(page)
    assert scene(page)["at"] == 817
    assert table(page)[0]["theta.0"] > 4


def test_adam_enters_the_ball_after_3113_steps(page: Any):
    """The number that [kaiser, Sec. 6] prints."""
    page.select_option("#preset", "smooth-valley")
    page.wait_for_function("window.stepscope.scene().preset === 'smooth-valley'")
    at_rest(page)
    for step, inside in ((3112, False), (3113, True)):
        seek(page, step)
        row = table(page)[3]
        assert (np.hypot(row["theta.0"], row["theta.1"]) <= 1e-3) == inside


def test_the_burst_is_there(page: Any):
    page.select_option("#preset", "burst")
    page.wait_for_function("window.stepscope.scene().preset === 'burst'")
    at_rest(page)
    seek(page, 20_000)
    quiet = abs(table(page)[0]["theta.0"])
    seek(page, 21_400)
    assert abs(table(page)[0]["theta.0"]) > 1e6 * quiet
    assert len(final(page)) == 1
