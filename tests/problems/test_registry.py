import multiprocessing
import re
import sys

import pytest

from stepscope.errors import UserError
from stepscope.problems import load, names

HEAD = """\
from torch import nn
from stepscope.problems import *
def make(name):
    return Problem(name, print, lambda seed: nn.Linear(2, 2), print, Protocol(1, 1, 1))
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "mine.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_built_in_names_load_and_remember_their_name():
    assert names() == ["cifar10", "cifar100", "digits", "eigen", "eigen-16", "fashion-mnist", "war-and-peace"]
    for name in names():
        assert (load(name).name, load(name).spec) == (name, name)


@pytest.mark.parametrize("spec", ["digit", "mine", "", "notes.txt", "mine.pyc", "mine.py/x"])
def test_an_unknown_name_offers_what_there_is(spec):
    with pytest.raises(
        UserError, match=r"unknown problem .* Known: cifar10, .*, war-and-peace\. Your own problem: FILE\.py"
    ):
        load(spec)


def test_a_misspelt_name_is_recognised():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load("digit")


@pytest.mark.parametrize(
    ("code", "spec", "name", "attribute"),
    [
        ("problem = make('a'); other = make('b')", "mine.py", "a", "problem"),
        ("problem = make('a'); other = make('b')", "mine.py:other", "b", "other"),
        ("other = make('b')", "mine.py", "b", "other"),
        ("other = make('b')", "mine.py:", "b", "other"),
        ("other = again = make('b')", "mine.py", "b", "other"),
        ("problem = 'a text'; other = make('b')", "mine.py", "b", "other"),
    ],
)
def test_a_problem_in_a_file(write, tmp_path, monkeypatch, code, spec, name, attribute):
    file = write(HEAD + code)
    monkeypatch.chdir(tmp_path)
    problem = load(spec)
    assert problem.name == name
    assert problem.spec == f"{file.resolve()}:{attribute}"
    assert load(problem.spec).name == name


@pytest.mark.parametrize(
    ("code", "spec", "text"),
    [
        ("", "mine.py", "mine.py defines no Problem; write: problem = Problem(...)."),
        ("a = make('a'); b = make('b')", "mine.py", "mine.py defines 2 problems: say which, mine.py:a or :b."),
        ("moons = make('a')", "mine.py:moon", "mine.py 'moon': did you mean 'moons'? Known: moons."),
        ("1 / 0", "mine.py", "mine.py: ZeroDivisionError: division by zero (mine.py, line 5)"),
        ("import nonesuch", "mine.py", "mine.py: ModuleNotFoundError: No module named 'nonesuch' (mine.py, line 5)"),
        ("exit(3)", "mine.py", "mine.py: SystemExit: 3 (mine.py, line 5)"),
        ("def f(:", "mine.py", "mine.py: SyntaxError: invalid syntax (mine.py, line 5)"),
        (
            "Protocol(0, 1, 1)",
            "mine.py",
            "mine.py: UserError: Protocol's batch_size must be a whole number of at least",
        ),
    ],
)
def test_a_file_that_gives_no_problem_says_why(write, code, spec, text):
    file = write(HEAD + code)
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        load(spec.replace("mine.py", str(file), 1))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match=r"no problem file .*absent\.py\."):
        load(str(tmp_path / "absent.py"))
    with pytest.raises(UserError, match=r"folder\.py \(it is a folder\)\."):
        load(str(tmp_path / "folder.py:problem"))


def test_a_file_without_a_decodable_text_is_an_error(write):
    file = write("")
    file.write_bytes(b"text = '\xff'")
    with pytest.raises(UserError, match=r"mine\.py: SyntaxError"):
        load(str(file))


def test_an_edit_is_seen_at_once(write):
    """Equal length, within one second: a byte-code cache would miss it."""
    file = write(HEAD + "problem = make('a')")
    first = load(str(file))
    write(HEAD + "problem = make('b')")
    assert (first.name, load(str(file)).name) == ("a", "b")


def test_neighbours_are_imported_each_from_its_own_folder(write, tmp_path):
    """Two files, two `helper.py`; and nothing of either stays importable."""
    for name in ("one", "two"):
        write(f"NAME = {name!r}", f"{name}/helper.py")
        write(HEAD + "import helper\nproblem = make(helper.NAME)", f"{name}/mine.py")
    path = list(sys.path)
    assert [load(str(tmp_path / name / "mine.py")).name for name in ("one", "two")] == ["one", "two"]
    assert sys.path == path
    assert "helper" not in sys.modules


def test_packages_beside_the_file_are_forgotten_but_installed_ones_stay(write, tmp_path):
    """A second copy of an installed package with C code would crash; one that merely lies deeper is installed."""
    write("", "package/__init__.py")
    write("NAME = 'a'", "package/part.py")
    write("", "bare/part.py")  # no __init__.py
    installed = write("", "site-packages/installed_here.py").parent
    file = write(
        f"{HEAD}import sys\nsys.path.append({str(installed)!r})\nimport installed_here, package.part, bare.part\n"
        "sys.path.pop()\nproblem = make(package.part.NAME)"
    )
    assert load(str(file)).name == "a"
    assert not {"package", "package.part", "bare", "bare.part"} & set(sys.modules)
    assert sys.modules.pop("installed_here")


def test_the_file_may_define_dataclasses(write):
    """dataclasses looks the class's module up in sys.modules."""
    file = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n" + HEAD + "@dataclass\n"
        "class C:\n    x: int = 1\nproblem = make(str(C().x))"
    )
    assert load(str(file)).name == "1"


def test_a_worker_process_loads_it_again_from_its_spec(write):
    write("", "neighbour.py")
    problem = load(str(write(HEAD + "import neighbour\nproblem = make('a')")))
    weight = problem.model(3).weight.flatten().tolist()
    code = (
        "from stepscope.problems import load\n"
        f"assert load({problem.spec!r}).model(3).weight.flatten().tolist() == {weight!r}"
    )
    worker = multiprocessing.get_context("forkserver").Process(target=exec, args=(code,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
