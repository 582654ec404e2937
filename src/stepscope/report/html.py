"""From results or a recorded run to one self-contained HTML file."""

import contextlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from stepscope.errors import UserError
from stepscope.report import context, diffpage, figures, runpage, stepfigures, style, text
from stepscope.report.departures import Comparison
from stepscope.report.panel import drawing
from stepscope.report.panes import Detail
from stepscope.report.source import Recorded, Source, load

if TYPE_CHECKING:
    from stepscope.store import Run

__all__ = ["MAX_BYTES", "render", "write", "write_diff"]

MAX_BYTES = 2_000_000
# From the richest page to the leanest: the first one that is small enough is written.
DETAILS = (
    Detail(8, 200),
    Detail(4, 120, pages=24),
    Detail(4, 80, data=False, rows=40, pages=16, points=40),
    Detail(1, 40, data=False, rows=24, pages=6, points=40),
)


def write(source: "Mapping[str, Any] | Run | str | Path", path: str | Path) -> Path:
    """Write the report of a dissection or of one recorded run as a single HTML file below 2 MB; returns its path.

    source: results in the schema "stepscope.dissection/1", a `stepscope.store.Run`, or the folder of either.  The file
    needs no network and no other file.  The same source gives the same bytes.  A model with very many layers is shown
    with fewer of them; the page says which.
    Raises: UserError if the source is neither or the file cannot be written; DamagedData if its JSON is broken.
    """
    return _written(render(load(source)), Path(path))


def write_diff(a: "Run | str | Path", b: "Run | str | Path", path: str | Path) -> tuple[Path, Comparison]:
    """Write a page about two recorded runs, one HTML file below 2 MB; returns its path and the comparison.

    It says from which step on they differ at all, where they depart by more than their noise, and shows them side by
    side (`departures` has how it is decided).
    Raises: UserError if one of them is no run, if they have no step in common, or if the file cannot be written.
    """
    from stepscope.store import Run

    first, second = (one if isinstance(one, Run) else Run(one) for one in (a, b))
    found = diffpage.of_two(first, second)
    document = ""
    for detail in DETAILS:
        with drawing():
            values = diffpage.of_runs(first, second, found, detail)
        document = _template().render(values)
        if len(document.encode()) < MAX_BYTES:
            break
    return _written(document, Path(path)), found


def _written(document: str, target: Path) -> Path:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(document, "utf-8")
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(f"cannot write the report to {target}: {error.strerror}. Choose another place.") from error
    return target


def render(source: Source) -> str:
    """The page as text, with as much detail as fits into `MAX_BYTES`."""
    document = ""
    for detail in DETAILS:
        with drawing():
            if isinstance(source, Recorded):
                values = runpage.of_run(source, detail)
            else:
                values = context.of_dissection(source, detail)
        document = _template().render(values)
        if len(document.encode()) < MAX_BYTES:
            break
    return document


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stepscope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": text.compact,
        "count": text.count,
        "factor": text.factor,
        "pieces": pieces,
        "p_value": text.p_value,
    }
    environment.globals |= {
        "css": style.css,
        "css_values": style.CSS_VALUES,
        "cell_looks": figures.CELL_LOOKS,
        "looks": figures.PAIR_LOOKS,
        "factors": stepfigures.FACTORS,
        "key": key,
    }
    return environment.get_template("report.html.j2")


def pieces(words: str) -> list[tuple[str, bool]]:
    """A sentence cut for display: each piece with whether it is an aside in brackets.

    >>> pieces("The sign helps (p = 0.01).")
    [('The sign helps ', False), ('(p = 0.01)', True), ('.', False)]
    """
    return [(piece, piece.startswith("(")) for piece in re.split(r"(\([^()]*\))", words) if piece]


_MARKERS = {
    "o": '<circle cx="18" cy="7" r="4"/>',
    "s": '<path d="M14 3h8v8h-8z"/>',
    "D": '<path d="M18 2l5 5-5 5-5-5z"/>',
    "^": '<path d="M18 2l5 9h-10z"/>',
    "v": '<path d="M18 12l5-9h-10z"/>',
    "<": '<path d="M13 7l9-5v10z"/>',
    ">": '<path d="M23 7l-9-5v10z"/>',
    "P": '<path d="M16 2h4v3h3v4h-3v3h-4v-3h-3v-4h3z"/>',
    "X": '<path d="M14 2l4 3 4-3 1 1-3 4 3 4-1 1-4-3-4 3-1-1 3-4-3-4z"/>',
    "p": '<path d="M18 2l5 4-2 6h-6l-2-6z"/>',
    "h": '<path d="M18 2l5 3v5l-5 3-5-3v-5z"/>',
}


def key(look: style.Look) -> Markup:
    """A short sample of a line, as in the pictures, for keys and tables."""
    hue = style.css(look.colour)
    dashes = f";stroke-dasharray:{' '.join(map(str, look.dashes))}" if look.dashes else ""
    line = f'<path d="M1 7h34" style="fill:none;stroke:{hue};stroke-width:2.4{dashes}"/>'
    mark = ""
    if look.marker:
        fill = hue if look.filled else style.css(look.ground)
        mark = f'<g style="fill:{fill};stroke:{hue};stroke-width:1.8">{_MARKERS[look.marker]}</g>'
    return Markup(f'<svg class="key" viewBox="0 0 36 14" aria-hidden="true">{line}{mark}</svg>')
