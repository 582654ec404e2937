"""The one table of methods that general tests run over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from stepscope import optim
from stepscope.rules import CHOICES, METHODS, Point, ascending, decayed

__all__ = ["CASES", "NO_TRITON", "POINTS", "RULES", "TORCH_TWINS", "Case", "bits"]


@dataclass(frozen=True)
class Case:
    """A way to construct one of our optimizers, and torch's class that must do the same."""

    name: str
    ours: type[optim.RuleOptimizer]
    options: dict[str, Any] = field(default_factory=dict)
    theirs: type[torch.optim.Optimizer] | None = None

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("sgd", optim.SGD, {"lr": 0.1}, torch.optim.SGD),
    Case("momentum", optim.SGD, {"lr": 0.1, "momentum": 0.9}, torch.optim.SGD),
    Case("dampened", optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}, torch.optim.SGD),
    Case("nesterov", optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
    Case("sgd-l2", optim.SGD, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}, torch.optim.SGD),
    Case("adam", optim.Adam, {"lr": 1e-2}, torch.optim.Adam),
    Case("adam-small-betas", optim.Adam, {"lr": 1e-2, "betas": (0.3, 0.2)}, torch.optim.Adam),
    Case("adam-l2", optim.Adam, {"lr": 1e-2, "weight_decay": 0.1}, torch.optim.Adam),
    Case("adam-ascent", optim.Adam, {"lr": 1e-2, "maximize": True}, torch.optim.Adam),
    Case("adam-amsgrad", optim.Adam, {"lr": 1e-2, "betas": (0.9, 0.9), "amsgrad": True}, torch.optim.Adam),
    Case("adamw-amsgrad", optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True}, torch.optim.AdamW),
    Case("nadam", optim.NAdam, {"lr": 1e-2}, torch.optim.NAdam),
    Case("nadam-decoupled", optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}, torch.optim.NAdam),
    Case("radam", optim.RAdam, {"lr": 1e-2}, torch.optim.RAdam),
    Case("radam-l2", optim.RAdam, {"lr": 1e-2, "betas": (0.5, 0.9), "weight_decay": 0.1}, torch.optim.RAdam),
    Case("adamax", optim.Adamax, {"lr": 1e-2}, torch.optim.Adamax),
    Case("adamw", optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}, torch.optim.AdamW),
    Case("rmsprop", optim.RMSProp, {"lr": 1e-2}, torch.optim.RMSprop),
    Case("rmsprop-l2", optim.RMSProp, {"lr": 1e-2, "alpha": 0.9, "weight_decay": 0.1}, torch.optim.RMSprop),
    Case("rmsprop-momentum", optim.RMSProp, {"lr": 1e-2, "momentum": 0.8}, torch.optim.RMSprop),
    Case("rmsprop-centered", optim.RMSProp, {"lr": 1e-2, "centered": True}, torch.optim.RMSprop),
    Case(
        "rmsprop-centered-momentum",
        optim.RMSProp,
        {"lr": 1e-2, "alpha": 0.9, "centered": True, "momentum": 0.5, "weight_decay": 0.1},
        torch.optim.RMSprop,
    ),
    Case("adagrad", optim.AdaGrad, {"lr": 0.1}, torch.optim.Adagrad),
    Case("adagrad-decay", optim.AdaGrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.3}, torch.optim.Adagrad),
    Case("adadelta", optim.Adadelta, {}, torch.optim.Adadelta),
    Case("adadelta-l2", optim.Adadelta, {"rho": 0.8, "weight_decay": 0.1}, torch.optim.Adadelta),
    Case("ssd", optim.SSD, {"lr": 1e-2}),
    Case("msgd", optim.MSGD, {"lr": 0.1}),
    Case("mssd", optim.MSSD, {"lr": 1e-2}),
    Case("svag", optim.SVAG, {"lr": 0.1}),
    Case("msvag", optim.MSVAG, {"lr": 0.1}),
    Case("msvag-l2", optim.MSVAG, {"lr": 0.1, "weight_decay": 0.1}),
    Case("msvag-decoupled", optim.MSVAG, {"lr": 0.1, "weight_decay": 0.1, "decoupled": True}),
    Case("adam-erf", optim.AdamErf, {"lr": 1e-2}),
    Case("adam-erf-uncorrected", optim.AdamErf, {"lr": 1e-2, "momentum_corrected": False}),
    Case("adam-one-beta", optim.AdamOneBeta, {"lr": 1e-2}),
    Case("signum", optim.Signum, {"lr": 1e-2, "weight_decay": 0.1}),
    Case("lion", optim.Lion, {"lr": 1e-2, "weight_decay": 0.1}),
    Case("grams", optim.Grams, {"lr": 1e-2}),
    Case("adabelief", optim.AdaBelief, {"lr": 1e-2, "weight_decay": 0.1}),
    Case("dissected", optim.Dissected, {"direction": "nesterov", "factor": "nsr", "variance": "belief"}),
    Case(
        "cautious",
        optim.Dissected,
        {
            "direction": "m",
            "factor": "adam_rho",
            "variance": "two_emas",
            "base": "adagrad",
            "mask": "cautious",
            "decay": "decoupled",
            "weight_decay": 0.1,
        },
    ),
]


def _points() -> list[Point]:
    """Points of the grid in which every two choices of different parts meet (tested)."""
    directions, factors, variances, bases, masks, decays = map(list, CHOICES.values())
    return [
        Point(
            direction,
            factor,
            variances[3 * (d + f) % 5],
            bases[(d + 3 * f) % 4],
            masks[(d + f // 2) % 2],
            decays[(d + 3 * d * f + f // 2) % 3],
            bias_correction=(d + f) % 4 != 0,
        )
        for d, direction in enumerate(directions)
        for f, factor in enumerate(factors)
    ]


POINTS = _points()
TORCH_TWINS = [case for case in CASES if case.theirs is not None]


def bits(value: Any) -> Any:
    """A comparable copy of anything in a state_dict, tensors by their bits."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.detach().numpy().tobytes())
    if isinstance(value, Mapping):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple | Tensor) else value


# What every backend is tested with: each rule, and each way to change one.
RULES = [
    *METHODS.values(),
    decayed(METHODS["msvag"], decoupled=False),
    decayed(METHODS["adam"], decoupled=True),
    ascending(METHODS["adam"]),
]


def _no_triton() -> str:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "Triton is not installed"
    older = tuple(map(int, version.split(".")[:2])) < (3, 7)
    return f"Triton {version} has an older interpreter and compiler interface than 3.7" if older else ""


NO_TRITON = _no_triton()  # why its tests cannot run, or ""
