"""The layers of the package: arrows point down only, and heavy libraries load only where they are needed.

The modules are parsed, not run, so an import inside a function counts like one at the top.
"""

import ast
import graphlib
import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "stepscope"
MODULES = sorted(SOURCE.rglob("*.py"))

# Which parts of the package each part may import, itself aside. A part that is not listed here does not exist.
BELOW_STORE = {"errors", "theory", "rules", "graph"}
BELOW_SCOPE = BELOW_STORE | {"store", "optim", "simulate"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "rules": {"errors"},
    "graph": {"errors", "rules"},
    "theory": {"errors", "rules", "graph"},
    "store": BELOW_STORE,
    "optim": BELOW_STORE,
    "simulate": BELOW_STORE,
    "scope": BELOW_SCOPE,
    "problems": BELOW_SCOPE,
    "experiments": BELOW_SCOPE | {"scope", "problems"},
    "report": {"errors", "theory", "rules", "store", "experiments"},
    "app": BELOW_SCOPE | {"scope", "problems", "experiments", "report"},
}

# Libraries that only some parts may import ...
ONLY_IN = {
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "typer": {"app"},
    "starlette": {"app"},
    "uvicorn": {"app"},
    "rich": {"app"},
    "lightning": {"scope"},
    "transformers": {"scope"},
    "accelerate": {"scope"},
    "ray": {"experiments"},
}
# ... and parts that must not import a library, by the start of the module's path.
NEVER = {
    "torch": ["errors", "theory", "rules", "graph", "simulate", "report"],
    "numpy": ["errors", "rules", "graph/expression"],
    "scipy": ["errors", "rules", "graph/expression"],
    "pyarrow": ["errors", "theory", "rules", "graph", "optim"],
}
LONGEST = 400


def part(path: Path) -> str:
    """The part of the package a module belongs to: "optim" for optim/sgd.py, "" for the package's own __init__."""
    relative = path.relative_to(SOURCE).with_suffix("")
    return "" if relative.name == "__init__" and len(relative.parts) == 1 else relative.parts[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything the module imports, relative imports resolved."""
    package = ("stepscope", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def home_of(dotted: str) -> str:
    """The part of stepscope that a dotted name comes from; names of the top package count as the part they live in."""
    name = dotted.split(".")[1] if "." in dotted else ""
    if name in ALLOWED:
        return name
    package = importlib.import_module("stepscope")
    return str(package._NAMES.get(name, ""))


def identify(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_arrows_point_down_only(path: Path):
    own = part(path)
    if not own:
        return  # the top package loads every part, lazily
    assert own in ALLOWED, f"{own} has no place in the table of layers"
    inside = {home_of(name) for name in imports(path) if name.split(".")[0] == "stepscope"}
    assert inside - {own, ""} <= ALLOWED[own]


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_heavy_libraries_stay_where_they_belong(path: Path):
    outside = {name.split(".")[0] for name in imports(path)}
    for library, parts in ONLY_IN.items():
        assert library not in outside or part(path) in parts, f"{library} is for {parts} only"
    for library, places in NEVER.items():
        assert library not in outside or not any(identify(path).startswith(place) for place in places)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_a_long_module_says_why(path: Path):
    text = path.read_text("utf-8")
    if len(lines := text.splitlines()) > LONGEST:
        top = itertools.takewhile(lambda line: not line.startswith(("import ", "from ", "def ", "class ")), lines)
        assert any(line.startswith("# Long because ") for line in top), f"{len(lines)} lines and no reason"


def test_parts_do_not_depend_on_each_other_in_circles():
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        if own := part(path):
            used = {home_of(name) for name in imports(path) if name.split(".")[0] == "stepscope"}
            edges.setdefault(own, set()).update(used - {own, ""})
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError and names the circle
    graphlib.TopologicalSorter(ALLOWED).prepare()


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_public_names_exist(path: Path):
    if path.name == "__main__.py":
        return  # importing it runs it
    name = ".".join(["stepscope", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    for attribute in public:
        getattr(module, attribute)


def loaded_by(code: str) -> set[str]:
    """Top-level modules in sys.modules after ``code`` ran in a fresh interpreter."""
    script = f"import json, sys\n{code}\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"torch", "llvmlite", "pyarrow", "matplotlib", "numpy", "scipy", "sklearn", "typer", "jinja2"}


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import stepscope; stepscope.UserError; dir(stepscope)") & HEAVY


def test_rules_and_theory_load_no_tensors():
    assert not loaded_by("import stepscope.rules") & HEAVY
    assert not loaded_by("import stepscope.theory, stepscope.graph") & (HEAVY - {"numpy", "scipy"})


def test_the_text_names_no_place_on_the_machine_it_was_written_on():
    """A path of somebody's machine in a file is of no use to anybody else."""
    places = ["/" + "work/", "/" + "tmp/venv", "/" + "tmp/spec", ".." + "/shared", "/" + "opt/wheels", "/" + "opt/pypi"]
    folders = ["src", "tests", "docs", "benchmarks", "web/src", ".ci", ".github"]
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        relative = path.relative_to(ROOT)
        if {"_build", "__pycache__"} & set(relative.parts):
            continue
        text = path.read_text("utf-8", errors="ignore")
        # The pages have a shared folder of their own; continuous integration unpacks data beside the checkout.
        here = places[:3] + places[4:] if relative.parts[0] in ("web", ".ci") else places
        assert not [place for place in here if place in text], relative
