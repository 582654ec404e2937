"""Phase diagrams and basins: what is drawn is what a sweep computes, and a click loads it into the player."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, expect, final, press, scene, settled, until

from stepscope import simulate

Visitor = Callable[..., Any]


@pytest.fixture
def page(visit: Visitor, play: Server) -> Any:
    page = at_rest(visit(play.address).page)
    page.click("#tab-maps")
    return page


def drawn(page: Any, size: int) -> None:
    settled(page)
    expect(page.locator("#phase")).to_have_attribute("data-done", str(size))


def test_a_phase_diagram_appears_and_a_click_loads_its_setting(page: Any):
    page.select_option("#size", "64")
    drawn(page, 64)
    expect(page.locator("#map-said")).to_contain_text("64 × 64 paths of 1,000 steps")
    box = page.locator("#phase").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.7)
    expect(page.locator("#map-said")).to_have_text(re.compile("^start x "))
    told = page.inner_text("#map-said")
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.7)
    at_rest(page)
    now = scene(page)
    assert now["tab"] == "player"
    assert now["steps"] == 1000
    rate = now["methods"][3]["hyper"]["lr"]
    assert 1e-4 < rate < 1
    path = simulate.run("adam", "ellipse", start=now["start"], lr=rate, kappa=190, steps=1000)
    assert final(page)[3][:2] == path.theta[-1].tolist()
    # and that loss is the one the map showed there, to the four digits it shows
    shown = float(told.rsplit(": ", 1)[1].replace("−", "-"))
    assert shown == pytest.approx(path.loss[-1], rel=2e-3)


def test_every_quantity(page: Any):
    page.select_option("#size", "64")
    drawn(page, 64)
    for quantity in ("min_loss", "first_inside", "diverged_at", "period", "basin", "winner", "loss"):
        before = page.evaluate("window.stepscope.maps().whole")
        page.select_option("#quantity", quantity)
        until(page, f"window.stepscope.maps().whole !== {before}")
        assert scene(page)["map"]["quantity"] == quantity
        expect(page.locator("#map-legend")).to_have_text(re.compile("."))


def test_basins_and_winners_have_their_buttons(page: Any):
    page.select_option("#size", "64")
    page.get_by_text("Basins over the map").click()
    assert scene(page)["map"]["x"]["name"] == "start.x"
    assert scene(page)["map"]["y"]["name"] == "start.y"
    page.get_by_text("Who wins where").click()
    expect(page.locator("#map-legend")).to_contain_text("RMSProp")
    page.get_by_text("Phase diagram: start × rate").click()
    assert scene(page)["map"]["y"] == {"name": "lr", "low": 1e-4, "high": 1, "log": True}


def test_axes_can_be_any_two_numbers(page: Any):
    page.select_option("#size", "64")
    page.select_option("#axis-x", "beta1")
    page.select_option("#axis-y", "kappa")
    page.get_by_label("across: to").fill("0.9")
    settled(page)
    expect(page.locator("#map-said")).to_have_text(re.compile("^64 × 64 paths .* s$"))
    assert scene(page)["map"]["x"] == {"name": "beta1", "low": 0, "high": 0.9, "log": False}
    page.get_by_label("across: from").fill("0.95")  # an empty range
    expect(page.locator("#map-said")).to_contain_text("range of beta1 is empty")


def test_the_keyboard_moves_the_cross_and_loads(page: Any):
    page.select_option("#size", "64")
    drawn(page, 64)
    page.focus("#phase")
    press(page, "ArrowUp", "Shift+ArrowLeft")
    expect(page.locator("#map-said")).to_have_text(re.compile("^start x"))
    press(page, "Enter")
    assert scene(page)["tab"] == "player"


def test_a_new_wish_replaces_the_old_one(page: Any):
    """A map that takes long is given up by the browser, and by the server: the next one does not wait for it."""
    page.select_option("#size", "512")
    page.fill("#map-steps", "60000")
    expect(page.locator("#map-said")).to_have_text("computing …")
    page.wait_for_timeout(500)
    page.select_option("#size", "64")
    begun = time.monotonic()
    page.fill("#map-steps", "100")
    expect(page.locator("#map-said")).to_contain_text("64 × 64 paths of 100 steps", timeout=30_000)
    assert time.monotonic() - begun < 25  # the whole 512 map takes a minute on two free cores
