"""How fast the loss falls: idealised SVAG with a constant step size, against SGD, which stops at a noise floor.

Theorem 1 of [balles2018] with its constants.  f is mu-strongly convex and L-smooth; SVAG's step is gamma g / L with the
exact factors gamma_i = grad_i^2/(grad_i^2 + sigma_i^2), and sum sigma_i^2 <= c_v |grad|^2 + M_v.  Derivation:

1. L-smoothness, and gamma_i^2 (grad_i^2 + sigma_i^2) = gamma_i grad_i^2, give a fall by sum gamma_i grad_i^2 / (2L).
2. sum grad_i^4/(grad_i^2 + sigma_i^2) >= G^2/((1 + c_v) G + M_v) with G = |grad|^2, by Cauchy-Schwarz.
3. That grows with G, and G >= 2 mu e for the error e = f - f*; it is convex, so expectations may be put in (Jensen):
   e' <= e - (2 mu^2/L) e^2 / (2 mu (1 + c_v) e + M_v).                               (`svag_error_recursion`)
4. The right side grows with e, so it can be iterated; and 1/e' >= 1/e + (2 mu^2/L)/(2 mu (1 + c_v) e_0 + M_v) gives
   e_t <= C/(t + t_0), C = L (2 mu (1 + c_v) e_0 + M_v)/(2 mu^2), t_0 = C/e_0.        (`svag_error_bound`)

`t` counts steps made, from 0.  All functions broadcast over their arguments.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "sgd_error",
    "sgd_floor",
    "svag_error_bound",
    "svag_error_recursion",
    "svag_rate_constants",
    "svag_square_after_step",
]

Array = NDArray[np.float64]


def svag_rate_constants(
    mu: ArrayLike, L: ArrayLike, c_v: ArrayLike, M_v: ArrayLike, initial_error: ArrayLike
) -> tuple[Array, Array]:
    """C and t_0 of the bound E[f(theta_t) - f*] <= C / (t + t_0).   [balles2018, Theorem 1]

    mu, L: 0 < mu <= L, curvature.  c_v, M_v >= 0: of the noise; M_v in squared gradients.  initial_error > 0: f - f* at
    the start.  Raises ValueError out of range.

    >>> C, t_0 = svag_rate_constants(1.0, 1.0, 0.0, 2.0, 1.0)
    >>> float(C), float(t_0)
    (2.0, 2.0)
    """
    m, l, c, v, e = _problem(mu, L, c_v, M_v, initial_error)
    t_0 = l * (2 * m * (1 + c) + v / e) / (2 * m**2)
    return np.asarray(t_0 * e), np.asarray(t_0)


def svag_error_bound(
    t: ArrayLike, mu: ArrayLike, L: ArrayLike, c_v: ArrayLike, M_v: ArrayLike, initial_error: ArrayLike
) -> Array:
    """C / (t + t_0) >= E[f(theta_t) - f*] for idealised SVAG with step size 1/L; initial_error at t = 0.

    [balles2018, Theorem 1], which states the order 1/t; see `svag_rate_constants` for arguments and errors.

    >>> svag_error_bound([0, 2], 1.0, 1.0, 0.0, 2.0, 1.0).tolist()
    [1.0, 0.5]
    """
    steps = _steps(t)
    C, t_0 = svag_rate_constants(mu, L, c_v, M_v, initial_error)
    return np.asarray(C / (steps + t_0))


def svag_error_recursion(
    t: int, mu: ArrayLike, L: ArrayLike, c_v: ArrayLike, M_v: ArrayLike, initial_error: ArrayLike
) -> Array:
    """The sharper bound of step 3, iterated: [t + 1, ...], errors after 0..t steps.

    Never above `svag_error_bound`; as t grows it comes to L M_v/(2 mu^2 t), whatever the start and c_v.  M_v = 0: it
    falls by 1 - mu/(L (1 + c_v)) a step.  Each single step is exact for h theta^2/2 with constant
    noise and a given theta.
    """
    if not np.all(np.isfinite(_steps(t))):
        raise ValueError("infinitely many steps do not fit into an array")
    m, l, c, v, e = np.broadcast_arrays(*_problem(mu, L, c_v, M_v, initial_error))
    errors = np.empty((int(t) + 1, *e.shape))
    errors[0] = e
    for i in range(int(t)):
        e = errors[i]
        # e (1 - share) with share = 2 mu^2 e/(L (2 mu (1 + c) e + M)), as e x remainder / denominator: nothing cancels.
        denominator = 2 * m * (1 + c) * e + v
        kept = 2 * m * ((1 - m / l) + c) * e + v
        errors[i + 1] = e * np.where(denominator > 0, kept / np.where(denominator > 0, denominator, 1.0), 0.0)
    return errors


def svag_square_after_step(square: ArrayLike, h: ArrayLike, sigma: ArrayLike, lr: ArrayLike) -> Array:
    """E[theta'^2 | theta^2 = square] for one idealised SVAG step on h theta^2/2 with gradient noise sigma.  Exact.

    (1 - lr h gamma)^2 theta^2 + (lr gamma sigma)^2 with gamma = h^2 theta^2/(h^2 theta^2 + sigma^2).  At lr = 1/h, in
    units y = (h theta/sigma)^2, this is y/(1 + y).   [balles2018, Eq. 17, Theorem 1]

    >>> svag_square_after_step(1.0, 1.0, 1.0, 1.0).tolist()
    0.5
    """
    x, c, s, a = (np.asarray(value, dtype=np.float64) for value in (square, h, sigma, lr))
    _check_one(c, s, a)
    if not np.all((x >= 0) & np.isfinite(x)):
        raise ValueError("a square must be >= 0 and finite")
    gradient, noise = c**2 * x, s**2
    total = np.where(gradient + noise > 0, gradient + noise, 1.0)
    gamma = gradient / total
    # 1 - lr h gamma = (noise + (1 - lr h) gradient)/total
    stays = (noise + (1 - a * c) * gradient) / total
    return np.asarray(stays**2 * x + (a * gamma) ** 2 * noise)


def sgd_error(t: ArrayLike, h: ArrayLike, sigma: ArrayLike, lr: ArrayLike, initial_error: ArrayLike) -> Array:
    """E[h theta_t^2/2] of SGD with a constant step size on a quadratic, exactly: floor + q^t (initial_error - floor).

    q = (1 - lr h)^2, floor as in `sgd_floor`; for a diagonal problem, sum over coordinates.  initial_error >= 0 is
    h theta_0^2/2.  Raises ValueError unless h > 0, sigma >= 0 and 0 < lr < 2/h.

    >>> sgd_error([0, 1, np.inf], 1.0, 1.0, 1.0, 5.0).tolist()
    [5.0, 0.5, 0.5]
    """
    steps, e = _steps(t), np.asarray(initial_error, dtype=np.float64)
    if not np.all((e >= 0) & np.isfinite(e)):
        raise ValueError("initial_error must be >= 0 and finite")
    floor = sgd_floor(h, sigma, lr)
    contraction = np.abs(1 - np.asarray(lr, dtype=np.float64) * np.asarray(h, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        power = 2 * steps * np.log(contraction)  # nan at 0 steps of contraction 0
    power = np.where(steps == 0, 0.0, power)
    return np.asarray(np.exp(power) * e - np.expm1(power) * floor)


def sgd_floor(h: ArrayLike, sigma: ArrayLike, lr: ArrayLike) -> Array:
    """The expected loss at which SGD with a constant step size stays on h theta^2/2: lr sigma^2 / (2 (2 - lr h)).

    In contrast, SVAG's falls like 1/t with a constant step size (Theorem 1).  Errors as `sgd_error`.

    >>> sgd_floor(1.0, 1.0, [0.1, 1.0]).round(4).tolist()
    [0.0263, 0.5]
    """
    c, s, a = (np.asarray(value, dtype=np.float64) for value in (h, sigma, lr))
    _check_one(c, s, a)
    if not np.all(a * c < 2):
        raise ValueError("SGD diverges unless lr < 2/h")
    return np.asarray(a * s**2 / (2 * (2 - a * c)))


def _problem(
    mu: ArrayLike, L: ArrayLike, c_v: ArrayLike, M_v: ArrayLike, initial_error: ArrayLike
) -> tuple[Array, Array, Array, Array, Array]:
    m, l, c, v, e = (np.asarray(x, dtype=np.float64) for x in (mu, L, c_v, M_v, initial_error))
    if not np.all((m > 0) & (m <= l) & np.isfinite(l)):
        raise ValueError(f"curvatures need 0 < mu <= L, got mu = {mu!r}, L = {L!r}")
    if not np.all((c >= 0) & (v >= 0) & np.isfinite(c) & np.isfinite(v)):
        raise ValueError(f"c_v and M_v must be >= 0 and finite, got {c_v!r}, {M_v!r}")
    if not np.all((e > 0) & np.isfinite(e)):
        raise ValueError(f"initial_error must be positive and finite, got {initial_error!r}")
    return m, l, c, v, e


def _check_one(h: Array, sigma: Array, lr: Array) -> None:
    if not (np.all((h > 0) & np.isfinite(h)) and np.all((sigma >= 0) & np.isfinite(sigma))):
        raise ValueError("h must be positive, sigma >= 0, and both finite")
    if not np.all((lr > 0) & np.isfinite(lr)):
        raise ValueError("lr must be positive and finite")


def _steps(t: ArrayLike) -> Array:
    steps = np.asarray(t, dtype=np.float64)
    if not np.all((steps >= 0) & (steps == np.floor(steps))):
        raise ValueError(f"t counts steps and is a whole number from 0, got {t!r}")
    return steps
