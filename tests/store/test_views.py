import builtins
import math

import numpy as np
import pytest

from stepscope.errors import UserError
from stepscope.store import Run, RunWriter

COLUMNS = {"scope": {"columns": {"spread": {"unit": "1", "formula": "sigma / |m|", "cost": 3}}}}


@pytest.fixture
def run(tmp_path) -> Run:
    with RunWriter(tmp_path, config=COLUMNS, tensors=[{"name": "w"}, {"name": "b"}]) as writer:
        for step in (1, 2, 5):
            writer.write(step, "", {"loss": 1 / step, "size": 10.0})
            writer.write(step, "b", {"spread": step + 0.5, "size": 1.0})
        writer.write(5, "w", {"spread": 7.0})
    return Run(tmp_path)


def test_pandas(run):
    frame = run.pandas("spread", "loss")
    assert frame.index.names == ["layer", "step"]
    assert list(frame.columns) == ["spread", "loss"]
    assert frame.loc["b", "spread"].to_dict() == {1: 1.5, 2: 2.5, 5: 5.5}
    assert frame.loc[("", 5), "loss"] == 0.2
    assert math.isnan(frame.loc[("w", 5), "loss"])
    assert run.pandas("spread", layers="w", steps=(2, None)).to_dict() == {"spread": {("w", 5): 7.0}}


def test_polars(run):
    frame = run.polars("spread", layers=["b", "w"], steps=slice(2, 6))
    assert frame.columns == ["step", "layer", "spread"]
    assert frame.rows() == [(2, "b", 2.5), (5, "b", 5.5), (5, "w", 7.0)]


def test_xarray(run):
    data = run.xarray()
    assert dict(data.sizes) == {"layer": 2, "step": 3}
    assert data.layer.values.tolist() == ["w", "b"]  # as in the model
    assert data.step.values.tolist() == [1, 2, 5]
    np.testing.assert_array_equal(data["spread"].values, [[np.nan, np.nan, 7.0], [1.5, 2.5, 5.5]])
    assert data["spread"].attrs == {"unit": "1", "formula": "sigma / |m|"}
    assert data["loss"].dims == ("step",)
    np.testing.assert_array_equal(data["loss"].values, [1.0, 0.5, 0.2])
    np.testing.assert_array_equal(data["size of the run"].values, [10.0] * 3)
    np.testing.assert_array_equal(data["size"].sel(layer="b").values, [1.0] * 3)


def test_a_library_that_is_missing_is_named(run, monkeypatch):
    find = builtins.__import__
    import importlib

    def missing(name, *arguments):
        if name in {"pandas", "polars", "xarray"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return find(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("pandas", "polars", "xarray"):
        with pytest.raises(UserError) as caught:
            getattr(run, name)("spread")
        assert str(caught.value) == (
            f"{name} is not installed: pip install {name}, or use run.table(...), which needs nothing more."
        )
