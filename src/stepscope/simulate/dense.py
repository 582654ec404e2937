"""Problems of many coupled dimensions: stochastic quadratics and linear classification, many repetitions at once.

Points are arrays [d, repetition]. Noise comes from a generator per repetition, keyed by (seed, repetition), so that
every rule meets the same noise and a repetition does not depend on how many others run beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.errors import UserError, unknown_name
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import METHODS, Rule
from stepscope.simulate.interpreter import check_subnormals

__all__ = [
    "DenseRun",
    "LeastSquares",
    "Logistic",
    "Problem",
    "StochasticQuadratic",
    "least_norm",
    "margins",
    "max_margin",
    "run",
    "wilson_instance",
]

Array = NDArray[np.float64]


class Problem(Protocol):
    """What `run` needs: the number of dimensions, the loss [B] and the gradient [d, B] at points [d, B]."""

    @property
    def dims(self) -> int:
        """d."""

    def loss(self, theta: Array) -> Array:
        """Loss of each point."""

    def gradient(self, theta: Array, z: Array | None) -> Array:
        """Gradient at each point, with noise made of the standard normals z [d, B] if given."""


@dataclass(frozen=True)
class StochasticQuadratic:
    """(theta - c)' Q (theta - c)/2 + nu^2 tr(Q)/2 with gradients Q (theta - x), x ~ Normal(c, nu^2 I).

    The gradient's covariance is nu^2 Q Q. [balles2018, Sec. 2] prints nu^2 Q, but the trace term nu^2 sum lambda^3 of
    its Eq. 13 is that of nu^2 Q Q.
    """

    Q: Array
    nu: float = 0.0
    center: Array | None = None

    @property
    def dims(self) -> int:
        """d."""
        return len(self.Q)

    def _off(self, theta: Array) -> Array:
        return theta if self.center is None else theta - self.center[:, None]

    def loss(self, theta: Array) -> Array:
        """Expected loss [B]."""
        off = self._off(theta)
        return np.asarray(0.5 * np.einsum("db,db->b", off, self.Q @ off) + 0.5 * self.nu**2 * np.trace(self.Q))

    def gradient(self, theta: Array, z: Array | None) -> Array:
        """Q (theta - x) for x = c + nu z; the true gradient without z."""
        return np.asarray(self.Q @ (self._off(theta) if z is None else self._off(theta) - self.nu * z))


@dataclass(frozen=True)
class LeastSquares:
    """|X theta - y|^2 / (2 n).   [balles2018, Eq. 26]"""

    X: Array
    y: Array

    @property
    def dims(self) -> int:
        """d."""
        return int(self.X.shape[1])

    def loss(self, theta: Array) -> Array:
        """Loss [B] over all examples."""
        return np.asarray(0.5 * np.mean((self.X @ theta - self.y[:, None]) ** 2, axis=0))

    def gradient(self, theta: Array, z: Array | None) -> Array:
        """X' (X theta - y) / n. No noise: z is ignored."""
        return np.asarray(self.X.T @ (self.X @ theta - self.y[:, None]) / len(self.y))


@dataclass(frozen=True)
class Logistic:
    """Mean of log(1 + exp(-y x' theta)) over examples with labels y in {-1, 1}."""

    X: Array
    y: Array

    @property
    def dims(self) -> int:
        """d."""
        return int(self.X.shape[1])

    def loss(self, theta: Array) -> Array:
        """Loss [B] over all examples."""
        return np.asarray(np.mean(np.logaddexp(0.0, -self.y[:, None] * (self.X @ theta)), axis=0))

    def gradient(self, theta: Array, z: Array | None) -> Array:
        """Full-batch gradient; z is ignored."""
        from scipy.special import expit

        wrong = expit(-self.y[:, None] * (self.X @ theta))
        return np.asarray(-(self.X.T @ (self.y[:, None] * wrong)) / len(self.y))


@dataclass(frozen=True)
class DenseRun:
    """steps [n], loss [n, B], theta [n, d, B] at the recorded steps (empty unless asked for), final [d, B]."""

    steps: NDArray[np.int64]
    loss: Array
    theta: Array
    final: Array


StepSize = Callable[[Any, Array], Array]


def run(
    rule: str | Rule,
    problem: Problem,
    *,
    start: ArrayLike | None = None,
    steps: int,
    repeats: int = 1,
    seed: int = 0,
    every: int = 1,
    noise: bool = True,
    step_size: StepSize | None = None,
    keep: bool = False,
    **numbers: float,
) -> DenseRun:
    """Simulate `repeats` trajectories of a rule. start: [d] or [d, repeats]; zeros by default.

    step_size(problem, theta) -> [B] or [d, B]: a step size computed at each step, in the place of lr.
    keep: record theta.  Raises UserError for an unknown rule or number, or a start of another shape.
    """
    if isinstance(rule, str):
        if rule not in METHODS:
            raise unknown_name("update rule", rule, METHODS)
        rule = METHODS[rule]
    if unknown := set(numbers) - set(rule.defaults):
        raise unknown_name(f"setting of {rule.name}", sorted(unknown)[0], rule.defaults)
    hyper: dict[str, Any] = {**rule.defaults, **numbers}
    check_subnormals()
    begin = np.zeros(problem.dims) if start is None else np.asarray(start, np.float64)
    if begin.shape not in ((problem.dims,), (problem.dims, repeats)):
        raise UserError(f"start has shape {begin.shape}; it must be ({problem.dims},) or ({problem.dims}, {repeats}).")
    theta = np.repeat(begin[:, None], repeats, axis=1) if begin.ndim == 1 else begin.copy()
    state: dict[str, Any] = {name: np.zeros_like(theta) for name in rule.state}
    draws = _Draws(seed, repeats, problem.dims) if noise and getattr(problem, "nu", False) else None
    recorded, losses, kept = [0], [problem.loss(theta)], [theta.copy()] if keep else []
    with np.errstate(all="ignore"):
        for t in range(1, steps + 1):
            if step_size is not None:
                hyper["lr"] = step_size(problem, theta)
            g = problem.gradient(theta, None if draws is None else draws.next())
            theta, new = rule.update(NUMPY, g, theta, state, hyper, rule.step_scalars(t, hyper))
            state = dict(new)
            if t % every == 0 or t == steps:
                recorded.append(t)
                losses.append(problem.loss(theta))
                kept += [theta.copy()] if keep else []
    paths = np.array(kept) if keep else np.empty((0, problem.dims, repeats))
    return DenseRun(np.array(recorded), np.array(losses), paths, theta)


class _Draws:
    """Standard normals [d, B], step by step, from one generator per repetition."""

    _AHEAD = 16

    def __init__(self, seed: int, repeats: int, dims: int) -> None:
        self.streams = [np.random.Generator(np.random.SFC64([seed, i])) for i in range(repeats)]
        self.dims, self.at, self.block = dims, self._AHEAD, np.empty((self._AHEAD, dims, repeats))

    def next(self) -> Array:
        if self.at == self._AHEAD:
            for i, stream in enumerate(self.streams):
                self.block[:, :, i] = stream.standard_normal((self._AHEAD, self.dims))
            self.at = 0
        self.at += 1
        return np.asarray(self.block[self.at - 1])


def wilson_instance(n: int, rng: np.random.Generator, share: float = 0.7) -> tuple[Array, Array]:
    """X [n, d], y with X sign(X' y) = c y: the assumption of [balles2018, Lemma 2], after Wilson et al. 2017.

    Feature 1 is the label; features 2 and 3 are 1 for everybody; then each example has features that nobody else has:
    one if y = 1, five if y = -1. `share` of the labels are +1 (more than half, and so sign(X' y) = (1, 1, 1, y_i ...)
    has a margin of 4 on +1 and -4 on -1).
    """
    y = np.where(rng.permutation(n) < share * n, 1.0, -1.0)
    if y.sum() <= 0:
        raise ValueError("more than half of the labels must be +1")
    blocks = np.zeros((n, 5 * n))
    for i, label in enumerate(y):
        blocks[i, 5 * i : 5 * i + (1 if label > 0 else 5)] = 1.0
    used = blocks.any(axis=0)
    return np.column_stack([y, np.ones(n), np.ones(n), blocks[:, used]]), y


def least_norm(X: Array, y: Array) -> Array:
    """The shortest theta with X theta = y (in the least-squares sense)."""
    return np.asarray(np.linalg.lstsq(X, y, rcond=None)[0])


def max_margin(X: Array, y: Array) -> Array:
    """The hard-margin solution: the shortest theta with y x' theta >= 1 for all examples.

    Raises UserError for examples that no plane through 0 separates.
    """
    from scipy.optimize import nnls

    # Its dual: theta is, up to scale, the point of the convex hull of the y_i x_i nearest to 0. The heavy last row of
    # the least-squares problem holds the weights' sum at 1.
    Z = (X * y[:, None]).T
    weight = 1e3 * np.linalg.norm(Z)
    a, _ = nnls(
        np.vstack([Z, weight * np.ones(Z.shape[1])]), np.append(np.zeros(len(Z)), weight), maxiter=100 * Z.shape[1]
    )
    theta = Z @ a
    smallest = float((Z.T @ theta).min())
    if smallest <= 1e-12 * float(theta @ theta):
        raise UserError("no plane through 0 separates the examples.")
    return np.asarray(theta / smallest)


def margins(theta: Array, X: Array, y: Sequence[float]) -> Array:
    """y x' theta of every example, relative to |theta|."""
    return np.asarray(np.asarray(y) * (X @ theta) / np.linalg.norm(theta))
