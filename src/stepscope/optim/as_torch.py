"""The methods that torch has, with torch's arguments and defaults; torch's engines apply (see `RuleOptimizer`).

Every class takes `maximize=True` to ascend, accepts lr = 0 (warm-up), and raises ValueError for numbers out of range.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepscope.optim.base import RuleOptimizer

__all__ = ["SGD", "AdaGrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "Rate"]

Rate = float | Tensor


class SGD(RuleOptimizer):
    """Gradient descent, with Polyak's or Nesterov's momentum.   [torch.optim.SGD]

    theta -= lr g;  with momentum: b = momentum b + (1 - dampening) g (the first b is g), theta -= lr b.
    State of torch's class: momentum_buffer.
    """

    sparse = True

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            torch_options,
        )

    def _method(self, group: Mapping[str, Any]) -> str:
        if group["momentum"] == 0:
            return "sgd"
        return "nesterov" if group["nesterov"] else "heavy_ball"


class Adam(RuleOptimizer):
    """sign(m), shrunk by its relative variance: theta -= lr m / (sqrt(v) + eps).   [Kingma & Ba 2015, Alg. 1]

    amsgrad: the largest v so far stands for v.   [Reddi et al. 2018, Alg. 2]
    State of torch's class: exp_avg, exp_avg_sq, with amsgrad max_exp_avg_sq. weight_decay enters the gradient, or
    shrinks the weights with decoupled_weight_decay, as in torch.optim.Adam.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            torch_options,
        )

    def _method(self, group: Mapping[str, Any]) -> str:
        return "adam_amsgrad" if group["amsgrad"] else "adam"


class AdamW(Adam):
    """Adam with a weight decay of its own: theta (1 - lr weight_decay).   [Loshchilov & Hutter 2019, Alg. 2]"""

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        options = {"decoupled_weight_decay": True, **torch_options}
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **options)


class NAdam(RuleOptimizer):
    """Adam with Nesterov's blend of g and m in the place of m.   [Dozat 2016]

    State of torch's class: exp_avg, exp_avg_sq; mu_product follows from the step and is written to checkpoints.
    """

    method = "nadam"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            torch_options,
        )

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with mu_product."""
        for group in self.param_groups:
            rule = self._rule(group)
            hyper = {name: float(value) for name, value in self._hyper(group, rule).items()}
            for p in group["params"]:
                if (state := self.state.get(p)) and "step" in state:
                    t = int(state["step"].item())
                    product = rule.step_scalars(t, hyper)["mu_product"] if t else 1.0
                    state["mu_product"] = torch.tensor(product, device=state["step"].device)
        return super().state_dict()


class RAdam(RuleOptimizer):
    """Adam that steps along m alone until v has seen enough samples.   [Liu et al. 2020, Alg. 2]

    State of torch's class: exp_avg, exp_avg_sq.
    """

    method = "radam"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            torch_options,
        )


class Adamax(RuleOptimizer):
    """m over the largest of the past gradients, which fade: theta -= lr m / u.   [Kingma & Ba 2015, Alg. 2]

    State of torch's class: exp_avg, exp_inf.
    """

    method = "adamax"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, torch_options)


class RMSProp(RuleOptimizer):
    """The gradient over its root mean square: theta -= lr g / (sqrt(v) + eps).   [Tieleman & Hinton 2012]

    centered: over the standard deviation, sqrt(v - m^2) as torch forms it; that is nan where rounding makes v < m^2,
    which `Dissected("g", base="deviation", variance="ema_raw", bias_correction=False)` avoids.   [Graves 2013, Sec. 4]
    momentum: the scaled gradients are summed up, b = momentum b + g / (sqrt(v) + eps), theta -= lr b.
    State of torch's class: square_avg, grad_avg where centered, momentum_buffer with momentum.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
            torch_options,
        )

    def _method(self, group: Mapping[str, Any]) -> str:
        centered, momentum = bool(group["centered"]), bool(group["momentum"] != 0)
        return f"rmsprop{'_centered' * centered}{'_momentum' * momentum}"


class AdaGrad(RuleOptimizer):
    """The gradient over the root of the sum of its squares.   [Duchi et al. 2011]

    State of torch's class: sum. Sparse gradients touch only their rows.
    """

    method = "adagrad"
    sparse = True

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        if not initial_accumulator_value >= 0:
            raise ValueError(f"initial_accumulator_value must lie in [0, inf), got {initial_accumulator_value}")
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "maximize": maximize,
            },
            torch_options,
        )

    def _initial(self, group: Mapping[str, Any]) -> float:
        return float(group["initial_accumulator_value"])


class Adadelta(RuleOptimizer):
    """The gradient over its root mean square, times that of the past steps.   [Zeiler 2012, Alg. 1]

    State of torch's class: square_avg, acc_delta.
    """

    method = "adadelta"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, torch_options)
