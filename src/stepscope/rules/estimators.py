"""How mean, variance and second moment of a gradient are estimated: from its past, or within the mini-batch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from stepscope.rules import averages
from stepscope.rules.rule import Hyper, Number, Numbers, StepScalar

__all__ = ["ESTIMATORS", "Estimates", "Estimator", "estimator"]

BETA = Hyper("beta", 0.9, 0.0, 1.0)
BETA1, BETA2 = Hyper("beta1", 0.9, 0.0, 1.0), Hyper("beta2", 0.999, 0.0, 1.0)
EPS = Hyper("eps", 1e-8)


class Estimates(NamedTuple):
    """Of one coordinate: mean, variance of one gradient as it is kept, second moment; None where it is not kept."""

    mean: Number | None
    variance: Number | None
    second: Number | None


class Estimator(NamedTuple):
    """advance(k, g, old state, hyper, scalars) -> new state.  read(k, g, new state, scalars) -> Estimates.

    of_gradient, of_average: what turns the kept variance into that of one gradient, or of the average; None: 1.
    signed: the variance can be negative.
    """

    state: tuple[str, ...]
    hyper: tuple[Hyper, ...]
    scalars: Mapping[str, StepScalar]
    advance: Callable[[Any, Number, Numbers, Numbers, Numbers], dict[str, Number]]
    read: Callable[[Any, Number, Numbers, Numbers], Estimates]
    of_gradient: StepScalar | None
    of_average: StepScalar | None
    signed: bool = False


_RHO = StepScalar(("beta",), lambda t, beta: averages.noise_ratio(beta, t))
_RHO1 = StepScalar(("beta1",), lambda t, beta1: averages.noise_ratio(beta1, t))


def _weight(corrected: bool) -> StepScalar:
    if corrected:
        return StepScalar(("beta",), lambda t, beta: averages.ema_weight(beta, t))
    return StepScalar(("beta",), lambda t, beta: 1 - beta)


def _one_average(spread: bool, corrected: bool, unbiased: bool) -> Estimator:
    """m and S = v - m^2 >= 0 with one decay rate, by Welford's update.   [balles2018, Eq. 4-5]

    unbiased: S / (1 - rho) stands for the variance [Eq. 22], else S itself.
    """
    mean, square = ("m", "S") if corrected else ("raw_m", "raw_S")

    def advance(k: Any, g: Number, old: Numbers, hyper: Numbers, scalars: Numbers) -> dict[str, Number]:
        m, S = averages.welford(k, g, old[mean], old[square] if spread else 0.0, scalars["weight"])
        return {mean: m, square: S} if spread else {mean: m}

    def read(k: Any, g: Number, new: Numbers, scalars: Numbers) -> Estimates:
        m = new[mean]
        return Estimates(m, new[square], new[square] + m * m) if spread else Estimates(m, None, None)

    return Estimator(
        (mean, square) if spread else (mean,),
        (BETA,),
        {"weight": _weight(corrected)},
        advance,
        read,
        StepScalar(("beta",), lambda t, beta: averages.variance_correction(beta, t)) if unbiased else None,
        StepScalar(("beta",), lambda t, beta: averages.noise_odds(beta, t)) if unbiased else _RHO,
    )


def _bias_corrections(spread: bool, corrected: bool) -> dict[str, StepScalar]:
    if not corrected:
        return {}
    first = {"correction1": StepScalar(("beta1",), lambda t, beta1: 1 - beta1**t)}
    return first | ({"correction2": StepScalar(("beta2",), lambda t, beta2: 1 - beta2**t)} if spread else {})


def _two_averages(spread: bool, corrected: bool) -> Estimator:
    """Adam's averages of g and g^2 with a decay rate each, raw, bias-corrected on use; variance v - m^2.

    v < m^2 happens where gradients have grown within the shorter memory.   [Kingma & Ba 2015, Alg. 1]
    """

    def advance(k: Any, g: Number, old: Numbers, hyper: Numbers, scalars: Numbers) -> dict[str, Number]:
        new = {"exp_avg": averages.lerp(k, old["exp_avg"], g, 1 - hyper["beta1"])}
        if spread:
            new["exp_avg_sq"] = k.fma((1 - hyper["beta2"]) * g, g, hyper["beta2"] * old["exp_avg_sq"])
        return new

    def read(k: Any, g: Number, new: Numbers, scalars: Numbers) -> Estimates:
        m = new["exp_avg"] / scalars["correction1"] if corrected else new["exp_avg"]
        if not spread:
            return Estimates(m, None, None)
        v = new["exp_avg_sq"] / scalars["correction2"] if corrected else new["exp_avg_sq"]
        return Estimates(m, v - m * m, v)

    return Estimator(
        ("exp_avg", "exp_avg_sq") if spread else ("exp_avg",),
        (BETA1, BETA2) if spread else (BETA1,),
        _bias_corrections(spread, corrected),
        advance,
        read,
        None,
        _RHO1,
        signed=True,
    )


def _belief(spread: bool, corrected: bool) -> Estimator:
    """The average of (g - m)^2, m the raw average that g has entered, with eps added.   [Zhuang et al. 2020, Alg. 2]

    As an estimate of the variance it is too small by 2 beta1^2 / (1 + beta1) where gradients are independent.
    """
    if not spread:
        return _two_averages(spread, corrected)

    def advance(k: Any, g: Number, old: Numbers, hyper: Numbers, scalars: Numbers) -> dict[str, Number]:
        m = averages.lerp(k, old["exp_avg"], g, 1 - hyper["beta1"])
        gap = g - m
        s = k.fma((1 - hyper["beta2"]) * gap, gap, hyper["beta2"] * old["exp_avg_var"]) + hyper["eps"]
        return {"exp_avg": m, "exp_avg_var": s}

    def read(k: Any, g: Number, new: Numbers, scalars: Numbers) -> Estimates:
        m = new["exp_avg"] / scalars["correction1"] if corrected else new["exp_avg"]
        s = new["exp_avg_var"] / scalars["correction2"] if corrected else new["exp_avg_var"]
        return Estimates(m, s, s + m * m)

    return Estimator(
        ("exp_avg", "exp_avg_var"),
        (BETA1, BETA2, EPS),
        _bias_corrections(spread, corrected),
        advance,
        read,
        None,
        _RHO1,
    )


def _within_batch(averaged: bool, spread: bool, corrected: bool) -> Estimator:
    """The variance of this mini-batch's gradient g, measured inside the batch and given as the state batch_variance.

    averaged: the mean is the average m, else g itself, and nothing is remembered.   [balles2018, Sec. 4.2 and D]
    """
    mean = ("m",) if averaged else ()

    def advance(k: Any, g: Number, old: Numbers, hyper: Numbers, scalars: Numbers) -> dict[str, Number]:
        new = {"m": averages.welford(k, g, old["m"], 0.0, scalars["weight"])[0]} if averaged else {}
        return new | ({"batch_variance": old["batch_variance"]} if spread else {})

    def read(k: Any, g: Number, new: Numbers, scalars: Numbers) -> Estimates:
        m = new["m"] if averaged else g
        return (
            Estimates(m, new["batch_variance"], new["batch_variance"] + m * m) if spread else Estimates(m, None, None)
        )

    return Estimator(
        (*mean, "batch_variance") if spread else mean,
        (BETA,) if averaged else (),
        {"weight": _weight(corrected)} if averaged else {},
        advance,
        read,
        None,
        _RHO,
    )


ESTIMATORS: Mapping[str, str] = MappingProxyType(
    {
        "ema": "one average, (v - m^2) / (1 - rho)",
        "ema_raw": "one average, v - m^2",
        "two_emas": "two averages, v - m^2 of Adam",
        "batch": "within the mini-batch",
        "belief": "average of (g - m)^2",
    }
)


def estimator(name: str, *, averaged: bool, spread: bool, corrected: bool) -> Estimator:
    """The estimator of a name in ESTIMATORS, keeping only what is needed.

    averaged: the direction needs m.  spread: variance or second moment are needed.  corrected: averages are
    bias-corrected; otherwise they start at 0 and grow towards what they estimate.
    """
    match name:
        case "two_emas":
            return _two_averages(spread, corrected)
        case "belief":
            return _belief(spread, corrected)
        case "batch":
            return _within_batch(averaged, spread, corrected)
    return _one_average(spread, corrected, unbiased=name == "ema")
