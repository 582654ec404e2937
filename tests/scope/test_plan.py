"""What is looked up once is looked up again where it changed: the same numbers as of a scope that never remembers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stepscope import Scope
from stepscope.scope import observer
from stepscope.scope.plan import Plan

Model = nn.Module
Change = Callable[[Model, torch.optim.Optimizer], None]


def restored(model: Model, optimizer: torch.optim.Optimizer) -> None:
    """From a checkpoint: every tensor of the state is another one."""
    optimizer.load_state_dict(optimizer.state_dict())


def state_replaced(model: Model, optimizer: torch.optim.Optimizer) -> None:
    p = model.first.weight
    optimizer.state[p] = {name: value.clone() for name, value in optimizer.state[p].items()}


def average_replaced(model: Model, optimizer: torch.optim.Optimizer) -> None:
    state = optimizer.state[model.first.weight]
    state["exp_avg"] = state["exp_avg"] * 2


def average_strided(model: Model, optimizer: torch.optim.Optimizer) -> None:
    """The same tensor, of which the memory is another one, and lies otherwise."""
    average = optimizer.state[model.first.weight]["exp_avg"]
    average.data = average.data.t().contiguous().t()


def weights_replaced(model: Model, optimizer: torch.optim.Optimizer) -> None:
    model.first.weight.data = model.first.weight.data.t().contiguous().t()


def frozen(model: Model, optimizer: torch.optim.Optimizer) -> None:
    model.first.bias.requires_grad_(False)
    model.first.bias.grad = None


def group_added(model: Model, optimizer: torch.optim.Optimizer) -> None:
    optimizer.add_param_group({"params": [*model.late.parameters()], "lr": 0.3})


def rate_changed(model: Model, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.01


def nothing(model: Model, optimizer: torch.optim.Optimizer) -> None:
    pass


CHANGES = [
    *(nothing, restored, state_replaced, average_replaced, average_strided, weights_replaced, frozen, group_added),
    rate_changed,
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.late = nn.Linear(30, 400), nn.Linear(400, 2), nn.Linear(2, 2)


def recorded(change: Change, every: int = 1) -> list[dict[str, Any]]:
    model = Net()
    optimizer = torch.optim.AdamW([*model.first.parameters(), *model.last.parameters()], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    with Scope(optimizer, model, every=every) as scope:
        for step in range(9):
            if step == 5:
                change(model, optimizer)
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
            optimizer.step()
        return scope.rows


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_two_steps_is_seen(change: Change, monkeypatch: pytest.MonkeyPatch):
    """Both ways run the same kernel, so the sums are the same. Columns are read off them by matrix products, whose last
    bits depend on how many steps are read at once."""
    remembering = recorded(change)
    monkeypatch.setattr(observer.Plan, "of", lambda *arguments: None)
    forgetting = recorded(change)
    assert len(remembering) > 40
    for row, expected in zip(remembering, forgetting, strict=True):
        assert row.pop("layer") == expected.pop("layer")
        assert row == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)


def test_steps_that_are_alike_are_measured_by_plan(monkeypatch: pytest.MonkeyPatch):
    measured: list[bool] = []
    measure = Plan.measure
    monkeypatch.setattr(Plan, "measure", lambda self, reducer: measured.append(True) or measure(self, reducer))
    recorded(nothing)
    assert len(measured) == 8  # all but the first


def test_the_copy_of_the_weights_goes_when_a_step_is_not_recorded():
    model = Net()
    optimizer = torch.optim.Adam(model.first.parameters())
    with Scope(optimizer, model, every=2) as scope:
        for step in range(1, 6):
            model.first(torch.ones(1, 30)).sum().backward()
            optimizer.step()
            plan = scope._observers[0]._plan
            assert plan is not None
            assert bool(plan.copied) == (step in (2, 4)), step
