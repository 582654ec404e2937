"""Every update rule by name: first the ones torch has, in torch's order of operations, then the composed ones.

Torch's rules keep torch's state (raw averages, bias corrected on use), so that checkpoints are interchangeable. `k.fma`
stands where torch's kernels round once (lerp, addcmul, add with alpha).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stepscope.rules import averages, parts
from stepscope.rules.compose import compose
from stepscope.rules.rule import Hyper, Number, Numbers, Rule, StepScalar, View, decayed

__all__ = ["METHODS"]

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


# --- RMSProp, AdaGrad, Adadelta: the sign of g, shrunk by its size against a root mean square -----------------------


def _rmsprop_average(k: Any, g: Number, state: Numbers, hyper: Numbers) -> Number:
    return k.fma((1 - hyper["alpha"]) * g, g, hyper["alpha"] * state["square_avg"])


def _rmsprop(k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> Step:
    v = _rmsprop_average(k, g, state, hyper)
    return theta + (-hyper["lr"] * g) / (k.sqrt(v) + hyper["eps"]), {"square_avg": v}


def _rmsprop_view(k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
    v = _rmsprop_average(k, g, state, hyper)
    return View(k.sign(g), None, None, _ratio(k, k.abs(g), k.sqrt(v) + hyper["eps"]))


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

_RULES = (
    Rule("sgd", "Robbins & Monro 1951", (_LR,), (), {}, _sgd, _sgd_view),
    Rule("heavy_ball", "Polyak 1964", _MOMENTUM, _BUFFER, _MOMENTUM_SCALARS, _heavy_ball, _heavy_ball_view),
    Rule("nesterov", "Nesterov 1983", _MOMENTUM, _BUFFER, _MOMENTUM_SCALARS, _nesterov, _nesterov_view),
    _adam_rule,
    decayed(_adam_rule, decoupled=True, name="adamw", default=1e-2, source="Loshchilov & Hutter 2019, Alg. 2"),
    Rule(
        "rmsprop",
        "Tieleman & Hinton 2012",
        (Hyper("lr", 1e-2), Hyper("alpha", 0.99, 0.0, 1.0, open_end=False), _EPS),
        ("square_avg",),
        {},
        _rmsprop,
        _rmsprop_view,
    ),
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
    # The paper's grid: direction x factor, one decay rate for both moments.
    compose("msgd", "[balles2018, Alg. 2]", parts.average, lr=0.1),
    compose("ssd", "[balles2018, Sec. 1.2]", parts.sign_of_gradient, lr=1e-3),
    compose("mssd", "[balles2018, Alg. 2]", parts.sign_of_average, lr=1e-3),
    compose("svag", "[balles2018, Eq. 23]", parts.gradient, parts.svag_factor, averages.variance_correction, lr=0.1),
    compose("msvag", "[balles2018, Alg. 1, Eq. 25]", parts.average, parts.svag_factor, averages.noise_odds, lr=0.1),
    compose(
        "adam_erf",
        "[balles2018, Lemma 1, Eq. 16, for sign m: Sec. 4.3]",
        parts.sign_of_average,
        parts.exact_factor,
        averages.noise_odds,
        lr=1e-3,
    ),
    compose(
        "adam_erf_uncorrected",
        "[balles2018, Sec. 3.1: the optimum for sign g, which Adam approximates and applies to sign m]",
        parts.sign_of_average,
        parts.exact_factor,
        averages.variance_correction,
        lr=1e-3,
    ),
    compose(
        "adam_one_beta",
        "[balles2018, Eq. 8 with beta1 = beta2 and Eq. 22]",
        parts.sign_of_average,
        parts.adam_factor,
        averages.variance_correction,
        lr=1e-3,
    ),
)

METHODS: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in _RULES})
