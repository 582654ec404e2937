"""How near a step is to the largest stable one: closed forms, and where Adam's burst begins."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, expect, number, scene, seek, settled

from stepscope import simulate


@pytest.fixture
def page(visit: Callable[..., Any], play: Server) -> Any:
    return at_rest(visit(play.address).page)


def test_the_share_of_the_stable_step_is_what_theory_says(page: Any):
    """On the tutorial's ravine the largest curvature is kappa = 190: SGD at 0.01 is at 190 * 0.01 / 2 of its limit, and
    momentum 0.9 at half of that over 1.9. Scaled curvatures are exact but for rounding."""
    for method, expected in (("0", 0.95), ("1", 0.5)):
        page.select_option("#inner-method", method)
        assert number(page, "stability") == pytest.approx(expected, rel=1e-12)
        expect(page.locator("#stability")).to_be_visible()


def test_adam_crosses_its_limit_where_the_burst_begins(page: Any):
    """2 lr / (sqrt(v) + eps) passes (2 + 2 * 0.9) / (1 - 0.9) = 38 at step 20,210, and the burst follows."""
    page.select_option("#preset", "burst")
    at_rest(page)
    path = simulate.run("adam", "x^2", start=[0.9], steps=20_500, lr=1e-3, record=("exp_avg_sq",))
    v = path["exp_avg_sq"][:, 0]
    ours = 2e-3 / (np.sqrt(v) + 1e-8) / 38  # v is no longer corrected here: 0.999^20000 = 2e-9
    crossed = int(np.argmax(ours[1000:] > 1)) + 1000
    for step in (crossed - 200, crossed + 200):
        seek(page, step)
        assert number(page, "stability") == pytest.approx(ours[step + 1], rel=2e-3)
        assert (number(page, "stability") > 1) == (step > crossed)


def test_the_unstable_region_is_tinted(page: Any):
    """x^4 + y^4 at rate 0.1: 12 x^2 * 0.1 > 2 outside |x|, |y| <= 1.29, of a 4 x 4 view 1 - (1.29 / 2)^2 = 0.583; the
    map is asked at 48 x 48 places, of which a row is 1/48 of it."""
    page.select_option("#landscape", label="own formula…")
    page.fill("#formula", "x^4 + y^4")
    page.press("#formula", "Enter")
    at_rest(page)
    page.select_option("#inner-method", "0")
    page.check("#unstable")
    share = settled(page).get_attribute("#map", "data-unstable")
    view = scene(page)["view"]
    (low, high), _ = view
    rate = scene(page)["methods"][0]["hyper"]["lr"]
    edge = (2 / (12 * rate)) ** 0.5
    inside = min(edge, high) - max(-edge, low)
    assert float(share) == pytest.approx(1 - (inside / (high - low)) ** 2, abs=2 / 48)
    page.uncheck("#unstable")
    assert settled(page).get_attribute("#map", "data-unstable") is None
