"""The examples of each format are its doctests; here is what holds for every number."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepscope.report import text

FINITE = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-12)
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def parse(words: str) -> float:
    """The value that a reader sees."""
    words = words.replace("−", "-").replace(",", "").replace("×", "")
    if match := re.fullmatch(r"(-?)(?:([\d.]+)·)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", words):
        sign = -1 if match[1] else 1
        return sign * float(match[2] or 1) * 10.0 ** int(match[3].translate(SUPERSCRIPTS))
    return float(words)


@given(FINITE)
def test_a_number_is_right_to_its_three_digits(value: float):
    """Rounding to 3 significant digits moves a value by at most half of 10^-2 of its leading digit's place: 0.5 %."""
    assert math.isclose(parse(text.number(value)), value, rel_tol=0.005001, abs_tol=0)


@given(FINITE)
def test_a_compact_number_is_right_to_its_two_digits(value: float):
    """As above with one digit less: 5 %."""
    assert math.isclose(parse(text.compact(value)), value, rel_tol=0.0501, abs_tol=0)


@given(FINITE)
def test_an_axis_label_is_short(value: float):
    """At most a sign, six digits before the point or two after it in a power."""
    assert len(text.tick(float(f"{value:.1e}"))) <= 11


@given(st.floats(min_value=1e-9, max_value=1e5), st.floats(min_value=1e-3, max_value=2.0))
def test_mean_and_deviation_can_be_read_back(mean: float, relative: float):
    """The deviation shows two digits (5 %), the mean as many decimals as it."""
    shown, deviation = text.plus_minus(mean, relative * mean), relative * mean
    power = re.fullmatch(r"\((.*)\)·(10.+)", shown)
    unit = parse(power[2]) if power else 1.0
    left, right = (parse(part) for part in (power[1] if power else shown).split(" ±\N{NO-BREAK SPACE}"))
    assert math.isclose(right * unit, deviation, rel_tol=0.0501)
    assert abs(left * unit - mean) <= 0.05 * deviation + 0.005 * mean


@pytest.mark.parametrize("show", [text.number, text.compact, text.factor, text.signed, text.p_value, text.count])
def test_what_is_missing_shows_as_a_dash(show):
    assert show(None) == text.MISSING


@pytest.mark.parametrize("show", [text.number, text.compact, text.factor, text.signed])
def test_what_is_not_finite_is_said(show):
    assert show(math.nan) == text.MISSING
    assert show(math.inf) == "∞"
    assert show(-math.inf) == "−∞"


def test_rounding_up_to_the_next_power_keeps_the_digits():
    """0.0999 has its leading digit one place further right than 0.1, to which it rounds."""
    assert text.number(0.09996) == "0.100"
    assert text.compact(0.0996) == "0.1"
    assert text.number(0.99999e-4) == "10⁻⁴"
