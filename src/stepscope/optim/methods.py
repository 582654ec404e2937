"""Torch optimizers, one per method: constructor signatures only. Torch's methods take torch's arguments and defaults;
of its options that this package lacks (amsgrad, capture in graphs) they take the off values.

fused=True steps plain float32 and float64 CPU tensors with a compiled kernel, one pass over memory; what cannot be
compiled is stepped eagerly, with one warning. The two agree to an ulp of the step.

Every class takes `maximize=True` to ascend, accepts lr = 0 (warm-up), and raises ValueError for numbers out of range.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepscope.optim.base import RuleOptimizer

__all__ = [
    "MSGD",
    "MSSD",
    "MSVAG",
    "SGD",
    "SSD",
    "SVAG",
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamErf",
    "AdamOneBeta",
    "AdamW",
    "RMSProp",
]

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

    State of torch's class: exp_avg, exp_avg_sq. weight_decay enters the gradient, as in torch.optim.Adam.
    """

    method = "adam"
    refused: ClassVar[Mapping[str, Any]] = {"amsgrad": False}
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
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
                "decoupled_weight_decay": self._decoupled,
                "maximize": maximize,
            },
            torch_options,
        )


class AdamW(Adam):
    """Adam with a weight decay of its own: theta (1 - lr weight_decay).   [Loshchilov & Hutter 2019, Alg. 2]"""

    _decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize, **torch_options)


class RMSProp(RuleOptimizer):
    """The gradient over its root mean square: theta -= lr g / (sqrt(v) + eps).   [Tieleman & Hinton 2012]

    State of torch's class: square_avg.
    """

    method = "rmsprop"
    refused: ClassVar[Mapping[str, Any]] = {"momentum": 0, "centered": False}

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "maximize": maximize},
            torch_options,
        )


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


class SSD(RuleOptimizer):
    """Stochastic sign descent: theta -= lr sign(g), sign 0 = 0.   [balles2018, Sec. 1.2]"""

    method = "ssd"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, "decoupled_weight_decay": decoupled, "maximize": maximize},
            torch_options,
        )


class _OneBeta(RuleOptimizer):
    """What the composed methods share: one decay rate for both moments, state m and, with a factor, S = v - m^2.

    beta in [0, 1).  weight_decay enters the gradient, or shrinks the weights by lr weight_decay if `decoupled`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        beta: float = 0.9,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        _own: Mapping[str, Any] | None = None,
        **torch_options: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta": beta,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled,
            "maximize": maximize,
            **(_own or {}),
        }
        super().__init__(params, defaults, torch_options)


class _GradientScale(_OneBeta):
    """Methods whose steps are in units of the gradient: their step sizes are those of SGD."""

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 0.1,
        beta: float = 0.9,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params, lr, beta, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize, **torch_options
        )


class MSGD(_GradientScale):
    """The average gradient: theta -= lr m.   [balles2018, Alg. 2]"""

    method = "msgd"


class MSSD(_OneBeta):
    """The sign of the average gradient: theta -= lr sign(m).   [balles2018, Alg. 2]"""

    method = "mssd"


class SVAG(_GradientScale):
    """The gradient, shrunk where it is noisy: theta -= lr g / (1 + s/m^2), s from Eq. 22.   [balles2018, Eq. 23]"""

    method = "svag"


class MSVAG(_GradientScale):
    """The average gradient, shrunk where it is noisy: theta -= lr m / (1 + rho s/m^2).   [balles2018, Alg. 1]

    No epsilon; the first step is an SGD step; no update where m = 0 (Sec. 4.4). In float32 the variance S is a normal
    number for deviations of the gradient between 1e-19 and 1e19: below 1e-23 S is 0 and the step is M-SGD's, and a
    coordinate that saw a larger one stops.
    """

    method = "msvag"


class AdamErf(_OneBeta):
    """sign(m) with Lemma 1's factor: erf(1 / sqrt(2 rho s/m^2)), s from Eq. 22.   [balles2018, Lemma 1]

    momentum_corrected=False leaves rho out: the best factor for sign(g), which Adam approximates (Sec. 3.1).
    """

    method = "adam_erf"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        beta: float = 0.9,
        *,
        momentum_corrected: bool = True,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            beta,
            weight_decay=weight_decay,
            decoupled=decoupled,
            maximize=maximize,
            _own={"momentum_corrected": momentum_corrected},
            **torch_options,
        )

    def _method(self, group: Mapping[str, Any]) -> str:
        return "adam_erf" if group["momentum_corrected"] else "adam_erf_uncorrected"


class AdamOneBeta(_OneBeta):
    """Adam as the paper's theory has it: theta -= lr sign(m) / sqrt(1 + s/m^2).   [balles2018, Eq. 8 and 22]

    One beta for both moments, s from Eq. 22, no epsilon.
    """

    method = "adam_one_beta"
