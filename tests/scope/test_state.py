"""A scope that goes on from a checkpoint records what the uninterrupted one does."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from stepscope import Scope, optim, store

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "shadow averages of a torch optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "a torch optimizer with its own": lambda p: torch.optim.Adam(p, lr=0.01),
    "averages of our optimizer's steps": lambda p: optim.MSGD(p, lr=0.05),
    "our optimizer with its own": lambda p: optim.MSVAG(p, lr=0.05),
}


def train(make, folder, stops: list[int]) -> list[str]:
    """Nine steps, with everything new behind each stop but a checkpoint; the rows as text."""
    saved: Any = None
    for begin, end in zip([0, *stops], [*stops, 9], strict=True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
        optimizer = make(model.parameters())
        scope = Scope(optimizer, model, run=folder, every=2).attach()
        if saved is not None:
            saved.seek(0)
            state = torch.load(saved, weights_only=False)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scope.load_state_dict(state["scope"])
        assert scope.steps == begin
        for step in range(begin, end):
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scope.note(loss=loss.item())
        saved = io.BytesIO()
        told = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scope": scope.state_dict()}
        torch.save(told, saved)
        scope.detach()
    run = store.Run(folder)
    return sorted(map(repr, run.table(*sorted(run.names)).to_pylist()))


@pytest.mark.parametrize("kind", MAKERS)
def test_it_goes_on_to_the_same_rows(kind, tmp_path):
    """To the digit; the tensors in the averages are restored, not approximated."""
    whole = train(MAKERS[kind], tmp_path / "whole", [])
    assert train(MAKERS[kind], tmp_path / "parts", [3, 4]) == whole
    assert any("'layer': ''" in row and "'step': 9" in row for row in whole)


def test_alarms_are_raised_once_across_a_checkpoint():
    """Steps of three times the weights raise an alarm at once, and it is not told again behind the checkpoint."""
    told: list[Any] = []
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scope = Scope(optimizer, model, alarms=told.append).attach()

    def step(one: Scope) -> None:
        model.weight.grad = -3 * model.weight.detach()
        optimizer.step()
        one.alarms  # noqa: B018 - reading writes what waits, and judges it

    for _ in range(12):
        step(scope)
    first = [alarm.id for alarm in told]
    assert "update_too_large" in first
    state = scope.state_dict()
    scope.detach()
    again = Scope(optimizer, model, alarms=told.append).attach()
    again.load_state_dict(state)
    for _ in range(12):
        step(again)
    again.detach()
    assert [alarm.id for alarm in told].count("update_too_large") == first.count("update_too_large")
