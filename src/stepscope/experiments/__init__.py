"""Experiments: dissecting a problem into what the sign and the variance adaptation of Adam each do to it."""

from stepscope.experiments.dissect import Dissection, dissect
from stepscope.experiments.executor import Executor, Finished, Processes, Task
from stepscope.experiments.progress import Progress, Silent, TrialEvent

__all__ = [
    "Dissection",
    "Executor",
    "Finished",
    "Processes",
    "Progress",
    "Silent",
    "Task",
    "TrialEvent",
    "dissect",
]
