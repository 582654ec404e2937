"""Hessian instruments against Hessians that are known, and limits of stability against the dynamics themselves."""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepscope import Scope, optim
from stepscope.scope.curvature import COLUMNS, Sight, measure, sight
from stepscope.theory.quadratic import p_diag


def quadratic(n: int = 12, seed: int = 0) -> tuple[list[nn.Parameter], Callable[[], Tensor], np.ndarray]:
    """A quadratic in two tensors, and its Hessian, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    h = (a + a.mT) / 2 + torch.diag(torch.linspace(-1, 5, n, dtype=torch.float64))
    params = [nn.Parameter(torch.randn(k, generator=generator, dtype=torch.float64)) for k in (5, n - 5)]

    def loss() -> Tensor:
        x = torch.cat(list(params))
        return x @ h @ x / 2

    return params, loss, h.numpy()


def test_all_numbers_of_a_known_hessian():
    """As many iterations and rows as coordinates are exact; the trace is a mean over random signs."""
    params, loss, h = quadratic()
    scales = [torch.linspace(0.5, 2, p.numel(), dtype=torch.float64) for p in params]
    sights = [(p, Sight(s, 8.0)) for p, s in zip(params, scales, strict=True)]
    found = measure(loss, sights, None, seed=1, iterations=12, probes=12)
    root = np.diag(np.sqrt(torch.cat(scales).numpy()))
    assert set(found) == set(COLUMNS)
    assert found["hessian_largest"] == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-6)
    seen = np.linalg.eigvalsh(root @ h @ root)[-1]
    assert found["hessian_preconditioned_largest"] == pytest.approx(seen, rel=1e-6)
    assert found["stability_limit"] == 8
    assert found["stability_ratio"] == pytest.approx(seen / 8, rel=1e-6)
    assert found["hessian_diagonal_share"] == pytest.approx(float(p_diag(h)), rel=1e-9)


def test_the_trace_is_unbiased():
    """z H z has the variance 2 sum over i != j of h_ij^2; 5 standard errors of the mean of 500, the seed is fixed."""
    params, loss, h = quadratic(seed=1)
    found = measure(loss, [(p, Sight(None, math.nan)) for p in params], None, seed=2, iterations=1, probes=500)
    error = math.sqrt(2 * (np.sum(h**2) - np.sum(np.diag(h) ** 2)) / 500)
    assert abs(found["hessian_trace"] - np.trace(h)) < 5 * error
    assert "stability_ratio" not in found


def net() -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.randn(32, 4, dtype=torch.float64)
    y = torch.randn(32, 1, dtype=torch.float64)
    return model, lambda: nn.functional.mse_loss(model(x), y)


def test_a_network_s_hessian_is_that_of_torch_func():
    model, loss = net()
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]
    x = torch.cat([p.detach().flatten() for p in params.values()])

    def at(flat: Tensor) -> Tensor:
        for p, part in zip(params.values(), torch.split(flat.detach(), sizes), strict=True):
            p.data = part.view_as(p)
        return loss()

    def gradient(flat: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(at(flat), list(params.values()))])

    eps = 1e-6  # central differences of the gradient: errors of 1e-12 from the third derivative, of 1e-10 from rounding
    rows = [(gradient(x + eps * e) - gradient(x - eps * e)) / (2 * eps) for e in torch.eye(len(x), dtype=torch.float64)]
    at(x)
    h = torch.stack(rows).numpy()
    found = measure(
        loss, [(p, Sight(None, math.nan)) for p in params.values()], model, seed=0, iterations=37, probes=37
    )
    assert found["hessian_largest"] == pytest.approx(np.linalg.eigvalsh((h + h.T) / 2)[-1], rel=1e-6)
    assert found["hessian_diagonal_share"] == pytest.approx(float(p_diag((h + h.T) / 2)), rel=1e-5)


# --- limits of stability ----------------------------------------------------------------------------------------------

LIMITED: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "heavy ball": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8),
    "damped": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, dampening=0.5),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True),
    "our sgd": lambda p, lr: optim.SGD(p, lr=lr),
    "our m-sgd": lambda p, lr: optim.MSGD(p, lr=lr, beta=0.8),
}


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize(("ratio", "grows"), [(0.98, False), (1.02, True)])
def test_a_step_size_at_the_limit_is_where_the_distance_begins_to_grow(name: str, ratio: float, grows: bool):
    """On a parabola of curvature 3. The dynamics are linear: after 4000 steps they have decayed or exploded."""
    p = nn.Parameter(torch.ones(1, dtype=torch.float64))
    probe = LIMITED[name]([p], 1.0)
    lr = ratio * sight(probe, probe.param_groups[0], p).limit / 3
    optimizer = LIMITED[name]([p], lr)
    with Scope(optimizer) as scope:
        for t in range(1000):
            optimizer.zero_grad()
            loss = 1.5 * p.square().sum()
            loss.backward()
            if t == 5:
                scope.curvature(lambda: 1.5 * p.square().sum())
            optimizer.step()
            if not abs(p.item()) < 1e100:
                break
    (row,) = (row for row in scope.rows if "stability_ratio" in row)
    assert row["step"] == 6
    assert row["stability_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert row["hessian_largest"] == pytest.approx(3, rel=1e-9)
    assert (abs(p.item()) > 10) is grows


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, optim.Adam], ids=["adam", "adamw", "our-adam"])
@pytest.mark.parametrize(("lr", "beyond"), [(0.5, False), (50.0, True)])
def test_adam_sees_the_hessian_through_its_preconditioner(make: Any, lr: float, beyond: bool):
    """Against sqrt(v) from its definition: a weighted mean of squares."""
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    h = torch.tensor([3.0, 0.5], dtype=torch.float64)
    optimizer = make([p], lr=1e-3, betas=(0.8, 0.9), eps=1e-3)
    history = []
    for _ in range(4):
        p.grad = h * p.detach()
        history.append(p.grad.clone())
        optimizer.step()
    optimizer.param_groups[0]["lr"] = lr
    weights = torch.tensor([0.9 ** (3 - i) for i in range(4)], dtype=torch.float64)
    v = (weights[:, None] * torch.stack(history) ** 2).sum(0) / weights.sum()
    expected = float((h / (v.sqrt() + 1e-3)).max())
    seen = sight(optimizer, optimizer.param_groups[0], p)
    found = measure(lambda: (h * p**2).sum() / 2, [(p, seen)], None, seed=0)
    assert found["hessian_preconditioned_largest"] == pytest.approx(expected, rel=1e-9)
    assert found["stability_limit"] == pytest.approx(3.6 / (0.2 * lr))
    assert (found["stability_ratio"] > 1) is beyond


def test_groups_have_limits_of_their_own():
    p, q = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.1)
    sights = [(x, sight(optimizer, group, x)) for group in optimizer.param_groups for x in group["params"]]
    found = measure(lambda: (p**2 + q**2).sum() / 2, sights, None, seed=0)
    assert found["stability_ratio"] == pytest.approx(0.25)
    assert "stability_limit" not in found


def test_nothing_is_said_of_optimizers_whose_limit_is_not_known():
    p = nn.Parameter(torch.ones(2))
    for make in (torch.optim.Adagrad, torch.optim.Rprop, optim.MSVAG):
        optimizer = make([p], lr=0.1)
        assert math.isnan(sight(optimizer, optimizer.param_groups[0], p).limit)


def test_the_edge_of_stability_raises_its_alarm():
    p = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([p], lr=2.2)
    with Scope(optimizer) as scope:
        for _ in range(4):
            optimizer.zero_grad()
            (p**2).sum().div(2).backward()
            scope.curvature(lambda: (p**2).sum() / 2)
            optimizer.step()
    (alarm,) = (alarm for alarm in scope.alarms if alarm.id == "edge_of_stability")
    assert (alarm.step, alarm.layer) == (3, "")
    assert alarm.evidence["stability_ratio"] == pytest.approx(1.1)


# --- no trace in the run ----------------------------------------------------------------------------------------------


class Restless(nn.Module):
    """Draws from three generators, and has running averages, attention and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, 2)
        self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)) + random.random() * float(np.random.rand())  # noqa: NPY002 - user's code
        return self.head(self.attention(x[None])[0])


@pytest.mark.parametrize("what", ["curvature", "noise", "chunk"])
def test_a_measurement_on_demand_changes_no_bit_of_the_run(what: str):
    def trained(asks: bool) -> Any:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what must stay
        model = Restless()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        with Scope(optimizer, model) as scope:
            for _ in range(6):
                x, y = torch.randn(12, 8), torch.randint(2, (12,))

                def loss(x: Tensor = x, y: Tensor = y) -> Tensor:
                    return nn.functional.cross_entropy(model(x), y)

                optimizer.zero_grad()
                for half in (slice(0, 6), slice(6, 12)):
                    (loss(x[half], y[half]) / 2).backward()
                    if asks and what == "chunk":
                        scope.chunk(6)
                if asks and what == "curvature":
                    scope.curvature(loss, every=2, iterations=4, probes=2)
                if asks and what == "noise":
                    scope.noise(loss, x, y, parts=3, every=2)
                optimizer.step()
        steps = [row["step"] for row in scope.rows if not row["layer"] and len(row) > 3]
        assert steps == ([] if not asks else [1, 2, 3, 4, 5, 6] if what == "chunk" else [1, 2, 4, 6])
        state = copy.deepcopy(model.state_dict())
        streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        return state, [p.grad for p in model.parameters()], streams

    (state, grads, streams), (other, other_grads, other_streams) = trained(False), trained(True)
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert all(a is b or torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    assert torch.equal(streams[0], other_streams[0])
    assert streams[1:] == other_streams[1:]


def test_a_loss_that_fails_is_reported_and_training_goes_on(caplog: pytest.LogCaptureFixture):
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with Scope(optimizer) as scope:
        p.grad = torch.ones(2)
        scope.curvature(lambda: 1 / 0)
        optimizer.step()
    assert scope.steps == 1
    assert "ZeroDivisionError" in caplog.text
