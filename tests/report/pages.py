"""Reading a page back: balanced tags, ids, links, exact values."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "input", "hr", "img"}
LOADING = {"src", "srcset", "poster", "data", "action"}


class Page(HTMLParser):
    """What tests ask about a page; a tag that does not match fails at once."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.values: list[str] = []
        self.loads: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.scripts = 0
        self.feed(document)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._read(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for key, value in attrs:
            assert not key.startswith("on"), f"an event handler on <{tag}>"
            if key == "id":
                self.ids.append(value or "")
            if key == "value" and tag == "data":
                self.values.append(value or "")
            if key in LOADING or (key == "href" and tag == "link"):
                self.loads.append(value or "")
            if key in {"href", "xlink:href"} and (value or "").startswith("#"):
                self.references.append((value or "")[1:])
            self.references += re.findall(r"url\(#([^)]*)\)", value or "")

    @property
    def text(self) -> str:
        """All words with single spaces."""
        return " ".join("".join(self.words).split())


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))
