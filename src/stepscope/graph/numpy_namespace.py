"""The namespace `k` for NumPy arrays and Python floats."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import special

__all__ = ["NUMPY"]


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded twice: NumPy has no fused multiply-add."""
    return a * b + c


def _where(condition: Any, a: Any, b: Any) -> Any:
    """A condition on step scalars is a plain bool: picking keeps a Python float a Python float (and float32 narrow)."""
    if isinstance(condition, bool):
        return a if condition else b
    return np.where(condition, a, b)


NUMPY: Any = SimpleNamespace(
    sqrt=np.sqrt,
    abs=np.abs,
    sign=np.sign,
    where=_where,
    min=np.minimum,
    max=np.maximum,
    fma=_fma,
    exp=np.exp,
    log=np.log,
    sin=np.sin,
    cos=np.cos,
    tanh=np.tanh,
    erf=special.erf,
)
