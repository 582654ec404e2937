"""A problem of which each evaluation looks at fewer examples."""

import dataclasses
import functools

from stepscope import problems
from stepscope.problems import Data, Problem, Split

__all__ = ["reduced"]


def reduced(name: str, evaluate_every: int, evaluated: int | None) -> Problem:
    """A built-in problem with evaluations of its own; all training examples stay.

    evaluated: the first so many test examples, and as many training examples; None for all.
    """
    problem = problems.load(name)
    protocol = dataclasses.replace(problem.protocol, evaluate_every=evaluate_every)
    if evaluated is None:
        return dataclasses.replace(problem, protocol=protocol, spec="")
    data = functools.partial(_cut, name, evaluated)
    return dataclasses.replace(problem, data=data, protocol=protocol, spec="")


def _cut(name: str, evaluated: int) -> Data:
    whole = problems.load(name).data()
    test = Split(whole.test.inputs[:evaluated], whole.test.targets[:evaluated])
    return Data(whole.train, test)
