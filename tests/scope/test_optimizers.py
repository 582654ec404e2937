"""Every optimizer of torch: where its averages are, and that observing it changes nothing."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from stepscope import Scope, optim

BESIDE = 0.6  # decay rate of the averages that are kept beside an optimizer without any

# How to make it, and the decay rates of the mean and of the second moment that are shown.
TABLE: dict[str, tuple[Callable[[Any], Optimizer], float]] = {
    "Adam": (lambda p: torch.optim.Adam(p, betas=(0.8, 0.9)), 0.8),
    "AdamW": (lambda p: torch.optim.AdamW(p, betas=(0.8, 0.9)), 0.8),
    "NAdam": (lambda p: torch.optim.NAdam(p, betas=(0.8, 0.9)), 0.8),
    "RAdam": (lambda p: torch.optim.RAdam(p, betas=(0.8, 0.9)), 0.8),
    "Adamax": (lambda p: torch.optim.Adamax(p, betas=(0.8, 0.9)), 0.8),
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1), BESIDE),
    "SGD with momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8), 0.8),
    "SGD with Nesterov's": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True), 0.8),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, alpha=0.8), BESIDE),
    "RMSprop, centered": (lambda p: torch.optim.RMSprop(p, alpha=0.8, centered=True), 0.8),
    "RMSprop with momentum": (lambda p: torch.optim.RMSprop(p, momentum=0.8), BESIDE),
    "Adagrad": (torch.optim.Adagrad, BESIDE),
    "Adadelta": (torch.optim.Adadelta, BESIDE),
    "ASGD": (torch.optim.ASGD, BESIDE),
    "Rprop": (torch.optim.Rprop, BESIDE),
    "Adafactor": (lambda p: torch.optim.Adafactor(p, lr=1e-2), BESIDE),
    "Muon": (lambda p: torch.optim.Muon(p, momentum=0.8), 0.8),
    "LBFGS": (lambda p: torch.optim.LBFGS(p, max_iter=1), BESIDE),
    "our SGD": (lambda p: optim.SGD(p, lr=0.1), BESIDE),
    "our SGD with momentum": (lambda p: optim.METHODS["sgd"](p, lr=0.1, momentum=0.8), 0.8),
    "our M-SGD": (lambda p: optim.MSGD(p, lr=0.1, beta=0.8), 0.8),
}


def makes(name: str) -> Callable[[Any], Optimizer]:
    if not hasattr(torch.optim, name.split(maxsplit=1)[0].rstrip(",")) and not name.startswith("our"):
        pytest.skip(f"this version of torch has no {name}")
    return TABLE[name][0]


def gradients(t: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(t)) + 1


def trained(make: Callable[[Any], Optimizer], watch: bool) -> tuple[Tensor, list[dict[str, Any]]]:
    p = nn.Parameter(torch.linspace(-1, 1, 30).reshape(6, 5))
    try:
        optimizer = make([p])
    except TypeError as error:  # an option that our class of this method does not have
        pytest.skip(str(error))
    scope = Scope(optimizer, instruments=("default", "series", "recombinations"), beta=BESIDE)
    if watch:
        scope.attach()
    for t in range(6):

        def closure(t: int = t) -> Tensor:
            p.grad = gradients(t)
            return p.detach().sum()

        closure()
        optimizer.step(*([closure] if isinstance(optimizer, torch.optim.LBFGS) else []))
    scope.detach()
    return p.detach(), [row for row in scope.rows if row["layer"]]


@pytest.mark.parametrize("name", TABLE)
def test_the_averages_are_the_optimizer_s_own_where_it_has_them(name: str):
    """Against weighted sums over the history; float32 averages of six gradients: 1e-5."""
    _, rows = trained(makes(name), watch=True)
    beta = TABLE[name][1]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        weights = torch.tensor([beta ** (row["step"] - 1 - i) for i in range(row["step"])], dtype=torch.float64)
        history = torch.stack([gradients(t).double() for t in range(row["step"])])
        m = torch.einsum("t,tij->ij", weights / weights.sum(), history)
        assert row["momentum_abs_mean"] == pytest.approx(float(m.abs().mean()), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(float(history[-1].norm()), rel=1e-5)
        assert row["nonfinite_share"] == 0


@pytest.mark.parametrize("name", TABLE)
def test_observing_changes_no_bit(name: str):
    make = makes(name)
    assert torch.equal(trained(make, watch=True)[0], trained(make, watch=False)[0])


def test_no_optimizer_of_torch_is_forgotten():
    classes = {name for name, x in vars(torch.optim).items() if inspect.isclass(x) and issubclass(x, Optimizer)}
    named = {name.split()[0].rstrip(",") for name in TABLE}
    assert classes - named <= {
        "Optimizer",
        "SparseAdam",
    }  # the latter, which takes sparse gradients only, in test_scope
