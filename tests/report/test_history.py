import math

import numpy as np

from stepscope.report.blocks import Block
from stepscope.report.history import described, grouped, histories, plain_columns
from stepscope.store import Run, RunWriter


def test_histories_are_means_and_extremes_of_stretches(tmp_path):
    with RunWriter(tmp_path) as run:
        for step in range(1, 101):
            run.write(step, "a", {"x": step, "h[3]": 1.0})
            run.write(step, "b", {"x": math.inf if step == 55 else -step, "only": 1.0})
            run.write(step, "", {"loss": 1.0})
    found = {one.column: one for one in histories(Run(tmp_path), ["b", "a"], 10)}
    assert list(found) == ["x", "only"]  # no cells of histograms, and nothing of the run as a whole
    x = found["x"]
    assert x.edges.tolist() == [*range(1, 92, 10), 101]
    assert x.steps.tolist() == [5.5 + 10 * n for n in range(10)]
    np.testing.assert_array_equal(x.low[1], np.arange(1.0, 92, 10))
    np.testing.assert_array_equal(x.high[1], np.arange(10.0, 101, 10))
    np.testing.assert_allclose(
        x.mean[0], [-(np.mean([n for n in range(a, a + 10) if n != 55])) for a in range(1, 92, 10)]
    )
    assert np.argwhere(x.broken).tolist() == [[0, 5]]
    assert np.isnan(found["only"].mean[1]).all()

    (both,) = (grouped(x, [Block("both", (0, 1))]),)
    np.testing.assert_array_equal(both.low[0], x.low[0])
    np.testing.assert_array_equal(both.high[0], x.high[1])
    np.testing.assert_allclose(both.mean[0], x.mean.mean(axis=0))  # the median of two is their mean
    assert both.broken[0].tolist() == x.broken[0].tolist()


def test_a_part_of_the_steps(tmp_path):
    with RunWriter(tmp_path) as run:
        for step in range(20):
            run.write(step, "a", {"x": step})
    (x,) = histories(Run(tmp_path), ["a"], 100, (5, 8))
    assert x.edges.tolist() == [5, 6, 7, 8, 9]
    assert x.mean.tolist() == [[5, 6, 7, 8]]


def test_columns_and_what_a_run_says_of_them():
    assert plain_columns(["x", "x[2^3]", "y[0]", "z"]) == ["x", "z"]
    info = {"config": {"scope": {"columns": {"x": {"formula": "mean |g|", "unit": "gradient"}, "y": {"formula": "n"}}}}}
    assert [described(info, name) for name in "xyz"] == ["mean |g|, in units of: gradient", "n", ""]
    assert described({}, "x") == ""
