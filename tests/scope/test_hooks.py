"""The hooks themselves; what they make possible is tested with the scope."""

import copy
import pickle

import torch
from torch import nn

from stepscope.scope.hooks import Hook, is_nested, unwrapped


def test_a_copied_hook_does_nothing():
    calls = []
    hook = Hook(lambda: calls.append(1))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    hook(optimizer, (), {})
    copy.deepcopy(hook)(optimizer, (), {})
    pickle.loads(pickle.dumps(hook))(optimizer, (), {})
    assert calls == [1]


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
