"""Every control of the playground does what it says, in a real browser, with the engine's numbers."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.app.serving import Server, served
from tests.app.web.playing import at_rest, expect, final, number, press, scene, seek, settled, table, until

from stepscope import simulate

Visitor = Callable[..., Any]


@pytest.fixture
def page(visit: Visitor, play: Server) -> Any:
    return at_rest(visit(play.address).page)


def choose(page: Any, rule_or_text: str, selector: str = "#landscape") -> None:
    page.select_option(selector, rule_or_text)
    at_rest(page)


def test_it_begins_with_the_tutorials_scene(page: Any):
    now = scene(page)
    assert now["preset"] == "tutorial"
    assert [one["rule"] for one in now["methods"]] == ["sgd", "heavy_ball", "rmsprop", "adam"]
    assert {one["hyper"]["lr"] for one in now["methods"]} == {0.01}
    expect(page.locator("#losses tbody tr")).to_have_count(4)


def test_the_table_shows_the_engines_numbers_at_any_step(page: Any):
    """Bit for bit: the rules here need no step scalar but Adam's, and those agree at these steps."""
    for step in (0, 1, 7, 150, 600):
        seek(page, step)
        for row, one in zip(table(page), scene(page)["methods"], strict=True):
            path = simulate.run(one["rule"], "ellipse", start=(1.6, 1.8), steps=step, kappa=190, **one["hyper"])
            assert row["loss"] == path.loss[-1]
            assert [row["theta.0"], row["theta.1"]] == path.theta[-1].tolist()


def test_the_inside_of_a_step_is_the_engines(page: Any):
    seek(page, 12)
    for coordinate, variable in enumerate("xy"):
        page.select_option("#inner-coordinate", str(coordinate))
        expect(page.locator("#inner-title")).to_have_text(re.compile(f"{variable}$"))
        path = simulate.run("adam", "ellipse", start=(1.6, 1.8), steps=12, kappa=190, lr=0.01)
        for name in ("theta", "g", "exp_avg", "exp_avg_sq", "mean", "spread", "direction", "factor", "update"):
            assert number(page, name) == path[name][12, coordinate], name
        assert number(page, "bias1") == 1 / (1 - 0.9**13)
        assert number(page, "bias2") == 1 / (1 - 0.999**13)
        second = path["variance"][12, coordinate] + path["mean"][12, coordinate] ** 2
        assert number(page, "second") == pytest.approx(math.sqrt(second), rel=1e-15)  # two roundings apart


def test_the_bias_corrections_begin_at_ten_and_a_thousand(page: Any):
    seek(page, 0)
    assert number(page, "bias1") == pytest.approx(10)
    assert number(page, "bias2") == pytest.approx(1000)


def test_direction_and_size_are_shown_as_arrows(page: Any):
    expect(page.locator(".arrows svg")).to_have_attribute("aria-label", re.compile("^Direction "))
    expect(page.locator(".arrows svg path")).to_have_count(3)
    for method, name in enumerate(("SGD", "Momentum", "RMSProp")):
        page.select_option("#inner-method", str(method))
        expect(page.locator("#inner-title")).to_contain_text(name)
        assert scene(page)["method"] == method


def test_every_landscape_can_be_chosen(page: Any):
    """The last point of each path is the engine's; all points of all rules are compared in simulate/test_javascript."""
    for landscape, place in simulate.LANDSCAPES.items():
        choose(page, landscape)
        until(page, f"window.stepscope.scene().landscape === '{landscape}'")
        at_rest(page)
        now = scene(page)
        assert now["start"] == list(place.start)
        for row, one in zip(final(page), now["methods"], strict=True):
            path = simulate.run(one["rule"], landscape, steps=now["steps"], every=now["steps"], **one["hyper"])
            np.testing.assert_array_equal(row[: len(place.variables)], path.theta[-1], err_msg=landscape)
            np.testing.assert_array_equal(row[-1], path.loss[-1], err_msg=landscape)


def test_a_formula_of_ones_own(page: Any):
    choose(page, "own formula…")
    page.fill("#formula", "x^2 + 3|y| + sin(4x)")
    until(page, "window.stepscope.scene().landscape === 'x^2 + 3|y| + sin(4x)'")
    at_rest(page)
    now = scene(page)
    path = simulate.run("adam", "x^2 + 3|y| + sin(4x)", steps=now["steps"], lr=0.01)
    assert final(page)[3][:2] == path.theta[-1].tolist()
    # the controls follow while the formula keeps the focus and what was typed
    expect(page.get_by_label("kappa", exact=True)).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "formula"
    page.keyboard.type(" + 1")
    until(page, "window.stepscope.scene().landscape === 'x^2 + 3|y| + sin(4x) + 1'")
    expect(page.locator("#formula")).to_have_value("x^2 + 3|y| + sin(4x) + 1")
    page.fill("#formula", "x^2")
    until(page, "window.stepscope.scene().start.length === 1")
    expect(page.locator("#start-y")).to_have_count(0)


def test_a_mistake_in_a_formula_is_shown_under_its_character(page: Any):
    choose(page, "own formula…")
    until(page, "window.stepscope.scene().landscape.includes('sin')")
    before = scene(page)["landscape"]
    for text, problem, place in (
        ("x^2 + foo(y)", "'foo' is not known", 6),
        ("x^2 + * y", "a value should stand before '*'", 6),
        ("(x + y", "')' is missing", 6),
        ("x + __import__(y)", "'__import__' is not known", 4),
    ):
        page.fill("#formula", text)
        expect(page.locator("#formula-problem")).to_contain_text(problem)
        echoed, caret = page.text_content("#formula-problem").split("\n")[:2]
        assert echoed == text
        assert caret.index("^") == place
        expect(page.locator("#formula")).to_have_attribute("aria-invalid", "true")
        assert scene(page)["landscape"] == before
    page.fill("#formula", "x^2 + y^2")
    expect(page.locator("#formula-problem")).to_be_empty()


def drag(page: Any, selector: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
    box = page.locator(selector).bounding_box()
    page.mouse.move(box["x"] + begin[0], box["y"] + begin[1])
    page.mouse.down()
    page.mouse.move(box["x"] + (begin[0] + end[0]) / 2, box["y"] + (begin[1] + end[1]) / 2)
    page.mouse.move(box["x"] + end[0], box["y"] + end[1])
    page.mouse.up()


def place_of(page: Any, x: float, y: float) -> tuple[float, float]:
    """Pixels of a point on the map (margins as the map draws them)."""
    box = page.locator("#map").bounding_box()
    (x0, x1), (y0, y1) = scene(page)["view"]
    w, h = box["width"] - 54, box["height"] - 34
    return 46 + (x - x0) / (x1 - x0) * w, 8 + h - (y - y0) / (y1 - y0) * h


def test_the_start_can_be_dragged(page: Any):
    drag(page, "#map", place_of(page, 1.6, 1.8), place_of(page, -1.0, 0.5))
    at_rest(page)
    x, y = scene(page)["start"]
    assert (x, y) == (pytest.approx(-1.0, abs=0.02), pytest.approx(0.5, abs=0.02))
    expect(page.locator("#start-x")).to_have_value(str(x))
    wanted = simulate.run("adam", "ellipse", start=(x, y), kappa=190, lr=0.01, steps=600)
    assert final(page)[3][:2] == wanted.theta[-1].tolist()


def test_dragging_elsewhere_moves_the_view_and_the_buttons_zoom(page: Any):
    before = scene(page)["view"]
    drag(page, "#map", (200, 250), (260, 250))
    assert scene(page)["view"][0][0] < before[0][0]
    assert scene(page)["start"] == [1.6, 1.8]
    page.click("button[aria-label='Zoom in']")
    assert np.diff(scene(page)["view"])[0] == pytest.approx(0.7 * 4)
    page.click("button[aria-label='Show everything']")
    assert scene(page)["view"] == [[-2, 2], [-2, 2]]


def test_a_double_click_sets_the_start(page: Any):
    x, y = place_of(page, 0.5, -1.0)
    page.dblclick("#map", position={"x": x, "y": y})
    assert scene(page)["start"] == [pytest.approx(0.5, abs=0.02), pytest.approx(-1.0, abs=0.02)]


def test_exact_fields_and_sliders_agree(page: Any):
    page.fill("#lr", "0.02")
    at_rest(page)
    assert {one["hyper"]["lr"] for one in scene(page)["methods"]} == {0.02}
    slider = page.locator("input[type=range][aria-label='learning rate (slider)']")
    expect(slider).to_have_attribute("aria-valuetext", "0.02")
    slider.focus()
    press(page, "ArrowRight")
    rate = float(page.input_value("#lr"))
    assert 0.02 < rate < 0.021
    assert {one["hyper"]["lr"] for one in scene(page)["methods"]} == {rate}
    at_rest(page)
    wanted = simulate.run("sgd", "ellipse", start=(1.6, 1.8), kappa=190, lr=rate, steps=600)
    assert final(page)[0][:2] == wanted.theta[-1].tolist()


def test_each_number_of_a_method(page: Any):
    numbers = {"lr": 0.01}
    for name, value in {"beta1": 0.5, "beta2": 0.99, "eps": 0.1}.items():
        page.fill(f"[data-hyper='3.{name}']", str(value))
        at_rest(page)
        numbers[name] = value
        wanted = simulate.run("adam", "ellipse", start=(1.6, 1.8), kappa=190, steps=600, **numbers)
        np.testing.assert_allclose(final(page)[3][:2], wanted.theta[-1], rtol=1e-9)  # pow may differ by an ulp


def test_a_number_out_of_range_is_refused_beside_it(page: Any):
    before = scene(page)["methods"][3]["hyper"]["beta1"]
    for text in ("1.5", "-1", "1", "abc", "", "1e999"):
        page.fill("[data-hyper='3.beta1']", text)
        field = page.locator(".field", has=page.locator("[data-hyper='3.beta1']"))
        expect(field.locator(".error")).to_have_text(re.compile(r"^(beta1 must lie in \[0, 1\)|a number is needed)$"))
        assert scene(page)["methods"][3]["hyper"]["beta1"] == before


def test_parameters_of_a_landscape(page: Any):
    page.get_by_label("kappa", exact=True).fill("2")
    page.get_by_label("angle", exact=True).fill("0.5")
    at_rest(page)
    wanted = simulate.run("rmsprop", "ellipse", start=(1.6, 1.8), kappa=2, angle=0.5, lr=0.01, alpha=0.9, steps=600)
    assert final(page)[2][:2] == wanted.theta[-1].tolist()


def test_noise_is_the_engines_for_the_same_seed(page: Any):
    for noise in ("additive", "relative", "shift"):
        page.select_option("#noise", noise)
        page.fill("#sigma", "0.4")
        page.fill("#seed", "12")
        page.click("#next-seed")
        at_rest(page)
        assert scene(page)["seed"] == 13
        numbers = {"kappa": 190, "lr": 0.01, "sigma": 0.4, "seed": 13}
        wanted = simulate.run("sgd", "ellipse", start=(1.6, 1.8), steps=600, noise=noise, **numbers)
        np.testing.assert_array_equal(final(page)[0][:2], wanted.theta[-1])


def test_methods_come_and_go(page: Any):
    page.select_option("#add-method", "msvag")
    at_rest(page)
    assert [one["rule"] for one in scene(page)["methods"]][-1] == "msvag"
    assert scene(page)["methods"][-1]["hyper"]["lr"] == 0.01  # the shared rate
    page.click("button[aria-label='Add another Adam']")
    at_rest(page)
    assert [one["rule"] for one in scene(page)["methods"]].count("adam") == 2
    page.fill("[data-hyper='4.beta1']", "0.5")
    at_rest(page)
    expect(page.locator("#losses")).to_contain_text("Adam beta1 0.5")
    for _ in range(5):
        page.locator("button.remove:not(.again)").first.click()
        at_rest(page)
    assert len(scene(page)["methods"]) == 1
    expect(page.locator("button.remove:not(.again)").first).to_be_disabled()


def test_every_rule_can_be_added(page: Any):
    names = page.eval_on_selector_all("#add-method option", "all => all.map(o => o.value).filter(Boolean)")
    from stepscope.rules import METHODS

    assert names == list(METHODS)
    page.uncheck("#shared")
    for name in names:
        page.locator("button.remove:not(.again)").last.click()
        page.select_option("#add-method", name)
        at_rest(page)
        now = scene(page)["methods"][-1]
        wanted = simulate.run(name, "ellipse", start=(1.6, 1.8), kappa=190, steps=600, **now["hyper"])
        np.testing.assert_allclose(final(page)[-1][:2], wanted.theta[-1], rtol=1e-9, atol=1e-12, err_msg=name)


def test_playing_pausing_and_stepping(page: Any):
    page.click("#to-start")
    page.select_option("#speed", "20")
    page.click("#play")
    until(page, "window.stepscope.scene().at > 3")
    page.click("#play")
    stopped = scene(page)["at"]
    assert 3 < stopped < 600
    page.wait_for_timeout(200)
    assert scene(page)["at"] == stopped
    page.click("#forth")
    assert scene(page)["at"] == stopped + 1
    page.click("#back")
    page.click("#back")
    assert scene(page)["at"] == stopped - 1
    page.click("#to-end")
    assert scene(page)["at"] == 600
    page.select_option("#speed", "1000000")
    page.click("#play")  # from the end it begins again
    until(page, "window.stepscope.scene().at === 600 && document.querySelector('#play').textContent.includes('play')")
    page.locator("#scrub").fill("42")
    assert scene(page)["at"] == 42


def test_a_million_steps_are_computed_in_slices_and_scrubbed_exactly(page: Any):
    whole = "() => { const steps = document.querySelector('#steps'); steps.value = '1000000'; "
    whole += "steps.dispatchEvent(new Event('input', { bubbles: true })); return window.stepscope.done(); }"
    assert not page.evaluate(whole)  # it goes on while the page answers
    assert table(page)
    at_rest(page, 180_000)
    for step in (777_777, 999_999):
        seek(page, step)
        wanted = simulate.run(
            "rmsprop", "ellipse", start=(1.6, 1.8), kappa=190, lr=0.01, alpha=0.9, steps=step, every=step
        )
        row = table(page)[2]
        assert [row["theta.0"], row["theta.1"], row["loss"]] == [*wanted.theta[-1], wanted.loss[-1]]


def test_a_point_of_the_loss_chart_moves_the_step(page: Any):
    for axis in ("step", "log step", "time"):
        page.select_option("#loss-x", axis)
        at_rest(page)
        canvas = page.locator("canvas[aria-label^='Losses']")
        canvas.click(position={"x": canvas.bounding_box()["width"] * 0.9, "y": 60})
        high = scene(page)["at"]
        canvas.click(position={"x": canvas.bounding_box()["width"] * 0.4, "y": 60})
        assert scene(page)["at"] <= high <= 600
        assert axis == "time" or scene(page)["at"] < high  # on the axis of time the method may end early
    page.uncheck("#loss-log")
    page.check("#loss-log")
    page.uncheck("#log-steps")


def test_the_surface_turns_and_zooms(visit: Visitor, play: Server):
    page = at_rest(visit(play.address, solid=True).page)
    pixels = "document.querySelector('#surface').toDataURL().length"
    until(page, f"{pixels} > 5000")  # something is drawn; it starts after the map
    drag(page, "#surface", (150, 150), (230, 180))
    settled(page)
    one = page.get_attribute("#surface", "data-turn")
    page.focus("#map")
    press(page, "Tab")  # where there is no 3-D, there is no canvas to stop at
    expect(page.locator("#surface")).to_be_focused()
    press(page, "ArrowLeft", "+")
    two = page.get_attribute("#surface", "data-turn")
    assert one != two
    assert float(two.split()[2]) < float(one.split()[2])


def test_the_whole_scene_lives_in_the_address(page: Any, visit: Visitor):
    page.fill("#lr", "0.013")
    page.select_option("#noise", "additive")
    page.fill("#start-x", "-1.25")
    seek(page, 33)
    settled(page)  # the address follows a moment later
    address = page.evaluate("location.href")
    assert len(address.split("#")[1]) < 1500
    other = at_rest(visit(address).page)
    one, two = scene(page), scene(other)
    assert one == two
    assert final(page) == final(other)


@pytest.mark.parametrize(
    "fragment", ["garbage", "AAAA", "q1bKVrKqVspTslIqS8wpTVWqBQA", "a" * 3000, "%00%ff", "__proto__"]
)
def test_a_broken_address_shows_the_first_scene(visit: Visitor, play: Server, fragment: str):
    page = at_rest(visit(f"{play.address}/#{fragment}").page)
    assert scene(page)["preset"] == "tutorial"


def test_a_hostile_scene_is_brought_into_range(visit: Visitor, play: Server, page: Any):
    evil = {
        "v": 1,
        "scene": {
            "landscape": "<img src=x onerror=alert(1)>", "steps": 1e300, "start": ["a", None], "view": [[1, 0], [0, 1]],
            "methods": [{"rule": "map"}, {"rule": "adam", "hyper": {"lr": -5, "beta1": 7, "__proto__": 3}}] * 40,
            "seed": -1, "sigma": "NaN", "at": 1e99, "coordinate": 77, "method": -3, "plane": [9, 9], "tab": "</script>",
            "map": {"x": {"name": "a" * 10000, "low": 5, "high": 1}, "quantity": "rm -rf", "size": 1e9, "steps": 1e12},
        },
    }  # fmt: skip
    fragment = page.evaluate(
        """async (value) => {
          const bytes = new Blob([JSON.stringify(value)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
          const array = new Uint8Array(await new Response(bytes).arrayBuffer());
          return btoa(String.fromCharCode(...array)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
        }""",
        evil,
    )
    one = visit(f"{play.address}/#{fragment}")
    at_rest(one.page)
    now = scene(one.page)
    assert now["landscape"] in simulate.LANDSCAPES
    assert len(now["methods"]) <= 8
    assert all(method["rule"] in ("adam",) for method in now["methods"])
    assert all(0 <= method["hyper"]["beta1"] < 1 and method["hyper"]["lr"] >= 0 for method in now["methods"])
    assert 1 <= now["steps"] <= 1_000_000
    assert now["map"]["size"] <= 512
    assert now["map"]["steps"] <= 1_000_000


def test_it_plays_before_and_after_its_server(visit: Visitor):
    """The first scene asks the server nothing. Without one it plays on and says what it cannot; then it can again."""
    with served("play") as server:
        seen = visit(server.address)
        page = at_rest(seen.page)
        assert [url for url in seen.requests if "/api/" in url] == []
        port = server.port
    page.fill("#lr", "0.005")
    at_rest(page)
    now = scene(page)
    expected = simulate.run("sgd", "ellipse", start=now["start"], steps=600, every=600, lr=0.005, **now["params"])
    assert final(page)[0][:2] == list(expected.theta[-1])
    choose(page, "booth")
    expect(page.locator("#status")).not_to_be_empty()  # a landscape that it does not have
    assert scene(page)["landscape"] == "ellipse"
    with served("play", port=port):
        choose(page, "booth")
        assert scene(page)["landscape"] == "booth"
        page.click("#tab-maps")
        until(page, "window.stepscope.settled()")
        assert page.evaluate("window.stepscope.maps().whole") > 0
    seen.complaints[:] = [text for text in seen.complaints if "ERR_CONNECTION" not in text]  # the browser's own note
