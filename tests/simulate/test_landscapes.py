"""The catalogue of landscapes: minima, gradients, formulas."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.namespaces import MPMATH

from stepscope.errors import UserError
from stepscope.graph.expression import evaluate
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.simulate.landscapes import LANDSCAPES, Landscape, find, graph_of, quadratic, register, rosenbrock

PLACES = [*LANDSCAPES.values(), quadratic((0.5, 3.0, 20.0)), rosenbrock(4)]


def at(place: Landscape, point) -> dict[str, float]:
    values = {name: float(v) for name, v in zip(place.variables, point, strict=True)}
    return values | {f"param.{name}": float(v) for name, v in place.params.items()}


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.name)
def test_the_graph_s_gradient_is_the_loss_s_derivative(place):
    """mpmath differentiates the plain function numerically in 30 digits; float64 evaluates ours to a few ulp of the
    largest term, and the points avoid kinks."""
    mpmath.mp.dps = 30
    rng = np.random.default_rng(0)
    _, _, slopes = graph_of(place)
    for _ in range(5):
        point = [float(rng.uniform(low, high)) + 0.0123 for low, high in place.view]
        ours = evaluate(slopes, at(place, point), NUMPY)
        for i in range(len(point)):
            exact = mpmath.diff(
                lambda v, i=i, point=point: place(
                    MPMATH, *[mpmath.mpf(x) if j != i else v for j, x in enumerate(point)]
                ),
                mpmath.mpf(point[i]),
            )
            assert abs(float(ours[i]) - float(exact)) <= 1e-10 * (
                1 + abs(float(exact)) + float(abs(place(NUMPY, *point)))
            )


@pytest.mark.parametrize("place", [p for p in PLACES if p.minima], ids=lambda p: p.name)
def test_known_minima_are_the_lowest_points(place):
    """No random point of the view is lower, and all of several minima are equally low (known to 1e-6)."""
    losses = [float(place(NUMPY, *[np.float64(v) for v in m])) for m in place.minima]
    assert np.ptp(losses) < 1e-6
    rng = np.random.default_rng(1)
    points = [rng.uniform(low, high, 4000) for low, high in place.view]
    assert float(np.min(place(NUMPY, *points))) >= min(losses) - 1e-6


def test_a_formula_is_a_landscape():
    place = find("x^2 + 2y^2")
    assert place.variables == ("x", "y")
    assert find("x^2").variables == ("x",)
    assert find("x1 x3").variables == ("x1", "x2", "x3")
    assert float(place(NUMPY, 3.0, 1.0)) == 11.0
    assert find("y").variables == ("x", "y")


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(UserError, match="did you mean 'smooth_valley'"):
        find("smooth_vally")


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "(" * 100_000, "a b " * 10_000, "__import__('os')", "9**9**9**9", "\0"]
)
def test_hostile_text_gets_a_short_answer(text):
    with pytest.raises(UserError) as caught:
        find(text)
    assert len(str(caught.value)) < 600


def test_a_landscape_of_one_s_own_is_found_by_name():
    mine = Landscape("mine", "", ("x",), lambda k, x, p: p["a"] * k.abs(x[0]), (1.0,), params={"a": 2.0})
    register(mine)
    try:
        assert find("mine") is mine
        with pytest.raises(UserError, match="already"):
            register(mine)
    finally:
        del LANDSCAPES["mine"]


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 1e4), st.floats(0, 3.2), st.floats(-2, 2), st.floats(-2, 2))
def test_a_turned_ellipse_keeps_its_curvatures(kappa, angle, x, y):
    """Rotating the point with the landscape changes nothing: rounding of a few products of size kappa."""
    place = find("ellipse")
    c, s = np.cos(angle), np.sin(angle)
    turned = float(place(NUMPY, c * x - s * y, s * x + c * y, kappa=kappa, angle=angle))
    assert abs(turned - float(place(NUMPY, x, y, kappa=kappa))) <= 1e-13 * kappa * (1 + x * x + y * y)


def test_impossible_dimensions_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        quadratic(())
    with pytest.raises(ValueError, match="two or more"):
        rosenbrock(1)
