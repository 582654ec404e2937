"""The visual code: one look per method, the same in every picture and in the text.

The four methods differ in two features, and so do their looks: the *hue* says whether the step takes the sign, the
*line style and the filling of the marker* say whether it adapts to the variance. Neither feature is carried by colour
alone, and both hues come from the Okabe-Ito palette, which colour-blind readers can tell apart.

Pictures are drawn in sentinel colours that mean a role ("the sign's hue"). In the file each becomes a CSS variable, so
that one picture serves the light page, the dark page and the printer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

__all__ = ["CSS_VALUES", "DEPTHS", "INK", "LEVELS", "PLAIN", "SIGN", "SOFT", "SURFACE", "THIN", "Look", "css", "look"]

INK, SOFT, THIN, SURFACE, PLAIN, SIGN = (f"#00000{n}" for n in range(1, 7))
LEVELS = tuple(f"#0001{n:02x}" for n in range(16))
"""From the first step to the last one: a perceptual scale in 16 steps."""
DEPTHS = tuple(f"#0002{n:02x}" for n in range(8))
"""From the first layer shown to the last one."""

_VARIABLES = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    THIN: "var(--thin)",
    SURFACE: "var(--surface)",
    PLAIN: "var(--plain)",
    SIGN: "var(--sign)",
    **{colour: f"var(--t{n})" for n, colour in enumerate(LEVELS)},
    **{colour: f"var(--d{n})" for n, colour in enumerate(DEPTHS)},
}


def css(sentinel: str) -> str:
    """What a sentinel colour becomes in the page. An unknown colour is our mistake: KeyError."""
    return _VARIABLES[sentinel]


def _samples(name: str, first: float, last: float, count: int) -> Sequence[str]:
    scale = matplotlib.colormaps[name]
    return [matplotlib.colors.to_hex(scale(first + (last - first) * n / (count - 1))) for n in range(count)]


def _scales(bright: bool) -> dict[str, str]:
    # Each end that would sink into the page (yellow on white, deep violet on black) is left out.
    steps = _samples("viridis", 0.0, 0.88, len(LEVELS)) if bright else _samples("viridis", 0.24, 1.0, len(LEVELS))
    depths = _samples("plasma", 0.05, 0.78, len(DEPTHS)) if bright else _samples("plasma", 0.3, 0.95, len(DEPTHS))
    return {f"--t{n}": colour for n, colour in enumerate(steps)} | {
        f"--d{n}": colour for n, colour in enumerate(depths)
    }


CSS_VALUES = {"light": _scales(bright=True), "dark": _scales(bright=False)}


@dataclass(frozen=True)
class Look:
    """How a line is drawn: hue (a sentinel), dashes in px (empty: solid), marker as matplotlib names it (empty: none).

    ground: what a marker is filled with if it is not filled with the hue.
    """

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""
    filled: bool = True
    ground: str = SURFACE


_OTHER_MARKERS = ("^", "v", "P", "X", "p", "<", ">", "h")
_OTHER_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (1.5, 2.5), (9, 2, 1.5, 2))


def look(sign: bool, variance_adaptation: bool, matched: bool = False, other: int | None = None) -> Look:
    """The look of a recombination; ``matched`` is Adam with one averaging constant, which shares Adam's hue.

    other: the number of a method outside the square of four, each with a marker and dashes of its own.
    """
    if other is not None:
        dashes = _OTHER_DASHES[(other + other // len(_OTHER_DASHES)) % len(_OTHER_DASHES)]
        marker = _OTHER_MARKERS[other % len(_OTHER_MARKERS)]
        return Look(SIGN if sign else PLAIN, dashes, marker, filled=variance_adaptation)
    colour = SIGN if sign else PLAIN
    if matched:
        return Look(colour, (1.5, 2.5), "D", filled=True)
    return Look(colour, () if variance_adaptation else (6, 3), "s" if sign else "o", filled=variance_adaptation)
