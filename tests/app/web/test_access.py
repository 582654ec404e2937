"""Phone width, keyboard alone, and the accessibility checker axe."""

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from tests.app.serving import Server
from tests.app.web.playing import at_rest, expect, press, scene, settled, until

Visitor = Callable[..., Any]


def findings(page: Any) -> list[str]:
    """What axe finds serious or critical."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(visit: Visitor, play: Server, dark: bool):
    page = at_rest(visit(play.address, dark=dark).page)
    for details in page.locator("details").all():
        details.evaluate("one => one.open = true")
    page.select_option("#noise", "additive")
    for tab in ("player", "maps"):
        page.click(f"#tab-{tab}")
        settled(page)
        assert findings(page) == []


def test_axe_would_find_something(visit: Visitor, play: Server):
    page = at_rest(visit(play.address).page)
    page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<input><img src=\"data:,\"><p>x</p>')"
    )
    assert len(findings(page)) >= 2


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_sticks_out_on_a_phone(visit: Visitor, play: Server, width: int):
    page = at_rest(visit(play.address, width=width, height=800).page)
    for tab in ("player", "maps"):
        page.click(f"#tab-{tab}")
        for details in page.locator("details").all():
            details.evaluate("one => one.open = true")
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.eval_on_selector_all(
            "button, select, input:not([type=checkbox]):not([type=range]), summary",
            """all => all.filter(e => e.offsetParent && e.getBoundingClientRect().height < 24)
              .map(e => e.outerHTML.slice(0, 80))""",
        )
        assert small == []


def test_touch_drags_the_start_and_turns_the_surface(visit: Visitor, play: Server):
    page = at_rest(visit(play.address, width=390, height=844, solid=True, has_touch=True, is_mobile=True).page)
    session = page.context.new_cdp_session(page)

    def touch(selector: str, path: list[tuple[float, float]]) -> None:
        page.locator(selector).scroll_into_view_if_needed()
        box = page.locator(selector).bounding_box()
        for i, (x, y) in enumerate(path):
            kind = "touchStart" if i == 0 else "touchMove"
            points = [{"x": box["x"] + x, "y": box["y"] + y}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    box = page.locator("#map").bounding_box()
    w, h = box["width"] - 54, box["height"] - 34
    x, y = 46 + 3.6 / 4 * w, 8 + h - 3.8 / 4 * h
    touch("#map", [(x, y), (x - 30, y + 40), (x - 60, y + 80)])
    until(page, "window.stepscope.scene().start[0] !== 1.6")
    touch("#surface", [(100, 100), (140, 110), (180, 130)])
    expect(page.locator("#surface")).to_have_attribute("data-turn", re.compile("."))


def test_everything_is_reached_and_moved_by_the_keyboard_alone(visit: Visitor, play: Server):
    page = at_rest(visit(play.address).page)
    reached: set[str] = set()
    for _ in range(140):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const e = document.activeElement; return e.id || e.getAttribute('aria-label') || e.tagName; }"
        )
        if focused == "BODY":
            break
        reached.add(focused)
    wanted = (
        "theme tab-player preset landscape start-x start-y steps noise shared lr add-method map to-start back "
        "play forth to-end at scrub speed loss-x loss-log inner-method inner-coordinate log-steps copy-link "
        "copy-python save-png save-svg save-loss save-csv save-film open-csv save-html"
    )
    assert set(wanted.split()) - reached == set()
    page.focus("#map")
    press(page, "ArrowRight", "Shift+ArrowDown")
    assert scene(page)["start"] == [1.64, 1.4]
    press(page, "+")
    assert scene(page)["view"][0] == [pytest.approx(-1.4), pytest.approx(1.4)]
    press(page, "0")
    assert scene(page)["view"][0] == [-2, 2]
    page.evaluate("document.activeElement.blur()")
    press(page, "Home")
    assert scene(page)["at"] == 0
    press(page, "ArrowRight", "Shift+ArrowRight", "ArrowLeft")
    assert scene(page)["at"] == 10
    press(page, "End")
    assert scene(page)["at"] == 600
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    until(page, "window.stepscope.scene().at > 0")
    page.keyboard.press("Space")
    page.focus("#tab-player")
    press(page, "ArrowRight")
    assert scene(page)["tab"] == "maps"


def test_less_motion_is_respected(visit: Visitor, play: Server):
    page = at_rest(visit(play.address, reduced_motion="reduce").page)
    running = "document.getAnimations().filter(a => a.playState === 'running').length"
    page.click("#play")
    assert page.evaluate(running) == 0


def test_canvases_say_what_they_show(visit: Visitor, play: Server):
    page = at_rest(visit(play.address).page)
    labels = page.eval_on_selector_all("canvas", "all => all.map(c => c.getAttribute('aria-label'))")
    assert all(labels)
    expect(page.locator("#map")).to_have_attribute("aria-description", re.compile("lowest loss"))
