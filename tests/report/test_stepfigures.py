"""Pictures of steps: one dot per step where both numbers exist, and the theoretical curve where it belongs."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from stepscope.report import panel, stepfigures


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with panel.drawing():
        yield


def dots(document: str) -> int:
    return document.count("h0")


def test_every_step_with_two_positive_values_is_a_dot():
    x = np.array([1.0, 2.0, 0.0, np.nan, 5.0, np.inf])
    y = np.array([0.5, 0.4, 0.3, 0.2, np.nan, 0.1])
    document = stepfigures.scatter_panel("s", x, y, "x", "y")
    assert document is not None
    assert dots(document) == 2


def test_a_cloud_without_a_dot_is_no_picture():
    assert stepfigures.scatter_panel("s", np.zeros(3), np.ones(3), "x", "y") is None
    assert stepfigures.factor_panel("f", np.arange(3), {}, "layer") is None
    assert stepfigures.layer_panel("l", np.arange(3), [("a", np.zeros(3))], "share", log=False) is None
    assert stepfigures.layer_panel("l", np.arange(3), [], "share", log=False) is None


def test_colours_run_from_the_first_step_to_the_last():
    x = np.geomspace(1, 10, 160)
    document = stepfigures.scatter_panel("s", x, 1 / x, "x", "y")
    assert document is not None
    order = re.findall(r"stroke:var\(--t(\d+)\)", document)
    assert order == [str(n) for n in range(16)]
    assert dots(document) == 160


def test_dots_from_the_theory_lie_on_its_curve():
    """Both are in px, rounded to 0.1; between the 60 points the curve is straight, off by less than 0.05 px."""
    x = np.geomspace(0.2, 20, 50)
    document = stepfigures.scatter_panel("s", x, 1 / np.sqrt(1 + x**2), "x", "y", theory=True)
    assert document is not None
    (path,) = re.findall(r'<path d="M([^"]*)"[^>]*stroke-dasharray', document)
    curve = np.array(path.split(), dtype=float).reshape(-1, 2)
    found = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", document), dtype=float)
    assert len(found) == 50
    np.testing.assert_allclose(np.interp(found[:, 0], curve[:, 0], curve[:, 1]), found[:, 1], atol=0.2)


def test_a_far_dot_does_not_drag_the_curve_along():
    """1/sqrt(1 + x^2) at 10^9 would make an axis of nine decades for dots within one."""
    x = np.array([1.0, 2.0, 1e9])
    document = stepfigures.scatter_panel("s", x, np.array([0.7, 0.4, 0.3]), "x", "y", theory=True)
    assert document is not None
    labels = re.findall(r">(0\.\d+|1)</text>", document)
    assert min(map(float, labels)) >= 0.1


def test_zeros_on_a_log_axis_are_gaps():
    document = stepfigures.layer_panel("l", np.arange(1, 5), [("a", np.array([1e-3, 0, 1e-3, 1e-2]))], "u", log=True)
    assert document is not None
    assert "nan" not in document.lower()


def test_factors_share_the_methods_hues():
    columns = {factor.column: np.linspace(1, 0.1, 5) for factor in stepfigures.FACTORS}
    document = stepfigures.factor_panel("f", np.arange(5), columns, "conv1.weight")
    assert document is not None
    assert document.count("stroke:var(--sign)") == document.count("stroke:var(--plain)") == 2
