"""Single coordinates against a slow twin: averages as weighted sums over the whole history of gradients."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.scope.slow_twin import weights
from torch import Tensor, nn

from stepscope import Scope, optim
from stepscope.scope.traces import COORDINATES, FIELDS

# How each averages: decay rates of m and v.
MAKERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], tuple[float, float]]] = {
    "adam": (lambda p: torch.optim.Adam(p, lr=0.01), (0.9, 0.999)),
    "adam, uphill": (lambda p: torch.optim.Adam(p, lr=0.01, maximize=True), (0.9, 0.999)),
    "our adam": (lambda p: optim.Adam(p, lr=0.01), (0.9, 0.999)),
    "msvag": (lambda p: optim.MSVAG(p, lr=0.1), (0.9, 0.9)),
    "our sgd": (lambda p: optim.SGD(p, lr=0.1), (0.7, 0.7)),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1), (0.7, 0.7)),
}
SHAPES = {"large": (40, 30), "small": (3,)}


def model() -> nn.Module:
    made = nn.Module()
    generator = torch.Generator().manual_seed(1)
    for name, shape in SHAPES.items():
        made.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))
    return made


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> list[dict[str, tuple[Tensor, ...]]]:
    """Of each step and tensor: gradient, weights before and after it, flat."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(number):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        found.append(
            {
                name: tuple(x.flatten() for x in (p.grad, before[name], p.detach().clone()))
                for name, p in net.named_parameters()
            }
        )
    return found


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_traced_coordinates_equal_the_slow_twin(name: str, every: int, tmp_path: Path):
    """In float64: m and v carry some EPS each, where 1 - 0.999^t cancels some 1000."""
    make, betas = MAKERS[name]
    net = model()
    optimizer = make(net.parameters())
    with Scope(optimizer, net, tmp_path / "run", instruments="traces", every=every, beta=0.7) as scope:
        history = steps(net, optimizer, 7)
    told = {one["name"]: one["traced"] for one in json.loads((tmp_path / "run/run.json").read_text("utf-8"))["tensors"]}
    assert told["small"] == [0, 1, 2]
    assert len(set(told["large"])) == COORDINATES
    assert told["large"] == sorted(told["large"])
    assert max(told["large"]) < 1200
    rows = [row for row in scope.run.table().to_pylist() if row["layer"]]
    assert sorted({row["step"] for row in rows}) == [t for t in range(1, 8) if t == 1 or t % every == 0]
    for row in rows:
        t, layer = row["step"], row["layer"]
        for place in range(COORDINATES):
            found = {field: row[f"trace_{field}_{place}"] for field in FIELDS}
            if place >= len(told[layer]):
                assert all(math.isnan(value) for value in found.values())
                continue
            i = told[layer][place]
            samples = [float(step[layer][0][i]) for step in history[:t]]
            g, before, after = (float(x[i]) for x in history[t - 1][layer])
            expected = {
                "theta": before,
                "g": g,
                "m": math.fsum(w * x for w, x in zip(weights(betas[0], t), samples, strict=True)),
                "v": math.fsum(w * x * x for w, x in zip(weights(betas[1], t), samples, strict=True)),
                "update": after - before,
            }
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)  # recorded to 21 bits


def test_a_row_of_several_tensors_has_no_coordinates():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    optimizer = torch.optim.Adam(net.parameters())
    with Scope(optimizer, net, instruments=["traces", "grad_norm"], layers="module") as scope:
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    first, second = (row for row in scope.rows if row["layer"])
    assert math.isnan(first["trace_g_0"])
    assert math.isfinite(first["grad_norm"])
    assert second["trace_g_0"] == pytest.approx(float(net[1].weight.grad[0, 0]))
    assert second["trace_update_1"] == pytest.approx(-1e-3, rel=1e-3) or second["trace_g_1"] <= 0


def test_nobody_is_traced_unless_asked_for():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Scope(optimizer, net) as scope:
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert scope._observers[0]._traced is None
    assert not [name for row in scope.rows for name in row if name.startswith("trace_")]
