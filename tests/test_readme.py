"""What the documents say is so: their Python runs, their commands exist, their links and citations lead somewhere."""

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from stepscope.app.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUILT_IN_PATHS = (".venv/bin/python",)  # commands of a checkout, beside make and stepscope


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """Fenced blocks of a language: the line they start on, and their text."""
    text = path.read_text("utf-8")
    for found in FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)), found[2]


def commands(path: Path) -> Iterator[list[str]]:
    for _, block in blocks(path, "console"):
        yield from (shlex.split(line.removeprefix("$ "), comments=True) for line in block.splitlines() if line.strip())


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if any(blocks(path, "python"))], ids=name)
def test_python_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The blocks of a document are one program, run in an empty folder. Warnings are errors, as everywhere."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    with warnings.catch_warnings():
        if name(path) == "docs/integrations.md":
            warnings.simplefilter("ignore")  # Lightning and Transformers warn of their own use of torch
        for line, block in blocks(path, "python"):
            exec(compile("\n" * line + block, path, "exec"), names)


def parse_only(command: object) -> None:
    """Let a command and those below it parse their arguments, and do nothing."""
    command.callback = lambda **_: None  # type: ignore[attr-defined]
    for child in getattr(command, "commands", {}).values():
        parse_only(child)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if any(commands(path))], ids=name)
def test_commands_exist(path: Path):
    targets = re.findall(r"^(\w+):[^=\n]*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for program, *arguments in commands(path):
        if program == "make":
            assert [word for word in arguments if "=" not in word] in [[target] for target in targets]
        elif program == "stepscope":
            command = typer.main.get_command(app)
            parse_only(command)
            command.main(arguments, prog_name="stepscope", standalone_mode=False)  # raises for a wrong argument
        else:
            assert program in BUILT_IN_PATHS, program


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not target.startswith(("http:", "https:", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_citations_are_in_the_bibliography():
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text("utf-8"), re.MULTILINE))
    sources = [*DOCUMENTS, *(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for path in sources:
        cited = set(re.findall(r"\[([a-z]+(?:19|20)\d\d[a-z]?)[],;]", path.read_text("utf-8")))
        assert cited <= known, name(path)


def test_readme_starts_with_the_two_commands():
    readme = (ROOT / "README.md").read_text("utf-8")
    first = next(blocks(ROOT / "README.md", "console"))[1]
    assert first.splitlines() == ["make demo", "make test"]
    assert readme.index(first) < 2500  # the first screen
