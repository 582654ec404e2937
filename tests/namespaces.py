"""Namespaces `k` that only tests need: exact arithmetic with mpmath."""

from types import SimpleNamespace
from typing import Any

import mpmath

MPMATH: Any = SimpleNamespace(
    sqrt=mpmath.sqrt,
    abs=abs,
    sign=mpmath.sign,
    where=lambda condition, a, b: a if condition else b,
    min=min,
    max=max,
    fma=lambda a, b, c: a * b + c,
    exp=mpmath.exp,
    log=mpmath.log,
    sin=mpmath.sin,
    cos=mpmath.cos,
    tanh=mpmath.tanh,
    erf=mpmath.erf,
)
