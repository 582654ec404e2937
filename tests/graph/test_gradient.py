"""Symbolic gradients against torch's automatic ones, on random graphs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepscope.graph.expression import SYMBOLS, Symbol, evaluate, symbol
from stepscope.graph.gradient import gradient
from stepscope.optim.backends.eager import TORCH

X, Y = symbol("x"), symbol("y")


def grow(children):
    """Graphs that stay within the functions' domains for x, y in [0.3, 2]."""
    positive = children.map(lambda a: SYMBOLS.abs(a) + 0.5)
    bounded = children.map(SYMBOLS.tanh)
    return st.one_of(
        st.builds(lambda a, b: a + b, children, children),
        st.builds(lambda a, b: a - b, children, children),
        st.builds(lambda a, b: a * b, bounded, children),
        st.builds(lambda a, b: a / b, children, positive),
        st.builds(SYMBOLS.fma, bounded, bounded, children),
        children.map(lambda a: -a),
        bounded.map(SYMBOLS.exp),
        positive.map(SYMBOLS.sqrt),
        positive.map(SYMBOLS.log),
        children.map(SYMBOLS.sin),
        children.map(SYMBOLS.cos),
        children.map(SYMBOLS.erf),
        children.map(SYMBOLS.abs),
        st.builds(SYMBOLS.min, children, children),
        st.builds(SYMBOLS.max, children, children),
        st.builds(lambda c, d, a, b: SYMBOLS.where((c < d) & (c > -1e3), a, b), children, children, children, children),
        st.builds(lambda a, n: SYMBOLS.tanh(a) ** n, children, st.integers(1, 5)),
    )


GRAPHS = st.recursive(st.sampled_from([X, Y, X * Y]) | st.floats(-2, 2).map(lambda v: X * 0.0 + v), grow, max_leaves=12)


@settings(max_examples=200, deadline=None)
@given(root=GRAPHS, x=st.floats(0.3, 2), y=st.floats(0.3, 2))
def test_it_is_what_automatic_differentiation_gives(root, x, y):
    """Two ways to apply the same chain rule to a few dozen operations in float64; ties of min, max and kinks of |x| are
    met only where both arguments are the same node, so they are told apart by a shifted second variable.
    """
    at = {
        "x": torch.tensor(x, dtype=torch.float64, requires_grad=True),
        "y": torch.tensor(y + 0.137, dtype=torch.float64, requires_grad=True),
    }
    value = evaluate([root], at, TORCH)[0]
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        assert all(g.op == "const" and g.args[0] == 0 for g in gradient(root, [X, Y]))
        return
    theirs = torch.autograd.grad(value, list(at.values()), allow_unused=True)
    plain = {name: v.detach() for name, v in at.items()}
    ours = evaluate(gradient(root, [X, Y]), plain, TORCH)
    scale = 1 + sum(abs(float(g)) for g in theirs if g is not None)
    if any(op in repr(root) for op in ("min(", "max(", "abs(", "where(")) and not smooth(root, plain):
        return
    for a, b in zip(ours, theirs, strict=True):
        assert abs(float(a) - (0.0 if b is None else float(b))) <= 1e-10 * scale


def smooth(root: Symbol, at) -> bool:
    """Whether no kink lies within 1e-9 of the point: at a kink the two conventions may differ."""
    from stepscope.graph.expression import order

    for node in order([root]):
        if node.op in ("min", "max", "<", ">"):
            a, b = evaluate(list(node.args), at, TORCH)
            if abs(float(a) - float(b)) < 1e-9:
                return False
        if node.op == "abs" and abs(float(evaluate([node.args[0]], at, TORCH)[0])) < 1e-9:
            return False
    return True


def test_conventions_at_kinks():
    at = {"x": 0.0, "y": 0.0}
    from stepscope.graph.numpy_namespace import NUMPY

    assert evaluate(gradient(SYMBOLS.abs(X), [X]), at, NUMPY) == [0.0]
    assert evaluate(gradient(SYMBOLS.sign(X), [X]), at, NUMPY) == [0.0]
    assert evaluate(gradient(SYMBOLS.min(X, 2 * Y), [X, Y]), at, NUMPY) == [1.0, 0.0]
    assert evaluate(gradient(SYMBOLS.max(X, 2 * Y), [X, Y]), at, NUMPY) == [1.0, 0.0]


def test_only_the_derivative_is_simplified():
    assert repr(gradient(X * X + 1e-3 * (Y * Y), [X, Y])) == "[*(2.0, x), *(2.0, *(0.001, y))]"
    assert repr(gradient(SYMBOLS.abs(X), [X, Y])) == "[sign(x), 0.0]"


def test_a_deep_graph_needs_no_recursion():
    value = X
    for _ in range(20_000):
        value = value + 1e-4 * X
    (slope,) = gradient(value, [X])
    from stepscope.graph.numpy_namespace import NUMPY

    assert abs(evaluate([slope], {"x": 1.0}, NUMPY)[0] - 3.0) < 1e-9
