"""What the adapters share: the library they stand on, and a scope that lives as long as the loop."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stepscope.errors import UserError
from stepscope.scope.scope import Scope

__all__ = ["Attached", "base_class"]


def base_class(modules: Sequence[str], name: str, extra: str) -> Any:
    """The class `name` of the first of the modules that is loaded, else that can be; UserError says what to install."""
    loaded = [module for module in modules if module in sys.modules]
    for module in (*loaded, *modules):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise UserError(f"this adapter needs {extra}: pip install 'stepscope[{extra}]'.")


class Attached:
    """The scope of a loop while the loop runs."""

    def __init__(self, run: Any, options: Mapping[str, Any]) -> None:
        self._run, self._options = run, dict(options)
        self.scope: Scope | None = None

    def attach(self, optimizers: Sequence[Any], model: nn.Module | None) -> Scope:
        """Start observing; the scope of a loop before is detached."""
        self.detach()
        self.scope = Scope(list(optimizers), model, self._run, **self._options)
        return self.scope.attach()

    def detach(self, error: BaseException | None = None) -> None:
        """Stop observing; the error, if there is one, decides on the status of the run."""
        scope, self.scope = self.scope, None
        if scope is not None:
            scope.__exit__(None if error is None else type(error), error, None)
