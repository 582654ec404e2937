"""Torch optimizers over the rules: drop-in classes for torch's methods, and the paper's recombinations."""

from collections.abc import Mapping
from types import MappingProxyType

from stepscope.optim.as_torch import SGD, Adadelta, AdaGrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSProp
from stepscope.optim.base import RuleOptimizer
from stepscope.optim.grid import Dissected, OwnRule, from_rule
from stepscope.optim.methods import (
    MSGD,
    MSSD,
    MSVAG,
    SSD,
    SVAG,
    AdaBelief,
    AdamErf,
    AdamOneBeta,
    Grams,
    Lion,
    Signum,
)

METHODS: Mapping[str, type[RuleOptimizer]] = MappingProxyType(
    {
        "sgd": SGD,
        "msgd": MSGD,
        "ssd": SSD,
        "mssd": MSSD,
        "svag": SVAG,
        "msvag": MSVAG,
        "adam": Adam,
        "adamw": AdamW,
        "adam_erf": AdamErf,
        "adam_one_beta": AdamOneBeta,
        "nadam": NAdam,
        "radam": RAdam,
        "adamax": Adamax,
        "signum": Signum,
        "lion": Lion,
        "grams": Grams,
        "adabelief": AdaBelief,
        "rmsprop": RMSProp,
        "adagrad": AdaGrad,
        "adadelta": Adadelta,
    }
)

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "sgd": "SGD",
        "msgd": "M-SGD",
        "ssd": "SSD",
        "mssd": "M-SSD",
        "svag": "SVAG",
        "msvag": "M-SVAG",
        "adam": "Adam",
        "adamw": "AdamW",
        "adam_erf": "Adam (exact factor)",
        "adam_one_beta": "Adam (one beta)",
        "nadam": "NAdam",
        "radam": "RAdam",
        "adamax": "Adamax",
        "signum": "Signum",
        "lion": "Lion",
        "grams": "Grams",
        "adabelief": "AdaBelief",
        "rmsprop": "RMSProp",
        "adagrad": "AdaGrad",
        "adadelta": "Adadelta",
    }
)

__all__ = [
    "LABELS",
    "METHODS",
    "MSGD",
    "MSSD",
    "MSVAG",
    "SGD",
    "SSD",
    "SVAG",
    "AdaBelief",
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamErf",
    "AdamOneBeta",
    "AdamW",
    "Adamax",
    "Dissected",
    "Grams",
    "Lion",
    "NAdam",
    "OwnRule",
    "RAdam",
    "RMSProp",
    "RuleOptimizer",
    "Signum",
    "from_rule",
]
