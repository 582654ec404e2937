"""Problems by name: the built-in ones, and those in a user's Python file."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from stepscope.errors import UserError, unknown_name
from stepscope.problems import cifar10, cifar100, digits, eigen, fashion_mnist, war_and_peace
from stepscope.problems.check import describe
from stepscope.problems.problem import Problem

__all__ = ["load", "names"]

_BUILT_IN = {
    problem.name: problem
    for problem in (
        digits.problem,
        fashion_mnist.problem,
        cifar10.problem,
        cifar100.problem,
        war_and_peace.problem,
        eigen.large_batch,
        eigen.small_batch,
    )
}


def names() -> list[str]:
    """The built-in problems, sorted.

    >>> names()
    ['cifar10', 'cifar100', 'digits', 'eigen', 'eigen-16', 'fashion-mnist', 'war-and-peace']
    """
    return sorted(_BUILT_IN)


def load(spec: str) -> Problem:
    """The problem that `spec` names: "digits", "path/file.py:attribute" or "path/file.py".

    Without an attribute the file's `problem` is taken, or else the only Problem in it. The file is run anew on each
    call; files beside it can be imported at its top level. The result's `spec` (absolute) loads it in any process.
    Raises: UserError for an unknown name, a file that is missing or raises, or no (or no single) Problem in it.
    """
    if spec in _BUILT_IN:
        return dataclasses.replace(_BUILT_IN[spec], spec=spec)
    stem, dot_py, attribute = spec.rpartition(".py")  # not at the colon: Windows paths have one, too
    if not dot_py or (attribute and not attribute.startswith(":")):
        raise UserError(f"{unknown_name('problem', spec, _BUILT_IN)} Your own problem: FILE.py or FILE.py:NAME.")
    file = Path(stem + ".py").expanduser().resolve()
    if not file.is_file():
        raise UserError(f"no problem file {file}{' (it is a folder)' if file.is_dir() else ''}.")
    name, problem = _pick(_run(file), file, attribute.removeprefix(":"))
    return dataclasses.replace(problem, spec=f"{file}:{name}")


def _pick(module: ModuleType, file: Path, attribute: str) -> tuple[str, Problem]:
    found = {name: value for name, value in vars(module).items() if isinstance(value, Problem)}
    if not found:
        raise UserError(f"{file} defines no Problem; write: problem = Problem(...).")
    if attribute:
        if attribute not in found:
            raise unknown_name(f"problem in {file}", attribute, found)
        return attribute, found[attribute]
    if "problem" in found:
        return "problem", found["problem"]
    if len({id(problem) for problem in found.values()}) > 1:
        raise UserError(f"{file} defines {len(found)} problems: say which, {file.name}:{' or :'.join(found)}.")
    return next(iter(found.items()))


def _run(file: Path) -> ModuleType:
    """Run the file as a module under a name of its own, so that a `random.py` hides nothing."""
    name = f"stepscope_problem_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # every path that ends in .py has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    with _importable(file.parent):
        try:
            # Not by the loader: its byte-code cache misses an edit of equal length within one second.
            exec(compile(file.read_bytes(), file, "exec"), vars(module))
        except (Exception, SystemExit) as error:  # a script may call sys.exit
            raise UserError(f"cannot load {file}: {describe(error, str(file))}") from error
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours, then forget them: another folder may have others of the same name."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have taken it away
            sys.path.remove(str(folder))
        tops = {name.partition(".")[0] for name in set(sys.modules) - before} - before
        neighbours = {top for top in tops if top in sys.modules and _home(sys.modules[top]) in (folder, folder / top)}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in neighbours:
                del sys.modules[name]


def _home(module: ModuleType) -> Path | None:
    """The folder of a module's file, or the one above a package without an `__init__.py`."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return next((Path(place).parent for place in places if place), None)
