"""The one step loop: which tensors are stepped, with which rule, numbers and state. Equations live in `rules`."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from stepscope.optim.backends import compiled
from stepscope.optim.backends.eager import step_tensor
from stepscope.rules import METHODS, Rule, decayed

__all__ = ["RuleOptimizer"]


# Arguments of torch's classes that choose how a step is computed, with the values that are honoured here. `foreach`
# changes nothing; `fused` takes the compiled backend where it can.
_ENGINES: Mapping[str, tuple[Any, ...]] = {
    "foreach": (None, False, True),
    "fused": (None, False, True),
    "capturable": (False,),
    "differentiable": (False,),
}


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=5)


@cache
def _with_decay(name: str, decoupled: bool) -> Rule:
    return decayed(METHODS[name], decoupled=decoupled)


class RuleOptimizer(Optimizer):
    """A torch optimizer that runs a rule. Subclasses choose the rule and name their constructor's numbers.

    Per parameter: `step` (a 0-dim float32 tensor; late gradients count from their own first one) and the rule's state,
    in the parameter's dtype, float32 for 16-bit parameters. Nothing lives on `self`, so copies and pickles continue.
    """

    method: ClassVar[str]  # the rule's name in rules.METHODS
    sparse: ClassVar[bool] = False  # whether untouched rows of a sparse gradient stay as they are under this rule
    refused: ClassVar[Mapping[str, Any]] = {}  # options of torch's class that this one lacks, with their off value

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], torch_options: Mapping[str, Any] | None = None
    ) -> None:
        """torch_options: further arguments of torch's class, which may be given as long as they are off."""
        for name, value in (torch_options or {}).items():
            if name not in _ENGINES and name not in self.refused:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
            if value not in (_ENGINES.get(name) or (self.refused[name],)):
                raise ValueError(self._lacks(name, value))
        super().__init__(params, defaults | {"fused": (torch_options or {}).get("fused")})

    def _lacks(self, name: str, value: Any) -> str:
        return f"stepscope.optim.{type(self).__name__} has no {name}; use torch.optim for {name}={value}"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters as in torch; ValueError names a number that is out of range."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for kept in self.state.values():
            if "step" in kept and not isinstance(kept["step"], Tensor):  # as old versions of torch saved it
                kept["step"] = torch.tensor(float(kept["step"]))
        for group in self.param_groups:
            for name, value in self.defaults.items():
                if name != "differentiable":  # torch's base class adds it to unpickled defaults
                    group.setdefault(name, value)
            self._check(group)

    def _check(self, group: Mapping[str, Any]) -> None:
        for name, off in self.refused.items():
            if group.get(name, off) != off:
                raise ValueError(self._lacks(name, group[name]))
        self._rule(group).check(self._hyper(group))

    def _method(self, group: Mapping[str, Any]) -> str:
        """Name of the rule of this group."""
        return self.method

    def _rule(self, group: Mapping[str, Any]) -> Rule:
        if group.get("weight_decay", 0.0) == 0:
            return METHODS[self._method(group)]
        return _with_decay(self._method(group), bool(group.get("decoupled_weight_decay", False)))

    def _hyper(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The group's numbers under the rule's names."""
        names = (h.name for h in self._rule(group).hyper if h.name in group)
        hyper = {name: float(group[name]) for name in names}
        if "betas" in group:
            hyper["beta1"], hyper["beta2"] = map(float, group["betas"])
        return hyper

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. `closure` re-evaluates the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for group, p in work:  # refused before anything moves
            if p.grad.is_sparse and not (self.sparse and group.get("weight_decay", 0.0) == 0):
                raise RuntimeError(self._no_sparse(group))
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _no_sparse(self, group: Mapping[str, Any]) -> str:
        if self.sparse:
            return "weight_decay option is not compatible with sparse gradients"
        return (
            f"{type(self).__name__} does not support sparse gradients; use SGD or AdaGrad for this parameter, "
            "or a layer with sparse=False"
        )

    def _step_group(self, group: dict[str, Any]) -> None:
        rule, hyper = self._rule(group), self._hyper(group)

        fused = group.get("fused")
        compiles = bool(fused) and compiled.available()
        if fused and not compiles:
            _warn_once("fused=True needs llvmlite, which cannot be loaded here; steps are taken eagerly.")

        @cache
        def scalars(t: int) -> Mapping[str, float]:
            return rule.step_scalars(t, hyper)

        @cache
        def prepared(dtype: torch.dtype, t: int) -> compiled.Prepared:
            return compiled.Prepared(rule, dtype, hyper, scalars(t))

        for p in group["params"]:
            if p.grad is None:
                continue
            state = self._state(p, rule, group)
            t = 1
            if rule.state:
                self.state[p]["step"] += 1
                t = int(self.state[p]["step"].item())
            g = -p.grad if group["maximize"] else p.grad
            if g.is_sparse and self._touched_rows_only(rule):
                _step_rows(rule, p, g.coalesce(), state, hyper, scalars(t))
                continue
            g = g.to_dense() if g.is_sparse else g
            if compiles and compiled.can_step(p, g, state):
                prepared(p.dtype, t).step(p, g, state)
            else:
                if compiles:
                    _warn_once(
                        "fused=True compiles steps of plain contiguous float32 and float64 tensors on the CPU; "
                        "others are taken eagerly."
                    )
                step_tensor(rule, p, g, state, hyper, scalars(t))

    def _touched_rows_only(self, rule: Rule) -> bool:
        """Whether a zero gradient leaves this rule's state and weights alone."""
        return rule.state in ((), ("sum",))

    def _initial(self, group: Mapping[str, Any]) -> float:
        """Value of the state before the first sample."""
        return 0.0

    def _state(self, p: Tensor, rule: Rule, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """The rule's state of this parameter, created where it is missing."""
        if not rule.state:
            return {}
        state = self.state[p]
        seen = any(state.get(name) is not None for name in rule.state)
        state.setdefault("step", torch.tensor(float(seen)))  # torch's SGD keeps a buffer but no step
        for name in rule.state:
            if state.get(name) is None:
                wide = torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype
                initial = self._initial(group)
                value = complex(initial, initial) if p.is_complex() else initial
                state[name] = torch.full_like(p, value, dtype=wide, memory_format=torch.preserve_format).detach()
        return {name: state[name] for name in rule.state}

    @torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, ours or that of torch's class of the same method.

        torch casts state to the parameter's dtype; for 16-bit parameters we keep the float32 numbers that were saved.
        """
        for group in state_dict["param_groups"]:  # refused before anything is loaded
            self._check({**self.defaults, **group})
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        mine: Iterable[Tensor] = (p for group in self.param_groups for p in group["params"])
        for i, p in zip(saved, mine, strict=True):
            if p.dtype in (torch.float16, torch.bfloat16):
                for name, value in state_dict["state"].get(i, {}).items():
                    if isinstance(value, Tensor) and name != "step":
                        self.state[p][name] = value.detach().to(device=p.device, dtype=torch.float32, copy=True)


def _step_rows(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    hyper: Mapping[str, float],
    scalars: Mapping[str, float],
) -> None:
    """Step only the rows that a coalesced sparse gradient touches."""
    where = tuple(g.indices())
    theta = p[where]
    rows = {name: value[where] for name, value in state.items()}
    step_tensor(rule, theta, g.values(), rows, hyper, scalars)
    p[where] = theta
    for name, value in rows.items():
        state[name][where] = value
