"""What to train: built-in problems, the user's own, and the data sets behind them."""

from stepscope.problems.check import check
from stepscope.problems.data import DataSetInfo, datasets, fetch
from stepscope.problems.problem import Data, Metric, Problem, Protocol, Split, accuracy
from stepscope.problems.registry import load, names

__all__ = [
    "Data",
    "DataSetInfo",
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
