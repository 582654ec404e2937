"""The dissection of the steps, layer by layer: which tensors count as layers, their series, and Eigen's averages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "Steps", "average", "evenly", "is_weight", "middle", "read", "thin"]

Array = NDArray[np.float64]
Series = Mapping[str, Array]

_NORMALISATION = re.compile(
    r"(^|[._])(bn|ln|batch_?norm|layer_?norm|group_?norm|norm|downsample\.1)\d*([._]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class Steps:
    """The recorded steps of one run.

    weights: tensors that multiply (of convolutional, fully connected, ... layers); others: biases and normalisation.
    """

    steps: NDArray[np.int64]
    weights: Mapping[str, Series]
    others: Mapping[str, Series]


def is_weight(name: str) -> bool:
    """Whether a tensor is a layer's weights, judged by its name: no bias, and not the scale of a normalisation.

    >>> [is_weight(name) for name in ("conv1.weight", "conv1.bias", "layer1.0.bn2.weight", "rnn.weight_hh_l0")]
    [True, False, False, True]
    """
    return "bias" not in name.rpartition(".")[2] and not _NORMALISATION.search(name)


def read(dissection: Mapping[str, Any], shapes: Mapping[str, Sequence[int]] | None = None) -> Steps | None:
    """The series of one run as arrays (NaN where nothing was recorded); None if there is no recorded step.

    Weights are the tensors with two or more dimensions where ``shapes`` knows them, otherwise those whose name says so.
    If that is none, all count as weights.
    """
    steps = np.asarray(dissection.get("steps") or [], dtype=np.int64)
    series = dissection.get("series") or {}
    names = [name for name in dissection.get("layers") or series if name in series]
    if not steps.size or not names:
        return None
    columns = {name: _columns(series[name], steps.size) for name in names}
    known = shapes or {}
    weights = [name for name in names if (len(known[name]) > 1 if name in known else is_weight(name))] or names
    return Steps(
        steps=steps,
        weights={name: columns[name] for name in weights},
        others={name: columns[name] for name in names if name not in weights},
    )


def _columns(series: Mapping[str, Sequence[float | None]], count: int) -> Series:
    columns = {name: np.array(values, dtype=float) for name, values in series.items() if len(values) == count}
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}


def average(layers: Mapping[str, Series], column: str, steps: int) -> Array:
    """Mean of a column over the layers at each step; NaN where no layer has a value."""
    rows = [series[column] for series in layers.values() if column in series]
    if not rows:
        return np.full(steps, np.nan)
    values = np.array(rows)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def middle(layers: Mapping[str, Series], column: str, steps: int) -> Array:
    """Median of a column of numbers >= 0 over the layers at each step, the geometric mean of the middle two of an even
    number; NaN where no layer has a value.

    Unlike the mean it is not that of one layer whose spread is a thousand times the others'. And where steps are
    1 / spread in every layer, so are their medians.
    """
    rows = [series[column] for series in layers.values() if column in series]
    result = np.full(steps, np.nan)
    if rows:
        values = np.array(rows)
        known = np.isfinite(values).any(axis=0)
        with np.errstate(divide="ignore"):
            result[known] = np.exp(np.nanmedian(np.log(values[:, known]), axis=0))
    return result


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most ``most`` names, evenly chosen from the first to the last."""
    if len(names) <= most:
        return list(names)
    return [names[round(n * (len(names) - 1) / max(most - 1, 1))] for n in range(most)]


def thin(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` of ``count`` steps, evenly chosen, the first and the last one among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
