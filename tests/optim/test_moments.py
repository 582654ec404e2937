"""Which optimizers keep both averages, and with which numbers."""

import math
from typing import Any

import pytest
import torch
from tests.cases import CASES, Case
from torch import Tensor, nn

from stepscope.optim.moments import Layout, flat, kept_by_optimizer, numbers, own_beta, real_dtype

OWN = {"adam", "adamw", "nadam", "radam", "grams", "svag", "msvag", "cautious"}  # and their variants


def after_a_step(make: Any, **options: Any) -> tuple[torch.optim.Optimizer, Tensor, dict[str, Any], dict[str, Any]]:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = make([p], **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer, p, optimizer.state[p], optimizer.param_groups[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_of_ours_those_with_a_variance_keep_it(case: Case):
    _, p, state, group = after_a_step(case.ours, **case.options)
    keeps = case.name.split("-")[0] in OWN or "centered" in case.name
    assert (kept_by_optimizer(state, group, p) is not None) == keeps


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam])
def test_of_torchs_adam_and_its_kin_do(make: Any):
    _, p, state, group = after_a_step(make, lr=0.1)
    assert kept_by_optimizer(state, group, p) == Layout("exp_avg", "exp_avg_sq", "betas", raw=True)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop"])
def test_of_torchs_the_others_do_not(name: str):
    _, p, state, group = after_a_step(getattr(torch.optim, name), lr=0.1)
    assert kept_by_optimizer(state, group, p) is None
    assert own_beta(state, group) is None


def test_adamax_lends_the_decay_rate_of_its_mean():
    _, p, state, group = after_a_step(torch.optim.Adamax, lr=0.1)
    assert kept_by_optimizer(state, group, p) is None
    assert own_beta(state, group) == 0.9


def test_a_resembling_state_is_not_trusted():
    """Factored second moments, three decay rates, no count of steps: none of these is Adam's."""
    p = nn.Parameter(torch.ones(2, 3))
    adam: dict[str, Any] = {"exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3), "step": torch.tensor(1.0)}
    group = {"betas": (0.9, 0.999)}
    assert kept_by_optimizer(adam, group, p)
    assert kept_by_optimizer({"exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"]}, {**group, "step": 3}, p)
    assert not kept_by_optimizer({**adam, "exp_avg_sq": torch.ones(2)}, group, p)
    assert not kept_by_optimizer(adam, {"betas": (0.9, 0.9, 0.99)}, p)
    assert not kept_by_optimizer(adam, {}, p)
    assert not kept_by_optimizer({"exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"]}, group, p)


def test_our_methods_with_a_mean_only_lend_their_decay_rate():
    case = next(case for case in CASES if case.name == "msgd")
    _, _, state, group = after_a_step(case.ours, lr=0.1, beta=0.25)
    assert own_beta(state, group) == 0.25


def test_numbers_of_adam():
    optimizer, p, state, group = after_a_step(torch.optim.AdamW, lr=0.1, weight_decay=0.5, betas=(0.5, 0.75), eps=1e-3)
    found = numbers(optimizer, group, kept_by_optimizer(state, group, p), 0.9, 3)
    assert found.decay == pytest.approx(0.05)
    assert (found.lr, found.eps, found.raw, found.flip) == (0.1, 1e-3, True, False)
    assert found.mean_correction == 1 - 0.5**3
    assert found.second_correction == 1 - 0.75**3
    weights = [4 / 7, 2 / 7, 1 / 7]
    rho = sum(w * w for w in weights)
    assert found.correction == pytest.approx(1 / (1 - rho))
    assert found.odds == pytest.approx(rho / (1 - rho))


def test_decay_is_decoupled_where_the_optimizer_says_so_or_is_adamw():
    optimizer, _, _, group = after_a_step(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    old = {name: value for name, value in group.items() if name != "decoupled_weight_decay"}  # as torch 2.6 keeps it
    assert numbers(optimizer, old, None, 0.9, 1).decay == pytest.approx(0.05)
    optimizer, _, _, group = after_a_step(torch.optim.Adam, lr=0.1, weight_decay=0.5)
    assert numbers(optimizer, group, None, 0.9, 1).decay == 0
    optimizer, _, _, group = after_a_step(torch.optim.SGD, lr=0.1, weight_decay=0.5)
    assert numbers(optimizer, group, None, 0.9, 1).decay == 0


def test_the_first_sample_has_no_variance_to_correct():
    optimizer, _, _, group = after_a_step(torch.optim.SGD, lr=0.1)
    found = numbers(optimizer, group, None, 0.9, 1)
    assert (found.correction, found.odds, found.eps) == (0, 0, 0)


def test_flat_forms():
    cpu = torch.device("cpu")
    z = torch.tensor([[1 + 2j, 3 + 4j]])
    assert flat(z, cpu).tolist() == [1, 2, 3, 4]
    assert flat(z.conj(), cpu).tolist() == [1, -2, 3, -4]
    assert flat(torch.eye(2).to_sparse(), cpu).tolist() == [1, 0, 0, 1]
    x = torch.ones(2, 3)
    assert flat(x, cpu).data_ptr() == x.data_ptr()
    assert [real_dtype(torch.zeros(1, dtype=d)) for d in (torch.complex128, torch.bfloat16, torch.float64)] == [
        torch.float64,
        torch.float32,
        torch.float64,
    ]
    assert math.isfinite(flat(torch.tensor(3.0), cpu)[0])
