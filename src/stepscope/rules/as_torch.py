"""The rules that torch has, in torch's order of operations.

They keep torch's state (raw averages, bias corrected on use), so that checkpoints are interchangeable. `k.fma` stands
where torch's kernels round once (lerp, addcmul, add with alpha).
"""

import math
import struct
from dataclasses import replace
from functools import lru_cache
from typing import Any

from stepscope.rules import averages
from stepscope.rules.rule import Hyper, Number, Numbers, Rule, StepScalar, View, decayed

__all__ = ["RULES"]

Step = tuple[Number, dict[str, Number]]


def _ratio(k: Any, a: Number, b: Number) -> Number:
    """a / b, 0 where b is 0: a factor of a step that is not taken."""
    return k.where(b > 0, a / k.where(b > 0, b, 1.0), 0.0)


# --- SGD and its momenta [Polyak 1964; Nesterov 1983; torch.optim.SGD] ----------------------------------------------


def _sgd(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    return k.fma(-hyper["lr"], g, theta), {}


def _sgd_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    return View(g, None, None, 1.0)


def _weights_of_all(t: int, momentum: float, dampening: float) -> float:
    """Sum of the weights of all samples: the first one enters whole, later ones with weight 1 - dampening."""
    later = (t - 1.0) if momentum == 1 else (1 - momentum ** (t - 1)) / (1 - momentum)
    return momentum ** (t - 1) + (1 - dampening) * later


_MOMENTUM_SCALARS = {
    "carry": StepScalar(("momentum",), lambda t, momentum: 0.0 if t == 1 else momentum),
    "fresh": StepScalar(("dampening",), lambda t, dampening: 1.0 if t == 1 else 1 - dampening),
    "total": StepScalar(("momentum", "dampening"), _weights_of_all),
}


def _buffer(k: Any, g: Number, state: Numbers, scalars: Numbers) -> Number:
    return k.fma(scalars["fresh"], g, scalars["carry"] * state["momentum_buffer"])


def _heavy_ball(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    b = _buffer(k, g, state, scalars)
    return k.fma(-hyper["lr"], b, theta), {"momentum_buffer": b}


def _heavy_ball_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    b = _buffer(k, g, state, scalars)
    return View(b, b / scalars["total"], None, 1.0)


def _nesterov(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    b = _buffer(k, g, state, scalars)
    return k.fma(-hyper["lr"], k.fma(hyper["momentum"], b, g), theta), {"momentum_buffer": b}


def _nesterov_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    b = _buffer(k, g, state, scalars)
    return View(k.fma(hyper["momentum"], b, g), b / scalars["total"], None, 1.0)


# --- Adam [Kingma & Ba 2015, Alg. 1; torch.optim.Adam] --------------------------------------------------------------


_ADAM_SCALARS = {
    "correction1": StepScalar(("beta1",), lambda t, beta1: 1 - beta1**t),
    "correction2": StepScalar(("beta2",), lambda t, beta2: 1 - beta2**t),
    "root2": StepScalar(("beta2",), lambda t, beta2: (1 - beta2**t) ** 0.5),
}


def _adam_moments(k: Any, g: Number, state: Numbers, hyper: Numbers) -> dict[str, Number]:
    return {
        "exp_avg": averages.lerp(k, state["exp_avg"], g, 1 - hyper["beta1"]),
        "exp_avg_sq": k.fma((1 - hyper["beta2"]) * g, g, hyper["beta2"] * state["exp_avg_sq"]),
    }


def _adam(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    new = _adam_moments(k, g, state, hyper)
    root = k.sqrt(new["exp_avg_sq"]) / scalars["root2"] + hyper["eps"]
    return theta + (-(hyper["lr"] / scalars["correction1"]) * new["exp_avg"]) / root, new


def _adam_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """sign(m) shrunk by |m| / (sqrt(v) + eps), which is 1/sqrt(1 + eta^2) for eps = 0.   [balles2018, Eq. 7-9]"""
    new = _adam_moments(k, g, state, hyper)
    m, v = new["exp_avg"] / scalars["correction1"], new["exp_avg_sq"] / scalars["correction2"]
    return View(k.sign(m), m, v - m * m, _ratio(k, k.abs(m), k.sqrt(v) + hyper["eps"]))


def _amsgrad_moments(k: Any, g: Number, state: Numbers, hyper: Numbers) -> dict[str, Number]:
    new = _adam_moments(k, g, state, hyper)
    largest, v = state["max_exp_avg_sq"], new["exp_avg_sq"]
    return new | {"max_exp_avg_sq": k.where(largest > v, largest, v)}


def _amsgrad(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    new = _amsgrad_moments(k, g, state, hyper)
    root = k.sqrt(new["max_exp_avg_sq"]) / scalars["root2"] + hyper["eps"]
    return theta + (-(hyper["lr"] / scalars["correction1"]) * new["exp_avg"]) / root, new


def _amsgrad_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """As Adam's, with the largest v so far; the variance is that of the current one."""
    new = _amsgrad_moments(k, g, state, hyper)
    m, v = new["exp_avg"] / scalars["correction1"], new["exp_avg_sq"] / scalars["correction2"]
    root = k.sqrt(new["max_exp_avg_sq"]) / scalars["root2"] + hyper["eps"]
    return View(k.sign(m), m, v - m * m, _ratio(k, k.abs(m), root))


@lru_cache(maxsize=32)
def _products(beta1: float, momentum_decay: float) -> list[float]:
    return [1.0]


def _float32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _mu(t: int, beta1: float, momentum_decay: float) -> float:
    return float(beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay)))


def _mu_product(t: int, beta1: float, momentum_decay: float) -> float:
    """mu_1 mu_2 ... mu_t in float32, as torch keeps it."""
    known = _products(beta1, momentum_decay)
    while len(known) <= t:
        known.append(_float32(known[-1] * _float32(_mu(len(known), beta1, momentum_decay))))
        if known[-1] == known[-2]:  # 0, or as small as float32 gets
            return known[-1]
    return known[t]


_NADAM_NEEDS = ("beta1", "momentum_decay")
_NADAM_SCALARS = {
    "correction2": _ADAM_SCALARS["correction2"],
    "mu": StepScalar(_NADAM_NEEDS, _mu),
    "mu_next": StepScalar(_NADAM_NEEDS, lambda t, beta1, decay: _mu(t + 1, beta1, decay)),
    "mu_product": StepScalar(_NADAM_NEEDS, _mu_product),
}


def _nadam_weights(scalars: Numbers) -> tuple[Number, Number]:
    """Of the gradient and of exp_avg in the step.   [Dozat 2016]"""
    ahead = 1.0 - scalars["mu_product"] * scalars["mu_next"]
    return (1.0 - scalars["mu"]) / (1.0 - scalars["mu_product"]), scalars["mu_next"] / ahead


def _nadam(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    new = _adam_moments(k, g, state, hyper)
    root = k.sqrt(new["exp_avg_sq"] / scalars["correction2"]) + hyper["eps"]
    ahead = 1.0 - scalars["mu_product"] * scalars["mu_next"]
    of_g = -hyper["lr"] * (1.0 - scalars["mu"]) / (1.0 - scalars["mu_product"])
    of_m = -hyper["lr"] * scalars["mu_next"] / ahead
    return (theta + (of_g * g) / root) + (of_m * new["exp_avg"]) / root, new


def _nadam_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """The sign of Nesterov's blend of g and m, shrunk by its size against sqrt(v)."""
    new = _adam_moments(k, g, state, hyper)
    of_g, of_m = _nadam_weights(scalars)
    blend = of_g * g + of_m * new["exp_avg"]
    root = k.sqrt(new["exp_avg_sq"] / scalars["correction2"]) + hyper["eps"]
    return View(k.sign(blend), None, None, _ratio(k, k.abs(blend), root))


def _rectification(t: int, beta2: float) -> float:
    """sqrt of the share of variance that v's few samples have; 0 where they are too few.   [Liu et al. 2020, Alg. 2]"""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5.0:
        return 0.0
    return float(((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5)


_RADAM_SCALARS = {
    "correction1": _ADAM_SCALARS["correction1"],
    "root2": _ADAM_SCALARS["root2"],
    "rectification": StepScalar(("beta2",), _rectification),
}


def _radam(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    new = _adam_moments(k, g, state, hyper)
    plain = new["exp_avg"] / scalars["correction1"] * hyper["lr"]
    adapted = plain * (scalars["root2"] / (k.sqrt(new["exp_avg_sq"]) + hyper["eps"])) * scalars["rectification"]
    return theta - k.where(scalars["rectification"] > 0, adapted, plain), new


def _radam_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """m, in units of sqrt(v) once that is known well enough."""
    new = _adam_moments(k, g, state, hyper)
    m = new["exp_avg"] / scalars["correction1"]
    scale = _ratio(k, scalars["root2"], k.sqrt(new["exp_avg_sq"]) + hyper["eps"]) * scalars["rectification"]
    return View(m, m, None, 1.0, k.where(scalars["rectification"] > 0, scale, 1.0))


_ADAMAX_SCALARS = {"correction1": _ADAM_SCALARS["correction1"]}


def _adamax_moments(k: Any, g: Number, state: Numbers, hyper: Numbers) -> dict[str, Number]:
    old, size = state["exp_inf"] * hyper["beta2"], k.abs(g) + hyper["eps"]
    mean = averages.lerp(k, state["exp_avg"], g, 1 - hyper["beta1"])
    return {"exp_avg": mean, "exp_inf": k.where(old > size, old, size)}


def _adamax(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    new = _adamax_moments(k, g, state, hyper)
    return theta + (-(hyper["lr"] / scalars["correction1"]) * new["exp_avg"]) / new["exp_inf"], new


def _adamax_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """sign(m), shrunk by its size against the largest of the past gradients."""
    new = _adamax_moments(k, g, state, hyper)
    m = new["exp_avg"] / scalars["correction1"]
    return View(k.sign(m), m, None, _ratio(k, k.abs(m), new["exp_inf"]))


# --- RMSProp, AdaGrad, Adadelta: the sign of g, shrunk by its size against a root mean square -----------------------


def _rmsprop(centered: bool, momentum: bool) -> Any:
    """update and view.  centered: over the deviation, v - m^2 as torch forms it.  momentum: of the scaled gradients."""

    def scale(k: Any, g: Number, state: Numbers, hyper: Numbers) -> tuple[Number, dict[str, Number]]:
        v = k.fma((1 - hyper["alpha"]) * g, g, hyper["alpha"] * state["square_avg"])
        if not centered:
            return k.sqrt(v) + hyper["eps"], {"square_avg": v}
        m = averages.lerp(k, state["grad_avg"], g, 1 - hyper["alpha"])
        return k.sqrt(k.fma(-m, m, v)) + hyper["eps"], {"square_avg": v, "grad_avg": m}

    def update(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
        root, new = scale(k, g, state, hyper)
        if not momentum:
            return theta + (-hyper["lr"] * g) / root, new
        b = hyper["momentum"] * state["momentum_buffer"] + g / root
        return k.fma(-hyper["lr"], b, theta), new | {"momentum_buffer": b}

    def view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
        root, new = scale(k, g, state, hyper)
        m = new.get("grad_avg")
        variance = None if m is None else k.fma(-m, m, new["square_avg"])
        if not momentum:
            return View(k.sign(g), m, variance, _ratio(k, k.abs(g), root))
        return View(hyper["momentum"] * state["momentum_buffer"] + g / root, m, variance, 1.0)

    return update, view


def _rmsprop_rule(centered: bool, momentum: bool) -> Rule:
    return Rule(
        "rmsprop" + "_centered" * centered + "_momentum" * momentum,
        "Graves 2013, Eq. 38-41" if centered else "Tieleman & Hinton 2012",
        (
            Hyper("lr", 1e-2),
            Hyper("alpha", 0.99, 0.0, 1.0, open_end=False),
            _EPS,
            *((Hyper("momentum", 0.9),) if momentum else ()),
        ),
        ("square_avg", *(("grad_avg",) if centered else ()), *(("momentum_buffer",) if momentum else ())),
        {},
        *_rmsprop(centered, momentum),
    )


_ADAGRAD_SCALARS = {"slowed": StepScalar(("lr_decay",), lambda t, lr_decay: 1 + (t - 1) * lr_decay)}


def _adagrad(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    total = k.fma(g, g, state["sum"])
    rate = hyper["lr"] / scalars["slowed"]
    return theta + (-rate * g) / (k.sqrt(total) + hyper["eps"]), {"sum": total}


def _adagrad_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    total = k.fma(g, g, state["sum"])
    return View(k.sign(g), None, None, _ratio(k, k.abs(g), k.sqrt(total) + hyper["eps"]), 1 / scalars["slowed"])


def _adadelta(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    v = k.fma((1 - hyper["rho"]) * g, g, hyper["rho"] * state["square_avg"])
    step = k.sqrt(state["acc_delta"] + hyper["eps"]) / k.sqrt(v + hyper["eps"]) * g
    u = k.fma((1 - hyper["rho"]) * step, step, hyper["rho"] * state["acc_delta"])
    return k.fma(-hyper["lr"], step, theta), {"square_avg": v, "acc_delta": u}


def _adadelta_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    """sign(g) shrunk by |g| / sqrt(v + eps), in units of the root mean square of the past steps."""
    v = k.fma((1 - hyper["rho"]) * g, g, hyper["rho"] * state["square_avg"])
    base = k.sqrt(state["acc_delta"] + hyper["eps"])
    return View(k.sign(g), None, None, _ratio(k, k.abs(g), k.sqrt(v + hyper["eps"])), base)


_LR = Hyper("lr", 1e-3)
_MOMENTUM = (_LR, Hyper("momentum", 0.9), Hyper("dampening", 0.0, -math.inf))
_EPS = Hyper("eps", 1e-8)
_BUFFER = ("momentum_buffer",)

_adam_rule = Rule(
    "adam",
    "Kingma & Ba 2015, Alg. 1; [balles2018, Eq. 4-9]",
    (_LR, Hyper("beta1", 0.9, 0.0, 1.0), Hyper("beta2", 0.999, 0.0, 1.0), _EPS),
    ("exp_avg", "exp_avg_sq"),
    _ADAM_SCALARS,
    _adam,
    _adam_view,
)

RULES: tuple[Rule, ...] = (
    Rule("sgd", "Robbins & Monro 1951", (_LR,), (), {}, _sgd, _sgd_view),
    Rule("heavy_ball", "Polyak 1964", _MOMENTUM, _BUFFER, _MOMENTUM_SCALARS, _heavy_ball, _heavy_ball_view),
    Rule("nesterov", "Nesterov 1983", _MOMENTUM, _BUFFER, _MOMENTUM_SCALARS, _nesterov, _nesterov_view),
    _adam_rule,
    decayed(_adam_rule, decoupled=True, name="adamw", default=1e-2, source="Loshchilov & Hutter 2019, Alg. 2"),
    replace(
        _adam_rule,
        name="adam_amsgrad",
        source="Reddi et al. 2018, Alg. 2",
        state=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        update=_amsgrad,
        view=_amsgrad_view,
    ),
    Rule(
        "nadam",
        "Dozat 2016",
        (Hyper("lr", 2e-3), *_adam_rule.hyper[1:], Hyper("momentum_decay", 4e-3)),
        ("exp_avg", "exp_avg_sq"),
        _NADAM_SCALARS,
        _nadam,
        _nadam_view,
    ),
    Rule("radam", "Liu et al. 2020, Alg. 2", _adam_rule.hyper, _adam_rule.state, _RADAM_SCALARS, _radam, _radam_view),
    Rule(
        "adamax",
        "Kingma & Ba 2015, Alg. 2",
        (Hyper("lr", 2e-3), *_adam_rule.hyper[1:]),
        ("exp_avg", "exp_inf"),
        _ADAMAX_SCALARS,
        _adamax,
        _adamax_view,
    ),
    *(_rmsprop_rule(centered, momentum) for centered in (False, True) for momentum in (False, True)),
    Rule(
        "adagrad",
        "Duchi et al. 2011",
        (Hyper("lr", 1e-2), Hyper("lr_decay", 0.0), Hyper("eps", 1e-10)),
        ("sum",),
        _ADAGRAD_SCALARS,
        _adagrad,
        _adagrad_view,
    ),
    Rule(
        "adadelta",
        "Zeiler 2012, Alg. 1",
        (Hyper("lr", 1.0), Hyper("rho", 0.9, 0.0, 1.0, open_end=False), Hyper("eps", 1e-6)),
        ("square_avg", "acc_delta"),
        {},
        _adadelta,
        _adadelta_view,
    ),
)
