"""How far one coordinate of Adam can move in a step, and on a flat, in units of the learning rate.

`t` >= 1 counts the gradients seen; t = inf is the limit.  The newest gradient has age 0.  With normalised weights
w1, w2 of the two averages, a step is sum w1 g / sqrt(sum w2 g^2); Cauchy-Schwarz [kaiser, Prop. 1] gives its largest
value, sqrt(sum w1^2 / w2), and the gradients g ~ w1/w2 ~ (beta1/beta2)^age that attain it.

What the papers leave open: that maximum is sqrt(1 + chi^2(w1, w2)) >= 1, and it never falls with t.  (Its logarithm is
a second difference of A(x) = log sum_{i<t} e^(ix) along x, and A'' = variance of a truncated geometric variable grows
with t.)  So the printed bound holds with bias correction wherever beta1^2 < beta2, although the lemma it rests on,
bias_factor <= 1, needs the stronger beta2 >= beta1 (2 - beta1).
"""

# Long because the largest step, the largest distance and the gradients that attain them are one derivation, over
# the same sums.

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.theory.moments import check_decay, check_samples, one_minus_power

__all__ = [
    "bias_factor",
    "bias_factor_at_most_one",
    "drift",
    "flat_distance",
    "kaiser_flat_bound",
    "kaiser_step_bound",
    "largest_bias_factor",
    "max_step",
    "maximising_gradients",
    "single_gradient_step",
    "step_sensitivity",
]

Array = NDArray[np.float64]
_CHUNK, _MOST_TERMS = 4096, 10**7


def bias_factor(beta1: ArrayLike, beta2: ArrayLike, t: ArrayLike) -> Array:
    """sqrt(1 - beta2^t) / (1 - beta1^t) > 0: what bias correction multiplies the step with; 1 at t = inf.

    Measured error: 1.5 EPS.
    Source: [kaiser, Eq. 4].  Towards 1 it falls where beta2 <= beta1, else rises, after at most one minimum.

    >>> bias_factor(0.9, 0.999, [1, 12, np.inf]).round(4).tolist()
    [0.3162, 0.1522, 1.0]
    """
    return np.asarray(np.sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t))


def largest_bias_factor(beta1: ArrayLike, beta2: ArrayLike) -> Array:
    """Supremum of `bias_factor` over t: max(sqrt(1 - beta2)/(1 - beta1), 1).

    As a function of beta1^t the factor has at most one stationary point, a minimum, so its largest value is the first
    one (t = 1) or the limit 1, which is approached from below.
    """
    return np.maximum(bias_factor(beta1, beta2, 1), 1.0)


def bias_factor_at_most_one(beta1: ArrayLike, beta2: ArrayLike) -> NDArray[np.bool_]:
    """Whether bias_factor(beta1, beta2, t) <= 1 for every t: exactly where beta2 >= beta1 (2 - beta1).

    That is the case t = 1, and the other cases follow from it.  beta1^2 < beta2, from which [kaiser, proof of Prop. 1]
    derives it by an induction with a wrong sign, is not enough: (0.9, 0.95) starts at 2.24.  Rounded only in 1 - beta.

    >>> bias_factor_at_most_one(0.9, [0.999, 0.95]).tolist()
    [True, False]
    """
    b1, b2 = check_decay(beta1, "beta1"), check_decay(beta2, "beta2")
    return np.asarray(1 - b2 <= (1 - b1) ** 2)


def kaiser_step_bound(beta1: ArrayLike, beta2: ArrayLike) -> Array:
    """The printed bound sqrt(beta2)(1 - beta1) / sqrt((1 - beta2)(beta2 - beta1^2)).   [kaiser, Prop. 1]

    It is the supremum over t of `max_step`, with and without bias correction; no t attains it unless beta1 = 0.
    Raises ValueError unless beta1^2 < beta2, without which steps have no bound.

    >>> kaiser_step_bound(0.9, 0.999).round(4).tolist()
    7.2703
    """
    b1, b2 = check_decay(beta1, "beta1"), check_decay(beta2, "beta2")
    gap = _square_gap(b1, b2)
    if not np.all(gap > 0):
        raise ValueError("the bound needs beta1^2 < beta2; otherwise steps grow without bound")
    return np.asarray(np.sqrt(b2 / gap) * (1 - b1) / np.sqrt(1 - b2))


def kaiser_flat_bound(beta1: ArrayLike, beta2: ArrayLike) -> Array:
    """The printed bound on the distance on a flat: the step bound times sqrt(beta2)/(sqrt(beta2) - beta1).

    [kaiser, Prop. 2]; it counts the step from the last sloped point too (see `flat_distance`).  Needs
    beta1^2 < beta2, else ValueError.

    >>> kaiser_flat_bound(0.9, 0.999).round(2).tolist()
    73.03
    """
    step = kaiser_step_bound(beta1, beta2)
    b1, b2 = np.asarray(beta1, dtype=np.float64), np.asarray(beta2, dtype=np.float64)
    root = np.sqrt(b2)
    return np.asarray(step * (root * (root + b1) / _square_gap(b1, b2)))


def max_step(
    beta1: ArrayLike,
    beta2: ArrayLike,
    t: ArrayLike = np.inf,
    *,
    bias_correction: bool = True,
    eps: ArrayLike = 0.0,
    largest_gradient: ArrayLike = np.inf,
) -> Array:
    """Largest |m| / (sqrt(v) + eps) after t gradients with |g| <= largest_gradient: attained, in units of lr.

    eps = 0, with r = beta1^2/beta2: (1 - beta1)/sqrt(1 - beta2) sqrt((1 - r^t)/(1 - r)), times `bias_factor` if
    corrected.  It never falls with t.  r < 1: converges to `kaiser_step_bound`.  r = 1: sqrt(t) replaces the second
    root.  r > 1: grows like r^(t/2), to inf.  beta1 = beta2 with bias correction: 1 for every t.
    eps > 0 changes nothing while gradients are unbounded; under a bound it gives the exact maximum (gradients
    min(bound, c (beta1/beta2)^age); the ratio linear/convex is quasi-concave, so the stationary c is the maximum), with
    9 digits or more in the gradients and rounding errors only in the value.
    Measured error at eps = 0: 2.7 EPS where r <= 1; 0.7 (12 + t log r) EPS where r > 1.
    Source: [kaiser, Prop. 1].  Raises ValueError out of range, and for eps > 0 with a bound and beta2 = 0.

    >>> max_step(0.9, 0.999).round(4).tolist(), max_step(0.9, 0.999, [1, 2]).round(4).tolist()
    (7.2703, [1.0, 1.0014])
    """
    b1, b2, n, relative = _arguments(beta1, beta2, t, eps, largest_gradient)
    free = _free_step(b1, b2, n)
    if bias_correction:
        free = free * bias_factor(b1, b2, n)
    if not np.any(relative > 0):
        return np.asarray(free)
    bound = np.where(relative > 0, relative, 1.0)
    average, square = _held(_clip_age(b1, b2, n, bound, bias_correction), b1, b2, n, bias_correction)[:2]
    return np.where(relative > 0, average / (np.sqrt(square) + bound), free)


def maximising_gradients(
    beta1: float,
    beta2: float,
    t: int,
    *,
    bias_correction: bool = True,
    eps: float = 0.0,
    largest_gradient: float = 1.0,
    flat: bool = False,
) -> Array:
    """The t gradients that attain `max_step`, oldest first, the largest equal to largest_gradient.

    eps = 0: proportional to (beta1/beta2)^age, whatever the bias correction.  eps > 0: min(largest_gradient,
    c (beta1/beta2)^age), the most telling gradients held at the bound.  flat: attain `flat_distance` instead, which
    differs only where eps > 0.  Flipping all signs changes nothing.

    >>> maximising_gradients(0.5, 0.8, 3).round(4).tolist()
    [0.3906, 0.625, 1.0]
    """
    if not 0 < largest_gradient < np.inf:
        raise ValueError(f"largest_gradient must be positive and finite, got {largest_gradient}")
    if np.isinf(t):
        raise ValueError("infinitely many gradients do not fit into an array")
    b1, b2, n, relative = _arguments(beta1, beta2, t, eps, largest_gradient)
    age = _clip_age(b1, b2, n, relative, bias_correction) if eps > 0 else np.where(b1 > b2, n - 1, 0.0)
    if flat and eps > 0:
        age = np.asarray(_best_flat(float(beta1), float(beta2), float(t), float(relative), bias_correction, 1)[0])
    return largest_gradient * _clipped_gradients(float(age), beta1, beta2, int(t))


def single_gradient_step(
    age: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, t: ArrayLike = np.inf, *, bias_correction: bool = True
) -> Array:
    """The step when all gradients but one, `age` steps old, were 0.

    (1 - beta1)/sqrt(1 - beta2) (beta1/sqrt(beta2))^age, and times `bias_factor` (at t > age) if corrected.  Falls with
    age exactly where beta1^2 < beta2.  Source: [kaiser, Prop. 3].
    Raises ValueError out of range and for beta2 = 0 < age, where sqrt(v) = 0 too.

    >>> single_gradient_step([0, 1], 0.9, 0.999).round(4).tolist()
    [3.1623, 2.8475]
    """
    b1, b2 = check_decay(beta1, "beta1"), check_decay(beta2, "beta2")
    n, a = check_samples(t), np.asarray(age, dtype=np.float64)
    if not np.all((a >= 0) & (a == np.floor(a)) & (a < n)):
        raise ValueError(f"age is a whole number in [0, t), got {age!r}")
    if np.any((b2 == 0) & (a > 0)):
        raise ValueError("with beta2 = 0 an older gradient leaves sqrt(v) = 0")
    with np.errstate(over="ignore"):
        step = (1 - b1) / np.sqrt(1 - b2) * (b1 / np.sqrt(np.where(b2 > 0, b2, 1.0))) ** a
    return np.asarray(step * bias_factor(b1, b2, n) if bias_correction else step)


def step_sensitivity(
    gradients: ArrayLike, beta1: float, beta2: float, *, bias_correction: bool = True, eps: float = 0.0
) -> Array:
    """Derivative of the step m/(sqrt(v) + eps) with respect to every gradient of a history [t, ...], oldest first.

    w1/(sqrt(v) + eps) - step w2 g / (sqrt(v)(sqrt(v) + eps)).  It can be negative, also for the newest gradient: where
    that one stands out, growing it shrinks the step.  So [kaiser, Prop. 3] speaks of a history that is 0 but for one
    gradient, not of a derivative.  eps = 0: the g-weighted sum is 0, as scale does not matter.
    Raises ValueError where all gradients and eps are 0.
    """
    g = np.asarray(gradients, dtype=np.float64)
    if g.ndim == 0 or len(g) == 0 or not np.all(np.isfinite(g)):
        raise ValueError("gradients have shape [t, ...], t >= 1, and are finite")
    check_decay(beta1, "beta1")
    check_decay(beta2, "beta2")
    t = len(g)
    ages = np.arange(t - 1, -1, -1).reshape(-1, *[1] * (g.ndim - 1))
    w1, w2 = (1 - beta1) * float(beta1) ** ages, (1 - beta2) * float(beta2) ** ages
    if bias_correction:
        w1, w2 = w1 / one_minus_power(beta1, t), w2 / one_minus_power(beta2, t)
    scale = np.max(np.abs(g), axis=0)
    unit = g / np.where(scale > 0, scale, 1.0)  # squares of tiny gradients would vanish
    root = np.sqrt(np.sum(w2 * unit**2, axis=0))
    still = root == 0
    if np.any(still & ((scale > 0) | (eps == 0))):
        raise ValueError("sqrt(v) + eps is 0: the step has no derivative")
    share = w2 * unit / np.where(still, 1.0, root)  # d sqrt(v) / dg
    denominator = root * scale + eps
    step = np.sum(w1 * unit, axis=0) * (scale / denominator)
    return np.asarray((w1 - step * share) / denominator)


def drift(
    m: ArrayLike,
    v: ArrayLike,
    beta1: ArrayLike,
    beta2: ArrayLike,
    t: ArrayLike = np.inf,
    *,
    bias_correction: bool = True,
    eps: ArrayLike = 0.0,
    entry_step: bool = False,
) -> Array:
    """How far Adam coasts in units of lr while every gradient is 0, from averages m and v >= 0 after t gradients.

    m, v: bias-corrected if bias_correction.  entry_step: count also the step made with m and v themselves.  The
    endless sum is cut off where its rest is below 2^-54 of it.  inf for eps = 0 and beta1^2 >= beta2.
    Source: [kaiser, proof of Prop. 2].  Raises ValueError out of range, and where over 10^7 terms would count.
    """
    mean, square, b1, b2, n, e = np.broadcast_arrays(
        np.asarray(m, np.float64), np.asarray(v, np.float64), *_arguments(beta1, beta2, t, eps, 1.0)
    )
    if not np.all((square > 0) | ((square == 0) & (mean == 0))):
        raise ValueError("v must be >= 0, and 0 only where m is")
    first = 0 if entry_step else 1

    def one(a: float, s: float, b1: float, b2: float, n: float, e: float) -> float:
        return a * _coast(math.sqrt(s), b1, b2, n, e, bias_correction, first) if a != 0 else 0.0

    return np.asarray(np.vectorize(one, otypes=[np.float64])(mean, square, b1, b2, n, e))


def flat_distance(
    beta1: ArrayLike,
    beta2: ArrayLike,
    t: ArrayLike = np.inf,
    *,
    bias_correction: bool = True,
    eps: ArrayLike = 0.0,
    largest_gradient: ArrayLike = np.inf,
    entry_step: bool = False,
) -> Array:
    """Supremum of |`drift`| over all t gradients <= largest_gradient in size that came before the flat, in lr.

    eps = 0: the history enters through m/sqrt(v) only, so the gradients that maximise the step maximise the whole
    drift, with and without bias correction.  With k = beta1/sqrt(beta2) the limit t = inf is kaiser_step_bound k/(1-k),
    or 1/(1-k) with the entry step, which is the printed `kaiser_flat_bound`: that counts a step made before the flat.
    With bias correction every finite t lies below the limit.  inf where beta1^2 >= beta2 (0 for beta1 = 0).
    eps > 0 matters only under a bound on the gradients; the best history is then still min(bound, c (beta1/beta2)^age)
    (for a given v it has the largest m), and c is found by a scan and a refinement: 12 digits of the distance.
    Source: [kaiser, Prop. 2].  Raises ValueError as `max_step` and `drift`.

    >>> flat_distance(0.9, 0.999).round(2).tolist(), flat_distance(0.9, 0.999, entry_step=True).round(2).tolist()
    (65.76, 73.03)
    """
    first = 0 if entry_step else 1

    def one(b1: float, b2: float, n: float, e: float) -> float:
        if e > 0:
            return _best_flat(b1, b2, n, e, bias_correction, first)[1]
        step = float(max_step(b1, b2, n, bias_correction=bias_correction))
        return step * _coast(1.0, b1, b2, n, 0.0, bias_correction, first)

    arguments = _arguments(beta1, beta2, t, eps, largest_gradient)
    return np.asarray(np.vectorize(one, otypes=[np.float64])(*arguments))


def _coast(root: float, b1: float, b2: float, t: float, eps: float, corrected: bool, first: int) -> float:
    """Sum over j >= first of the steps made after j zero gradients, per unit of m; root = sqrt(v)."""
    if b1 == 0:
        return 1 / (root + eps) if first == 0 else 0.0
    log1, half = math.log(b1), 0.5 * math.log(b2) if b2 > 0 else -math.inf
    ratio = 0.5 * float(_log_decays(np.asarray(b1), np.asarray(b2))[1])  # log(beta1 / sqrt(beta2))
    if b2 == 0 or (eps == 0 and ratio >= 0):
        return math.inf
    corrected = corrected and not math.isinf(t)
    c1, c2 = (float(one_minus_power(b, t)) if corrected else 1.0 for b in (b1, b2))
    total = 0.0
    for start in range(first, _MOST_TERMS, _CHUNK):
        if eps == 0 and (not corrected or (t + start) * max(log1, 2 * half) < -38):
            # 1 - beta^(t + j) is 1 from here on, and a geometric series is left.
            return total + c1 / (math.sqrt(c2) * root) * math.exp(start * ratio) / -math.expm1(ratio)
        j = np.arange(start, start + _CHUNK, dtype=np.float64)
        f1, f2 = (one_minus_power(b, t + j) if corrected else np.ones(_CHUNK) for b in (b1, b2))
        fall = np.sqrt(c2 / f2) * root
        if ratio < 0:  # both sides over sqrt(beta2)^j: nothing becomes 0/0
            with np.errstate(over="ignore"):
                terms = np.exp(j * ratio) * (c1 / f1) / (fall + (eps * np.exp(-j * half) if eps else 0.0))
        else:
            terms = np.exp(j * log1) * (c1 / f1) / (fall * np.exp(j * half) + eps)
        total += float(np.sum(terms))
        end = start + _CHUNK
        # The rest is below each of two geometric series: without eps, and without sqrt(v).
        left = c1 / (math.sqrt(c2) * root) * max(1.0, math.sqrt(f2[-1]) / f1[-1]) * math.exp(end * min(ratio, 0.0))
        left = left / -math.expm1(ratio) if ratio < 0 else math.inf
        if eps > 0:
            left = min(left, c1 / f1[-1] * math.exp(end * log1) / ((1 - b1) * eps))
        if left <= 2.0**-54 * total:
            return total
    raise ValueError(f"over {_MOST_TERMS} terms count for beta1 = {b1}, beta2 = {b2}, eps = {eps}")


def _best_flat(b1: float, b2: float, t: float, eps: float, corrected: bool, first: int) -> tuple[float, float]:
    """The age at which the best history before a flat meets the bound 1, and the distance it is good for."""
    from scipy import optimize  # slow to load

    if b1 == 0 and first == 1:
        return 0.0, 0.0
    a1, a2, n = np.asarray(b1), np.asarray(b2), np.asarray(t)
    # sqrt(v) falls on the flat, so eps weighs more than in a single step and never fewer gradients are held.
    edge = float(_clip_age(a1, a2, n, np.asarray(eps), corrected))
    low, high = (edge, _last_age(b1, t)) if b1 <= b2 else (0.0, edge)

    def distance(age: float) -> float:
        m, v, _, _ = _held(np.asarray(age), a1, a2, n, corrected)
        return float(m) * _coast(math.sqrt(v), b1, b2, t, eps, corrected, first)

    ages = np.linspace(low, max(low, high), 33)
    found = [distance(age) for age in ages]
    best = int(np.argmax(found))
    around = (ages[max(best - 1, 0)], ages[min(best + 1, 32)])
    if around[1] > around[0]:
        refined = optimize.minimize_scalar(
            lambda age: -distance(age),
            bounds=around,
            method="bounded",
            options={"xatol": 1e-9 * (around[1] - around[0])},
        )
        if -refined.fun > found[best]:
            return float(refined.x), float(-refined.fun)
    return float(ages[best]), found[best]


# Weights of geometric sequences of gradients, held at a bound.


def _square_gap(b1: Array, b2: Array) -> Array:
    """beta2 - beta1^2, rounded once where it is small: the square's rounding error is added back."""
    square = b1 * b1
    big = 134217729.0 * b1  # Dekker's split: b1 = high + low, whose products are exact
    high = big - (big - b1)
    low = b1 - high
    return np.asarray((b2 - square) - (((high * high - square) + 2 * high * low) + low * low))


def _log_decays(b1: Array, b2: Array) -> tuple[Array, Array]:
    """log(beta1/beta2) and log(beta1^2/beta2), accurate near 0; -inf for beta1 = 0 and else inf for beta2 = 0."""
    positive = np.where(b2 > 0, b2, 1.0)
    logs = []
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        for gap, ratio in ((b2 - b1, b1 / positive), (_square_gap(b1, b2), b1 / positive * b1)):
            near = np.abs(gap) < 0.5 * positive
            log = np.where(near, np.log1p(-np.where(near, gap, 0.0) / positive), np.log(ratio))
            logs.append(np.where(b2 > 0, log, np.where(b1 > 0, np.inf, -np.inf)))
    return logs[0], logs[1]


def _falling_sum(log_r: Array, n: Array) -> Array:
    """1 + r + ... + r^(n-1) for r <= 1, n >= 0 terms."""
    with np.errstate(invalid="ignore"):
        total = np.where(log_r == 0, n, np.expm1(n * log_r) / np.expm1(np.where(log_r == 0, -1.0, log_r)))
    return np.where(n == 0, 0.0, np.where(n == 1, 1.0, total))


def _growth(log_r: Array, n: Array) -> Array:
    """(n - 1) log r where r > 1 and n > 1, else 0: what 1 + ... + r^(n-1) has over the sum with 1/r, as a logarithm."""
    with np.errstate(invalid="ignore"):
        return np.where((log_r > 0) & (n > 1), (n - 1) * log_r, 0.0)


def _free_step(b1: Array, b2: Array, t: Array) -> Array:
    log_r = _log_decays(b1, b2)[1]
    with np.errstate(over="ignore"):
        total = np.sqrt(_falling_sum(-np.abs(log_r), t)) * np.exp(_growth(log_r, t) / 2)
    return np.asarray((1 - b1) / np.sqrt(1 - b2) * total)


def _arguments(
    beta1: ArrayLike, beta2: ArrayLike, t: ArrayLike, eps: ArrayLike, largest_gradient: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Checked beta1, beta2, t, and eps in units of the largest gradient, 0 where that is inf; broadcast."""
    epsilon, bound = np.asarray(eps, dtype=np.float64), np.asarray(largest_gradient, dtype=np.float64)
    if not np.all((epsilon >= 0) & np.isfinite(epsilon)):
        raise ValueError(f"eps must be >= 0 and finite, got {eps!r}")
    if not np.all(bound > 0):
        raise ValueError(f"largest_gradient must be positive, got {largest_gradient!r}")
    b1, b2, n, relative = np.broadcast_arrays(
        check_decay(beta1, "beta1"), check_decay(beta2, "beta2"), check_samples(t), epsilon / bound
    )
    if np.any((b2 == 0) & (relative > 0)):
        raise ValueError("a bound with eps needs beta2 > 0")
    return b1, b2, n, relative


def _clipped_gradients(age: float, beta1: float, beta2: float, t: int) -> Array:
    """min(1, (beta1/beta2)^(i - age)) at ages i = t-1, ..., 0."""
    ages = np.arange(t - 1, -1, -1, dtype=np.float64)
    log_q = float(_log_decays(np.asarray(beta1), np.asarray(beta2))[0])
    if math.isinf(log_q):  # beta1 = 0: only the newest counts; beta2 = 0: the oldest is infinitely more telling
        return np.where((ages == 0) if log_q < 0 else (ages >= age), 1.0, 0.0)
    return np.asarray(np.exp(np.minimum(0.0, (ages - age) * log_q)))


def _held(age: Array, b1: Array, b2: Array, t: Array, corrected: bool) -> tuple[Array, Array, Array, Array]:
    """m and v of `_clipped_gradients` for real ages in [0, t-1] in closed form, and the parts of both held at 1."""
    log_q, log_r = _log_decays(b1, b2)
    newest = log_q <= 0
    edge = np.where(newest, np.floor(age) + 1, np.ceil(age))  # ages below it are held, or those from it on
    n = np.where(newest, t - edge, edge)
    with np.errstate(invalid="ignore", divide="ignore"):
        start = np.where(newest & (n > 0), edge * log_r, 0.0) + _growth(log_r, n)
        shift = np.where(age > 0, age * log_q, 0.0)
        free = _falling_sum(-np.abs(log_r), n)
        scale1, scale2 = (one_minus_power(b, t) if corrected else np.ones_like(b) for b in (b1, b2))
        parts = []
        for b, power, scale in ((b1, shift, scale1), (b2, 2 * shift, scale2)):
            logarithm = np.where(edge > 0, edge * np.log(b), 0.0)  # of beta^edge
            older = np.exp(logarithm) * one_minus_power(b, np.maximum(t - edge, 1))
            held = np.where(newest, -np.expm1(logarithm), older) / scale
            parts.append((held + np.where(b1 == 0, 0.0, (1 - b) * np.exp(start - power) * free) / scale, held))
    return parts[0][0], parts[1][0], parts[0][1], parts[1][1]


def _last_age(b1: ArrayLike, t: ArrayLike) -> Array:
    """Gradients older than this weigh less than 1e-17 in m."""
    with np.errstate(divide="ignore"):
        return np.minimum(np.asarray(t, dtype=np.float64) - 1, np.ceil(-40 / np.log(b1)))


def _clip_age(b1: Array, b2: Array, t: Array, eps: Array, corrected: bool) -> Array:
    """The real age at which the maximising geometric sequence meets the bound 1: in [0, t - 1], by bisection.

    With the sequence c w1/w2 held at 1, the step grows with c while the sum of c w1 - w2 over the held gradients is
    below eps sqrt(v); that sum over sqrt(v) is monotone in c, and c = w2/w1 at the age sought.
    """
    log_q, _ = _log_decays(b1, b2)
    first = (1 - b1) / (1 - b2)  # w1/w2 at age 0
    if corrected:
        first = first * (one_minus_power(b2, t) / one_minus_power(b1, t))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # For beta1 > beta2: where even sqrt(v) without the newest is so small that eps wins.
        reach = 2 * (np.log1p(1 / eps) + np.log1p(1 / first) + 1) / -np.log(b2) + 2
        low, high = np.zeros(np.shape(b1)), np.where(log_q <= 0, _last_age(b1, t), np.minimum(t - 1, reach))
        for _ in range(80):  # halves any range to neighbouring numbers
            age = 0.5 * (low + high)
            _, square, held1, held2 = _held(age, b1, b2, t, corrected)
            older = (np.exp(-age * log_q) / first * held1 - held2 < eps * np.sqrt(square)) == (log_q <= 0)
            low, high = np.where(older, age, low), np.where(older, high, age)
    return np.where(log_q == 0, 0.0, high)
