"""SVG as matplotlib writes it, made small and made to take its colours and its font from the page.

Text stays text: it can be selected and read aloud.
"""

import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from stepscope.report import style

__all__ = ["compact"]

_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"#([\w-]+)")
_XLINK = "{http://www.w3.org/1999/xlink}href"


def _round(match: "re.Match[str]") -> str:
    short = f"{float(match[0]):.1f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _path(data: str) -> str:
    """Path data without what a browser does not need: repeated L, spaces; a segment of length zero is a dot."""
    data = _NUMBER.sub(_round, " ".join(data.split()))
    data = re.sub(r"M (\S+ \S+) L \1(?= M| z|$)", r"M \1h0", data)
    data = re.sub(r" ?([MCQz]) ?", r"\1", data)
    first, *rest = data.split(" L ")
    # After a move or a line, further points are lines without saying so.
    return " ".join([first, *rest]) if rest and "C" not in data and "Q" not in data else data.replace(" L ", "L")


def _style(value: str) -> str:
    """Declarations with the page's colours; size and family of type come from the page, too, but not the weight."""
    kept = []
    for declaration in filter(None, map(str.strip, value.split(";"))):
        key, _, words = declaration.partition(": ")
        if key == "font" and (weight := re.match(r"(\d{3}|bold)\b(?!px)", words)):  # as matplotlib 3.8 writes it
            kept.append(f"font-weight:{weight[1]}")
        elif key not in {"font", "font-size", "font-family"} and declaration not in {
            "text-anchor: start",
            "stroke-dashoffset: 0",
        }:
            kept.append(f"{key}:{_COLOUR.sub(lambda match: style.css(match[0]), words)}")
    return ";".join(kept)


def compact(source: str, name: str, alt: str) -> str:
    """The SVG without metadata, with the page's colours and font, short numbers, and ids that start with ``name``."""
    root = ElementTree.fromstring(source[source.index("<svg") :])
    used = {match for element in root.iter() for match in _REFERENCE.findall(" ".join(element.attrib.values()))}
    kept = [identifier for element in root.iter() if (identifier := element.get("id")) in used and identifier]
    ids = {identifier: f"{name}-{number}" for number, identifier in enumerate(kept)}

    def attribute(key: str, value: str) -> str | None:
        if key == "id":
            return ids.get(value)
        if key == "d":
            return _path(value)
        if key == "style":
            return _style(value)
        if key in {_XLINK, "clip-path"}:
            return _REFERENCE.sub(lambda match: "#" + ids[match[1]], value)
        return None if value.startswith("rotate(-0 ") else _NUMBER.sub(_round, value)

    def markup(element: ElementTree.Element) -> str:
        tag = element.tag.rpartition("}")[2]
        if tag in {"metadata", "style"} or element.get("style") == "fill: none":  # the figure's empty background
            return ""
        pairs = ((key, attribute(key, value)) for key, value in element.attrib.items())
        extra = "".join(f" {key.rpartition('}')[2]}={quoteattr(value)}" for key, value in pairs if value)
        inner = escape((element.text or "").strip()) + "".join(markup(child) for child in element)
        if tag in {"g", "defs"} and not inner:
            return ""
        if tag == "g" and not extra:
            return inner
        return f"<{tag}{extra}>{inner}</{tag}>" if inner else f"<{tag}{extra}/>"

    head = f'<svg class="panel" viewBox="{root.attrib["viewBox"]}" role="img" aria-label={quoteattr(alt)}>'
    return head + "".join(markup(child) for child in root) + "</svg>"
