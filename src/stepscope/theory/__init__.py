"""Closed forms of the papers, vectorised over NumPy arrays."""

from stepscope.theory import factors, moments
from stepscope.theory.factors import adam_factor, exact_factor, sign_success_probability, svag_factor
from stepscope.theory.moments import corrected_variance, ema_weights, rho

__all__ = [
    "adam_factor",
    "corrected_variance",
    "ema_weights",
    "exact_factor",
    "factors",
    "moments",
    "rho",
    "sign_success_probability",
    "svag_factor",
]
