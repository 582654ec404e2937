"""What to train: built-in problems, the user's own, and the data sets behind them."""

from stepscope.problems.check import check
from stepscope.problems.data import DataSetInfo, datasets, fetch
from stepscope.problems.problem import L2, Data, Decrease, Metric, Problem, Protocol, Split, accuracy
from stepscope.problems.registry import load, names

__all__ = [
    "L2",
    "Data",
    "DataSetInfo",
    "Decrease",
    "Metric",
    "Problem",
    "Protocol",
    "Split",
    "accuracy",
    "check",
    "datasets",
    "fetch",
    "load",
    "names",
]
