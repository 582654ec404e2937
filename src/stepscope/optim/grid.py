"""Any point of the grid, and any rule of one's own, as a torch optimizer."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepscope.errors import UserError
from stepscope.optim.as_torch import Rate
from stepscope.optim.base import RuleOptimizer
from stepscope.optim.dispatch import Job
from stepscope.optim.within_batch import WithinBatch
from stepscope.rules import CHOICES, Rule, compose

__all__ = ["Dissected", "OwnRule", "from_rule"]

_PARTS = tuple(part for part in CHOICES if part != "decay")


@cache
def _rule_of(choices: tuple[str, ...], bias_correction: bool) -> Rule:
    return compose(*choices, bias_correction=bias_correction)


class Dissected(RuleOptimizer):
    """theta -= lr * direction * factor * base * mask, each part chosen by name; groups may choose differently.

    direction, factor, variance, base, mask, bias_correction: see `stepscope.rules.Point`.
    decay: "none", "l2" (weight_decay theta is added to g) or "decoupled" (theta (1 - lr weight_decay) is stepped from).
    beta: of the estimates ema, ema_raw and batch.  betas: of two_emas and belief.  blend: the average's share in a
    Nesterov direction, its decay rate unless given.  lambda_: of the factor nsr.  eps: of bases and of belief, 1e-8
    unless given.  lr: 1e-3 unless given where a full step has the length lr, 0.1 where steps have the gradient's unit.
    Numbers that a point does not use are ignored.

    With variance="batch" every step needs the variance of its gradient: see `within_batch`.
    Raises: ValueError for a part that does not exist and for a number out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Rate | None = None,
        *,
        direction: str = "m",
        factor: str = "one",
        variance: str = "ema",
        base: str = "none",
        mask: str = "none",
        decay: str = "none",
        beta: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        blend: float | None = None,
        lambda_: float = 1.0,
        eps: float | None = None,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "direction": direction,
            "factor": factor,
            "variance": variance,
            "base": base,
            "mask": mask,
            "decay": decay,
            "beta": beta,
            "betas": betas,
            "blend": blend,
            "lambda_": lambda_,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "maximize": maximize,
        }
        if lr is None:
            defaults["lr"] = self._chosen_rule(defaults).defaults["lr"]
        super().__init__(params, defaults, torch_options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which may choose parts of its own; ValueError names what is wrong."""
        chosen = {**self.defaults, **param_group}
        if chosen["eps"] is None:
            param_group["eps"] = self._chosen_rule(chosen).defaults.get("eps", 0.0)
        param_group["decoupled_weight_decay"] = chosen["decay"] == "decoupled"
        super().add_param_group(param_group)

    def _chosen_rule(self, group: Mapping[str, Any]) -> Rule:
        try:
            return _rule_of(tuple(group[part] for part in _PARTS), bool(group["bias_correction"]))
        except UserError as error:
            raise ValueError(str(error)) from None

    def _plain_rule(self, group: Mapping[str, Any]) -> Rule:
        return self._chosen_rule(group)

    def _rule(self, group: Mapping[str, Any]) -> Rule:
        return super()._rule({**group, "decoupled_weight_decay": group["decay"] == "decoupled"})

    def _check(self, group: Mapping[str, Any]) -> None:
        decay = group["decay"]
        if decay not in CHOICES["decay"]:
            raise ValueError(f"decay must be one of {', '.join(CHOICES['decay'])}, got {decay!r}")
        if decay == "none" and group["weight_decay"] != 0:
            raise ValueError(
                f"weight_decay is {group['weight_decay']}, but decay is 'none': choose 'l2' or 'decoupled'"
            )
        super()._check(group)

    def _hyper(self, group: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
        hyper = super()._hyper(group, rule)
        if group["blend"] is None:
            hyper["blend"] = group["betas"][0] if group["variance"] in ("two_emas", "belief") else group["beta"]
        return hyper

    def within_batch(self) -> WithinBatch:
        """Take the variance of the gradient from the micro-batches of this mini-batch.

        ::

            with optimizer.within_batch() as batch:
                for inputs, targets in micro_batches:  # two at least
                    loss(model(inputs), targets).backward()  # a mean over the examples
                    batch.add(examples=len(inputs))
            optimizer.step()

        At the end every .grad is the mean over all examples, and the step knows its variance: with k micro-batches
        of n_i examples, N in all, sum n_i (g_i - g)^2 / ((k - 1) N), which is unbiased. Gradients clipped or scaled
        after that no longer fit their variance; `set_batch_variance` takes another one.
        """
        return WithinBatch(self)

    def set_batch_variance(self, p: Tensor, variance: Tensor) -> None:
        """Say what the variance of p.grad is: of the mean over the mini-batch, coordinate by coordinate.

        It serves one step. Of a complex parameter, the variances of both parts.
        Raises: ValueError if p's group does not take it or the shapes differ.
        """
        group = next((g for g in self.param_groups if any(q is p for q in g["params"])), None)
        if group is None or "batch_variance" not in self._rule(group).state:
            raise ValueError("the tensor is no parameter of a group with variance='batch' whose step uses a variance")
        if variance.shape != p.shape:
            raise ValueError(f"the variance has the shape {tuple(variance.shape)}, its parameter {tuple(p.shape)}")
        self._begin(p, self._rule(group), group)
        with torch.no_grad():
            state = self.state[p]
            state["batch_variance"].copy_(variance)
            state.setdefault("batch_step", torch.zeros(())).fill_(float(state["step"]) + 1)

    def _refuse_sparse(self, job: Job) -> None:
        super()._refuse_sparse(job)
        if "batch_variance" in job.rule.state:
            for p in job.params:
                if not self._has_variance(self.state.get(p, {})):
                    raise RuntimeError(
                        f"variance='batch' needs the variance of this gradient, of shape {tuple(p.shape)}: compute "
                        "gradients inside `with optimizer.within_batch() as batch`, or call set_batch_variance"
                    )

    @property
    def takes_batch_variance(self) -> bool:
        """Whether any group's step needs the variance within the batch."""
        return any("batch_variance" in self._rule(group).state for group in self.param_groups)

    @staticmethod
    def _has_variance(state: Mapping[str, Any]) -> bool:
        """Whether the variance kept here is that of the step to come."""
        return "batch_step" in state and float(state["batch_step"]) == float(state["step"]) + 1


class OwnRule(RuleOptimizer):
    """A torch optimizer of a rule of one's own: subclasses set `rule`. Its numbers are keyword arguments.

    weight_decay enters the gradient, or shrinks the weights by lr weight_decay if `decoupled`.
    Raises: TypeError for a number that the rule does not have.
    """

    rule: ClassVar[Rule]

    def __init__(
        self,
        params: ParamsT,
        lr: Rate | None = None,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        **numbers: Any,
    ) -> None:
        own: dict[str, Any] = dict(self.rule.defaults)
        own |= {name: numbers.pop(name) for name in self.rule.defaults if name in numbers}
        if lr is not None:
            own["lr"] = lr
        own |= {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled, "maximize": maximize}
        super().__init__(params, own, numbers)

    def _plain_rule(self, group: Mapping[str, Any]) -> Rule:
        return self.rule


def from_rule(rule: Rule, name: str | None = None) -> type[OwnRule]:
    """An optimizer class that runs this rule; optimizers can be pickled if it is kept under its name in a module.

    name: of the class; the rule's unless given.  Raises: ValueError for a rule that has weight decay built in.
    """
    if "weight_decay" in rule.defaults:
        raise ValueError(f"{rule.name} has weight decay built in: give the rule without it, the class adds it")
    names: Sequence[str] = (name or rule.name, sys._getframe(1).f_globals.get("__name__", "__main__"))
    return type(names[0], (OwnRule,), {"rule": rule, "__module__": names[1], "__doc__": rule.source})
