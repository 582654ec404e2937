"""Stochastic quadratic problems: what one step of SGD and of sign descent gains, and how a rotation spreads a matrix.

Loss (theta - x)' Q (theta - x) / 2 with data x ~ Normal(x*, nu^2 I), so gradients Q (theta - x) are Normal(gradient,
nu^2 Q^2) with gradient = Q (theta - x*); nu >= 0.  Shapes: Q [d, d], gradient [..., d], nu [...]; results [...].
Source: [balles2018, Sec. 2].  The paper prints the covariance as nu^2 Q, but its Eq. 13 is that of nu^2 Q^2, as here.

Steps are the best for the spot, minimising the expected loss; `improvement` is what they gain, in units of the loss.
The sign of 0, which matters only at nu = 0, is 0 as in the rules; the paper's is 1.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from stepscope.theory.factors import exact_factor

__all__ = [
    "bivariate_normal_cdf",
    "expected_p_diag",
    "haar_rotation",
    "mean_off_diagonal",
    "mild_spectrum",
    "p_diag",
    "sgd_improvement",
    "sgd_step",
    "sign_agreement",
    "sign_improvement",
    "sign_improvement_bound",
    "sign_step",
    "structured_spectrum",
]

Array = NDArray[np.float64]


def sgd_step(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike = 0.0) -> Array:
    """Step size that gains most along -g: |gradient|^2 / (gradient' Q gradient + nu^2 tr Q^3).   [balles2018, Sec. 2.1]

    >>> sgd_step([[1.0, 0.0], [0.0, 2.0]], [1.0, 0.0]).tolist()
    1.0
    """
    slope, curvature = _sgd(Q, gradient, nu)
    return _ratio(slope, curvature)


def sgd_improvement(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike = 0.0) -> Array:
    """Expected decrease of the loss by that step: slope^2 / (2 curvature).  Exact.   [balles2018, Eq. 13]"""
    slope, curvature = _sgd(Q, gradient, nu)
    return 0.5 * slope * _ratio(slope, curvature)


def _sgd(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike) -> tuple[Array, Array]:
    q, g, n = _problem(Q, gradient, nu)
    cube = np.sum((q @ q) * q)  # tr Q^3 = sum of the eigenvalues' cubes
    return np.sum(g * g, axis=-1), np.einsum("...i,ij,...j", g, q, g) + n**2 * cube


def sign_step(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike = 0.0) -> Array:
    """Step size that gains most along -sign g: sum (2 rho_i - 1)|gradient_i| / E[sign g' Q sign g].  Exact.

    Source: [balles2018, Sec. 2.1]; the expectation is from `sign_agreement`, where the paper bounds it.
    """
    slope, curvature = _sign(Q, gradient, nu)
    return _ratio(slope, curvature)


def sign_improvement(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike = 0.0) -> Array:
    """Expected decrease of the loss by that step, exactly; never below `sign_improvement_bound`.  [balles2018, Eq. 12]

    >>> sign_improvement([[2.0, 0.0], [0.0, 2.0]], [1.0, 1.0]).tolist()
    0.5
    """
    slope, curvature = _sign(Q, gradient, nu)
    return 0.5 * slope * _ratio(slope, curvature)


def _sign(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike) -> tuple[Array, Array]:
    q, g, n = _problem(Q, gradient, nu)
    scale = np.linalg.norm(q, axis=0)  # of the noise per nu, coordinate by coordinate
    certain = np.broadcast_to((n == 0)[..., None], g.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        h = np.where(certain, np.copysign(np.inf, g), g / (n[..., None] * scale))
    upper = np.triu_indices(len(q), 1)
    rows = q / scale
    r = np.clip(rows.T @ rows, -1, 1)[upper]
    agreement = sign_agreement(h[..., upper[0]], h[..., upper[1]], r)
    still = certain & (g == 0)  # their sign is 0
    agreement = np.where(still[..., upper[0]] | still[..., upper[1]], 0.0, agreement)
    curvature = np.where(still, 0.0, np.diagonal(q)).sum(-1) + 2 * np.sum(q[upper] * agreement, axis=-1)
    return _sign_slope(q, g, n), curvature


def _sign_slope(q: Array, g: Array, n: Array) -> Array:
    """sum (2 rho_i - 1)|gradient_i|, with deviation nu |row i of Q|."""
    size, sigma = np.abs(g), n[..., None] * np.linalg.norm(q, axis=0)
    with np.errstate(divide="ignore", over="ignore"):
        eta = np.where(size > 0, sigma / np.where(size > 0, size, 1.0), np.inf)
    return np.asarray(np.sum(exact_factor(eta) * size, axis=-1))


def sign_improvement_bound(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike = 0.0) -> Array:
    """The paper's lower bound (sum (2 rho_i - 1)|gradient_i|)^2 p_diag / (2 tr Q).   [balles2018, Eq. 14]

    It replaces E[s_i s_j] by the sign of q_ij; equal to `sign_improvement` for a diagonal Q.
    """
    q, g, n = _problem(Q, gradient, nu)
    slope = _sign_slope(q, g, n)
    return np.asarray(0.5 * slope * (slope / np.sum(np.abs(q))))  # tr Q / p_diag = sum |q_ij|


def _problem(Q: ArrayLike, gradient: ArrayLike, nu: ArrayLike) -> tuple[Array, Array, Array]:
    """Checked Q, and gradient and nu broadcast to one shape of problems."""
    q, g, n = (np.asarray(x, dtype=np.float64) for x in (Q, gradient, nu))
    _symmetric(q)
    try:
        np.linalg.cholesky(q)
    except np.linalg.LinAlgError:
        raise ValueError("Q must be positive definite") from None
    if g.ndim == 0 or g.shape[-1] != len(q) or not np.all(np.isfinite(g)):
        raise ValueError(f"gradient must be finite with {len(q)} numbers on its last axis, got shape {g.shape}")
    if not np.all((n >= 0) & np.isfinite(n)):
        raise ValueError(f"nu must be >= 0 and finite, got {nu!r}")
    shape = np.broadcast_shapes(g.shape[:-1], n.shape)
    return q, np.broadcast_to(g, (*shape, len(q))), np.broadcast_to(n, shape)


def _symmetric(q: Array) -> None:
    if q.ndim != 2 or q.shape[0] != q.shape[1] or q.size == 0:
        raise ValueError(f"Q must be a square matrix, got shape {q.shape}")
    if not np.all(np.abs(q - q.T) <= 1e-12 * np.max(np.abs(q))):  # a rotated spectrum is symmetric up to rounding
        raise ValueError("Q must be symmetric and finite")


def _ratio(slope: Array, curvature: Array) -> Array:
    """slope / curvature, 0 at a stationary point without noise, where both are 0."""
    return np.asarray(slope / np.where(slope == 0, 1.0, curvature))


def sign_agreement(h: ArrayLike, k: ArrayLike, r: ArrayLike) -> Array:
    """E[sign(X + h) sign(Y + k)] for standard normal X, Y with correlation r in [-1, 1]; h, k may be infinite.

    1 - 4 T(h, a) - 4 T(k, b) - 2 [h, k of unlike sign], with Owen's T, a = (k - r h)/(h sqrt(1 - r^2)) and b alike.
    Absolute error below 1e-15 (measured: 4e-16, for h, k from 1e-3 to 12 and |r| up to 1 - 1e-12).
    Source: D. B. Owen (1956).

    >>> sign_agreement(0.0, 0.0, [0.0, 0.5, 1.0]).round(6).tolist()
    [0.0, 0.333333, 1.0]
    """
    h, k, r = (np.asarray(x, dtype=np.float64) for x in np.broadcast_arrays(h, k, r))
    if not np.all(np.abs(r) <= 1):
        raise ValueError("a correlation lies in [-1, 1]")
    if np.any(np.isnan(h) | np.isnan(k)):
        raise ValueError("h and k must be numbers")
    # Y -> -Y makes r >= 0; then k - r h = (k - h) + (1 - r) h loses nothing where r is near 1 and h near k.
    mirrored = np.where(r < 0, -1.0, 1.0)
    k, r = mirrored * k, np.abs(r)
    h, k = np.clip(h, -40.0, 40.0), np.clip(k, -40.0, 40.0)  # beyond 40 the sign is certain to 1e-349
    root = np.sqrt((1 - r) * (1 + r))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a = ((k - h) + (1 - r) * h) / (h * root)
        b = ((h - k) + (1 - r) * k) / (k * root)
        both = 1 - 4 * special.owens_t(h, a) - 4 * special.owens_t(k, b) - 2.0 * (np.less(h, 0) != np.less(k, 0))
        # On an axis T(0, +-inf) = +-1/4 cancels the rest.
        slope = r / root
        both = np.where(h == 0, 4 * special.owens_t(k, slope), both)
        both = np.where((k == 0) & (h != 0), 4 * special.owens_t(h, slope), both)
    return np.asarray(mirrored * np.where(r == 1, 1 - 2 * np.abs(special.ndtr(h) - special.ndtr(k)), both))


def bivariate_normal_cdf(h: ArrayLike, k: ArrayLike, r: ArrayLike) -> Array:
    """P[X <= h, Y <= k] for standard normal X, Y with correlation r in [-1, 1].  Absolute error below 1e-15.

    From `sign_agreement`: (E[s_X s_Y] - 1)/4 + (P[X <= h] + P[Y <= k])/2.

    >>> bivariate_normal_cdf(0.0, 0.0, 0.5).round(6).tolist()
    0.333333
    """
    agree = sign_agreement(h, k, r)
    return np.asarray(np.clip(0.5 * (special.ndtr(h) + special.ndtr(k)) - 0.25 * (1 - agree), 0.0, 1.0))


def p_diag(Q: ArrayLike) -> Array:
    """Share of the diagonal in the size of a symmetric matrix, sum |q_ii| / sum |q_ij|, in [0, 1]; of [..., d, d].

    1 for a diagonal matrix; at least 1/d for a positive semidefinite one.   [balles2018, Eq. 14]

    >>> p_diag([[1.0, 1.0], [1.0, 1.0]]).tolist()
    0.5
    """
    size = np.abs(np.asarray(Q, dtype=np.float64))
    if size.ndim < 2 or size.shape[-1] != size.shape[-2]:
        raise ValueError(f"Q must be square, got shape {size.shape}")
    diagonal = np.trace(size, axis1=-2, axis2=-1)
    total = diagonal + np.sum(np.where(np.eye(size.shape[-1], dtype=bool), 0.0, size), axis=(-2, -1))
    if not np.all((total > 0) & np.isfinite(total)):
        raise ValueError("Q must be finite and not 0")
    return np.asarray(diagonal / total)


def haar_rotation(d: int, rng: np.random.Generator, *, proper: bool = True) -> Array:
    """A rotation [d, d], uniform among all: determinant 1 if proper, else among the reflections too.

    QR of a normal matrix is uniform once the signs of R's diagonal are moved into Q.  Stands for the subgroup algorithm
    of [balles2018, Sec. 2.2].
    """
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    q = q * np.copysign(1.0, np.diagonal(r))
    if proper and np.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return np.asarray(q)


def mild_spectrum(rng: np.random.Generator, d: int = 100) -> Array:
    """Eigenvalues of Figure 2's well-conditioned problem: uniform in [0.1, 1.1].   [balles2018, Sec. 2.2]"""
    return rng.uniform(0.1, 1.1, d)


def structured_spectrum(rng: np.random.Generator, d: int = 100) -> Array:
    """Eigenvalues of Figure 2's ill-conditioned problem: 90 % uniform in [0, 1], the rest (rounded) in [30, 60]."""
    large = round(0.1 * d)
    return np.concatenate([rng.uniform(0.0, 1.0, d - large), rng.uniform(30.0, 60.0, large)])


def expected_p_diag(spectrum: ArrayLike) -> float:
    """p_diag of R diag(spectrum) R', averaged over uniform rotations R: exact for d <= 2, else tr / E[sum |q_ij|].

    The trace is fixed, so replacing the mean of 1/sum by 1/mean is all the approximation there is.  It can only be too
    small (Jensen), by the sum's squared relative deviation: measured at
    most 4.4 % at d = 3 and 0.25 % at d = 100 (both for one non-zero eigenvalue).
    d = 2: (2/pi) arccos(c)/sqrt(1 - c^2) with c = |l1 - l2|/(l1 + l2).
    The paper's 1.57/d, i.e. pi/(2d) [balles2018, Sec. 2.1], is the large-d value for ONE non-zero eigenvalue.  In
    general, with mean l and deviation s of the spectrum, it is 1/(1 + sqrt(2 d/pi) s/l): of order 1/sqrt(d).
    spectrum: [d] eigenvalues >= 0, not all 0; else ValueError.

    >>> round(expected_p_diag([1.0] * 5), 6), round(expected_p_diag([1.0, 0.0]), 6)
    (1.0, 0.63662)
    """
    values = np.asarray(spectrum, dtype=np.float64)
    if not (np.all(values >= 0) and np.any(values > 0)):
        raise ValueError("eigenvalues must be >= 0 and not all 0")
    d, trace = values.size, float(np.sum(values))
    if d == 2:
        c = abs(float(values[0] - values[1])) / trace
        root = 2 * math.sqrt(float(values[0]) / trace) * math.sqrt(float(values[1]) / trace)  # sqrt(1 - c^2)
        return 2 / math.pi * (math.atan2(root, c) / root if root > 0 else 1.0)
    return trace / (trace + d * (d - 1) * mean_off_diagonal(values)) if d > 1 else 1.0


def mean_off_diagonal(spectrum: ArrayLike) -> float:
    """E|q_ij|, i != j, of R diag(spectrum) R' over uniform rotations R, by a double integral: 12 digits.

    Given the row u of R, q_ij = (deviation s(u) of the spectrum under weights u_k^2) x (one coordinate of a uniform
    vector in d - 1 dimensions), so E|q_ij| = Gamma((d-1)/2)/(sqrt(pi) Gamma(d/2)) E[s(u)].  For normal x = |x| u the
    number |x|^2 s(u) is the root of the Gram determinant G of (x, Lambda x); 1/sqrt(G) is a Gaussian integral over the
    plane, and under it E[G] has a closed form.  d = 2: |l1 - l2|/pi.  Large d: s sqrt(2/(pi d)), s the spectrum's
    deviation.  spectrum: [d >= 2] finite eigenvalues of any sign; else ValueError.

    >>> round(mean_off_diagonal([1.0, 0.0]), 6), mean_off_diagonal([3.0, 3.0, 3.0])
    (0.31831, 0.0)
    """
    from scipy import integrate  # slow to load

    values = np.asarray(spectrum, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.all(np.isfinite(values)):
        raise ValueError(f"spectrum must be a finite list of at least 2 eigenvalues, got shape {values.shape}")
    d = values.size
    unit = float(np.max(np.abs(values - values[0])))
    if unit == 0:
        return 0.0
    if d == 2:
        return unit / math.pi
    centred = (values - np.mean(values)) / unit
    deviation = float(np.std(centred))
    centred = centred / deviation
    # For large d the integrand is like e^(-d radius^2), tame up to pi/4 off the real axis of log radius: steps of 1/8
    # give an error of e^(-4 pi^2) = 1e-17.  It falls like radius^2 to one side, at least like radius^(1-d) to the
    # other.
    radius = np.exp(np.arange(-20.0, 20.0, 0.125))
    area = 0.125 * radius**2  # radius d(radius) = radius^2 d(log radius)

    def at_angle(angle: float) -> float:
        stretch = math.cos(angle) + math.sin(angle) * centred
        weight = 1 / (1 + 2 * np.square(radius[:, None] * stretch))
        total = np.sum(weight, axis=1)
        mean = weight @ centred / total
        spread = total * np.sum(weight * np.square(centred - mean[:, None]), axis=1)
        return float(np.sum(area * spread * np.exp(0.5 * np.sum(np.log(weight), axis=1))))

    angles = np.unique(np.arctan2(1.0, -centred))  # kinks, in (0, pi); many of them are no longer felt
    points = angles if angles.size <= 20 else np.quantile(angles, [0.05, 0.25, 0.5, 0.75, 0.95])
    root_gram = 2 / math.pi * integrate.quad_vec(at_angle, 0.0, math.pi, epsrel=1e-10, points=points)[0]
    one_coordinate = math.exp(math.lgamma((d - 1) / 2) - math.lgamma(d / 2)) / math.sqrt(math.pi)
    return one_coordinate * float(root_gram) / d * deviation * unit
