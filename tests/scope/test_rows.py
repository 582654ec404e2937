"""Rows by tensor, layer and block, of chosen tensors and several optimizers; and when they are written."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepscope import Scope, optim
from stepscope.scope import rows as module
from stepscope.scope.rows import label


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.head = nn.Linear(2, 1)
    return model


def step(model: nn.Module, *optimizers: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()


def layers(scope: Scope) -> list[dict[str, Any]]:
    return [row for row in scope.rows if row["layer"]]


@pytest.mark.parametrize(
    ("layers_", "names"),
    [
        ("module", ["encoder.0", "encoder.1", "head"]),
        (1, ["encoder", "head"]),
        (0, ["model"]),
        (lambda name: "biases" if name.endswith("bias") else "weights", ["weights", "biases"]),
    ],
    ids=["module", "1", "0", "function"],
)
@pytest.mark.parametrize("make", [torch.optim.Adam, optim.MSVAG, torch.optim.SGD], ids=lambda m: m.__module__)
def test_a_layer_is_measured_as_the_one_tensor_it_could_be(make: Any, layers_: Any, names: list[str]):
    """Against a tensor with all numbers of the layer. Float32 sums in another order: 1e-5; counts are the same."""
    model = net()
    optimizer = make(model.parameters(), lr=0.1)
    named = label(layers_)
    flat: dict[str, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        flat.setdefault(named(name), []).append(p)
    together = {name: nn.Parameter(torch.cat([p.detach().flatten() for p in ps])) for name, ps in flat.items()}
    other = make(together.values(), lr=0.1)
    with Scope(optimizer, model, layers=layers_) as scope, Scope(other) as reference:
        for seed in range(3):
            step(model, optimizer, seed=seed)
            for name, p in together.items():
                p.grad = torch.cat([q.grad.flatten() for q in flat[name]])
            other.step()
    assert [row["layer"] for row in layers(scope)][: len(names)] == names
    for row, expected in zip(layers(scope), layers(reference), strict=True):
        for name in row.keys() - {"layer"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-9, nan_ok=True), name


def test_a_large_tensor_counts_for_all_its_coordinates_in_a_layer():
    """A twelfth of the blocks of the large one is sampled, a fourth of the small one's; they hold 1 and 0."""
    large, small = nn.Parameter(torch.ones(98_304)), nn.Parameter(torch.ones(98_304 // 3))
    optimizer = torch.optim.SGD([large, small], lr=0.5)
    with Scope(optimizer, layers=0) as scope:
        large.grad, small.grad = torch.ones(98_304), torch.zeros(98_304 // 3)
        optimizer.step()
    (row,) = layers(scope)
    assert row["grad_abs_mean"] == pytest.approx(0.75, rel=1e-12)
    assert row["grad_norm"] == pytest.approx(math.sqrt(98_304))
    assert row["momentum_abs_mean"] == pytest.approx(0.75, rel=1e-12)


def test_what_differs_within_a_layer_has_no_value():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.1)
    with Scope(optimizer, layers=0) as scope:
        p.grad, q.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
    (row,) = layers(scope)
    assert math.isnan(row["lr"])
    assert math.isnan(row["update_abs_mean_per_lr"])
    assert row["update_norm"] == pytest.approx(math.sqrt(2 * 0.1**2 + 2 * 0.5**2))


def test_a_wrong_layer_is_refused():
    for wrong in ("block", -1, None):
        with pytest.raises(ValueError, match='layers must be "tensor", "module", a number'):
            Scope(torch.optim.SGD(net().parameters(), lr=0.1), layers=wrong)


# --- which tensors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.SGD, optim.MSVAG, optim.SGD], ids=["adam", "sgd", "our-msvag", "our-sgd"]
)
def test_only_the_tensors_asked_for_are_measured_and_averaged(make: Any):
    model = net()
    for options, expected in (
        ({"include": "encoder.*"}, ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"]),
        (
            {"include": ["encoder.*", "head.*"], "exclude": "*.bias"},
            ["encoder.0.weight", "encoder.1.weight", "head.weight"],
        ),
        ({"exclude": ["encoder.*", "*.bias"]}, ["head.weight"]),
    ):
        optimizer = make(model.parameters(), lr=0.01)
        with Scope(optimizer, model, **options) as chosen, Scope(torch.optim.SGD(model.parameters(), lr=0.1), model):
            for seed in range(2):
                step(model, optimizer, seed=seed)
            observer = chosen._observers[0]
            kept = [*observer._averages, *observer._shadow.averages()]
            names = [name for name, p in model.named_parameters() if any(p is q for q in kept)]
            assert names in ([], expected)
        assert [row["layer"] for row in layers(chosen)] == 2 * expected


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, optim.MSVAG, optim.SGD])
def test_leaving_tensors_out_changes_no_bit_and_no_other_row(make: Any):
    def trained(**options: Any) -> tuple[list[Tensor], list[dict[str, Any]]]:
        model = net()
        optimizer = make(model.parameters(), lr=0.01)
        with Scope(optimizer, model, **options) as scope:
            for seed in range(4):
                step(model, optimizer, seed=seed)
        return [p.detach() for p in model.parameters()], layers(scope)

    (one, rows), (other, some) = trained(), trained(include="head.*")
    assert all(map(torch.equal, one, other))
    assert str([row for row in rows if row["layer"].startswith("head")]) == str(some)


# --- several optimizers -----------------------------------------------------------------------------------------------


def test_several_optimizers_are_one_run():
    model = net()
    one = torch.optim.Adam(model.encoder.parameters(), lr=0.01)
    two = optim.MSVAG(model.head.parameters(), lr=0.5)
    with Scope([one, two], model) as scope:
        for seed in range(3):
            step(model, one, two, seed=seed)
            scope.note(loss=seed)
    assert scope.steps == 3
    names = [name for name, _ in model.named_parameters()]
    assert [(row["step"], row["layer"]) for row in layers(scope)] == [(t, n) for t in (1, 2, 3) for n in names]
    assert [row for row in scope.rows if not row["layer"]] == [
        {"step": t, "layer": "", "lr": 0.01, "lr[1]": 0.5, "loss": t - 1.0} for t in (1, 2, 3)
    ]
    for optimizer in (one, two):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks


def test_each_optimizer_counts_its_own_steps():
    """As a critic that is trained three times as often as its generator."""
    model = net()
    often = torch.optim.SGD(model.encoder.parameters(), lr=0.01)
    rarely = torch.optim.SGD(model.head.parameters(), lr=0.5)
    with Scope([often, rarely], model, every=2, layers="module") as scope:
        for seed in range(6):
            step(model, *([often, rarely] if seed % 3 == 2 else [often]), seed=seed)
    assert [(row["step"], row["layer"]) for row in layers(scope)] == [
        *((t, f"encoder.{i}") for t in (1, 2) for i in (0, 1)),
        (1, "head"),
        *((t, f"encoder.{i}") for t in (4, 6) for i in (0, 1)),
        (2, "head"),
    ]
    scope.steps = 100
    assert [observer.steps for observer in scope._observers] == [100, 100]


# --- when they are written --------------------------------------------------------------------------------------------


class Log:
    """A sink that knows how many rows it had after each step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str]] = []

    def write(self, step: int, layer: str, values: Any) -> None:
        self.rows.append((step, layer))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        raise AssertionError("not ours to close")


@pytest.mark.parametrize("clock", [lambda now: now + 1.0, lambda now: now], ids=["slow", "fast"])
def test_rows_of_slow_steps_are_written_at_once_and_of_fast_ones_many_together(
    clock: Callable[[float], float], monkeypatch: pytest.MonkeyPatch
):
    now = 1e6
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "MOST", 20)
    model, log = net(), Log()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    written = []
    with Scope(optimizer, model, log) as scope:
        for seed in range(8):
            step(model, optimizer, seed=seed)
            scope.note(loss=seed)
            written.append(sum(bool(layer) for _, layer in log.rows))
            now = clock(now)
    at_once = clock(0.0) > 0
    assert written == ([6 * n for n in range(1, 9)] if at_once else [6, 6, 6, 6, 30, 30, 30, 30])
    assert [t for t, layer in log.rows if not layer] == list(range(1, 9))
    assert sorted(t for t, layer in log.rows if layer) == sorted(6 * list(range(1, 9)))
    assert np.all(np.diff([t for t, layer in log.rows if layer]) >= 0)


class Blocks:
    """A sink that takes blocks, and keeps what it is given."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], dict[str, float]] = {}
        self.columns_seen: set[int] = set()

    def write(self, step: int, layer: str, values: Any) -> None:
        self.rows.setdefault((step, layer), {}).update(values)

    def write_block(self, step: Any, layers: Any, columns: Any, values: Any) -> None:
        self.columns_seen.add(id(columns))
        for t, matrix in zip(step.tolist(), values, strict=True):
            for layer, row in zip(layers, matrix.tolist(), strict=True):
                self.write(t, layer, dict(zip(columns, row, strict=True)))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_blocks_hold_what_rows_do():
    """Two optimizers, one of which misses a tensor now and then; cells of histograms that are 0 are left out."""
    model, sink = net(), Blocks()
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.1) for part in (model.encoder, model.head)]
    columns = ("default", "histograms")
    with Scope(optimizers, model, sink, instruments=columns), Scope(optimizers, model, instruments=columns) as rows:
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            for name, p in model.named_parameters():
                skipped = seed % 3 == 1 and name == "encoder.0.bias"
                p.grad = None if skipped else torch.randn(p.shape, generator=generator)
            for optimizer in optimizers:
                optimizer.step()
    expected = {
        (row["step"], row["layer"]): {k: v for k, v in row.items() if k not in ("step", "layer")} for row in rows.rows
    }
    assert sink.rows.keys() == expected.keys()
    assert (2, "encoder.0.bias") not in expected
    assert len(sink.columns_seen) == 1  # the same object: a sink need not look at the names again
    for key, values in expected.items():
        assert sink.rows[key] == pytest.approx(values, rel=1e-12, nan_ok=True)


def test_a_sink_may_ask_for_some_columns_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LONGEST", math.inf)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Scope(optimizer, model) as scope:
        step(model, optimizer)
        _ = scope.rows
        step(model, optimizer)
        taken = scope._rows.take()
    found = [row for row in taken.rows({"grad_norm", "lr"}) if row[1]]
    assert [layer for _, layer, _ in found] == [name for name, _ in model.named_parameters()]
    assert all(values.keys() == {"grad_norm", "lr"} for _, _, values in found)
