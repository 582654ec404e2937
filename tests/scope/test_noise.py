"""The gradient noise scale against its definition, and its estimators' means against the truth."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepscope import Scope
from stepscope.scope.noise import Spread


def gradients(k: int, samples: int, generator: torch.Generator, scale: float = 1.0) -> list[list[Tensor]]:
    """Means of samples with the mean (1, 2, 3, 0) and the standard deviations (1, 1, 2, 0.5), in two tensors."""
    mean, deviation = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 2.0, 0.5])
    found = []
    for _ in range(k):
        g = mean + deviation * torch.randn(samples, 4, generator=generator).mean(0)
        found.append([scale * g[:3], scale * g[3:]])
    return found


def columns(found: list[list[Tensor]], samples: int) -> dict[str, float]:
    spread = Spread()
    for g in found:
        spread.add(g)
    return spread.columns(samples, "x")


def test_columns_are_the_definition():
    found = gradients(5, 3, torch.Generator().manual_seed(0))
    table = np.stack([torch.cat(g).double().numpy() for g in found])
    spread = ((table - table.mean(0)) ** 2).sum()
    square = (table.mean(0) ** 2).sum() - spread / 20
    told = columns(found, 3)
    assert told["noise_trace_x"] == pytest.approx(3 * spread / 4, rel=1e-5)
    assert told["gradient_square_x"] == pytest.approx(square, rel=1e-5)
    assert told["noise_scale_x"] == pytest.approx(3 * spread / 4 / square, rel=1e-5)


@pytest.mark.parametrize(("k", "samples"), [(2, 1), (2, 8), (8, 2)])
def test_both_estimates_are_unbiased(k: int, samples: int):
    """True values: 1 + 1 + 4 + 1/4, and 1 + 4 + 9. Within 5 standard errors of the mean of 4000; the seed is fixed."""
    generator = torch.Generator().manual_seed(k + samples)
    told = [columns(gradients(k, samples, generator), samples) for _ in range(4000)]
    for name, truth in (("noise_trace_x", 6.25), ("gradient_square_x", 14.0)):
        values = np.array([one[name] for one in told])
        assert abs(values.mean() - truth) < 5 * values.std() / math.sqrt(4000), name


def test_the_ratio_ignores_the_unit_of_the_loss_and_one_gradient_says_nothing():
    one, other = (columns(gradients(4, 2, torch.Generator().manual_seed(1), scale), 2) for scale in (1.0, 4.0))
    assert one["noise_scale_x"] == pytest.approx(other["noise_scale_x"], rel=1e-6)
    assert other["noise_trace_x"] == pytest.approx(16 * one["noise_trace_x"], rel=1e-6)
    assert columns(gradients(1, 2, torch.Generator()), 2) == {}


def test_accumulated_chunks_and_parts_of_a_batch_say_the_same():
    """The chunks' gradients are scaled down by their number: the traces by its square, the ratio not at all."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(20, 6), torch.randn(20, 3)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(model(x), y)

    with Scope(optimizer, model) as scope:
        for i in range(4):
            part = slice(5 * i, 5 * i + 5)
            (loss(x[part], y[part]) / 4).backward()
            scope.chunk(5)
        scope.noise(loss, x, y, parts=4)
        optimizer.step()
        optimizer.zero_grad()
        loss(x, y).backward()
        scope.chunk(20)
        optimizer.step()
    first, second = (row for row in scope.rows if not row["layer"])
    assert first["noise_scale_chunks"] == pytest.approx(first["noise_scale_micro"], rel=1e-4)
    assert first["noise_trace_chunks"] == pytest.approx(first["noise_trace_micro"] / 16, rel=1e-4)
    assert not any(name.startswith("noise") for name in second)
