"""What changes from one step to the next, against slow twins, and on dynamics that are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepscope import Scope, optim
from stepscope.scope.series import ENOUGH, LAGS, SAMPLE, WINDOW, sample


def test_the_sample_is_fixed_within_the_tensor_and_without_repetition():
    for size in (1, 5, SAMPLE, SAMPLE + 1, 300, 10**7):
        found = sample(size, 3)
        assert len(set(found.tolist())) == len(found) == min(size, SAMPLE)
        assert found.min() >= 0
        assert found.max() < size
        assert np.array_equal(found, sample(size, 3))
    assert not np.array_equal(sample(10**7, 3), sample(10**7, 4))


def followed(
    make: Any, gradients: list[dict[str, Tensor]], dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    """Rows, and the updates of each tensor."""
    model = nn.Module()
    for name, g in gradients[0].items():
        model.register_parameter(name, nn.Parameter(torch.linspace(-1, 1, g.numel()).reshape(g.shape).to(dtype)))
    optimizer = make(model.parameters())
    updates: dict[str, list[np.ndarray]] = {name: [] for name in gradients[0]}
    with Scope(optimizer, model, instruments="series", **options) as scope:
        for step in gradients:
            old = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
            for name, p in model.named_parameters():
                p.grad = step[name].to(dtype)
            optimizer.step()
            for name, p in model.named_parameters():
                updates[name].append((p.detach().double().numpy() - old[name]).ravel())
    return [row for row in scope.rows if row["layer"]], updates


def twin(updates: list[np.ndarray], gs: list[np.ndarray], t: int, place: int) -> dict[str, float]:
    """Of step t (from 0), one coordinate and one lag after the other."""
    index = sample(updates[0].size, place)

    def flips(values: list[np.ndarray]) -> float:
        if t == 0:
            return math.nan
        pairs = [(values[t][i], values[t - 1][i]) for i in index]
        told = [a * b < 0 for a, b in pairs if a != 0 and b != 0]
        return sum(told) / len(told) if told else math.nan

    correlation = []
    for lag in range(LAGS + 1):
        steps = [s for s in range(max(0, t - WINDOW + 1), t + 1) if s >= lag]
        steps = steps if lag < 2 or t + 1 - lag >= ENOUGH else []
        products, newer, older = (
            math.fsum(float(a[s][i]) * float(b[s2][i]) for s, s2 in pairs for i in index)
            for a, b, pairs in (
                (updates, updates, [(s, s - lag) for s in steps]),
                (updates, updates, [(s, s) for s in steps]),
                (updates, updates, [(s - lag, s - lag) for s in steps]),
            )
        )
        correlation.append(products / math.sqrt(newer * older) if newer and older else math.nan)
    period = math.nan
    needed = min(0.9, max(0.5, 1 / math.sqrt(len(index))))
    told = [-1.0 if math.isnan(c) else c for c in correlation]
    for p in range(2, LAGS):
        if told[p] >= max(needed, told[p - 1], told[p + 1]) and min(told[1:p]) < 0:
            period = float(p)
            break
    return {
        "grad_sign_flips": flips(gs),
        "update_sign_flips": flips(updates),
        "update_autocorrelation": correlation[1],
        "update_period": period,
    }


MAKERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "our-msvag": lambda p: optim.MSVAG(p, lr=0.05),
    "our-sgd": lambda p: optim.SGD(p, lr=0.05),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_columns_equal_the_slow_twin(make: Any, dtype: torch.dtype):
    """Updates of 0.05 at weights of 1 are kept in float32: 1e-6 of them, and 1e-5 of a correlation of many."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (20, 30), "b": (7,), "one": (1,)}
    gradients = [
        {name: torch.randn(shape, generator=generator) + math.cos(t) for name, shape in shapes.items()}
        for t in range(40)
    ]
    for g in gradients[3:5]:
        g["b"][2:4] = 0
    rows, updates = followed(make, gradients, dtype)
    for row in rows:
        place, t = list(shapes).index(row["layer"]), row["step"] - 1
        gs = [g[row["layer"]].double().numpy().ravel() for g in gradients]
        for name, value in twin(updates[row["layer"]], gs, t, place).items():
            assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), (row["step"], name)


@pytest.mark.parametrize("period", [2, 3, 5, 8])
def test_the_period_of_an_update_is_found_in_noise(period: int):
    """SGD along gradients that repeat, with noise of a third of their size; a phase for each coordinate."""
    generator = torch.Generator().manual_seed(period)
    phase = 6.28 * torch.rand(400, generator=generator)
    gradients = [
        {"w": torch.cos(6.2832 * t / period + phase) + 0.25 * torch.randn(400, generator=generator)} for t in range(40)
    ]
    rows, _ = followed(MAKERS["sgd"], gradients)
    assert [row["update_period"] for row in rows[-8:]] == [period] * 8


def test_noise_and_steady_descent_have_no_period():
    """Of one coordinate and of many, 40 windows each: no false one among them (deterministic: the seed is fixed)."""
    for size in (1, 3, 400):
        generator = torch.Generator().manual_seed(size)
        noise = [{"w": torch.randn(size, generator=generator)} for _ in range(60)]
        steady = [{"w": 1 + 0.1 * g["w"]} for g in noise]
        for gradients in (noise, steady):
            rows, _ = followed(MAKERS["sgd"], gradients)
            assert all(math.isnan(row["update_period"]) for row in rows)
    assert rows[-1]["update_autocorrelation"] > 0.9


@pytest.mark.parametrize(("lr", "flips"), [(0.9, 0.0), (1.9, 1.0)])
def test_gradient_descent_on_a_quadratic_flips_above_half_its_limit(lr: float, flips: float):
    """theta <- (1 - lr) theta for a curvature of 1: each gradient is 1 - lr times the one before."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with Scope(optimizer, model, instruments="series") as scope:
        for _ in range(20):
            optimizer.zero_grad()
            model.weight.square().sum().div(2).backward()
            optimizer.step()
    row = [row for row in scope.rows if row["layer"]][-1]
    assert row["grad_sign_flips"] == row["update_sign_flips"] == flips
    assert row["update_autocorrelation"] == pytest.approx(1 - 2 * flips, abs=1e-5)
    assert row["update_period"] == pytest.approx(2.0 if flips else math.nan, nan_ok=True)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_recorded_step_is_compared_with_the_step_before_whatever_the_schedule(make: Any):
    generator = torch.Generator().manual_seed(0)
    gradients = [{"w": torch.randn(50, generator=generator)} for _ in range(24)]
    all_rows, _ = followed(make, gradients)
    some, _ = followed(make, gradients, every=6)
    assert [row["step"] for row in some] == [1, 6, 12, 18, 24]
    assert str(some) == str([row for row in all_rows if row["step"] in (1, 6, 12, 18, 24)])


def test_a_layer_is_followed_as_the_one_tensor_it_could_be():
    """All coordinates are in the samples."""
    generator = torch.Generator().manual_seed(0)
    gradients = [{"a.x": torch.randn(50, generator=generator), "a.y": torch.randn(30, generator=generator)}]
    gradients += [{name: 0.5 * g + torch.randn(g.shape, generator=generator) for name, g in gradients[0].items()}] * 9
    ps = [nn.Parameter(torch.linspace(-1, 1, g.numel())) for g in gradients[0].values()]
    whole = nn.Parameter(torch.cat([p.detach() for p in ps]))
    parts, one = torch.optim.SGD(ps, lr=0.1), torch.optim.SGD([whole], lr=0.1)
    with Scope(parts, instruments="series", layers=0) as scope, Scope(one, instruments="series") as reference:
        for step in gradients:
            for p, g in zip(ps, step.values(), strict=True):
                p.grad = g
            whole.grad = torch.cat(list(step.values()))
            parts.step()
            one.step()
    for row, expected in zip(scope.rows, reference.rows, strict=True):
        for name in row.keys() - {"layer"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name


def test_tensors_that_come_and_change_start_anew():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with Scope(optimizer, instruments="series") as scope:
        for t in range(6):
            if t == 2:
                optimizer.add_param_group({"params": [q]})
            if t == 4:
                p.data = torch.ones(5)
            p.grad, q.grad = torch.ones_like(p) * (-1) ** t, torch.ones(4)
            optimizer.step()
    flips = [row["grad_sign_flips"] for row in scope.rows if row["layer"] == "parameter.0"]
    assert [math.isnan(value) for value in flips] == [True, False, True, False, True, False]
    assert flips[1] == flips[3] == flips[5] == 1


def test_steps_that_loss_scaling_skips_are_no_steps():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.Adam([p], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    with Scope(optimizer, instruments="series") as scope:
        for factor in (1.0, math.inf, 3.0, -3.0):
            optimizer.zero_grad()
            scaler.scale((p * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    rows = [row for row in scope.rows if row["layer"]]
    assert [row["step"] for row in rows] == [1, 3, 4]
    assert [str(row["grad_sign_flips"]) for row in rows] == ["nan", "nan", "1.0"]
