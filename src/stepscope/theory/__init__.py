"""Closed forms of the papers, vectorised over NumPy arrays."""

from stepscope.theory import factors, moments

__all__ = ["factors", "moments"]
