"""The part of the page about one run's steps: what is drawn, what is said, what is left out."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.report.sample import make_results

from stepscope.report import layers, panel, panes
from stepscope.report.panes import Detail

DETAIL = Detail(layers=8, dots=200)
TENSORS = ("conv.weight", "conv.bias", "fc.weight", "fc.bias")


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with panel.drawing():
        yield


@pytest.fixture(scope="module")
def dissections() -> dict[str, dict[str, object]]:
    return make_results(seeds=1, steps=60, layers=TENSORS)["dissection"]


def pane_of(dissection: dict[str, object], detail: Detail = DETAIL, unit_steps: bool = True) -> panes.Pane:
    return panes.pane("k", "Adam", layers.read(dissection), detail, unit_steps=unit_steps, adam=unit_steps)


def test_a_pane_shows_weights_first_and_biases_apart(dissections):
    found = pane_of(dissections["adam"])
    assert len(found.average) == 4
    for figures in (found.momentum, found.spread, found.factors):
        assert [figure.caption for figure in figures] == ["conv.weight", "fc.weight"]
    for figures in (found.other_spread, found.other_factors):
        assert [figure.caption for figure in figures] == ["conv.bias", "fc.bias"]
    assert [name for name, _ in found.legend] == ["conv.weight", "fc.weight"]
    assert (found.first, found.last, found.others, found.left_out) == (1, 60, 2, 0)


def test_the_theoretical_curve_is_drawn_and_named_only_where_it_applies(dissections):
    with_curve, without = pane_of(dissections["adam"]), pane_of(dissections["msgd"], unit_steps=False)
    assert [figure.svg.count("stroke-dasharray") for figure in with_curve.average] == [0, 1, 1, 1]
    assert ["otted" in figure.caption for figure in with_curve.average] == [False, True, True, True]
    assert not any("stroke-dasharray" in figure.svg or "otted" in figure.caption for figure in without.average)
    assert without.agreement == ""


def test_agreement_with_the_theory_is_the_median_ratio(dissections):
    """The sample's one-beta Adam follows the curve with 1 % scatter; the median of 60 steps is within 0.2 %."""
    assert pane_of(dissections["adam_one_beta"]).agreement.endswith("conv.weight ×1.00, fc.weight ×1.00.")


def test_what_is_zero_throughout_is_said_and_not_drawn(dissections):
    found = {diagnostic.column: picture for diagnostic, picture in pane_of(dissections["msgd"]).diagnostics}
    assert found["variance_negative_share"] is None
    assert found["epsilon_dominated_share"] is None
    assert found["sign_agreement"] is not None


def test_a_diagnostic_that_was_not_recorded_is_not_there(dissections):
    series = {
        name: {column: values for column, values in columns.items() if "epsilon" not in column}
        for name, columns in dissections["msgd"]["series"].items()
    }
    found = pane_of(dissections["msgd"] | {"series": series})
    assert "epsilon_dominated_share" not in [diagnostic.column for diagnostic, _ in found.diagnostics]


def test_many_layers_are_thinned_and_counted():
    tensors = tuple(f"block{n}.weight" for n in range(20))
    found = pane_of(make_results(seeds=1, steps=10, layers=tensors)["dissection"]["adam"], Detail(layers=4, dots=20))
    assert [figure.caption for figure in found.spread] == [tensors[n] for n in (0, 6, 13, 19)]
    assert found.left_out == 16
    assert len(found.weights) == 20


def test_columns_that_are_missing_leave_their_pictures_out():
    recorded = {"layers": ["w"], "steps": [1, 2], "series": {"w": {"sign_agreement": [0.5, 0.6]}}}
    found = pane_of(recorded)
    assert (found.average, found.spread, found.momentum, found.factors) == ([], [], [], [])
    assert len(found.diagnostics) == 1


def test_no_steps_are_said():
    assert "No recorded steps" in pane_of({}).note


def test_one_extreme_value_cannot_press_the_picture_flat():
    x = np.array([0.0, np.nan, 1e-9, *[4.0] * 20, 1e9])
    moved, beyond = panes._within_reach(x)
    assert beyond == 2
    np.testing.assert_allclose(moved, [0.0, np.nan, 0.4, *[4.0] * 20, 40])
    assert panes._within_reach(np.array([np.nan, 0.0]))[1] == 0
