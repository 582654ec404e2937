"""Torch optimizers over the rules: drop-in classes for torch's methods, and the paper's recombinations."""

from collections.abc import Mapping
from types import MappingProxyType

from stepscope.optim.base import RuleOptimizer
from stepscope.optim.methods import (
    MSGD,
    MSSD,
    MSVAG,
    SGD,
    SSD,
    SVAG,
    Adadelta,
    AdaGrad,
    Adam,
    AdamErf,
    AdamOneBeta,
    AdamW,
    RMSProp,
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
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamErf",
    "AdamOneBeta",
    "AdamW",
    "RMSProp",
    "RuleOptimizer",
]
