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
    """The rows of a step take 7 kB: kept ones, or their half, are seen. The store's buffers come and go by 100 kB."""
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
    with Scope(optimizer, model, tmp_path / "run", sinks=[tracker]) as scope:
        steps(100)
        tracemalloc.start()
        try:
            before = steps(100)
            after = steps(300)
        finally:
            tracemalloc.stop()
    assert after[0] - before[0] < 300 * 700
    assert after[1] - before[1] < 50
