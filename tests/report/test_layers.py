"""Which tensors are layers, and means over them."""

import numpy as np
import pytest

from stepscope.report import layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", True),
        ("transformer.h.0.attn.c_attn.weight", True),
        ("rnn.weight_ih_l0", True),
        ("conv1.bias", False),
        ("rnn.bias_hh_l0", False),
        ("layer1.0.bn2.weight", False),
        ("encoder.layer_norm.weight", False),
        ("ln_f.weight", False),
        ("LayerNorm.weight", False),
        ("normal_head.weight", True),
    ],
)
def test_weights_are_told_by_name(name: str, expected: bool):
    assert layers.is_weight(name) is expected


def recorded(**columns: dict[str, list[float | None]]) -> dict[str, object]:
    return {"layers": list(columns), "steps": [1, 2, 3], "series": columns}


def test_shapes_count_more_than_names():
    found = layers.read(recorded(a={"x": [1, 2, 3]}, b={"x": [1, 2, 3]}), {"a": [3], "b": [3, 4]})
    assert found is not None
    assert (list(found.weights), list(found.others)) == (["b"], ["a"])


def test_without_weights_everything_is_shown():
    found = layers.read(recorded(bias={"x": [1, None, 3]}))
    assert found is not None
    assert list(found.weights) == ["bias"]
    np.testing.assert_array_equal(found.weights["bias"]["x"], [1, np.nan, 3])


@pytest.mark.parametrize("nothing", [{}, {"steps": [], "series": {}}, {"steps": [1], "series": {}, "layers": ["a"]}])
def test_nothing_recorded_is_none(nothing: dict[str, object]):
    assert layers.read(nothing) is None


def test_the_mean_over_layers_leaves_out_what_is_unknown():
    found = layers.read(recorded(a={"x": [1, None, None]}, b={"x": [3, 5, None]}, c={"y": [0, 0, 0]}))
    assert found is not None
    np.testing.assert_array_equal(layers.average(found.weights, "x", 3), [2, 5, np.nan])
    np.testing.assert_array_equal(layers.average(found.weights, "z", 3), [np.nan] * 3)


def test_the_median_over_layers_keeps_steps_on_their_curve():
    """Steps of 1 / spread in each layer: the geometric mean of the middle two spreads goes with that of their steps."""
    spreads = {"a": [1, 2], "b": [4, 1e9], "c": [16, 8], "d": [1e6, 0.5]}
    columns = {name: {"spread": values, "step": [1 / value for value in values]} for name, values in spreads.items()}
    found = layers.read({"layers": list(columns), "steps": [1, 2], "series": columns})
    assert found is not None
    spread, step = (layers.middle(found.weights, column, 2) for column in ("spread", "step"))
    np.testing.assert_allclose(spread, [8, 4])
    np.testing.assert_allclose(step, 1 / spread)


def test_the_median_over_layers_leaves_out_what_is_unknown():
    found = layers.read(recorded(a={"x": [1, None, 0]}, b={"x": [None, None, 0]}))
    assert found is not None
    np.testing.assert_array_equal(layers.middle(found.weights, "x", 3), [1, np.nan, 0])
    np.testing.assert_array_equal(layers.middle(found.weights, "y", 3), [np.nan] * 3)


def test_choosing_keeps_both_ends():
    names = [str(n) for n in range(20)]
    assert layers.evenly(names, 4) == ["0", "6", "13", "19"]
    assert layers.evenly(names, 30) == names
    assert layers.evenly(names, 1) == ["0"]
    assert layers.thin(1001, 5).tolist() == [0, 250, 500, 750, 1000]
    assert layers.thin(3, 5).tolist() == [0, 1, 2]
