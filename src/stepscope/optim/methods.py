"""The paper's methods, and others' that are points of the same grid: constructor signatures only.

Every class takes `maximize=True` to ascend, accepts lr = 0 (warm-up), and raises ValueError for numbers out of range.
"""

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from stepscope.optim.as_torch import Rate
from stepscope.optim.base import RuleOptimizer
from stepscope.rules import Hyper, Rule

__all__ = [
    "MSGD",
    "MSSD",
    "MSVAG",
    "SSD",
    "SVAG",
    "AdaBelief",
    "AdamErf",
    "AdamOneBeta",
    "Grams",
    "Lion",
    "Signum",
]


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


class Signum(_OneBeta):
    """M-SSD as its authors have it, a sign of momentum: theta -= lr sign(m).   [Bernstein et al. 2018, Alg. 2]

    Their average starts at 0, which changes no sign. weight_decay shrinks the weights unless decoupled=False.
    """

    method = "signum"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-4,
        beta: float = 0.9,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        maximize: bool = False,
        **torch_options: Any,
    ) -> None:
        super().__init__(
            params, lr, beta, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize, **torch_options
        )


class AdamOneBeta(_OneBeta):
    """Adam as the paper's theory has it: theta -= lr sign(m) / sqrt(1 + s/m^2).   [balles2018, Eq. 8 and 22]

    One beta for both moments, s from Eq. 22, no epsilon.
    """

    method = "adam_one_beta"


class _TwoBetas(RuleOptimizer):
    """What the methods with Adam's constructor share.  betas: decay rates of the averages of g and of its square."""

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled: bool = True,
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
                "decoupled_weight_decay": decoupled,
                "maximize": maximize,
            },
            torch_options,
        )


class Grams(_TwoBetas):
    """Adam's step lengths along the newest signs: theta -= lr sign(g) |m| / (sqrt(v) + eps).   [Cao et al. 2024]

    State exp_avg, exp_avg_sq, as Adam's.
    """

    method = "grams"


class AdaBelief(_TwoBetas):
    """The average over the root of the average of (g - m)^2: theta -= lr m / (sqrt(s) + eps).   [Zhuang et al. 2020]

    As printed in Alg. 2, eps is also added to s at every step, and weight_decay shrinks the weights unless
    decoupled=False. State exp_avg, exp_avg_var.
    """

    method = "adabelief"


class Lion(RuleOptimizer):
    """theta -= lr sign(beta1 m + (1 - beta1) g), after which m = beta2 m + (1 - beta2) g.   [Chen et al. 2023, Alg. 2]

    betas as in the paper: the step blends the newest gradient in with beta1, m remembers with beta2. m starts at 0.
    With m after g has entered, that is sign(blend m + (1 - blend) g) with blend = beta1/beta2. State raw_m.
    weight_decay shrinks the weights.
    """

    method = "lion"

    def __init__(
        self,
        params: ParamsT,
        lr: Rate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
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
                "weight_decay": weight_decay,
                "decoupled_weight_decay": True,
                "maximize": maximize,
            },
            torch_options,
        )

    def _hyper(self, group: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        Hyper("betas[0]", 0.9, 0.0, 1.0).check(float(beta1))
        Hyper("betas[1]", 0.99, 1e-9, 1.0).check(float(beta2))
        return super()._hyper(group, rule) | {"beta": beta2, "blend": beta1 / beta2}
