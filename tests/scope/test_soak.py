"""Memory stays flat. `benchmarks/soak.py` looks at resident memory over a hundred thousand steps."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepscope import Scope, optim
from stepscope.scope import Tracker


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, optim.MSVAG], ids=lambda m: m.__name__)
def test_memory_does_not_grow_with_the_number_of_steps(make: Callable[..., Any], tmp_path: Path):
    """What a thousand steps leave behind is less than 16 bytes a step, the size of no Python object."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = make(model.parameters(), lr=0.01)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def steps(number: int) -> tuple[int, int]:
        for _ in range(number):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            scope.note(loss=loss)
        _ = scope.run  # rows that wait are written
        tracker.flush()
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects())

    tracker = Tracker(lambda values, step: None)
    with Scope(optimizer, model, tmp_path / "run", instruments="all", sinks=[tracker]) as scope:
        steps(300)
        tracemalloc.start()
        try:
            before = steps(100)
            after = steps(1000)
        finally:
            tracemalloc.stop()
    assert after[0] - before[0] < 16_000
    assert after[1] - before[1] < 50
