"""At which steps a scope records."""

import itertools
import math

import pytest
import torch
from torch import nn

from stepscope import Scope
from stepscope.scope.schedules import DenseAfterSpike, every, log_spaced


def test_log_spaced_steps_are_as_many_in_each_power_of_ten():
    for per_decade in (1, 5, 20):
        steps = [step for step in range(1, 10_001) if log_spaced(per_decade)(step)]
        assert {1, 10, 100, 1000, 10_000} <= set(steps)
        assert sum(1000 < step <= 10_000 for step in steps) == per_decade
        assert all(b / a < 10 ** (2 / per_decade) or b - a == 1 for a, b in itertools.pairwise(steps))


def test_a_spike_of_the_loss_makes_the_recording_dense():
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with Scope(optimizer, every=DenseAfterSpike(100, steps=4)) as scope:
        for step in range(1, 31):
            p.grad = torch.ones(2)
            optimizer.step()
            scope.note(loss=50.0 if step == 12 else math.nan if step == 20 else 1.0)
    recorded = [row["step"] for row in scope.rows if row["layer"]]
    assert recorded == [1, 13, 14, 15, 16, 21, 22, 23, 24]


def test_a_falling_loss_and_other_values_are_no_spike():
    schedule = DenseAfterSpike(every(1000))
    for step in range(1, 200):
        schedule.saw(step, {"loss": 10.0 * 0.97**step, "accuracy": float(step)})
    assert not any(map(schedule, range(2, 400)))


def test_a_schedule_out_of_range_is_refused():
    for wrong in (
        lambda: every(0),
        lambda: log_spaced(0),
        lambda: DenseAfterSpike(10, steps=0),
        lambda: DenseAfterSpike(10, ratio=1.0),
    ):
        with pytest.raises(ValueError, match=r"must be (at least|greater than) 1, got"):
            wrong()
