"""Which tensors are looked at, and with which averages."""

import pytest
import torch
from torch import nn

from stepscope.scope.observer import Observer


def stepped(make, **options):
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p], lr=0.1, **options)
    p.grad = torch.ones(3)
    optimizer.step()
    return p, optimizer


def test_nothing_is_left_to_do_where_the_optimizer_keeps_all_averages():
    for make, settled in ((torch.optim.Adam, True), (torch.optim.SGD, False)):
        p, optimizer = stepped(make)
        observer = Observer(optimizer, 0.9)
        assert not observer.settled
        with torch.no_grad():
            seen = observer.update()
        assert [s.p is p for s in seen] == [True]
        assert observer.settled is settled


def test_a_step_without_gradients_settles_nothing():
    p, optimizer = stepped(torch.optim.Adam)
    p.grad = None
    observer = Observer(optimizer, 0.9)
    assert observer.update() == []
    assert not observer.settled


def test_averages_of_no_samples_are_not_measured():
    """As after a first step that loss scaling skipped within the kernel."""
    p, optimizer = stepped(torch.optim.Adam)
    optimizer.state[p]["step"].zero_()
    observer = Observer(optimizer, 0.9)
    with torch.no_grad():
        assert observer.observed(observer.update(), {p: p.clone()}) == {}


def test_counters_of_steps_may_be_numbers_or_belong_to_the_group():
    for place in ("state", "group"):
        p, optimizer = stepped(torch.optim.Adam)
        del optimizer.state[p]["step"]
        (optimizer.state[p] if place == "state" else optimizer.param_groups[0])["step"] = 7
        observer = Observer(optimizer, 0.9)
        with torch.no_grad():
            (found,) = observer.observed(observer.update(), {p: p.clone()}).values()
        assert found.numbers.mean_correction == pytest.approx(1 - 0.9**7)
