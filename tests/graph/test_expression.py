"""Every rule traces to a graph whose value is that of the rule itself, bit for bit."""

import numpy as np
import pytest

from stepscope.graph import SYMBOLS, Symbol, evaluate, order, symbol, trace
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import METHODS, decayed


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("t", [1, 2, 17])
def test_traced_rule_computes_what_the_rule_computes(name: str, t: int) -> None:
    """The graph keeps the order of operations: tolerance zero. Random states may hold v < m^2, whose root is nan."""
    rule, rng = METHODS[name], np.random.default_rng(t)
    g, theta = rng.normal(size=50), rng.normal(size=50)
    state = {s: rng.random(50) for s in rule.state}
    hyper, scalars = rule.defaults, rule.step_scalars(t, rule.defaults)
    with np.errstate(invalid="ignore"):
        new_theta, new_state = rule.update(NUMPY, g, theta, state, hyper, scalars)
    inputs = {"g": g, "theta": theta}
    for group, values in (("state", state), ("hyper", hyper), ("scalars", scalars)):
        inputs |= {f"{group}.{key}": value for key, value in values.items()}
    with np.errstate(invalid="ignore"):
        values = evaluate(trace(rule).roots, inputs, NUMPY)
    for ours, expected in zip(values, [new_theta, *new_state.values()], strict=True):
        assert np.array_equal(ours, expected, equal_nan=True)


def test_shared_work_is_one_node() -> None:
    x = symbol("x")
    assert (x + 1.0) is (x + 1.0)
    assert x + 0.0 is not x + -0.0
    root = SYMBOLS.sqrt(x * x) / (x * x)
    assert len(list(order([root]))) == 4


def test_conditions_cannot_be_branched_on() -> None:
    with pytest.raises(TypeError, match=r"k\.where"):
        bool(symbol("x") > 0)


def test_the_list_of_functions_is_closed() -> None:
    with pytest.raises(AttributeError, match="closed list"):
        SYMBOLS.gamma(symbol("x"))
    with pytest.raises(TypeError, match=r"k\.sqrt takes 1"):
        SYMBOLS.sqrt(symbol("x"), 1.0)


@pytest.mark.parametrize("decoupled", [True, False])
def test_rules_with_decay_trace_too(decoupled: bool) -> None:
    traced = trace(decayed(METHODS["msvag"], decoupled=decoupled))
    names = {node.args[0] for node in order(traced.roots) if node.op == "input"}
    assert {"g", "theta", "state.m", "state.S", "hyper.weight_decay", "scalars.variance_of_direction"} <= names
    assert all(isinstance(root, Symbol) for root in traced.roots)
