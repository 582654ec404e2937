"""What the adapters share: a scope for each optimizer of a loop, and what becomes of it when the loop fails."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stepscope.errors import UserError
from stepscope.scope.scope import Scope

__all__ = ["Scopes", "base_class"]


def base_class(modules: Sequence[str], name: str, extra: str) -> Any:
    """The class `name` of the first of the modules that is loaded, else that can be; UserError says what to install."""
    loaded = [module for module in modules if module in sys.modules]
    for module in (*loaded, *modules):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise UserError(f"this adapter needs {extra}: pip install 'stepscope[{extra}]'.")


class Scopes:
    """One scope for each of a loop's optimizers; of several, each records to a folder of its own within `run`."""

    def __init__(self, run: Any, options: Mapping[str, Any]) -> None:
        self._run, self._options = run, dict(options)
        self.all: list[Scope] = []

    def attach(self, optimizers: Sequence[Any], model: nn.Module | None) -> None:
        """Start observing; scopes of a loop before are detached."""
        self.detach()
        several = len(optimizers) > 1 and isinstance(self._run, str | os.PathLike)
        for i, optimizer in enumerate(optimizers):
            run = Path(self._run) / f"optimizer-{i}" if several else self._run
            scope = Scope(optimizer, model, run, **self._options)
            self.all.append(scope)
            scope.attach()

    def detach(self, error: BaseException | None = None) -> None:
        """Stop observing; the error, if there is one, decides on the status of the runs."""
        for scope in self.all:
            scope.__exit__(None if error is None else type(error), error, None)
        self.all = []
