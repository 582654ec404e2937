"""Where a parameter's averages m and v live: in the optimizer's state where it keeps both, else in shadow averages."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepscope.rules import METHODS, averages
from stepscope.rules import statistics as definition

__all__ = ["LAYOUTS", "Layout", "Numbers", "flat", "kept_by_optimizer", "number", "numbers", "own_beta", "real_dtype"]


class Layout(NamedTuple):
    """The state names under which optimizers keep a mean and a second average, and the group's name of their decay.

    raw: both start at 0, want bias correction, and the second one is of squares. Otherwise they are a bias-corrected
    mean and variance v - m^2.
    """

    mean: str
    second: str
    decay: str
    raw: bool


# By layout and not by class: torch's Adam, AdamW, NAdam, RAdam, their subclasses and most look-alikes; then our own.
# RMSprop keeps both if it is centered.
LAYOUTS = (
    Layout("exp_avg", "exp_avg_sq", "betas", raw=True),
    Layout("m", "S", "beta", raw=False),
    Layout("grad_avg", "square_avg", "alpha", raw=True),
)


# torch's optimizers whose weight decay shrinks the weights by lr * weight_decay, whatever their groups say.
DECOUPLED = tuple(getattr(torch.optim, name) for name in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, name))


def number(value: Any) -> float:
    """A hyper-parameter as a float, also of a tensor that gradients are wanted for."""
    return float(value.detach() if isinstance(value, Tensor) else value)


class Numbers(NamedTuple):
    """What all coordinates of a tensor share at one step; tensors with equal numbers are measured together.

    lr.  eps: 0 where the optimizer adds none to sqrt(v).  decay: lr * weight_decay if decoupled, else 0.
    raw: as in Layout, with the bias corrections to divide by.  correction: `averages.variance_correction`, odds:
    `averages.noise_odds` of the mean's decay rate.
    flip: the averages are of -g, because the optimizer ascends.  ascends: it does, whatever the averages are of.
    coupled: the weight decay that the optimizer adds to the gradient.  clip: as in `statistics.Numbers`.
    betas, t: decay rates of the averages, and how many gradients they hold.
    """

    lr: float
    eps: float
    decay: float
    raw: bool
    mean_correction: float
    second_correction: float
    correction: float
    odds: float
    flip: bool
    ascends: bool = False
    coupled: float = 0.0
    clip: float = 0.0
    betas: tuple[float, float] = (0.0, 0.0)
    t: int = 1

    def shared(self) -> definition.Numbers:
        """As the statistics want them."""
        return definition.Numbers(
            ascent=-1.0 if self.flip else 1.0,
            downhill=1.0 if self.ascends and not self.flip else -1.0,
            mean_scale=1 / self.mean_correction,
            second_scale=1 / self.second_correction,
            per_lr=1 / self.lr if self.lr else 0.0,
            eps=self.eps,
            decay=self.decay,
            coupled=self.coupled,
            odds=self.odds,
            clip=self.clip,
        )


def kept_by_optimizer(state: Mapping[str, Any], group: Mapping[str, Any], p: Tensor) -> Layout | None:
    """The layout in which the optimizer keeps both averages of `p`, or None."""
    for layout in LAYOUTS:
        tensors = (state.get(layout.mean), state.get(layout.second))
        shaped = all(isinstance(x, Tensor) and x.shape == p.shape for x in tensors)
        if shaped and _rates(group.get(layout.decay)) and ("step" in state or "step" in group):
            return layout
    return None


def _rates(decay: Any) -> tuple[Any, ...]:
    """The decay rates of the mean and of the second average, or nothing."""
    if isinstance(decay, (tuple, list)):
        return tuple(decay) if len(decay) == 2 else ()
    return () if decay is None else (decay, decay)


def own_beta(state: Mapping[str, Any], group: Mapping[str, Any]) -> float | None:
    """Decay rate of the mean of an optimizer that keeps no second average of squares, or None.

    M-SGD and M-SSD; heavy ball's buffer (SGD, Muon), which is a mean but for its scale; Adamax.
    """
    if "m" in state and "beta" in group:
        return number(group["beta"])
    if state.get("momentum_buffer") is not None and "square_avg" not in state and "momentum" in group:
        return number(group["momentum"])
    if "exp_inf" in state and len(_rates(group.get("betas"))) == 2:
        return number(group["betas"][0])
    return None


def numbers(optimizer: Any, group: Mapping[str, Any], layout: Layout | None, beta: float, t: int) -> Numbers:
    """The numbers of a tensor whose averages hold t samples; `beta` is used where the optimizer keeps no averages."""
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, DECOUPLED))
    lr = number(group["lr"])
    weight_decay = number(group.get("weight_decay", 0.0))
    decay, coupled = (lr * weight_decay, 0.0) if decoupled else (0.0, weight_decay)
    ascends = bool(group.get("maximize", False))
    eps, flip, raw = 0.0, False, False
    mean_beta = second_beta = beta
    if layout is not None:
        flip, raw = ascends, layout.raw
        mean_beta, second_beta = map(number, _rates(group[layout.decay]))
        if layout.decay == "betas":
            eps = number(group.get("eps", eps))
    corrections = _corrections(raw, mean_beta, second_beta, t)
    betas = (mean_beta, second_beta)
    return Numbers(lr, eps, decay, raw, *corrections, flip, ascends, coupled, betas=betas, t=t)


@functools.lru_cache(maxsize=64)
def _corrections(raw: bool, mean_beta: float, second_beta: float, t: int) -> tuple[float, float, float, float]:
    bias = (1.0, 1.0)
    if raw:
        scalars = METHODS["adam"].step_scalars(t, {"beta1": mean_beta, "beta2": second_beta, "lr": 0.0})
        bias = (scalars["correction1"], scalars["correction2"])
    return *bias, averages.variance_correction(mean_beta, t), averages.noise_odds(mean_beta, t)


def real_dtype(p: Tensor) -> torch.dtype:
    """The dtype that a tensor's statistics are computed in: float64 for double precision, else float32."""
    return torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32


def flat(x: Tensor, device: torch.device) -> Tensor:
    """A dense, real, one-dimensional form of any tensor on this device: a view where one exists, without gradients."""
    if x.layout is not torch.strided:
        x = x.to_dense()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return (x if x.device == device else x.to(device)).reshape(-1)
