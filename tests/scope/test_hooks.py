"""The hooks themselves; what they make possible is tested with the scope."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stepscope import Scope
from stepscope.scope.hooks import Hook, is_nested, unwrapped


def test_a_copied_hook_does_nothing():
    calls = []
    hook = Hook(lambda: calls.append(1))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    hook(optimizer, (), {})
    copy.deepcopy(hook)(optimizer, (), {})
    pickle.loads(pickle.dumps(hook))(optimizer, (), {})
    assert calls == [1]


def test_hooks_on_all_optimizers_go_round_those_of_a_scope():
    """One halves the gradient before every step, one takes it away after every step: of optimizers that nobody watches,
    or that are made later, too. The scope sees its own optimizer only, between the two, and leaves them where they are.
    """
    stepped: list[torch.optim.Optimizer] = []

    def before(optimizer, *_):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)

    def after(optimizer, *_):
        stepped.append(optimizer)
        optimizer.zero_grad()

    def take_step(optimizer):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, 2.0)
        optimizer.step()

    watched, other = (torch.optim.SGD([nn.Parameter(torch.ones(4))], lr=0.1) for _ in range(2))
    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        with Scope(watched) as scope:
            take_step(watched)
            take_step(other)
            late = torch.optim.SGD([nn.Parameter(torch.ones(4))], lr=0.1)
            take_step(late)
            take_step(watched)
        take_step(watched)  # they go on without the scope
    finally:
        for handle in handles:
            handle.remove()
    assert [id(one) for one in stepped] == [id(one) for one in (watched, other, late, watched, watched)]
    rows = [row for row in scope.rows if row["layer"]]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:  # of a gradient of ones
        assert row["grad_norm"] == pytest.approx(2.0, rel=1e-6)
        assert row["update_norm"] == pytest.approx(0.2, rel=1e-6)


def test_only_a_step_inside_a_step_of_the_same_optimizer_is_nested():
    p = nn.Parameter(torch.ones(1))
    seen = []

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    inner, outer = torch.optim.SGD([p], lr=0.1), Twice([p], lr=0.1)
    outer.register_step_pre_hook(lambda *_: inner.step())
    for optimizer in (inner, outer):
        optimizer.register_step_pre_hook(lambda o, *_: seen.append((type(o).__name__, is_nested(o))))
    outer.step()
    assert seen == [
        ("SGD", False),
        ("Twice", False),
        ("SGD", False),
        ("Twice", True),
    ]


def test_wrappers_are_taken_off_down_to_the_optimizer():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)

    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    assert unwrapped(Wrapper(Wrapper(optimizer))) is optimizer
    assert unwrapped(optimizer) is optimizer
    optimizer.optimizer = optimizer
    assert unwrapped(optimizer) is optimizer
    assert unwrapped(3) == 3
