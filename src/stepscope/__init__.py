"""stepscope: a microscope for optimizer steps.

The names below load on first use, so that ``import stepscope`` costs neither torch nor pyarrow nor matplotlib.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = (
    "errors",
    "experiments",
    "graph",
    "optim",
    "problems",
    "report",
    "rules",
    "scope",
    "simulate",
    "store",
    "theory",
)
_NAMES = {
    "Dissection": "experiments",
    "Problem": "problems",
    "Run": "store",
    "Scope": "scope",
    "UserError": "errors",
    "dissect": "experiments",
}

__all__ = [
    "Dissection",
    "Problem",
    "Run",
    "Scope",
    "UserError",
    "dissect",
    "errors",
    "experiments",
    "graph",
    "optim",
    "problems",
    "report",
    "rules",
    "scope",
    "simulate",
    "store",
    "theory",
]

if TYPE_CHECKING:
    from stepscope import errors, experiments, graph, optim, problems, report, rules, scope, simulate, store, theory
    from stepscope.errors import UserError
    from stepscope.experiments.dissection import Dissection, dissect
    from stepscope.problems import Problem
    from stepscope.scope import Scope
    from stepscope.store import Run


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"stepscope.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"stepscope.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'stepscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
