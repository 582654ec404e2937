"""The one step loop: which tensors are stepped, with which rule, numbers and state. Equations live in `rules`."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from stepscope.optim.backends import cpu, devices, eager
from stepscope.optim.dispatch import Dispatcher, Job
from stepscope.optim.moments import number
from stepscope.optim.sums import Request, StepSums
from stepscope.optim.watch import GRADIENT
from stepscope.rules import METHODS, Rule, ascending, decayed

__all__ = ["RuleOptimizer"]

log = logging.getLogger("stepscope.optim")

# Arguments of torch's classes that choose how a step is computed, with the values that are honoured here.
_ENGINES: Mapping[str, tuple[Any, ...]] = {
    "foreach": (None, False, True),
    "fused": (None, False, True),
    "capturable": (False, True),
    "differentiable": (False, True),
}
_OFF: Mapping[str, Any] = {"foreach": None, "fused": None, "capturable": False, "differentiable": False}


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=5)


@cache
def _inform_once(text: str) -> None:
    log.info(text)


@cache
def _variant(rule: Rule, decay: str, ascends: bool) -> Rule:
    if decay:
        rule = decayed(rule, decoupled=decay == "decoupled")
    return ascending(rule) if ascends else rule


class RuleOptimizer(Optimizer):
    """A torch optimizer that runs a rule. Subclasses choose the rule and name their constructor's numbers.

    Per parameter: `step` (a 0-dim float32 tensor; late gradients count from their own first one) and the rule's state,
    in the parameter's dtype, float32 for 16-bit parameters. What is kept on `self` are caches: copies and pickles
    continue without them.

    Of torch's options,
    fused=None steps CPU and CUDA tensors with one compiled pass over all of a device, and the rest eagerly; True warns
    about the rest, once; False compiles nothing.  foreach=True steps eagerly, many small tensors at a time.
    capturable=True keeps counters and numbers on the parameters' device, so that a CUDA graph can hold the step.
    differentiable=True lets gradients flow through the step: to the weights before it, the gradients and, if they are
    tensors, lr and weight_decay.
    """

    method: ClassVar[str]  # the rule's name in rules.METHODS
    sparse: ClassVar[bool] = False  # whether untouched rows of a sparse gradient stay as they are under this rule
    refused: ClassVar[Mapping[str, Any]] = {}  # options of torch's class that this one lacks, with their off value

    step_sums: StepSums | None = None
    """What the last step measured, if it was asked to by `request_sums`."""

    _request: Request | None = None
    _dispatcher: Dispatcher | None = None

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], torch_options: Mapping[str, Any] | None = None
    ) -> None:
        """torch_options: further arguments of torch's class; those it lacks here may be given as long as they are off.

        Raises: TypeError for an unknown one, ValueError for one that cannot be honoured, RuntimeError for foreach and
        fused together.
        """
        options = dict(torch_options or {})
        for name, value in options.items():
            if name not in _ENGINES and name not in self.refused:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
            if value not in (_ENGINES.get(name) or (self.refused[name],)):
                raise ValueError(self._lacks(name, value))
        engines = {**_OFF, **{name: value for name, value in options.items() if name in _ENGINES}}
        if engines["foreach"] and engines["fused"]:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if engines["fused"] and engines["differentiable"]:
            raise RuntimeError("`fused` does not support `differentiable`")
        super().__init__(params, defaults | engines)

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
            for name, value in {**_OFF, **self.defaults}.items():
                group.setdefault(name, value)
            self._check(group)

    def _check(self, group: Mapping[str, Any]) -> None:
        for name, off in self.refused.items():
            if group.get(name, off) != off:
                raise ValueError(self._lacks(name, group[name]))
        lr = group.get("lr")
        if isinstance(lr, Tensor):
            if lr.numel() != 1:
                raise ValueError(f"Tensor lr must be 1-element, got {lr.numel()}")
            if group.get("foreach") and not group.get("capturable"):
                raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        rule = self._rule(group)
        rule.check({name: number(value) for name, value in self._hyper(group, rule).items()})

    def _method(self, group: Mapping[str, Any]) -> str:
        """Name of the rule of this group."""
        return self.method

    def _plain_rule(self, group: Mapping[str, Any]) -> Rule:
        """The rule of this group without weight decay, descending."""
        return METHODS[self._method(group)]

    def _rule(self, group: Mapping[str, Any]) -> Rule:
        decay = ""
        if not _is_zero(group.get("weight_decay", 0.0)):
            decay = "decoupled" if group.get("decoupled_weight_decay", False) else "coupled"
        return _variant(self._plain_rule(group), decay, bool(group.get("maximize", False)))

    def _hyper(self, group: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
        """The group's numbers under the rule's names, tensors as they are."""
        hyper = {h.name: group[h.name] for h in rule.hyper if h.name in group}
        if "betas" in group:
            hyper["beta1"], hyper["beta2"] = group["betas"]
        return hyper

    def request_sums(self, request: Request) -> None:
        """Ask the next step to measure itself: `step_sums` has the answer after it."""
        self._request = request

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. `closure` re-evaluates the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        request, self._request, self.step_sums = self._request, None, None
        if self._dispatcher is None:
            self._dispatcher = Dispatcher()
        with torch.set_grad_enabled(any(group["differentiable"] for group in self.param_groups)):
            self.step_sums = self._dispatcher.run(self, request)
        return loss

    def _refuse_sparse(self, job: Job) -> None:
        """RuntimeError for sparse gradients that cannot be stepped."""
        if not any(g.is_sparse for g in job.grads) or (self.sparse and job.group.get("weight_decay", 0.0) == 0):
            return
        if self.sparse:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        raise RuntimeError(
            f"{type(self).__name__} does not support sparse gradients; use SGD or AdaGrad for this parameter, "
            "or a layer with sparse=False"
        )

    def _jobs(self) -> list[Job]:
        """The parameters that have a gradient, by group, with everything their step needs. Refused before any moves."""
        jobs = []
        for place, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                rule = self._rule(group)
                grads = list(map(GRADIENT, params))
                jobs.append(Job(place, group, rule, self._numbers(group, rule), params, grads, [], []))
                self._refuse_sparse(jobs[-1])
        return list(map(self._completed, jobs))

    def _numbers(self, group: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
        """The group's hyper-parameters as a step wants them."""
        hyper = self._hyper(group, rule)
        if group["capturable"] or group["differentiable"]:
            return hyper
        return {name: number(value) for name, value in hyper.items()}

    def _completed(self, job: Job) -> Job:
        """The job with all of its state, made where it is missing."""
        if not job.rule.state:
            return job
        for p in job.params:
            self._begin(p, job.rule, job.group)
        kept = [self.state[p] for p in job.params]
        columns = [[state[name] for state in kept] for name in job.rule.state]
        return job._replace(columns=columns, steps=[state["step"] for state in kept])

    def _initial(self, group: Mapping[str, Any]) -> float:
        """Value of the state before the first sample."""
        return 0.0

    def _begin(self, p: Tensor, rule: Rule, group: Mapping[str, Any]) -> None:
        """Create what is missing of the rule's state of this parameter."""
        state = self.state[p]
        seen = any(state.get(name) is not None for name in rule.state)
        device = p.device if group["capturable"] else torch.device("cpu")
        if state.get("step") is None:  # torch's SGD keeps a buffer but no step
            state["step"] = torch.tensor(float(seen), dtype=torch.float32, device=device)
        elif not isinstance(state["step"], Tensor):
            state["step"] = torch.tensor(float(state["step"]), dtype=torch.float32, device=device)
        for name in rule.state:
            if state.get(name) is None:
                initial = self._initial(group)
                value = complex(initial, initial) if p.is_complex() else initial
                with torch.no_grad():
                    state[name] = torch.full_like(
                        p, value, dtype=cpu.state_dtype(p.dtype), memory_format=torch.preserve_format
                    )

    def engine(self, p: Tensor) -> str:
        """How this parameter is stepped, in words: "compiled", "capturable", or "eager" and why."""
        group = next((g for g in self.param_groups if any(q is p for q in g["params"])), None)
        if group is None:
            raise ValueError("the tensor is none of this optimizer's parameters")
        states = [self.state[p][name] for name in self._rule(group).state] if p in self.state else []
        reason = self._why_eager(group) or devices.obstacle(
            eager.local(p.detach()),
            eager.local(p.grad if p.grad is not None else p.detach()),
            map(eager.local, states),
            capturable=group["capturable"],
        )
        return f"eager: {reason}" if reason else "compiled"

    def _why_eager(self, group: Mapping[str, Any]) -> str | None:
        """Why nothing of this group is compiled, or None."""
        for name, on in (("fused", group["fused"] is False), *((n, group[n]) for n in ("foreach", "differentiable"))):
            if on:
                return f"{name}={group[name]}"
        return None

    def _explain(self, group: Mapping[str, Any], reasons: Iterable[str]) -> None:
        """Say once for each reason what is not compiled, where the user asked for it or lacks the compiler."""
        for reason in reasons:
            if "llvmlite" in reason:
                _warn_once(f"stepscope steps are taken eagerly, several times slower: {reason}.")
            elif group["fused"]:
                _warn_once(f"fused=True cannot be honoured for {reason}; these tensors are stepped eagerly.")
            elif "Triton" in reason:
                _inform_once(f"stepscope steps CUDA tensors eagerly, several times slower: {reason}.")
            else:
                log.debug("stepped eagerly: %s", reason)

    def _touched_rows_only(self, rule: Rule) -> bool:
        """Whether a zero gradient leaves this rule's state and weights alone."""
        return rule.state in ((), ("sum",))

    @torch._disable_dynamo  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, ours or that of torch's class of the same method.

        torch casts state to the parameter's dtype; for 16-bit parameters we keep the float32 numbers that were saved.
        """
        for group in state_dict["param_groups"]:  # refused before anything is loaded
            self._check({**self.defaults, **group})
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        mine: Sequence[Tensor] = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, mine, strict=True):
            if p.dtype in (torch.float16, torch.bfloat16):
                for name, value in state_dict["state"].get(i, {}).items():
                    if isinstance(value, Tensor) and name != "step":
                        self.state[p][name] = value.detach().to(device=p.device, dtype=torch.float32, copy=True)


def _is_zero(value: Any) -> bool:
    """Whether a decay is off; one that carries a gradient is on."""
    return not (isinstance(value, Tensor) and value.requires_grad) and number(value) == 0
