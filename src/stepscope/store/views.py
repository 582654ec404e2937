"""A table of a run in other libraries' terms; each of them is imported only when it is asked for."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stepscope.errors import UserError
from stepscope.store.format import KEYS

if TYPE_CHECKING:
    import pandas
    import polars
    import xarray

__all__ = ["to_pandas", "to_polars", "to_xarray"]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"{name} is not installed: pip install {name}, or use run.table(...), which needs nothing more."
        ) from None


def to_pandas(table: pa.Table) -> "pandas.DataFrame":
    """A frame with the index (layer, step)."""
    pandas = _library("pandas")
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in KEYS}
    index = pandas.MultiIndex.from_arrays(
        [table["layer"].to_pandas(), table["step"].to_numpy()], names=["layer", "step"]
    )
    return pandas.DataFrame(columns, index=index)


def to_polars(table: pa.Table) -> "polars.DataFrame":
    """A frame with the columns of the table."""
    return _library("polars").from_arrow(table)


def to_xarray(table: pa.Table, layers: Sequence[str], info: Mapping[str, Any]) -> "xarray.Dataset":
    """A data set of the dimensions layer and step.  layers: in the order wanted; info: what run.json holds.

    Of a column with values of layers and of the run as a whole, those of the run are a variable of their own.
    """
    xarray = _library("xarray")
    steps, row_step = np.unique(table["step"].to_numpy(), return_inverse=True)
    encoded = table["layer"].combine_chunks().dictionary_encode()
    there = encoded.dictionary.to_pylist()
    shown = [name for name in layers if name in there]
    place = {name: number for number, name in enumerate(shown)}
    row_layer = np.array([place.get(name, -1) for name in there], int)[encoded.indices.to_numpy()]
    scope = (info.get("config") or {}).get("scope") or {}
    about = scope.get("columns") or {}
    inside = row_layer >= 0
    variables: dict[str, Any] = {}
    for name in table.column_names:
        if name in KEYS:
            continue
        values = table[name].to_numpy()
        attributes = {str(key): text for key, text in dict(about.get(name) or {}).items() if isinstance(text, str)}
        whole = bool(np.isfinite(values[~inside]).any())
        if not whole or np.isfinite(values[inside]).any():
            grid = np.full((len(shown), len(steps)), np.nan)
            grid[row_layer[inside], row_step[inside]] = values[inside]
            variables[name] = (("layer", "step"), grid, attributes)
        if whole:
            line = np.full(len(steps), np.nan)
            line[row_step[~inside]] = values[~inside]
            variables[f"{name} of the run" if name in variables else name] = (("step",), line, attributes)
    return xarray.Dataset(variables, coords={"layer": shown, "step": steps})
