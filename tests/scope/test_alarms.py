"""Alarms both ways: healthy trainings raise none, and each fault the right one, soon."""

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.optimizer import Optimizer

from stepscope import Scope, optim
from stepscope.scope import ALARMS, Alarm
from stepscope.scope.alarms import CALM, FURTHER, Alarms
from stepscope.scope.rows import Table, Taken

WATCHED = ("default", "series")  # every rule has its columns, but those of clipping and curvature
Loss = Callable[[], Tensor]


def train(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    steps: int,
    after: Callable[[int], None] | None = None,
    **scope: Any,
) -> list[Alarm]:
    """The alarms of a training; `after(step)` is called between backward and the step."""
    with Scope(optimizer, model, **{"instruments": WATCHED, **scope}) as watching:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            if after:
                after(step)
            optimizer.step()
            watching.note(loss=value.item())
    assert watching.steps == steps
    return watching.alarms


# --- healthy ----------------------------------------------------------------------------------------------------------


def batches(generator: torch.Generator, *shape: int, classes: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs around a point for each class, in noise."""
    centres = torch.randn(classes, *shape, generator=generator)
    while True:
        y = torch.randint(classes, (32,), generator=generator)
        yield centres[y] + torch.randn(32, *shape, generator=generator), y


def classifier(model: nn.Module, optimizer: Optimizer, seed: int, *shape: int) -> tuple[nn.Module, Optimizer, Loss]:
    data = batches(torch.Generator().manual_seed(seed), *shape)

    def loss() -> Tensor:
        x, y = next(data)
        return cross_entropy(model(x), y)

    return model, optimizer, loss


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def perceptron(make: Callable[[Any], Optimizer], seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model = mlp(20, 32, 16, 4)
    return classifier(model, make(model.parameters()), seed, 20)


def convolutional(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 4)),
    )
    return classifier(model, torch.optim.AdamW(model.parameters(), lr=1e-3), seed, 1, 8, 8)


class Language(nn.Module):
    """A transformer with LayerNorm, and an output that shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(x)))


def transformer(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model, generator = Language(), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        start = torch.randint(24, (16, 1), generator=generator)
        x = (start + torch.arange(9)) % 24
        return cross_entropy(model(x[:, :-1]).transpose(1, 2), x[:, 1:])

    return model, torch.optim.Adam(model.parameters(), lr=1e-3), loss


class Recurrent(nn.Module):
    """An LSTM with a scale that is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head, self.scale = (
            nn.LSTM(4, 12, batch_first=True),
            nn.Linear(12, 4),
            nn.Parameter(torch.ones(1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.cells(x)[0][:, -1])


def recurrent(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model = Recurrent()
    return classifier(model, torch.optim.RMSprop(model.parameters(), lr=1e-3), seed, 6, 4)


class Residual(nn.Module):
    """Blocks around the identity; the first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 16)
        self.first.requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(4))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def residual(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model = Residual()
    return classifier(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4), seed, 20)


def full_batch(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    """Linear regression without noise, well below the limit of stability."""
    model, generator = nn.Linear(8, 1), torch.Generator().manual_seed(seed)
    x = torch.randn(64, 8, generator=generator)
    y = x @ torch.randn(8, 1, generator=generator) + 0.1 * torch.randn(64, 1, generator=generator)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), lambda: mse_loss(model(x), y)


def autocast(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain()

    return model, optimizer, loss


def annealed(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    """A cosine to 0, stepped where the loss is computed."""
    model, optimizer, plain = perceptron(lambda p: optim.Adam(p, lr=3e-3), seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)

    def loss() -> Tensor:
        if optimizer.state:
            schedule.step()
        return plain()

    return model, optimizer, loss


def converged(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    """Noise-free regression to the very end: the gradient dies away, and with it the steps, at a learning rate that
    stays. Each step takes a quarter of the way: from step 55 on less than 1e-7 of the weights."""
    model, generator = nn.Linear(8, 8), torch.Generator().manual_seed(seed)
    x = torch.linalg.qr(torch.randn(64, 8, generator=generator, dtype=torch.double))[0] * 8
    y = x @ torch.randn(8, 8, generator=generator, dtype=torch.double)
    model = model.double()
    return model, torch.optim.SGD(model.parameters(), lr=1.0), lambda: mse_loss(model(x), y)


def annealed_long(seed: int) -> tuple[nn.Module, Optimizer, Loss]:
    """A learning rate that ends in steps of a billionth of the weights, as a cosine's last steps of many do."""
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-2), seed)

    def loss() -> Tensor:
        optimizer.param_groups[0]["lr"] *= 0.75
        return plain()

    return model, optimizer, loss


HEALTHY: dict[str, Callable[[int], tuple[nn.Module, Optimizer, Loss]]] = {
    "perceptron-adam": lambda seed: perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed),
    "perceptron-momentum": lambda seed: perceptron(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), seed),
    "perceptron-nadam": lambda seed: perceptron(lambda p: torch.optim.NAdam(p, lr=2e-3), seed),
    "perceptron-adagrad": lambda seed: perceptron(lambda p: torch.optim.Adagrad(p, lr=1e-2), seed),
    "perceptron-msvag": lambda seed: perceptron(lambda p: optim.MSVAG(p, lr=0.1), seed),
    "perceptron-our-sgd": lambda seed: perceptron(lambda p: optim.SGD(p, lr=0.1), seed),
    "annealed": annealed,
    "autocast": autocast,
    "batch-norm": convolutional,
    "transformer": transformer,
    "lstm": recurrent,
    "residual-frozen": residual,
    "full-batch": full_batch,
    "converged": converged,
    "annealed-long": annealed_long,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_raises_no_alarm(name: str, seed: int):
    torch.manual_seed(seed)
    model, optimizer, loss = HEALTHY[name](seed)
    assert [str(alarm) for alarm in train(model, optimizer, loss, 80)] == []


# --- faults -----------------------------------------------------------------------------------------------------------
# Each returns the alarms of a training with one thing wrong.


def too_large(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.Adam(p, lr=1.0), seed), 5)


def too_small(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.Adam(p, lr=1e-10), seed), 25)


def lost_in_16_bits(seed: int) -> list[Alarm]:
    """A step of 1e-5 is no change of a bfloat16 weight of 0.1."""
    model = mlp(20, 32, 4).bfloat16()
    data = batches(torch.Generator().manual_seed(seed), 20)

    def loss() -> Tensor:
        x, y = next(data)
        return cross_entropy(model(x.bfloat16()), y)

    for p in model.parameters():
        p.data = p.data.sign() * p.data.abs().clamp(min=0.05)
    return train(model, torch.optim.Adam(model.parameters(), lr=1e-5), loss, 25)


def explosion(seed: int) -> list[Alarm]:
    """A quadratic far above its limit of stability: doubling each step until float32 ends."""
    model = nn.Linear(4, 4, bias=False)
    return train(model, torch.optim.SGD(model.parameters(), lr=3.0), lambda: model.weight.square().sum() / 2, 160)


def nan_in_the_data(seed: int) -> list[Alarm]:
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed)
    count = iter(range(100))
    return train(model, optimizer, lambda: plain() * (math.nan if next(count) == 11 else 1.0), 12)


def infinite_gradient(seed: int) -> list[Alarm]:
    model, optimizer, loss = perceptron(lambda p: optim.MSVAG(p, lr=0.05), seed)

    def after(step: int) -> None:
        if step == 12:
            model[2].weight.grad[0, 0] = math.inf

    return train(model, optimizer, loss, 12, after)


def dead_units(seed: int) -> list[Alarm]:
    model, optimizer, loss = perceptron(lambda p: torch.optim.SGD(p, lr=0.05), seed)
    nn.init.constant_(model[0].bias, -1e3)
    return train(model, optimizer, loss, 20)


def cut_graph(seed: int) -> list[Alarm]:
    model, optimizer, loss = perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed)
    return train(model, optimizer, loss, 20, lambda step: model[0].weight.grad.zero_())


def large_epsilon(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.Adam(p, lr=1e-2, eps=1.0), seed), 20)


def tiny_loss(seed: int) -> list[Alarm]:
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed)
    return train(model, optimizer, lambda: 1e-9 * plain(), 20)


def schedule_at_zero(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.SGD(p, lr=0.0), seed), 20)


def large_decay(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=30.0), seed), 20)


def large_decoupled_decay(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=300.0), seed), 20)


def clipped_to_nothing(seed: int) -> list[Alarm]:
    model, optimizer, loss = perceptron(lambda p: torch.optim.SGD(p, lr=0.1), seed)

    def after(step: int) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 1e-5)

    return train(model, optimizer, loss, 20, after, clip_value=1e-5)


def saturation(seed: int) -> list[Alarm]:
    """Twelve sigmoids one after the other: each takes a factor of less than a quarter."""
    model = mlp(20, *[16] * 12, 4, activation=nn.Sigmoid)
    return train(*classifier(model, torch.optim.SGD(model.parameters(), lr=0.01), seed, 20), 12)


def growing_gradient(seed: int) -> list[Alarm]:
    """A loss that is scaled up twofold at each step, and a second moment that follows slowly."""
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-4, betas=(0.5, 0.999)), seed)
    count = iter(range(100))
    return train(model, optimizer, lambda: 2.0 ** next(count) * plain(), 20)


def outlier(seed: int) -> list[Alarm]:
    model, optimizer, plain = perceptron(lambda p: torch.optim.Adam(p, lr=1e-3), seed)
    count = iter(range(100))
    return train(model, optimizer, lambda: plain() * (1e4 if next(count) == 29 else 1.0), 30)


def limit_of_stability(seed: int) -> list[Alarm]:
    """A quadratic of curvature 1 and a step size of 1.95."""
    model = nn.Linear(8, 8, bias=False)
    return train(model, torch.optim.SGD(model.parameters(), lr=1.95), lambda: model.weight.square().sum() / 2, 15)


def wrong_sign(seed: int) -> list[Alarm]:
    return train(*perceptron(lambda p: torch.optim.SGD(p, lr=0.05, maximize=True), seed), 40)


FAULTS: dict[str, tuple[Callable[[int], list[Alarm]], str, int]] = {
    "too large a learning rate": (too_large, "update_too_large", 3),
    "too small a learning rate": (too_small, "update_too_small", 21),
    "updates lost in 16 bits": (lost_in_16_bits, "update_too_small", 21),
    "explosion": (explosion, "loss_not_finite", 140),
    "a NaN in the data": (nan_in_the_data, "loss_not_finite", 12),
    "a NaN in the data, seen by the gradient": (nan_in_the_data, "not_finite", 12),
    "an infinite gradient": (infinite_gradient, "not_finite", 12),
    "dead units": (dead_units, "dead_tensor", 20),
    "a cut graph": (cut_graph, "dead_tensor", 20),
    "too large an epsilon": (large_epsilon, "epsilon_dominated", 20),
    "too small a loss": (tiny_loss, "epsilon_dominated", 20),
    "a schedule at zero": (schedule_at_zero, "learning_rate_zero", 20),
    "too much weight decay": (large_decay, "decay_dominates", 20),
    "too much decoupled decay": (large_decoupled_decay, "decay_dominates", 20),
    "clipped to nothing": (clipped_to_nothing, "clipped_always", 20),
    "saturation": (saturation, "gradient_vanishes", 12),
    "a gradient that grows": (growing_gradient, "variance_negative", 20),
    "an outlier": (outlier, "gradient_jump", 30),
    "the limit of stability": (limit_of_stability, "oscillation", 12),
    "a wrong sign": (wrong_sign, "loss_diverges", 40),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_the_right_alarm_soon(name: str, seed: int):
    torch.manual_seed(seed)
    run, expected, soon = FAULTS[name]
    alarms = run(seed)
    found = [alarm for alarm in alarms if alarm.id == expected]
    assert found, [str(alarm) for alarm in alarms]
    assert found[0].step <= soon
    assert found[0].text.endswith(".")
    assert found[0].helps.endswith(".")
    assert "{" not in str(found[0])


def test_every_rule_has_a_fault():
    tested = {expected for _, expected, _ in FAULTS.values()}
    assert {rule.id for rule in (*ALARMS, *FURTHER)} - tested == {
        "edge_of_stability"
    }  # which needs curvature: test_curvature.py


# --- how they are delivered -------------------------------------------------------------------------------------------


def test_an_alarm_is_logged_told_kept_and_an_event_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    told: list[Alarm] = []
    torch.manual_seed(0)
    model, optimizer, loss = perceptron(lambda p: torch.optim.SGD(p, lr=0.0), 0)
    with (
        caplog.at_level(logging.WARNING, "stepscope.alarms"),
        Scope(optimizer, model, tmp_path / "run", alarms=told.append) as scope,
    ):
        for _ in range(30):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert scope.alarms == told
    zero = [alarm for alarm in told if alarm.id == "learning_rate_zero"]
    assert [alarm.layer for alarm in zero] == [name for name, _ in model.named_parameters()]  # once each
    assert {alarm.step for alarm in zero} == {20}
    assert zero[0].evidence["lr"] == zero[0].evidence["threshold"] == 0
    assert zero[0].evidence["grad_norm"] > 0
    assert "learning_rate_zero: step 20: 0.weight: the learning rate is 0" in caplog.text
    events = [event for event in scope.run.events if event["kind"] == "alarm"]
    assert [(e["alarm"], e["step"], e["layer"]) for e in events] == [(a.id, a.step, a.layer) for a in told]
    assert events[0]["text"] == told[0].text
    assert events[0]["helps"] == told[0].helps


def test_alarms_can_be_off(caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    assert train(*perceptron(lambda p: torch.optim.Adam(p, lr=1.0), 0), 5, alarms=False) == []
    assert not caplog.records


def test_a_callback_that_fails_disturbs_nothing(caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    model, optimizer, loss = perceptron(lambda p: torch.optim.Adam(p, lr=1.0), 0)
    with Scope(optimizer, model, alarms=lambda alarm: 1 / 0) as scope:
        for _ in range(5):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert scope.steps == 5
    assert len([record for record in caplog.records if record.name == "stepscope.scope"]) == 1
    assert scope.alarms


def judge(alarms: Alarms, column: str, steps: dict[int, dict[str, float]]) -> list[Alarm]:
    """Show them a column of the layers of some steps."""
    layers = tuple(next(iter(steps.values())))
    values = np.array([[row[layer] for layer in layers] for row in steps.values()])
    table = Table(np.array([*steps], np.int64), layers, (column,), values[:, :, None], {})
    return alarms.taken(Taken([table], [], []))


def test_how_many_steps_are_judged_at_once_changes_no_alarm():
    """Norms with jumps, zeros and infinities, against a plain loop that averages the logarithms of the last 50."""
    dice = np.random.default_rng(0)
    norms = np.exp(dice.normal(size=(900, 3))) * np.where(dice.uniform(size=(900, 3)) < 0.01, 1e4, 1.0)
    norms[dice.uniform(size=norms.shape) < 0.02], norms[7, 1] = 0.0, math.inf
    rows = {step + 1: dict(zip("abc", row, strict=True)) for step, row in enumerate(norms.tolist())}
    expected = []
    for layer in "abc":
        usual, count, calm = 0.0, 0, CALM
        for step, row in rows.items():
            there = 0 < row[layer] < math.inf
            ratio = row[layer] / math.exp(usual) if there and count >= 10 else 0.0
            if there:
                usual, count = usual + (math.log(row[layer]) - usual) / min(count + 1, 50), count + 1
            if ratio > 100 and calm >= CALM:
                expected.append((step, layer))
            calm = 0 if ratio > 100 else calm + 1
    assert len(expected) > 6
    for size in (1, 7, 900):
        alarms = Alarms()
        for first in range(0, 900, size):
            judge(alarms, "grad_norm", dict([*rows.items()][first : first + size]))
        assert [(alarm.step, alarm.layer) for alarm in alarms.raised] == sorted(expected)
        assert {alarm.id for alarm in alarms.raised} == {"gradient_jump"}
        assert all(alarm.evidence["ratio"] > 100 for alarm in alarms.raised)


def test_an_alarm_is_raised_again_only_after_a_calm():
    alarms = Alarms()
    judge(alarms, "nonfinite_share", {step: {"a": 0.5 * (step % 2)} for step in range(1, 20)})
    assert [alarm.step for alarm in alarms.raised] == [1]
    judge(alarms, "nonfinite_share", {step: {"a": 0.0} for step in range(20, 20 + CALM)})
    judge(alarms, "nonfinite_share", {1000: {"a": 0.5, "b": 0.5}})
    assert [(alarm.step, alarm.layer) for alarm in alarms.raised] == [(1, "a"), (1000, "a"), (1000, "b")]


def test_rules_without_their_columns_keep_silent():
    torch.manual_seed(0)
    assert train(*perceptron(lambda p: torch.optim.Adam(p, lr=1.0), 0), 5, instruments="spread_median") == []
