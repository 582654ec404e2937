"""What is shown of a step: each column as a pure function of its tensor's sums, with unit, formula and source.

Norms are over all coordinates of a tensor. Means, shares and quantiles are over a fixed sample of large ones: at least
8,192 coordinates, and a 64th (`rules.statistics.period`).

The averages m and v are the optimizer's own where it keeps both (Adam and its kin, our one-beta methods); beside any
other, shadow averages of the raw gradients with one decay rate stand for them. All are bias-corrected.
"""
# Long because it is one table.

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stepscope.errors import UserError
from stepscope.rules import parts
from stepscope.rules.statistics import QUANTILE_ERROR, Selection, selection
from stepscope.scope import readings
from stepscope.scope.instrument import Instrument, Sums
from stepscope.scope.traces import COORDINATES

__all__ = ["INSTRUMENTS", "Instrument", "choose", "needed", "read"]

_QUANTILES = (("q10", 0.1, "10 % quantile"), ("median", 0.5, "median"), ("q90", 0.9, "90 % quantile"))
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

_DEFAULT: tuple[Instrument, ...] = (
    Instrument("grad_abs_mean", "gradient", *readings.per("grad_abs", "sampled"), "mean |g|", "raw p.grad"),
    Instrument("momentum_abs_mean", "gradient", *readings.per("momentum_abs", "sampled"), "mean |m|", _AVERAGES),
    Instrument(
        "sigma_mean", "gradient", *readings.per("sigma", "sampled"), "mean sqrt(v - m^2)", _PLAIN, "[eigen2025, Sec. 3]"
    ),
    Instrument(
        "spread_mean",
        "1",
        ("spread_histogram", "spread_infinite"),
        readings.spread_mean,
        "mean sigma / |m|",
        f"{_PLAIN_BINNED}; {_NO_EXPECTATION}",
        "[eigen2025, Sec. 2]",
    ),
    *(
        Instrument(
            f"spread_{name}",
            "1",
            *readings.spread_quantile(q),
            f"{words} of sigma / |m|",
            _SPREAD,
            "[eigen2025, Sec. 2; balles2018, Eq. 9]",
        )
        for name, q, words in _QUANTILES
    ),
    Instrument(
        "spread_log_mean",
        "1",
        ("spread_histogram",),
        readings.spread_log_mean,
        "mean of ln(sigma / |m|)",
        f"{_PLAIN}; over spreads in the range of the histogram; {_BINNED}",
        "[eigen2025, Sec. 2]",
    ),
    Instrument("still_share", "1", *readings.per("still", "sampled"), "share of m = 0", _AVERAGES),
    Instrument(
        "spread_infinite_share", "1", *readings.per("spread_infinite", "sampled"), "share of m = 0 < sigma", _PLAIN
    ),
    *(
        Instrument(
            f"relative_variance_{name}",
            "1",
            *readings.spread_quantile(q, lambda spread: spread * spread),
            f"{words} of (v - m^2) / m^2",
            f"square of spread_{name}: right within the ratio {QUANTILE_ERROR**2:.3f}",
            "[balles2018, Eq. 9]",
        )
        for name, q, words in _QUANTILES
    ),
    Instrument(
        "factor_adam",
        "1",
        *readings.factor_mean(parts.adam_factor),
        "mean 1/sqrt(1 + eta^2)",
        _PLAIN_BINNED,
        "[balles2018, Eq. 8]",
    ),
    Instrument(
        "factor_svag",
        "1",
        *readings.factor_mean(parts.svag_factor, "correction"),
        "mean 1/(1 + eta^2)",
        _CORRECTED,
        "[balles2018, Eq. 23]",
    ),
    Instrument(
        "factor_exact",
        "1",
        *readings.factor_mean(parts.exact_factor, "correction"),
        "mean erf(1/(sqrt(2) eta))",
        _CORRECTED,
        "[balles2018, Lemma 1, Eq. 10 and 16]",
    ),
    Instrument(
        "factor_msvag",
        "1",
        *readings.factor_mean(parts.svag_factor, "odds"),
        "mean 1/(1 + rho eta^2)",
        _OF_MEAN,
        "[balles2018, Eq. 25]",
    ),
    Instrument(
        "step_theory_mean",
        "1",
        ("spread_histogram", "spread_infinite"),
        readings.theory_at_mean,
        "1/sqrt(1 + spread^2) at spread_mean",
        f"{_PLAIN_BINNED}; {_NO_EXPECTATION}",
        "[eigen2025, Sec. 2]",
    ),
    Instrument(
        "step_theory_median",
        "1",
        *readings.spread_quantile(0.5, readings.theoretical),
        "1/sqrt(1 + spread^2) at spread_median",
        _SPREAD,
        "[eigen2025, Sec. 2]",
    ),
    Instrument(
        "update_abs_mean_per_lr",
        "weight / lr",
        *readings.per("update_abs", "sampled", "lr"),
        "mean |update| / lr",
        _MEASURED,
        "[eigen2025, Sec. 3]",
    ),
    *(
        Instrument(
            f"update_abs_{name}_per_lr",
            "weight / lr",
            *readings.update_quantile(q),
            f"{words} of |update| / lr",
            f"{_MEASURED}; {_QUANTILE}",
        )
        for name, q, words in _QUANTILES
    ),
    Instrument(
        "update_abs_mean_per_lr_without_decay",
        "weight / lr",
        *readings.per("undecayed_abs", "sampled", "lr"),
        "mean |update + lr weight_decay theta| / lr for decoupled weight decay, else update_abs_mean_per_lr",
        _MEASURED,
    ),
    Instrument(
        "sign_agreement",
        "1",
        ("sign_agreed", "sign_opposed"),
        readings.sign_agreement,
        "share of g m > 0 among the coordinates where g m is not 0",
        "raw p.grad against m, which holds it already (and, in the optimizer's own m, a coupled weight decay)",
    ),
    Instrument(
        "grad_momentum_cosine",
        "1",
        ("grad_momentum", "grad_square_sampled", "momentum_square"),
        readings.cosine("grad_momentum", "grad_square_sampled", "momentum_square"),
        "g m / (|g|_2 |m|_2)",
        "raw p.grad against m, which holds it already",
    ),
    Instrument(
        "variance_negative_share",
        "1",
        *readings.per("variance_negative", "sampled"),
        "share of v < m^2",
        f"{_AVERAGES}: two decay rates, or rounding, make it possible",
    ),
    Instrument(
        "epsilon_dominated_share",
        "1",
        ("epsilon_dominated", "sampled", "eps"),
        readings.epsilon_share,
        "share of sqrt(v) <= eps",
        "bias-corrected v, to whose root Adam adds eps; NaN where the optimizer adds none to a v it shows",
    ),
    Instrument(
        "decay_dominated_share",
        "1",
        ("decay_dominated", "sampled", "decay", "coupled"),
        readings.decay_share,
        "share of coordinates that weight decay moves further than the gradient does: |lr weight_decay theta| > "
        "|update + lr weight_decay theta| if it is decoupled, else |weight_decay theta| > |g|",
        "NaN without weight decay",
    ),
    Instrument(
        "step_share_of_largest",
        "1",
        *readings.share_of(readings.largest_step, "beta1", "beta2", "t"),
        "mean |update| / lr as a share of the largest step that Adam can make with its decay rates after t gradients",
        f"{_MEASURED}; NaN for optimizers without two decay rates",
        "[kaiser, Prop. 1]",
    ),
    Instrument(
        "step_share_of_flat_distance",
        "1",
        *readings.share_of(readings.flat_distance, "beta1", "beta2"),
        "mean |update| / lr as a share of the largest distance that Adam can coast over a flat: its inverse is the "
        "number of such steps",
        f"{_MEASURED}; the limit of many gradients; NaN for optimizers without two decay rates",
        "[kaiser, Prop. 2]",
    ),
    Instrument(
        "update_to_weight",
        "1",
        ("update_square", "theta_square"),
        readings.update_to_weight,
        "|update|_2 / |theta|_2",
        f"{_MEASURED}; theta before it",
    ),
    Instrument("grad_norm", "gradient", *readings.norm("grad_square"), "|g|_2", "raw p.grad"),
    Instrument("update_norm", "weight", *readings.norm("update_square"), "|update|_2", _MEASURED),
    Instrument("weight_norm", "weight", *readings.norm("theta_square"), "|theta|_2", "before the step"),
    Instrument(
        "nonfinite_share",
        "1",
        ("broken", "numel"),
        lambda sums: sums["broken"] / sums["numel"],
        "share of coordinates with an infinity or NaN in gradient, mean or weights; no other column includes them",
    ),
    Instrument("lr", "lr", ("lr",), lambda sums: sums["lr"], "step size of the parameter group"),
)

_SERIES = "on a fixed sample of 128 coordinates of the tensor"
_RECOMBINED: tuple[tuple[str, str, str, Any, str], ...] = (
    ("msgd", "M-SGD", "m", "momentum_square", "[balles2018, Sec. 2]"),
    ("mssd", "M-SSD", "sign m", readings.sign_square, "[balles2018, Sec. 1.1]"),
    ("msvag", "M-SVAG", "m / (1 + rho eta^2)", "msvag_square", "[balles2018, Eq. 25]"),
    ("adam", "Adam", "m / sqrt(v)", "adam_square", "[balles2018, Eq. 8]"),
)
_COUNTERFACTUAL = (
    "what this method would have done at this step with the averages there are, this step size and no epsilon; the "
    "update is without decoupled weight decay"
)


def _square(square: Any) -> tuple[str, ...]:
    return ("sampled", "still") if callable(square) else (square,)


_CHOSEN: tuple[Instrument, ...] = (
    Instrument(
        "clipped_share",
        "1",
        ("clipped", "sampled", "clip"),
        readings.clipped_share,
        "share of |g| >= clip_value",
        "the value that Scope was told; NaN without one",
        group="clipping",
    ),
    *(
        Instrument(
            f"update_cosine_{name}",
            "1",
            (f"move_{name}", "move_square", *_square(square)),
            readings.cosine(f"move_{name}", "move_square", square),
            f"cosine of the update and the one of {title}, lr {formula}",
            _COUNTERFACTUAL,
            source,
            "recombinations",
        )
        for name, title, formula, square, source in _RECOMBINED
    ),
    *(
        Instrument(
            f"update_ratio_{name}",
            "1",
            ("move_square", "lr", *_square(square)),
            readings.ratio(square),
            f"|lr {formula}|_2 / |update|_2: {title}",
            _COUNTERFACTUAL,
            source,
            "recombinations",
        )
        for name, title, formula, square, source in _RECOMBINED
    ),
    *(
        Instrument(
            f"rate_{name}",
            "weight / gradient",
            *readings.quantile_of("rate_histogram", q),
            f"{words} of |update| / |m|, the learning rate in effect",
            f"{_MEASURED}; {_QUANTILE}; over the coordinates with m != 0",
            group="rates",
        )
        for name, q, words in _QUANTILES
    ),
    *(
        Instrument(
            f"momentum_abs_{name}",
            "gradient",
            *readings.quantile_of("momentum_histogram", q),
            f"{words} of |m|",
            f"{_AVERAGES}; {_QUANTILE}",
            group="momentum",
        )
        for name, q, words in _QUANTILES
    ),
    *(
        Instrument(
            f"{name}_sign_flips",
            "1",
            ("series_pairs", f"series_{short}_flips", f"series_{short}_still"),
            readings.flips(short),
            f"share of coordinates whose {word} has the other sign than at the step before, of those that are not 0",
            _SERIES,
            group="series",
        )
        for name, short, word in (("grad", "grad", "gradient"), ("update", "update", "update"))
    ),
    Instrument(
        "update_autocorrelation",
        "1",
        ("series_products", "series_newer", "series_older"),
        readings.autocorrelation,
        "correlation of the update and the one before it, about 0: sum u(t) u(t-1) / sqrt(sum u(t)^2 sum u(t-1)^2)",
        f"{_SERIES}; sums over the last 16 steps; -1 if each takes back the one before",
        group="series",
    ),
    Instrument(
        "update_period",
        "steps",
        ("series_products", "series_newer", "series_older", "series_size"),
        readings.repetition,
        "the smallest number of steps, 2 to 15, after which the updates repeat: where their correlation has a maximum "
        "of at least 0.5 behind a negative value",
        f"{_SERIES}; over the last 16 steps, of 8 at least; NaN without such a number; up to 0.9 is asked for "
        "where there are less than four coordinates",
        group="series",
    ),
    *(
        Instrument(
            f"{name}_octave",
            "1",
            *readings.octaves(f"{name}_histogram"),
            f"share of coordinates by the whole part of log2 of {formula}",
            "of the sampled coordinates, from a 16th of an octave below on; cells that are 0 are left out",
            group="histograms",
            cells=readings.OCTAVES,
        )
        for name, formula in (
            ("spread", "sigma / |m| (its square is the relative variance)"),
            ("update", "|update| / lr"),
            ("momentum", "|m|"),
        )
    ),
    *(
        Instrument(
            f"{name}_update",
            "1",
            *readings.pairs(f"{name}_update_joint"),
            f"share of coordinates by the whole part of log2 of {formula} and of |update| / lr",
            "of the sampled coordinates; cells that are 0 are left out, values out of range are in the outer ones",
            "[eigen2025, Sec. 3]",
            group="joint",
            cells=readings.PAIRS,
        )
        for name, formula in (("momentum", "|m|"), ("spread", "sigma / |m|"))
    ),
    *(
        Instrument(
            f"trace_{field}_{place}",
            unit,
            *readings.coordinate(field, place),
            f"{formula} of traced coordinate {place}",
            f"{estimator}; one of {COORDINATES} coordinates that are drawn once: run.json lists their places in the "
            "flattened tensor; NaN where a row is that of several tensors",
            group="traces",
        )
        for field, unit, formula, estimator in (
            ("theta", "weight", "theta", "before the step"),
            ("g", "gradient", "g", "raw p.grad"),
            ("m", "gradient", "m", _AVERAGES),
            ("v", "gradient^2", "v", _AVERAGES),
            ("update", "weight", "update", _MEASURED),
        )
        for place in range(COORDINATES)
    ),
)

INSTRUMENTS = _DEFAULT + _CHOSEN
"""All there are. Those of the group "default" are recorded unless others are asked for."""


def choose(wanted: "str | Instrument | Iterable[str | Instrument]") -> tuple[Instrument, ...]:
    """The instruments of these names and groups, "all" among them, in the order of the table; own ones after these.

    Raises: UserError for a name that is neither.
    """
    items: Sequence[Any] = [wanted] if isinstance(wanted, str | Instrument) else list(wanted)
    names = {item for item in items if isinstance(item, str)}
    known = {i.name for i in INSTRUMENTS} | {i.group for i in INSTRUMENTS} | {"all"}
    if unknown := names - known:
        groups = ", ".join(dict.fromkeys(i.group for i in INSTRUMENTS))
        raise UserError(
            f"no instrument is called {', '.join(sorted(unknown))}: give names of columns, or of groups: {groups}, all."
        )
    chosen = [i for i in INSTRUMENTS if names & {"all", i.name, i.group}]
    return (*chosen, *(i for i in items if isinstance(i, Instrument) and i not in chosen))


def needed(instruments: Iterable[Instrument]) -> Selection:
    """The sums and histograms that a step has to measure for these."""
    return selection(name for one in instruments for name in one.measured)


def read(
    sums: Sums, instruments: Iterable[Instrument] = _DEFAULT, scratch: dict[Any, Any] | None = None
) -> dict[str, Any]:
    """Every column's values by name.  scratch: see `readings.Sheet`."""
    sheet = readings.Sheet(sums, scratch)
    with np.errstate(all="ignore"):
        return {instrument.name: instrument.read(sheet) for instrument in instruments}
