"""Looks differ in more than colour, and every colour stands out from the page it is on."""

import itertools
import re
from importlib.resources import files

import pytest

from stepscope.report import style

CSS = files("stepscope.report").joinpath("templates/report.css").read_text("utf-8")


def colours(theme: str) -> dict[str, str]:
    """The colour variables of a theme; the dark block comes second and overrides."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
    block = light if theme == "light" else light + dark
    return dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", block)) | style.CSS_VALUES[theme]


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read(theme: str):
    """WCAG AA asks 4.5 of text."""
    values = colours(theme)
    for ink, ground in itertools.product(("--ink", "--soft", "--good", "--bad"), ("--paper", "--surface", "--wash")):
        assert contrast(values[ink], values[ground]) >= 4.5, (ink, ground)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_dots_can_be_seen(theme: str):
    """WCAG asks 3 of graphics. Dots form a scale, whose weakest end has to stay visible beside the others."""
    values = colours(theme)
    for hue in ("--plain", "--sign"):
        assert contrast(values[hue], values["--paper"]) >= 3, hue
    for name in style.CSS_VALUES[theme]:
        assert contrast(values[name], values["--paper"]) >= 1.4, name


def test_one_feature_is_the_hue_and_the_other_the_line():
    looks = {(sign, adapted): style.look(sign, adapted) for sign in (False, True) for adapted in (False, True)}
    for sign in (False, True):
        assert looks[sign, False].colour == looks[sign, True].colour
        assert looks[sign, False].marker == looks[sign, True].marker
    for adapted in (False, True):
        assert looks[False, adapted].dashes == looks[True, adapted].dashes
        assert looks[False, adapted].filled == looks[True, adapted].filled


def test_no_two_methods_differ_in_colour_alone():
    looks = [style.look(sign, adapted) for sign in (False, True) for adapted in (False, True)]
    looks.append(style.look(True, True, matched=True))
    for one, other in itertools.combinations(looks, 2):
        assert (one.dashes, one.marker, one.filled) != (other.dashes, other.marker, other.filled)


def test_a_forgotten_colour_is_an_error():
    with pytest.raises(KeyError):
        style.css("#1f77b4")
