"""The namespace `k` for NumPy arrays and Python floats."""

from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["NUMPY"]


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded twice: NumPy has no fused multiply-add."""
    return a * b + c


def _where(condition: Any, a: Any, b: Any) -> Any:
    """A condition on step scalars is a plain bool: picking keeps a Python float a Python float (and float32 narrow)."""
    if isinstance(condition, bool):
        return a if condition else b
    return np.where(condition, a, b)


def _erf(x: Any) -> Any:
    from scipy import special  # takes longer to load than all the rest

    return special.erf(x)


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
    erf=_erf,
    rint=np.rint,
    exponent=lambda x: np.frexp(x)[1] - 1.0,
    mantissa=lambda x: 2 * np.frexp(x)[0],
    pow2=lambda n: np.ldexp(1.0, np.asarray(n, np.int64)),
)
