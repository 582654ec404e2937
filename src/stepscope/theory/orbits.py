"""Periodic orbits of an optimizer on a deterministic loss: where they are, and whether they attract.

One step of a rule is a map of (theta, state) onto itself; bias corrections are taken at their limit t -> infinity, so
that the map does not depend on time. A k-cycle is a point that comes back after k steps; its Floquet multipliers, the
eigenvalues of the k steps' Jacobian, say whether small disturbances die out (all inside the unit circle) or grow.
The Jacobian is exact: the step is traced to a graph and differentiated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepscope.graph.expression import SYMBOLS, Symbol, evaluate, order, symbol
from stepscope.graph.gradient import gradient
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.rules import Rule

__all__ = ["LIMITS", "Cycle", "StepMap", "adam_two_cycle", "heavy_ball_limit", "kinks", "preconditioned_limit"]

Array = NDArray[np.float64]
FOREVER = 1 << 53


@dataclass(frozen=True)
class Cycle:
    """A k-cycle. points [k, d]: theta along it; states [k, d, s]: the rule's state before each of these steps.

    multipliers [n]: complex, the largest first.  residual: how far k steps miss the start, relative to the amplitude.
    """

    points: Array
    states: Array
    multipliers: NDArray[np.complex128]
    residual: float

    @property
    def period(self) -> int:
        """k."""
        return len(self.points)

    @property
    def amplitude(self) -> Array:
        """Largest minus smallest value of each coordinate."""
        return np.asarray(np.ptp(self.points, axis=0))

    @property
    def stable(self) -> bool:
        """Whether every small disturbance dies out. A multiplier of 1 (a continuum of cycles) is not stable."""
        return bool(np.all(np.abs(self.multipliers) < 1 - 1e-9))


class StepMap:
    """One step of a rule on a loss, as a map of z = (theta_1, its state, theta_2, ...) with its Jacobian.

    loss: a graph; inputs: its variables, in order.  hyper: the rule's numbers, defaults for those not given.
    """

    def __init__(self, rule: Rule, loss: Symbol, inputs: Sequence[Symbol], hyper: Mapping[str, float]) -> None:
        self.rule, self.dims, self.width = rule, len(inputs), 1 + len(rule.state)
        numbers = {**rule.defaults, **hyper}
        rule.check(numbers)
        scalars = rule.step_scalars(FOREVER, numbers)
        slopes = gradient(loss, list(inputs))
        names: list[Symbol] = []
        roots: list[Symbol] = []
        for theta, g in zip(inputs, slopes, strict=True):
            old = {name: symbol(f"{theta.args[0]}.{name}") for name in rule.state}
            new_theta, new = rule.update(SYMBOLS, g, theta, old, numbers, scalars)
            names += [theta, *old.values()]
            roots += [new_theta, *new.values()]
        self.names = [node.args[0] for node in names]
        self.roots = [r if isinstance(r, Symbol) else Symbol("const", float(r)) for r in roots]
        self._slopes = [slope for root in self.roots for slope in gradient(root, names)]

    def step(self, z: ArrayLike) -> Array:
        """The next z."""
        with np.errstate(all="ignore"):
            return np.array(evaluate(self.roots, self._inputs(z), NUMPY), dtype=np.float64)

    def jacobian(self, z: ArrayLike) -> Array:
        """d step_i / d z_j."""
        n = len(self.names)
        with np.errstate(all="ignore"):
            return np.array(evaluate(self._slopes, self._inputs(z), NUMPY), dtype=np.float64).reshape(n, n)

    def _inputs(self, z: ArrayLike) -> dict[str, float]:
        return dict(zip(self.names, np.asarray(z, np.float64).tolist(), strict=True))

    def at_rest(self, start: Sequence[float]) -> Array:
        """z at a start, with all state 0."""
        z = np.zeros((self.dims, self.width))
        z[:, 0] = start
        return z.reshape(-1)

    def settle(self, start: ArrayLike, steps: int) -> Array:
        """z after many steps."""
        z = np.asarray(start, np.float64)
        for _ in range(steps):
            z = self.step(z)
        return z

    def cycle(self, guess: ArrayLike, period: int, *, rounds: int = 50, tolerance: float = 1e-9) -> Cycle | None:
        """The cycle of this period near `guess` (a z), by Newton's method; None if there is none.

        Steps of least length are taken, so that a continuum of cycles (a loss that is linear between kinks has one) is
        met at its nearest member.  A shorter period that divides this one is found under its own name.
        """
        z = np.asarray(guess, np.float64)
        for _ in range(rounds):
            end, product = self._round(z, period)
            miss = end - z
            scale = np.maximum(np.abs(z), np.abs(end))
            if np.all(np.abs(miss) <= 1e-14 * scale + 1e-300):
                break
            if not (np.all(np.isfinite(product)) and np.all(np.isfinite(miss))):
                return None
            change = np.linalg.lstsq(product - np.eye(len(z)), -miss, rcond=1e-12)[0]
            z = self._damped(z, np.asarray(change, np.float64), period, float(np.linalg.norm(miss)))
        path = [z]
        for _ in range(period):
            path.append(self.step(path[-1]))
        orbit = np.array(path[:-1]).reshape(period, self.dims, self.width)
        size = max(float(np.ptp(orbit[:, :, 0], axis=0).max()), float(np.abs(orbit[:, :, 0]).max()), 1e-300)
        residual = float(np.abs((path[-1] - z).reshape(self.dims, self.width)[:, 0]).max()) / size
        if not residual <= tolerance:
            return None
        for shorter in range(1, period):
            if period % shorter == 0 and np.abs(orbit[shorter, :, 0] - orbit[0, :, 0]).max() <= 1e-8 * size:
                return self.cycle(z, shorter, rounds=rounds, tolerance=tolerance)
        multipliers = np.linalg.eigvals(self._round(z, period)[1])
        multipliers = multipliers[np.argsort(-np.abs(multipliers))].astype(np.complex128)
        return Cycle(orbit[:, :, 0], orbit[:, :, 1:], multipliers, residual)

    def cycles_from(
        self, starts: Sequence[Sequence[float]], *, settle: int = 20_000, longest: int = 64
    ) -> list[Cycle | None]:
        """For each start: simulate `settle` steps, see after how many steps theta comes back, and polish by Newton.

        None where nothing comes back within `longest` steps to a millionth of the amplitude, or Newton finds no cycle.
        """
        found: list[Cycle | None] = []
        for start in starts:
            z = self.settle(self.at_rest(start), settle)
            path = [z]
            for _ in range(2 * longest):
                path.append(self.step(path[-1]))
            theta = np.array(path).reshape(len(path), self.dims, self.width)[:, :, 0]
            size = 1e-6 * np.ptp(theta, axis=0)
            periods = [p for p in range(1, longest + 1) if np.all(np.abs(theta[p:] - theta[:-p]) <= size)]
            found.append(self.cycle(z, periods[0]) if periods and np.all(np.isfinite(theta)) else None)
        return found

    def _round(self, z: Array, period: int) -> tuple[Array, Array]:
        product = np.eye(len(z))
        for _ in range(period):
            product = self.jacobian(z) @ product
            z = self.step(z)
        return z, product

    def _damped(self, z: Array, change: Array, period: int, miss: float) -> Array:
        share = 1.0
        for _ in range(8):
            trial = z + share * change
            end = self.settle(trial, period)
            if np.all(np.isfinite(end)) and np.linalg.norm(end - trial) < miss:
                return np.asarray(trial)
            share /= 2
        return np.asarray(z + change)


def adam_two_cycle(lr: ArrayLike, beta1: ArrayLike, gradient_size: ArrayLike, eps: ArrayLike = 0.0) -> Array:
    """Distance between the two points of Adam's 2-cycle where the gradient is +C at one and -C at the other.

    lr (1 - beta1)/(1 + beta1) C/(C + eps): m alternates between +-C (1 - beta1)/(1 + beta1), sqrt(v) is C.
    Source: [kaiser, Prop. 4], which prints C/(C^2 + eps); but sigma is C there, not C^2, so that the printed step has
    the unit of 1/C.  beta2 does not enter.

    >>> adam_two_cycle(1.0, 0.9, 2.0).round(6).tolist()
    0.052632
    """
    c, e = np.asarray(gradient_size, np.float64), np.asarray(eps, np.float64)
    if not (np.all(c > 0) and np.all(e >= 0)):
        raise ValueError("gradient_size must be > 0 and eps >= 0")
    b = np.asarray(beta1, np.float64)
    return np.asarray(np.asarray(lr, np.float64) * (1 - b) / (1 + b) * c / (c + e))


def _average(beta: Any) -> Any:
    return (2 + 2 * beta) / (1 - beta)


def _buffer(momentum: Any) -> Any:
    return 2 * (1 + momentum)


LIMITS: Mapping[str, Callable[[Any], Any]] = {"average_limit": _average, "buffer_limit": _buffer}
"""The largest stable step times curvature, of numbers or of symbols: where an average of the gradients with decay beta
is followed, and where a buffer adds them up with a momentum (0: the gradient itself)."""


def preconditioned_limit(beta1: ArrayLike) -> Array:
    """The largest stable lr h / (sqrt(v) + eps) of Adam with v held fixed: (2 + 2 beta1)/(1 - beta1).

    >>> preconditioned_limit(0.9).round(6).tolist()
    38.0
    """
    b = np.asarray(beta1, np.float64)
    if not np.all((b >= 0) & (b < 1)):
        raise ValueError(f"beta1 must lie in [0, 1), got {beta1!r}")
    return np.asarray(_average(b))


def heavy_ball_limit(momentum: ArrayLike) -> Array:
    """The largest stable lr h of SGD with momentum: 2 (1 + momentum).   [Polyak 1964]"""
    b = np.asarray(momentum, np.float64)
    if not np.all((b >= 0) & (b < 1)):
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
    return np.asarray(_buffer(b))


def kinks(loss: Symbol) -> bool:
    """Whether a loss has points without a derivative (|x|, sign, min, max, where)."""
    return any(node.op in ("abs", "sign", "min", "max", "where") for node in order([loss]))
