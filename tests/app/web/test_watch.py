"""The dashboard in a real browser: it shows what runs hold, while they grow and whatever happens to the server."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.app.serving import Server, served
from tests.app.web.playing import expect, press, settled, until

from stepscope.store import Run, RunWriter

Visitor = Callable[..., Any]

TENSORS = [{"name": f"block{i // 2}.{('weight', 'bias')[i % 2]}", "shape": [4, 4][: 2 - i % 2]} for i in range(8)]
COLUMNS = ("spread_q10", "spread_median", "spread_q90", "update_abs_median_per_lr", "grad_norm")
ABOUT = {
    "scope": {
        "optimizer": "Adam",
        "columns": {name: {"unit": "1", "formula": f"{name} in words"} for name in COLUMNS},
    }
}


def record(folder: Path, steps: int, **options: Any) -> RunWriter:
    writer = RunWriter(folder, tensors=TENSORS, config=ABOUT, flush_seconds=0.2)
    for step in range(1, steps + 1):
        one(writer, step)
    return writer


def one(writer: RunWriter, step: int) -> None:
    writer.write(step, "", {"loss": 2 / step, "lr": 0.01})
    for i, tensor in enumerate(TENSORS):
        spread = (1 + i) * (2 + math.sin(step / 20 + i))
        values = (spread / 3, spread, spread * 4, 1 / math.hypot(1, spread), 0.1 * (i + 1))
        cells = {"spread_octave[0]": 0.25, f"spread_octave[{i % 3 + 1}]": 0.75}
        writer.write(step, str(tensor["name"]), dict(zip(COLUMNS, values, strict=True)) | cells)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one with an alarm; one without a row, one that cannot be read."""
    root = tmp_path_factory.mktemp("web") / "runs"
    writer = record(root / "first", 300)
    seen = {"text": "The loss tripled at step 150.", "helps": "Lower the step size.", "evidence": {"loss": 0.75}}
    writer.event("alarm", alarm="loss_spike", step=150, layer="block1.weight", **seen)
    writer.close()
    record(root / "second", 120).close("failed")
    RunWriter(root / "empty", tensors=TENSORS).close()
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    with served("watch", str(runs)) as one:
        yield one


def address(server: Server, **parts: str) -> str:
    return f"{server.address}/#{'&'.join(f'{name}={value}' for name, value in parts.items())}"


def rows(page: Any) -> dict[str, str]:
    page.wait_for_selector(".runs tbody tr:not([hidden])")
    settled(page)
    return {
        row.get_attribute("data-id"): row.locator("td.status").inner_text()
        for row in page.locator(".runs tbody tr:visible").all()
    }


def shows(page: Any, title: str, points: int) -> None:
    """The chart of this title comes to show so many points. (A run that is large is read in several answers.)"""
    canvas = page.locator(f"figure.chart:has(figcaption:text-is('{title}')) canvas")
    expect(canvas).to_have_attribute("data-points", str(points))
    settled(page)


def within(page: Any, fragment: str) -> None:
    """The address comes to hold this."""
    until(page, f"decodeURIComponent(location.hash).includes({fragment!r})")


def painted(page: Any, selector: str) -> bool:
    """Whether a canvas shows anything at all."""
    page.wait_for_selector(selector, state="visible")
    drawn = (
        "s => [...document.querySelectorAll(s)].some(c => { const blank = document.createElement('canvas'); "
        "[blank.width, blank.height] = [c.width, c.height]; return c.toDataURL() !== blank.toDataURL(); })"
    )
    page.wait_for_function(drawn, arg=selector)
    return True


def test_the_list_says_how_each_run_is(visit: Visitor, server: Server):
    page = visit(server.address).page
    found = rows(page)
    assert {id: text.splitlines()[0].split()[-1] for id, text in found.items()} == {
        "runs/first": "finished",
        "runs/second": "failed",
        "runs/empty": "finished",
        "runs/broken": "broken",
    }
    assert "no valid JSON" in found["runs/broken"]
    first = page.locator("tr[data-id='runs/first']")
    expect(first.locator("td.step")).to_have_text("300")
    expect(first.locator("td.loss .value")).to_have_text("0.006667")  # 2 / 300
    expect(first.locator("td.alarms")).to_have_text("▲ 1")
    assert painted(page, "tr[data-id='runs/first'] canvas")
    page.fill("#filter", "sec")
    expect(page.locator(".runs tbody tr:not([hidden])")).to_have_count(1)
    assert list(rows(page)) == ["runs/second"]
    within(page, "filter=sec")


def test_from_the_list_to_a_layer_and_back(visit: Visitor, server: Server):
    page = visit(server.address).page
    page.click("tr[data-id='runs/first'] a")
    shows(page, "loss", 300)
    page.click("#tab-layers")
    expect(page.locator(".cell canvas")).to_have_count(8)
    expect(page.locator(".cell[data-points='150']")).to_have_count(8)  # as many as such a small line has
    value = page.locator(".cell", has_text="block0.weight").locator(".value").inner_text()
    assert float(value) == pytest.approx(2 + math.sin(300 / 20), rel=1e-3)  # four digits are shown
    page.fill("#layers", "block2")
    expect(page.locator(".cell")).to_have_count(2)
    page.check("#weights")
    expect(page.locator(".cell")).to_have_count(1)
    page.click(".cell")
    shows(page, "spread median of block2.weight", 300)
    within(page, "layer=block2.weight")
    shared = page.evaluate("location.href")
    page.select_option("#column", "grad_norm")
    shows(page, "grad norm of block2.weight", 300)
    page.go_back()
    expect(page.locator(".one:not(.hidden)")).to_have_count(0)
    again = visit(shared).page
    shows(again, "spread median of block2.weight", 300)


def test_a_chart_tells_its_values_and_zooms_by_keyboard(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first")).page
    shows(page, "loss", 300)
    page.locator("figure.chart canvas").first.focus()
    readout = page.locator(".readout").first
    press(page, "ArrowRight")
    expect(readout).to_contain_text("step 1 · 2")
    press(page, "End")
    expect(readout).to_contain_text("step 300 · 0.006667")
    press(page, "Shift+ArrowLeft")
    expect(readout).to_contain_text("step 280")
    press(page, "Enter")  # an eighth of the steps to either side
    within(page, "range=242-318")
    shows(page, "loss", 59)
    press(page, "Escape")
    shows(page, "loss", 300)


def test_a_chart_zooms_by_dragging(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first")).page
    shows(page, "loss", 300)
    box = page.locator("figure.chart canvas").first.bounding_box()
    inside = box["width"] - 58 - 12
    page.mouse.move(box["x"] + 58 + inside * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 58 + inside * 0.75, box["y"] + 60, steps=4)
    page.mouse.up()
    within(page, "range=1")
    first, last = map(int, re.findall(r"range=(\d+)-(\d+)", page.evaluate("location.hash"))[0])
    assert abs(first - 150) <= 3
    assert abs(last - 225) <= 3
    shows(page, "loss", last - first + 1)


def test_the_heat_map_has_a_row_a_layer_and_leads_to_it(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first", tab="heatmap")).page
    page.wait_for_selector(".heat-canvas[data-rows='8']")
    assert painted(page, ".heat-canvas")
    settled(page)
    page.focus(".heat-canvas")
    press(page, "ArrowDown")
    expect(page.locator(".heat .readout")).to_have_text(re.compile("^block0.weight · step 300"))
    text = page.locator(".heat .readout").inner_text()
    assert float(text.split(" · ")[-1]) == pytest.approx(2 + math.sin(15), rel=1e-3)
    press(page, "ArrowDown", "Enter")
    within(page, "layer=block0.bias")
    shows(page, "spread median of block0.bias", 300)


def test_the_scatter_moves_with_time_along_the_theoretical_curve(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first", tab="scatter")).page
    page.wait_for_selector(".scatter-canvas[data-points='8']")
    settled(page)
    page.locator("summary", has_text="The numbers").click()
    page.focus("#time")
    press(page, "Home")
    expect(page.locator("output[for=time]")).not_to_have_text("step 300")
    expect(page.locator(".numbers tbody td")).to_have_count(16)
    early = page.locator(".numbers tbody td").first.inner_text()
    press(page, "End")
    expect(page.locator(".numbers tbody td").first).not_to_have_text(early)
    expect(page.locator("output[for=time]")).to_have_text("step 300")
    late = page.locator(".numbers tbody td").all_inner_texts()
    for spread, step in zip(map(float, late[::2]), map(float, late[1::2]), strict=True):
        assert step == pytest.approx(1 / math.hypot(1, spread), rel=1e-3)
    page.focus(".scatter-canvas")
    press(page, "ArrowRight")
    expect(page.locator(".scatter .readout")).to_have_text(re.compile("^block0.weight"))
    page.locator("button", has_text="play").click()
    expect(page.locator("output[for=time]")).not_to_have_text("step 300")
    page.locator("button", has_text="pause").click()


def test_distributions_over_time(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first", tab="distribution")).page
    shows(page, "Median, with the 10 % and 90 % quantiles as a band", 300)
    page.select_option("select[aria-label='Distribution of']", label="spread octave: histogram")
    page.wait_for_selector(".heat-canvas[data-rows='2']")  # of the layer's own cells
    page.select_option("select[aria-label=Layer]", "block0.weight")
    settled(page).focus(".heat-canvas:visible")
    press(page, "ArrowDown")
    expect(page.locator(".heat:visible .readout")).to_have_text(re.compile(r"2¹ .*0\.75$"))


def test_histograms_of_one_and_of_two_values(visit: Visitor, tmp_path: Path):
    """As many cells as a layer has, and a heat map of two sizes that moves with time."""
    root = tmp_path / "runs"
    with RunWriter(root / "cells", tensors=[{"name": "w"}]) as writer:
        for step in range(1, 41):
            shares = {f"spread_octave[{k}]": (k + 13) / 300 for k in range(-12, 12)}  # more than one request may name
            shares |= {f"spread_update[{step % 4},-3]": 0.25, "spread_update[2,-5]": 0.5}
            writer.write(step, "w", shares)
    with served("watch", str(root)) as server:
        page = visit(address(server, run="runs/cells", tab="distribution")).page
        expect(page.locator(".heat-canvas[data-rows='24']")).to_be_visible()
        settled(page).focus(".heat-canvas:visible")
        press(page, "ArrowDown")
        expect(page.locator(".heat:visible .readout")).to_have_text(re.compile(r"^from 2¹¹ .* 0\.08$"))
        page.select_option("select[aria-label='Distribution of']", label="spread: joint histogram with |update| / lr")
        expect(page.locator(".heat-canvas[data-rows='3']")).to_be_visible()
        expect(page.locator("output[for=joint-time]")).to_have_text("step 40")
        # Adam's factor lies over it: columns are octaves of the spread from 2^0 on, rows of the step, down from 2^-2.
        line = json.loads(page.get_attribute(".heat-canvas:visible", "data-curve"))
        line = [place for place in line if None not in place]
        assert len(line) > 5
        for column, row in line:
            assert -2 - row == pytest.approx(math.log2(1 / math.hypot(1, 2**column)), abs=1e-9)
        expect(page.locator(".heat:visible .heat-legend")).to_contain_text("Adam's factor")
        settled(page).focus(".heat-canvas:visible")
        press(page, "ArrowDown", *["ArrowLeft"] * 3)  # from the right end of the highest row
        expect(page.locator(".heat:visible .readout")).to_have_text("|update| / lr from 2⁻³ · spread from 2⁰ · 0.25")
        page.focus("#joint-time")
        press(page, "ArrowLeft")
        expect(page.locator("output[for=joint-time]")).to_have_text("step 39")
        expect(page.locator(".heat:visible .readout")).to_have_text("|update| / lr from 2⁻³ · spread from 2⁰ · –")
        page.close()


def test_an_alarm_leads_to_its_step(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/first", tab="events")).page
    item = page.locator(".alarm")
    for words in ("loss spike", "The loss tripled at step 150.", "Lower the step size.", "loss 0.75"):
        expect(item).to_contain_text(words)
    item.locator("button").click()
    within(page, "range=130-170")
    shows(page, "spread median of block1.weight", 41)


def test_runs_are_compared_step_by_step(visit: Visitor, server: Server):
    page = visit(server.address).page
    for name in ("first", "second"):
        page.check(f"tr[data-id='runs/{name}'] input")
    page.click("#compare")
    shows(page, "loss", 420)
    shows(page, "spread median of block0.weight", 420)
    page.locator("figure.chart canvas").first.focus()
    press(page, "Home")
    for run in ("first", "second"):
        expect(page.locator(".readout").first).to_contain_text(f"runs/{run} 2")
    expect(page.locator(".legend").first.locator("li")).to_have_count(2)


def test_an_empty_and_a_broken_run_say_so(visit: Visitor, server: Server):
    page = visit(address(server, run="runs/empty")).page
    page.get_by_text("Nothing is recorded yet").wait_for()
    for tab in ("layers", "heatmap", "scatter", "distribution", "events", "about", "overview"):
        page.click(f"#tab-{tab}")
    page = visit(address(server, run="runs/broken")).page
    page.locator("[role=alert]", has_text="run.json is no valid JSON").wait_for()
    for tab in ("layers", "heatmap", "scatter", "distribution", "events", "about"):
        page.click(f"#tab-{tab}")


def test_an_address_that_makes_no_sense_is_survived(visit: Visitor, server: Server):
    page = visit(
        f"{server.address}/#run=runs/first&tab=evil&range=9-1&scale=3&column=%00&layer=<img src=x onerror=1>"
    ).page
    shows(page, "loss", 300)
    page.click("#tab-layers")
    page.wait_for_selector(".one:not(.hidden) h3")
    expect(page.locator("main img")).to_have_count(0)


# What happens meanwhile -----------------------------------------------------------------------------------------------


def test_a_run_that_is_being_recorded_grows_on_the_page(visit: Visitor, tmp_path: Path):
    """A step that the writer has flushed is on the page within a second, and a page that is open sees a run begin."""
    root = tmp_path / "runs"
    root.mkdir()
    with served("watch", str(root)) as server:
        page = visit(server.address).page
        page.get_by_text("No run in runs yet").wait_for()
        writer = record(root / "live", 3)
        writer.flush()
        page.click("tr[data-id='runs/live'] a")
        shows(page, "loss", 3)
        page.click("#tab-layers")
        expect(page.locator(".cell")).to_have_count(8)
        page.click("#tab-overview")
        late = []
        for step in range(4, 16):
            one(writer, step)
            begun = time.monotonic()
            writer.flush()
            shows(page, "loss", step)
            late.append(time.monotonic() - begun)
            expect(page.locator(".state")).to_have_text(re.compile("^● running"))
        sys.stdout.write(f"\nfrom flush to page: median {sorted(late)[6]:.2f} s, longest {max(late):.2f} s\n")
        writer.close()
        page.get_by_text("✓ finished").wait_for()
        page.close()  # before the server: a page that asks in vain complains


def test_the_page_goes_on_when_the_server_comes_back(visit: Visitor, tmp_path: Path):
    root = tmp_path / "runs"
    writer = record(root / "live", 5)
    writer.flush()
    with served("watch", str(root)) as server:
        seen = visit(address(server, run="runs/live"))
        shows(seen.page, "loss", 5)
        port = server.port
    seen.page.get_by_text("The server does not answer").wait_for()
    one(writer, 6)
    writer.flush()
    with served("watch", str(root), port=port):
        expect(seen.page.locator(".banner")).to_be_hidden()
        shows(seen.page, "loss", 6)
        seen.page.close()
    writer.close()
    seen.complaints[:] = [text for text in seen.complaints if "ERR_CONNECTION" not in text]


SCRIPT = """
import sys, torch
from stepscope import Scope
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
with Scope(optimizer, model, run=sys.argv[1]) as scope:
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            loss = (model(torch.randn(16, 4)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scope.note(loss=loss.item())
"""


def test_a_real_training_is_watched_and_its_death_is_noticed(visit: Visitor, tmp_path: Path):
    root = tmp_path / "runs"
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root / "mlp")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        with served("watch", str(root)) as server:
            page = visit(address(server, run="runs/mlp", tab="layers")).page
            child.stdin.write("200\n")
            child.stdin.flush()
            expect(page.locator(".cell")).to_have_count(4)
            page.wait_for_function(
                "() => [...document.querySelectorAll('.cell')].every(c => Number(c.dataset.points) > 100)"
            )
            child.kill()
            child.wait()
            page.get_by_text("‖ interrupted").wait_for()
            run = Run(root / "mlp")
            assert run.table("spread_median", layers="0.weight").num_rows >= 150
            page.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


# For everybody --------------------------------------------------------------------------------------------------------

PLACES = [
    {},
    *({"run": "runs/first", "tab": tab} for tab in ("overview", "layers", "heatmap", "scatter", "distribution")),
    {"run": "runs/first", "tab": "layers", "layer": "block0.weight"},
    {"run": "runs/first", "tab": "events"},
    {"run": "runs/first", "tab": "about"},
    {"compare": "runs/first&compare=runs/second"},
]


def walk(page: Any) -> Iterator[dict[str, str]]:
    """Show one place after the other, each once its first answers are drawn."""
    for place in PLACES:
        fragment = "&".join(f"{name}={value}" for name, value in place.items())
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.wait_for_timeout(100)  # lines that come into view are asked for a frame later
        settled(page)
        yield place


def findings(page: Any) -> list[str]:
    """What axe finds serious or critical."""
    result = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(visit: Visitor, server: Server, dark: bool):
    page = visit(server.address, dark=dark).page
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = [(place, finding) for place in walk(page) for finding in findings(page)]
    assert found == []
    page.evaluate("() => document.querySelector('main').append(document.createElement('input'))")
    assert len(findings(page)) == 1  # it would be found


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_sticks_out_on_a_phone(visit: Visitor, server: Server, width: int):
    page = visit(server.address, width=width, height=800).page
    wide = [place for place in walk(page) if page.evaluate("() => document.documentElement.scrollWidth") > width]
    assert wide == []


def test_everything_is_reached_by_the_keyboard_alone(visit: Visitor, server: Server):
    page = visit(server.address).page
    rows(page)
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.focus("tr[data-id='runs/first'] a")
    press(page, "ArrowDown", "ArrowUp", "Enter")
    shows(page, "loss", 300)
    page.focus("#tab-overview")
    press(page, "ArrowRight")
    page.wait_for_selector(".cell")
    expect(page.locator("#tab-layers")).to_be_focused()
    reached = []
    while not reached or (reached[-1] != "BODY" and len(reached) < 60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(() => { const e = document.activeElement; return e.id || e.className || e.tagName; })()")
        )
    assert {"column", "layers", "weights", "cell"} <= set(reached)
    page.focus(".cell")
    press(page, "ArrowRight", "Enter")
    within(page, "layer=block0.bias")
    shows(page, "spread median of block0.bias", 300)


def test_canvases_say_what_they_are(visit: Visitor, server: Server):
    page = visit(server.address).page
    silent = "canvas:not([aria-label]):not([aria-hidden])"
    assert [place for place in walk(page) if page.locator(silent).count()] == []


def test_a_hostile_name_stays_text(visit: Visitor, tmp_path: Path):
    root = tmp_path / "runs"
    name = "<img src=x onerror=alert(1)>"
    with RunWriter(root / name, tensors=[{"name": name}], config={name: name}) as writer:
        writer.write(1, name, {name: 1.0, "spread": 2.0})
        writer.event(name, message=name, step=1)
    with served("watch", str(root)) as server:
        page = visit(server.address).page
        assert list(rows(page)) == [f"runs/{name}"]
        page.click(".runs tbody a")
        for tab in ("layers", "events", "about", "heatmap", "distribution"):
            page.click(f"#tab-{tab}")
            page.wait_for_selector(f"#tab-{tab}[aria-selected=true]")
            settled(page)
            expect(page.locator("main img")).to_have_count(0)
        page.close()
