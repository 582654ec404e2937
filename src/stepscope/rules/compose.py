"""Compose a rule from named parts: theta -= lr * direction * factor * base * mask, with or without weight decay.

Any combination of the names below is a rule. What a choice does not need is neither computed nor kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from stepscope.errors import UserError, unknown_name
from stepscope.rules import parts
from stepscope.rules.estimators import ESTIMATORS, Estimates, estimator
from stepscope.rules.rule import Hyper, Number, Numbers, Rule, StepScalar, View, decayed

__all__ = ["CHOICES", "DECAYS", "Point", "compose"]

Stepping = Callable[[Any, Number, Number], Number]  # (k, g, m)
Shape = Callable[[Any, Number], Number]  # (k, eta^2)

DECAYS: Mapping[str, str] = {"none": "no decay", "l2": "g + weight_decay theta", "decoupled": "theta (1 - lr decay)"}
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "direction": parts.DIRECTIONS,
    "factor": parts.FACTORS,
    "variance": ESTIMATORS,
    "base": parts.BASES,
    "mask": parts.MASKS,
    "decay": DECAYS,
}
BLEND, LAMBDA, EPS = Hyper("blend", 0.9), Hyper("lambda_", 1.0), Hyper("eps", 1e-8)
PER_TENSOR = (
    "a root mean square over a tensor is a sum over its coordinates, and a rule sees one coordinate; "
    "scale lr by it in a parameter group instead"
)


@dataclass(frozen=True)
class Point:
    """A choice of each part by name.

    direction: g, m, sign_g, sign_m, nesterov = blend m + (1 - blend) g, sign_nesterov, sign_g_abs_m = sign(g) |m|.
    factor, with eta^2 the variance over the squared mean: one, adam = 1/sqrt(1 + eta^2), adam_rho = 1/sqrt(1 + rho
    eta^2), erf = erf(1/sqrt(2 eta^2)), erf_rho = erf(1/sqrt(2 rho eta^2)), svag = 1/(1 + eta^2), svag_rho = 1/(1 + rho
    eta^2), nsr = 1/sqrt(1 + lambda_ eta^2).
    variance: ema, ema_raw (one decay rate, with and without Eq. 22), two_emas (Adam's), batch, belief (AdaBelief's).
    base: none, root_v, deviation, adagrad.  mask: none, cautious.  decay: none, l2, decoupled.
    bias_correction: whether averages weigh their few first samples fully, instead of starting from 0.

    direction and factor may also be functions (k, g, m) and (k, eta^2), or a `parts.Direction` and `parts.Factor`.
    Raises: UserError for a name that does not exist.
    """

    direction: str | Stepping | parts.Direction = "m"
    factor: str | Shape | parts.Factor = "one"
    variance: str = "ema"
    base: str = "none"
    mask: str = "none"
    decay: str = "none"
    bias_correction: bool = True

    def __post_init__(self) -> None:
        for part, known in CHOICES.items():
            name = getattr(self, part)
            if isinstance(name, str) and name not in known:
                if (part, name) == ("base", "tensor_rms"):
                    raise UserError(f"no base 'tensor_rms': {PER_TENSOR}. Known: {', '.join(sorted(known))}.")
                raise unknown_name(part, name, known)
            own = part in ("direction", "factor") and (
                callable(name) or isinstance(name, parts.Direction | parts.Factor)
            )
            if not isinstance(name, str) and not own:
                raise UserError(f"{part} must be one of {', '.join(sorted(known))}, got {name!r}.")

    @classmethod
    def parse(cls, text: str) -> "Point":
        """From names with colons between, in the order of the fields; what is missing has its default.

        >>> Point.parse("sign_m:erf_rho:batch").variance
        'batch'
        """
        names = text.split(":")
        if len(names) > len(CHOICES):
            raise UserError(f"a point has at most {len(CHOICES)} parts ({':'.join(CHOICES)}), got {text!r}.")
        chosen: dict[str, Any] = dict(zip(CHOICES, names, strict=False))
        return cls(**chosen)

    def __str__(self) -> str:
        """The names with colons between, as short as `parse` allows."""
        values = [getattr(self, part) for part in CHOICES]
        names = [value if isinstance(value, str) else "own" for value in values]
        defaults = [field.default for field in fields(self)]
        while len(names) > 1 and names[-1] == defaults[len(names) - 1]:
            names.pop()
        return ":".join(names)


def compose(
    direction: str | Stepping | parts.Direction = "m",
    factor: str | Shape | parts.Factor = "one",
    variance: str = "ema",
    base: str = "none",
    mask: str = "none",
    decay: str = "none",
    *,
    bias_correction: bool = True,
    name: str | None = None,
    source: str = "",
    **defaults: float,
) -> Rule:
    """The rule of a `Point`: equal arguments give the same object.

    defaults: of its numbers by name. Otherwise lr is 1e-3 where a full step has the length lr, 0.1 where steps are in
    units of the gradient; beta 0.9, beta1 0.9, beta2 0.999, blend 0.9, lambda_ 1, eps 1e-8.
    Raises: UserError for a part that does not exist, and for a number that the rule does not have.
    """
    point = Point(direction, factor, variance, base, mask, decay, bias_correction)
    return _rule(point, name or str(point), source or "a point of the grid", tuple(sorted(defaults.items())))


@cache
def _rule(point: Point, name: str, source: str, defaults: tuple[tuple[str, float], ...]) -> Rule:
    rule = _Composed(point).rule(name, source)
    if point.decay != "none":
        rule = decayed(rule, decoupled=point.decay == "decoupled")
    given = dict(defaults)
    for number in given:
        if number not in rule.defaults:
            raise unknown_name(f"number of {rule.name}", number, rule.defaults)
    return replace(rule, hyper=tuple(replace(h, default=given.get(h.name, h.default)) for h in rule.hyper))


def _whole(kind: Any, given: Any) -> Any:
    """A function as the part that it is."""
    return given if isinstance(given, kind) else kind(given)


class _Composed:
    """The parts of a point, put together."""

    def __init__(self, point: Point) -> None:
        direction, factor = point.direction, point.factor
        self.direction = (
            parts.DIRECTIONS[direction] if isinstance(direction, str) else _whole(parts.Direction, direction)
        )
        self.factor = parts.FACTORS[factor] if isinstance(factor, str) else _whole(parts.Factor, factor)
        self.base, self.cautious = point.base, point.mask == "cautious"
        spread = self.factor is not None or self.base in ("root_v", "deviation")
        averaged = self.direction.of_average or (self.factor is not None and self.factor.of_average)
        # The past's variance is taken about the average, whichever direction is followed.
        self.estimator = (
            estimator(point.variance, averaged=averaged, spread=spread, corrected=point.bias_correction)
            if spread or averaged
            else None
        )

    def rule(self, name: str, source: str) -> Rule:
        found = self.estimator
        hyper = [*(found.hyper if found else ())]
        if self.direction.blends:
            hyper.append(BLEND)
        if self.factor is not None and self.factor.weighted:
            hyper.append(LAMBDA)
        if self.base != "none" and EPS not in hyper:
            hyper.append(EPS)
        scalars: dict[str, StepScalar] = dict(found.scalars) if found else {}
        if (
            found
            and self.factor is not None
            and (share := found.of_average if self.factor.of_average else found.of_gradient)
        ):
            scalars["variance_of_direction"] = share
        if found and self.base == "deviation" and found.of_gradient:
            scalars["variance_of_gradient"] = found.of_gradient
        full = self.direction.unit or self.base != "none"
        state = (*(found.state if found else ()), *(("sum",) if self.base == "adagrad" else ()))
        return Rule(name, source, (Hyper("lr", 1e-3 if full else 0.1), *hyper), state, scalars, self.update, self.view)

    def advance(self, k: Any, g: Number, old: Numbers, hyper: Numbers, scalars: Numbers) -> dict[str, Number]:
        new = self.estimator.advance(k, g, old, hyper, scalars) if self.estimator else {}
        return new | ({"sum": k.fma(g, g, old["sum"])} if self.base == "adagrad" else {})

    def look(self, k: Any, g: Number, new: Numbers, hyper: Numbers, scalars: Numbers) -> tuple[View, list[Number]]:
        """The view, and the factors of the step beside the direction."""
        found = self.estimator.read(k, g, new, scalars) if self.estimator else Estimates(None, None, None)
        followed = found.mean
        if self.direction.blends:
            followed = hyper["blend"] * followed + (1 - hyper["blend"]) * g
        direction = self.direction.step(k, g, followed)
        scales: list[Number] = []
        factor: Number = 1.0
        base: Number = 1.0
        if self.factor is not None:
            factor = self._shrinkage(k, self.factor, found, hyper, scalars)
            scales.append(factor)
        if self.base != "none":
            base = self._scale(k, found, new, hyper, scalars)
            scales.append(base)
        if self.cautious:
            step = direction
            for scale in scales:
                step = step * scale
            mask = parts.cautious(k, step, g)
            factor = factor * mask
            scales = [factor, *([base] if self.base != "none" else [])]
        return View(direction, found.mean, found.variance, factor, base), scales

    def _shrinkage(self, k: Any, factor: parts.Factor, found: Estimates, hyper: Numbers, scalars: Numbers) -> Number:
        signed = self.estimator is not None and self.estimator.signed
        if signed and factor == parts.FACTORS["adam"]:
            # 1 + eta^2 is v/m^2, of which no rounding can make a negative number: Adam's step, above lr where v < m^2.
            ratio = parts.relative_variance(k, found.second, found.mean)
            return k.where(k.abs(found.mean) > 0, parts.inverse(k, k.sqrt(ratio)), 0.0)
        variance: Number = found.variance
        if signed:
            variance = k.where(variance > 0, variance, 0.0)
        if "variance_of_direction" in scalars:
            variance = scalars["variance_of_direction"] * variance
        if not factor.weighted:
            return parts.shrink(k, factor.shape, found.mean, variance)
        return parts.shrink(k, lambda k, x: factor.shape(k, hyper["lambda_"] * x), found.mean, variance)

    def _scale(self, k: Any, found: Estimates, new: Numbers, hyper: Numbers, scalars: Numbers) -> Number:
        if self.base == "adagrad":
            return parts.inverse(k, k.sqrt(new["sum"]) + hyper["eps"])
        if self.base == "root_v":
            return parts.inverse(k, k.sqrt(found.second) + hyper["eps"])
        variance: Number = found.variance
        if "variance_of_gradient" in scalars:
            variance = scalars["variance_of_gradient"] * variance
        known = variance > 0
        return k.where(known, parts.inverse(k, k.sqrt(k.where(known, variance, 1.0)) + hyper["eps"]), 0.0)

    def update(
        self, k: Any, g: Number, theta: Number, state: Numbers, hyper: Numbers, scalars: Numbers
    ) -> tuple[Number, dict[str, Number]]:
        new = self.advance(k, g, state, hyper, scalars)
        view, scales = self.look(k, g, new, hyper, scalars)
        step = view.direction
        for scale in scales:
            step = step * scale
        return theta - hyper["lr"] * step, new

    def view(self, k: Any, g: Number, state: Numbers, hyper: Numbers, scalars: Numbers) -> View:
        return self.look(k, g, self.advance(k, g, state, hyper, scalars), hyper, scalars)[0]
