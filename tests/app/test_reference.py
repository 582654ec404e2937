"""The pages that are made from the program."""

from pathlib import Path

import pytest

from stepscope.app.reference import PAGES, columns, command_line
from stepscope.scope import INSTRUMENTS

DOCUMENTS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_the_documentation_is_current(name: str):
    assert (DOCUMENTS / name).read_text("utf-8") == PAGES[name](), "run: python -m stepscope.app.reference docs"


def test_every_option_is_described():
    text = command_line()
    for word in ("--seeds N", "--grid METHOD=LR,...", "Default: digits", "`stepscope data fetch`", "[PROBLEM]"):
        assert word in text


def test_every_column_is_described():
    text = columns()
    for instrument in INSTRUMENTS:
        name = instrument.name + (
            "[" + ("row,column" if "," in instrument.cells[0] else "octave") + "]" if instrument.cells else ""
        )
        assert f"`{name}`\n: `{instrument.formula}`." in text
