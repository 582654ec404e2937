"""What is shown of a step: each column as a pure function of its tensor's sums, with unit, formula and source.

Norms are over all coordinates of a tensor. Means, shares and quantiles are over a fixed sample of large ones: at least
8,192 coordinates, and a 64th (`rules.statistics.period`).

The averages m and v are the optimizer's own where it keeps both (Adam and its kin, our one-beta methods); beside any
other, shadow averages of the raw gradients with one decay rate stand for them. All are bias-corrected.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import parts
from stepscope.rules.statistics import BINS, CENTRES, QUANTILE_ERROR, quantile

__all__ = ["INSTRUMENTS", "Instrument", "read"]

Sums = Mapping[str, Any]  # NumPy numbers, or arrays with one entry a tensor
Read = Callable[[Sums], Any]


@dataclass(frozen=True)
class Instrument:
    """One column.

    needs: the sums it reads.  read(sums): its value, NaN where that has no meaning.  formula: in words.
    estimator: which estimate of averages, variance or quantile it is.  source: the paper and the place in it.
    """

    name: str
    unit: str
    needs: tuple[str, ...]
    read: Read
    formula: str
    estimator: str = ""
    source: str = ""

    @property
    def cost(self) -> int:
        """Numbers a tensor that are summed and brought to the host for it; instruments share them."""
        return sum(BINS if name.endswith("histogram") else 1 for name in self.needs)


def _per(term: str, count: str, lr: str | None = None) -> tuple[tuple[str, ...], Read]:
    """A sum over a count, and per step size if `lr` names it; NaN for nothing counted and for a step size of 0."""

    def mean(sums: Sums) -> Any:
        value = sums[term] / sums[count]
        return value if lr is None else np.where(sums[lr] > 0, value / sums[lr], math.nan)

    return (term, count) if lr is None else (term, count, lr), mean


def _norm(term: str) -> tuple[tuple[str, ...], Read]:
    return (term,), lambda sums: np.sqrt(sums[term])


def _spread_quantile(q: float, then: Callable[[Any], Any] = lambda spread: spread) -> tuple[tuple[str, ...], Read]:
    return ("spread_histogram",), lambda sums: then(quantile(NUMPY, sums["spread_histogram"], q))


# What spreads of the bins from 1 on count as; beyond the range as its end.
_SPREADS = np.array(CENTRES)


def _finite_counts(sums: Sums) -> Any:
    """Coordinates with a spread that is not infinite, in the bins from 1 on."""
    counts = np.array(sums["spread_histogram"][..., 1:], float)
    counts[..., -1] -= sums["spread_infinite"]
    return counts


def _spread_mean(sums: Sums) -> Any:
    counts = _finite_counts(sums)
    return counts @ _SPREADS / counts.sum(-1)


def _spread_log_mean(sums: Sums) -> Any:
    inside = sums["spread_histogram"][..., 2:-1]
    return inside @ np.log(_SPREADS[1:-1]) / inside.sum(-1)


_FACTORED = ("spread_histogram", "spread_infinite", "sampled")


def _factor_mean(factor: Callable[[Any, Any], Any], scale: str | None = None) -> tuple[tuple[str, ...], Read]:
    """Mean of a factor over all coordinates, 0 where m = 0; `scale` names the tensors' multiple of v - m^2."""

    def mean(sums: Sums) -> Any:
        counts = _finite_counts(sums)
        scales = np.broadcast_to(1.0 if scale is None else sums[scale], counts.shape[:-1])
        different, which = np.unique(scales, return_inverse=True)
        values = factor(NUMPY, different[:, None] * _SPREADS**2)
        return (counts * values[which].reshape(counts.shape)).sum(-1) / sums["sampled"]

    return (*_FACTORED, *([scale] if scale else [])), mean


def _theory(spread: Any) -> Any:
    return parts.adam_factor(NUMPY, spread * spread)


def _step_theory_mean(sums: Sums) -> Any:
    return _theory(_spread_mean(sums))


def _sign_agreement(sums: Sums) -> Any:
    return sums["sign_agreed"] / (sums["sign_agreed"] + sums["sign_opposed"])


def _update_median(sums: Sums) -> Any:
    """The histogram holds |update| / lr already; it is meaningless for lr = 0."""
    return np.where(sums["lr"] > 0, quantile(NUMPY, sums["update_histogram"], 0.5), math.nan)


def _epsilon_share(sums: Sums) -> Any:
    return np.where(sums["eps"] > 0, sums["epsilon_dominated"] / sums["sampled"], math.nan)


def _update_to_weight(sums: Sums) -> Any:
    return np.where(sums["theta_square"] > 0, np.sqrt(sums["update_square"] / sums["theta_square"]), math.nan)


_AVERAGES = "bias-corrected averages of the gradient and of its square"
_PLAIN = (
    f"v - m^2 of the {_AVERAGES}, negative values as 0; its expectation is (1 - rho) sigma^2 [balles2018, Eq. 20].  "
    "Where the optimizer keeps v in float32, spreads below 1e-3 are rounding"
)
_BINNED = "from a histogram of the spreads: each counts as the centre of its bin, within the ratio 1.045 of it"
_PLAIN_BINNED = f"{_PLAIN}; {_BINNED}"
_CORRECTED = f"(v - m^2) / (1 - rho), the corrected estimate of the variance of g [balles2018, Eq. 22]; {_BINNED}"
_OF_MEAN = f"rho / (1 - rho) (v - m^2), the estimate of the variance of m [balles2018, Eq. 24]; {_BINNED}"
_QUANTILE = f"centre of a histogram's bin, 8 an octave from 2^-40 to 2^24: right within the ratio {QUANTILE_ERROR:.3f}"
_SPREAD = f"{_PLAIN}; {_QUANTILE}; m = 0 < sigma counts as infinite, 0/0 does not count"
_NO_EXPECTATION = (
    "the density of m at 0 leaves this mean without a finite expectation: it does not converge with the size of the "
    "tensor; prefer the median.  Over the coordinates with m != 0, spreads above 2^24 as that"
)
_MEASURED = "weights after the step minus weights before it"

INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("grad_abs_mean", "gradient", *_per("grad_abs", "sampled"), "mean |g|", "raw p.grad"),
    Instrument("momentum_abs_mean", "gradient", *_per("momentum_abs", "sampled"), "mean |m|", _AVERAGES),
    Instrument(
        "sigma_mean", "gradient", *_per("sigma", "sampled"), "mean sqrt(v - m^2)", _PLAIN, "[eigen2025, Sec. 3]"
    ),
    Instrument(
        "spread_mean",
        "1",
        ("spread_histogram", "spread_infinite"),
        _spread_mean,
        "mean sigma / |m|",
        f"{_PLAIN_BINNED}; {_NO_EXPECTATION}",
        "[eigen2025, Sec. 2]",
    ),
    *(
        Instrument(
            name,
            "1",
            *_spread_quantile(q),
            f"{words} of sigma / |m|",
            _SPREAD,
            "[eigen2025, Sec. 2; balles2018, Eq. 9]",
        )
        for name, q, words in (
            ("spread_q10", 0.1, "10 % quantile"),
            ("spread_median", 0.5, "median"),
            ("spread_q90", 0.9, "90 % quantile"),
        )
    ),
    Instrument(
        "spread_log_mean",
        "1",
        ("spread_histogram",),
        _spread_log_mean,
        "mean of ln(sigma / |m|)",
        f"{_PLAIN}; over spreads in the range of the histogram; {_BINNED}",
        "[eigen2025, Sec. 2]",
    ),
    Instrument("spread_infinite_share", "1", *_per("spread_infinite", "sampled"), "share of m = 0 < sigma", _PLAIN),
    Instrument(
        "relative_variance_median",
        "1",
        *_spread_quantile(0.5, lambda spread: spread * spread),
        "median of (v - m^2) / m^2",
        f"square of spread_median: right within the ratio {QUANTILE_ERROR**2:.3f}",
        "[balles2018, Eq. 9]",
    ),
    Instrument(
        "factor_adam",
        "1",
        *_factor_mean(parts.adam_factor),
        "mean 1/sqrt(1 + eta^2)",
        _PLAIN_BINNED,
        "[balles2018, Eq. 8]",
    ),
    Instrument(
        "factor_svag",
        "1",
        *_factor_mean(parts.svag_factor, "correction"),
        "mean 1/(1 + eta^2)",
        _CORRECTED,
        "[balles2018, Eq. 23]",
    ),
    Instrument(
        "factor_exact",
        "1",
        *_factor_mean(parts.exact_factor, "correction"),
        "mean erf(1/(sqrt(2) eta))",
        _CORRECTED,
        "[balles2018, Lemma 1, Eq. 10 and 16]",
    ),
    Instrument(
        "factor_msvag",
        "1",
        *_factor_mean(parts.svag_factor, "odds"),
        "mean 1/(1 + rho eta^2)",
        _OF_MEAN,
        "[balles2018, Eq. 25]",
    ),
    Instrument(
        "step_theory_mean",
        "1",
        ("spread_histogram", "spread_infinite"),
        _step_theory_mean,
        "1/sqrt(1 + spread^2) at spread_mean",
        f"{_PLAIN_BINNED}; {_NO_EXPECTATION}",
        "[eigen2025, Sec. 2]",
    ),
    Instrument(
        "step_theory_median",
        "1",
        *_spread_quantile(0.5, _theory),
        "1/sqrt(1 + spread^2) at spread_median",
        _SPREAD,
        "[eigen2025, Sec. 2]",
    ),
    Instrument(
        "update_abs_mean_per_lr",
        "weight / lr",
        *_per("update_abs", "sampled", "lr"),
        "mean |update| / lr",
        _MEASURED,
        "[eigen2025, Sec. 3]",
    ),
    Instrument(
        "update_abs_median_per_lr",
        "weight / lr",
        ("update_histogram", "lr"),
        _update_median,
        "median |update| / lr",
        f"{_MEASURED}; {_QUANTILE}",
    ),
    Instrument(
        "update_abs_mean_per_lr_without_decay",
        "weight / lr",
        *_per("undecayed_abs", "sampled", "lr"),
        "mean |update + lr weight_decay theta| / lr for decoupled weight decay, else update_abs_mean_per_lr",
        _MEASURED,
    ),
    Instrument(
        "sign_agreement",
        "1",
        ("sign_agreed", "sign_opposed"),
        _sign_agreement,
        "share of g m > 0 among the coordinates where g m is not 0",
        "raw p.grad against m, which holds it already (and, in the optimizer's own m, a coupled weight decay)",
    ),
    Instrument(
        "variance_negative_share",
        "1",
        *_per("variance_negative", "sampled"),
        "share of v < m^2",
        f"{_AVERAGES}: two decay rates, or rounding, make it possible",
    ),
    Instrument(
        "epsilon_dominated_share",
        "1",
        ("epsilon_dominated", "sampled", "eps"),
        _epsilon_share,
        "share of sqrt(v) <= eps",
        "bias-corrected v, to whose root Adam adds eps; NaN where the optimizer adds none to a v it shows",
    ),
    Instrument(
        "update_to_weight",
        "1",
        ("update_square", "theta_square"),
        _update_to_weight,
        "|update|_2 / |theta|_2",
        f"{_MEASURED}; theta before it",
    ),
    Instrument("grad_norm", "gradient", *_norm("grad_square"), "|g|_2", "raw p.grad"),
    Instrument("update_norm", "weight", *_norm("update_square"), "|update|_2", _MEASURED),
    Instrument("weight_norm", "weight", *_norm("theta_square"), "|theta|_2", "before the step"),
    Instrument(
        "nonfinite_share",
        "1",
        ("broken", "numel"),
        lambda sums: sums["broken"] / sums["numel"],
        "share of coordinates with an infinity or NaN in gradient, mean or weights; no other column includes them",
    ),
    Instrument("lr", "lr", ("lr",), lambda sums: sums["lr"], "step size of the parameter group"),
)


def read(sums: Sums) -> dict[str, Any]:
    """Every column's value by name."""
    with np.errstate(all="ignore"):
        return {instrument.name: instrument.read(sums) for instrument in INSTRUMENTS}
