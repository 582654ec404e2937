"""Panels: small, valid, deterministic, in the page's colours, with every value where its scale says."""

import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.report import panel, style
from stepscope.report.panel import Panel


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with panel.drawing():
        yield


def simple(name: str = "p", words: str = "loss", alt: str = "a line") -> str:
    picture = Panel()
    picture.scale_y((1e-3, 1.0), words, log=True)
    picture.scale_x((0.0, 10.0), "step")
    picture.line([0, 10], [1, 1e-3], style.SIGN, dashes=(6, 3))
    picture.marks([0, 10], [1, 1e-3], style.look(True, False))
    picture.band([0, 10], [1, 1e-3], [1, 1e-2], style.PLAIN)
    return str(picture.render(name, alt))


def test_a_panel_is_well_formed_and_uses_only_the_pages_colours():
    document = simple()
    ElementTree.fromstring(document)
    assert "var(--sign)" in document
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(|font-size|font-family", document)


def test_ids_begin_with_the_name_and_every_reference_resolves():
    document = simple("curve-3")
    ids = re.findall(r' id="([^"]*)"', document)
    assert ids
    assert all(identifier.startswith("curve-3-") for identifier in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', document)) == set(ids)


def test_the_same_picture_is_the_same_text():
    assert simple() == simple()


def test_the_users_own_settings_do_not_leak_in_or_out():
    plain = simple()
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        with panel.drawing():
            assert simple() == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_words_are_text_and_nothing_in_them_is_markup():
    document = simple(words="$x_1$ <b>&", alt='a "quoted" <alt>')
    root = ElementTree.fromstring(document)
    assert "$x_1$ <b>&" in [element.text for element in root.iter("text")]
    assert root.attrib["aria-label"] == 'a "quoted" <alt>'


def test_values_are_placed_by_their_scales():
    """400 x 270 px with margins of 50, 14, 30 and 44."""
    picture = Panel()
    picture.scale_x((0.01, 100.0), log=True)
    picture.scale_y((-1.0, 1.0))
    np.testing.assert_allclose(picture.x([0.01, 1.0, 100.0]), [50, 218, 386])
    np.testing.assert_allclose(picture.y([-1.0, 0.0, 1.0]), [44, 142, 240])
    assert np.isnan(picture.x([0.0, -1.0, np.nan])).all()


def test_what_is_far_outside_stays_a_number_that_browsers_can_draw():
    picture = Panel()
    picture.scale_y((0.0, 1.0))
    assert np.isfinite(picture.y([1e300, -1e300, np.inf])).all()
    picture.line([0, 1], [0.0, 1e300], style.PLAIN)
    assert "e+" not in picture.render("p", "a steep line")


def test_a_gap_divides_a_line():
    picture = Panel()
    picture.line([0, 0.2, 0.4, 0.6, 0.8], [0.5, 0.5, np.nan, 0.5, 0.5], style.PLAIN)
    (path,) = re.findall(r'<path d="([^"]*)"', picture.render("p", "a line"))
    assert path.count("M") == 2


@given(st.floats(1e-12, 1e12), st.floats(1.001, 1e12), st.integers(3, 6))
def test_ticks_of_a_log_axis_lie_on_it_and_are_few(low: float, ratio: float, most: int):
    """Linear ticks step in where not even two round values fit; their number is matplotlib's, which exceeds by one."""
    ticks = panel.log_ticks(low, low * ratio, most)
    assert 1 <= len(ticks) <= most + 1
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8), st.booleans())
def test_limits_hold_every_value_that_can_be_shown(values: list[float], log: bool):
    """Values near the largest float or below the smallest normal one overflow any air around them: left out."""
    values = [value for value in values if not math.isfinite(value) or value == 0 or 1e-200 < abs(value) < 1e200]
    bounds = panel.limits(values, log=log)
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not shown:
        assert bounds is None
    else:
        assert bounds is not None
        assert bounds[0] < min(shown) * (1 + 1e-9 * np.sign(min(shown))) + 1e-300
        assert bounds[1] > max(shown) * (1 - 1e-9 * np.sign(max(shown))) - 1e-300
