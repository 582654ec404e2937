"""Experiments: dissecting a problem into what Adam's ingredients do to it, and testing what papers claim.

The names load on first use: the claims need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Dissection": "dissection",
    "Executor": "executor",
    "Finished": "executor",
    "Processes": "executor",
    "Progress": "progress",
    "Ray": "cluster",
    "Silent": "progress",
    "Task": "executor",
    "TrialEvent": "progress",
    "dissect": "dissection",
}

__all__ = [
    "Dissection",
    "Executor",
    "Finished",
    "Processes",
    "Progress",
    "Ray",
    "Silent",
    "Task",
    "TrialEvent",
    "dissect",
]

if TYPE_CHECKING:
    from stepscope.experiments.cluster import Ray
    from stepscope.experiments.dissection import Dissection, dissect
    from stepscope.experiments.executor import Executor, Finished, Processes, Task
    from stepscope.experiments.progress import Progress, Silent, TrialEvent


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"stepscope.experiments.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'stepscope.experiments' has no attribute {name!r}")
