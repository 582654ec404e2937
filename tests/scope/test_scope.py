"""Attaching, recording, and everything that a training loop may do meanwhile."""

import copy
import gc
import logging
import math
import pickle
import random
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import CASES, bits
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from stepscope import Scope, UserError, optim
from stepscope.scope import observer

Make = Callable[[Any], Optimizer]


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def step(model: nn.Module, optimizer: Optimizer, seed: int = 0) -> float:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def layers(scope: Scope) -> list[dict[str, Any]]:
    return [row for row in scope.rows if row["layer"]]


class Failing:
    """A sink that always fails."""

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise AssertionError("not ours to close")


# --- observing changes nothing ----------------------------------------------------------------------------------------

OTHERS: list[tuple[str, Make]] = [
    ("torch-adam", lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    ("torch-fused-adamw", lambda p: torch.optim.AdamW(p, lr=0.01, fused=True)),
    ("torch-sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ("torch-rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True)),
    ("torch-lbfgs", lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3)),
]
EVERYONE = OTHERS + [(str(case), lambda p, case=case: case.ours(p, **case.options)) for case in CASES]


def train(make: Make, scope: Callable[[Optimizer, nn.Module], Any] | None) -> tuple[Any, ...]:
    """Seven epochs with dropout and shuffling; the state of everything afterwards."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must stay
    model = small_model()
    data = TensorDataset(torch.randn(40, 6), torch.randn(40, 3))
    loader = DataLoader(data, batch_size=10, shuffle=True)
    optimizer = make(model.parameters())
    watching = scope(optimizer, model).attach() if scope else None
    for _ in range(3):
        for x, y in loader:

            def loss(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                value = nn.functional.mse_loss(model(x), y)
                value.backward()
                return value

            loss()
            optimizer.step(*([loss] if isinstance(optimizer, torch.optim.LBFGS) else []))
    gradients = [p.grad for p in model.parameters()]
    if watching:
        assert watching.steps == 12
        watching.detach()
    state = bits(model.state_dict()), bits(optimizer.state_dict()), bits(gradients)
    return (*state, torch.get_rng_state().tolist(), random.getstate(), bits(list(np.random.get_state()[1])))  # noqa: NPY002


@pytest.mark.parametrize(("name", "make"), EVERYONE, ids=[name for name, _ in EVERYONE])
def test_observing_changes_no_bit_of_the_run(name: str, make: Make):
    """Weights, optimizer state, gradients and every random stream; recorded always, sometimes, to a failing sink."""
    plain = train(make, None)
    assert train(make, Scope) == plain
    assert train(make, lambda o, m: Scope(o, m, every=3)) == plain


def test_a_failing_sink_changes_no_bit_and_is_reported_once(caplog: pytest.LogCaptureFixture):
    make = OTHERS[2][1]
    with caplog.at_level(logging.INFO, "stepscope"):
        assert train(make, lambda o, m: Scope(o, m, Failing())) == train(make, None)
    assert [(r.name, r.levelname) for r in caplog.records] == [("stepscope.scope", "ERROR")]
    assert "No space left on device" in caplog.text
    assert caplog.records[0].exc_info is None  # it would keep the tensors of the step alive


def test_a_failing_measurement_loses_neither_notes_nor_averages(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def rows(failing: int) -> list[dict[str, Any]]:
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Scope(optimizer, model) as scope:
            for t in range(1, 5):
                with monkeypatch.context() as patch:
                    if t == failing:
                        patch.setattr(observer.Reducer, "reduce", lambda *_: 1 / 0)
                    step(model, optimizer, t)
                scope.note(loss=t)
        return scope.rows

    expected = [row for row in rows(failing=0) if row["step"] != 2 or not row["layer"]]
    assert not caplog.records
    assert str(rows(failing=2)) == str(expected)
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


def test_no_state_is_made_for_parameters_without_gradient():
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with Scope(optimizer, model):
        optimizer.step()
    assert not optimizer.state


# --- hooks come and go ------------------------------------------------------------------------------------------------


def hooks(optimizer: Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_detaching_leaves_nothing_behind():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = Scope(optimizer, model)
    assert scope.attach() is scope
    scope.attach()
    assert hooks(optimizer) == 2
    step(model, optimizer)
    scope.detach()
    scope.detach()
    assert hooks(optimizer) == 0
    rows = len(scope.rows)
    step(model, optimizer)
    assert (scope.steps, len(scope.rows)) == (1, rows)


def tensors() -> dict[int, Tensor]:
    return {id(x): x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)}


def test_no_gradient_and_no_graph_is_kept_alive_and_detaching_frees_the_averages():
    """By reference counts alone: garbage collection is off."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        bare = set(tensors())
        scope = Scope(optimizer, model).attach()
        for seed in range(3):
            step(model, optimizer, seed)
            gradients = [weakref.ref(p.grad) for p in model.parameters()]
            optimizer.zero_grad(set_to_none=True)
            assert all(gradient() is None for gradient in gradients)
            kept = [x for number, x in tensors().items() if number not in bare]
            assert len(kept) == 2  # m and v - m^2 of all small tensors
            assert not any(x.requires_grad for x in kept)
            del kept
        scope.detach()
        assert set(tensors()) == bare
    finally:
        gc.enable()


def test_two_scopes_on_two_optimizers_work_side_by_side():
    model = small_model()
    one = torch.optim.Adam(model[0].parameters(), lr=0.01)
    two = torch.optim.SGD(model[3].parameters(), lr=0.1)
    with Scope(one, model) as first, Scope(two, model, every=2) as second:
        for _ in range(3):
            step(model, one)
            two.step()
    assert {row["layer"] for row in first.rows} == {"", "0.weight", "0.bias"}
    assert {row["layer"] for row in second.rows} == {"", "3.weight", "3.bias"}
    assert {row["step"] for row in second.rows} == {1, 2}


def test_two_scopes_on_one_optimizer_see_the_same():
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Scope(optimizer, model) as one, Scope(optimizer, model) as two:
        step(model, optimizer)
    assert str(one.rows) == str(two.rows)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_a_copied_optimizer_is_not_observed(duplicate: Callable[[Any], Any]):
    model = small_model()
    optimizer = KeepsEverything(model.parameters(), lr=0.1)
    with Scope(optimizer, model) as scope:
        step(model, optimizer)
        other = duplicate(optimizer)
        for p in other.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        other.step()
        assert scope.steps == 1
        step(model, optimizer)
        assert scope.steps == 2


class KeepsEverything(torch.optim.SGD):
    """torch's optimizers drop hooks when they are copied; subclasses may not."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_a_copied_scope_is_detached_and_watches_the_copied_optimizer(duplicate: Callable[[Any], Any], tmp_path: Path):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Scope(optimizer, model, tmp_path / "run") as scope:
        step(model, optimizer)
        other, other_model, other_optimizer = duplicate((scope, model, optimizer))
        with other:
            step(other_model, other_optimizer)
    assert {row["layer"] for row in other.rows} == {"", "0.weight", "0.bias", "3.weight", "3.bias"}
    assert scope.steps == 1


def test_the_optimizer_inside_a_wrapper_is_observed():
    class Wrapper(torch.optim.Optimizer):
        """As Accelerate's: an Optimizer by class whose hooks never fire."""

        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.optimizer.step()

    model = small_model()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = Wrapper(inner)
    with Scope(wrapped, model) as scope:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        wrapped.step()
    assert scope.steps == 1
    assert len(layers(scope)) == 4


class Doubled(torch.optim.SGD):
    """Fires every hook twice, and fails on request."""

    fail = False

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        if self.fail:
            raise RuntimeError("of the user's own")
        return result


def test_a_step_that_calls_the_step_of_its_base_class_counts_once():
    model = small_model()
    torch.optim.SGD(model.parameters(), lr=0.1)  # from now on the base class fires hooks as well
    optimizer = Doubled(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    with Scope(optimizer, model) as scope:
        for _ in range(3):
            step(model, optimizer)
        assert scope.steps == 3
        assert len(layers(scope)) == 12
        assert layers(scope)[0]["weight_norm"] == pytest.approx(float(before.norm()), rel=1e-6)


def test_an_exception_of_the_step_passes_and_the_next_step_is_observed(caplog: pytest.LogCaptureFixture):
    """Its post hooks never ran: neither a count that stays nor a nested call may confuse the next step."""
    model = small_model()
    torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Doubled(model.parameters(), lr=0.1)
    with Scope(optimizer, model) as scope:
        step(model, optimizer)
        optimizer.fail = True
        for _ in range(2):
            with pytest.raises(RuntimeError, match="of the user's own"):
                step(model, optimizer)
        optimizer.fail = False
        step(model, optimizer)
        assert scope.steps == 2
        assert len(layers(scope)) == 8
    assert not caplog.records


def test_an_optimizer_stepped_inside_another_is_not_nested():
    model = small_model()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)

    class Outer(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            inner.step()
            inner.step()

    outer = Outer(model.parameters(), lr=0.1)
    with Scope(inner, model) as scope:
        step(model, outer)
    assert scope.steps == 2


def test_attaching_within_a_step_waits_for_the_next():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = Scope(optimizer, model)
    handle = optimizer.register_step_pre_hook(lambda *_: scope.attach() and None)
    step(model, optimizer)
    handle.remove()
    assert scope.steps <= 1
    step(model, optimizer)
    scope.detach()
    assert layers(scope)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # torch's own, on importing its compiler
def test_a_compiled_step_is_observed():
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    compiled = torch.compile(optimizer.step, backend="eager")
    with Scope(optimizer, model) as scope:
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            compiled()
    assert scope.steps == 3
    assert len(layers(scope)) == 12
    assert layers(scope)[-1]["factor_adam"] == pytest.approx(1.0, abs=1e-5)


# --- what a step may look like ----------------------------------------------------------------------------------------


def one_tensor(p: Tensor, make: Any, gradients: list[Any], **scope: Any) -> list[dict[str, Any]]:
    """Rows of a single parameter that gets these gradients."""
    optimizer = make([p])
    with Scope(optimizer, **scope) as watching:
        for g in gradients:
            p.grad = g
            optimizer.step()
    return layers(watching)


def test_gradients_of_a_closure_are_seen():
    """They exist only after the step began; a stale one may lie around before."""
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)
    p.grad = torch.full((2,), 99.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with Scope(optimizer) as scope:
        optimizer.step(closure)
    (row,) = layers(scope)
    assert row["grad_abs_mean"] == 3.0
    assert row["update_abs_mean_per_lr"] == pytest.approx(3.0, rel=1e-5)


def test_parameters_without_gradient_are_skipped_and_late_ones_count_from_their_first():
    one, late, never = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    for make in (lambda p: torch.optim.Adam(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)):
        optimizer = make([one, late, never])
        with Scope(optimizer) as scope:
            for t in range(4):
                one.grad = torch.tensor([1.0, -1.0, 2.0]) * (t + 1)
                late.grad = None if t < 2 else one.grad / (t + 1) * (t - 1)
                optimizer.step()
        rows = {(row["layer"], row["step"]): row for row in layers(scope)}
        assert set(rows) == {("parameter.0", t) for t in (1, 2, 3, 4)} | {("parameter.1", t) for t in (3, 4)}
        for name in ("factor_adam", "spread_mean", "momentum_abs_mean", "factor_msvag"):
            assert rows["parameter.1", 4][name] == rows["parameter.0", 2][name]


def test_a_gradient_that_pauses_leaves_the_averages_where_they_were():
    p, q = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    with Scope(optimizer) as scope:
        for t in range(5):
            p.grad = torch.tensor([1.0, 2.0, 3.0]) * (t + 1)
            q.grad = p.grad if t != 2 else None
            optimizer.step()
    rows = [row for row in layers(scope) if row["layer"] == "parameter.1"]
    assert [row["step"] for row in rows] == [1, 2, 4, 5]
    w = 0.9 ** np.arange(3, -1, -1)
    assert rows[-1]["momentum_abs_mean"] == pytest.approx(2 * (w / w.sum()) @ [1, 2, 4, 5], rel=1e-6)


def test_weights_whose_memory_is_replaced_are_still_measured():
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.5)
    with Scope(optimizer) as scope:
        for size in (3, 3, 4):
            p.data = torch.full((size,), 2.0)
            p.grad = torch.ones(size)
            optimizer.step()
    assert [row["weight_norm"] for row in layers(scope)] == pytest.approx([math.sqrt(4 * n) for n in (3, 3, 4)])
    assert [row["update_norm"] for row in layers(scope)] == pytest.approx([math.sqrt(n / 4) for n in (3, 3, 4)])
    assert layers(scope)[-1]["momentum_abs_mean"] == 1.0


def test_groups_have_numbers_of_their_own():
    p, q, r = (nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [
        {"params": [p]},
        {"params": [q], "lr": 0.5, "betas": (0.5, 0.5), "weight_decay": 0.25, "eps": 10.0},
        {"params": [r], "lr": torch.tensor(0.125)},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.0, foreach=False)
    with Scope(optimizer) as scope:
        for g in (1.0, 3.0):
            for x in (p, q, r):
                x.grad = torch.full((2,), g)
            optimizer.step()
    a, b, c = (row for row in layers(scope) if row["step"] == 2)
    assert [row["lr"] for row in (a, b, c)] == pytest.approx([0.1, 0.5, 0.125])
    assert [row["epsilon_dominated_share"] for row in (a, b, c)] == [0, 1, 0]
    assert b["momentum_abs_mean"] == pytest.approx((1 + 2 * 3) / 3, rel=1e-6)
    assert a["momentum_abs_mean"] == pytest.approx((0.9 + 3) / 1.9, rel=1e-6)
    assert b["update_abs_mean_per_lr"] > 0.25
    assert b["update_abs_mean_per_lr_without_decay"] == pytest.approx(b["momentum_abs_mean"] / (10 + 2.5166), rel=1e-4)


def test_learning_rates_of_a_schedule_are_those_in_force():
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with Scope(optimizer) as scope:
        for _ in range(3):
            p.grad = torch.ones(2)
            optimizer.step()
            schedule.step()
    assert [row["lr"] for row in layers(scope)] == [1.0, 0.5, 0.25]
    assert [row["update_abs_mean_per_lr"] for row in layers(scope)] == [1.0, 1.0, 1.0]
    assert [row["lr"] for row in scope.rows if row["layer"] == ""] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, optim.MSVAG], ids=lambda m: m.__name__)
def test_ascent_agrees_with_its_averages(make: Any):
    p = nn.Parameter(torch.ones(4))
    rows = one_tensor(p, lambda x: make(x, lr=0.1, maximize=True), [torch.tensor([1.0, -2.0, 3.0, 0.0])] * 3)
    assert [row["sign_agreement"] for row in rows] == [1.0, 1.0, 1.0]


def test_complex_tensors_are_pairs_of_reals():
    z = torch.complex(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 1.0]))
    for make in (torch.optim.Adam, torch.optim.SGD, optim.MSVAG):
        p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        rows = one_tensor(p, lambda x, make=make: make(x, lr=0.1), [z, 2 * z, z])
        assert rows[0]["grad_abs_mean"] == 2.0
        assert rows[0]["grad_norm"] == pytest.approx(math.sqrt(26), rel=1e-6)
        assert 0 < rows[-1]["spread_mean"] < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, optim.MSVAG], ids=lambda m: m.__name__)
def test_16_bit_tensors_are_measured_in_float32(dtype: torch.dtype, make: Any):
    """A sum of 4096 squares of 64 exceeds float16's largest number by far."""
    p = nn.Parameter(torch.zeros(4096, dtype=dtype))
    g = torch.full((4096,), 64.0, dtype=dtype)
    rows = one_tensor(p, lambda x: make(x, lr=2.0**-3), [g, g / 2, g])
    assert rows[0]["grad_norm"] == 4096.0
    assert rows[0]["nonfinite_share"] == 0
    assert rows[1]["momentum_abs_mean"] == pytest.approx((0.9 * 64 + 32) / 1.9, rel=2**-7)


def test_sparse_gradients_are_measured_as_the_dense_ones_they_stand_for():
    for make in (lambda p: torch.optim.SparseAdam(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)):
        embedding = nn.Embedding(5, 2, sparse=True)
        optimizer = make(list(embedding.parameters()))
        with Scope(optimizer, embedding) as scope:
            for rows in ([0, 0, 3], [1]):
                optimizer.zero_grad()
                embedding(torch.tensor(rows)).sum().backward()
                optimizer.step()
        first, second = layers(scope)
        assert (first["layer"], first["grad_abs_mean"]) == ("weight", (2 * 2 + 2 * 1) / 10)
        assert second["grad_norm"] == math.sqrt(2)


def test_empty_tensors_are_skipped():
    p, empty = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(0, 3))
    optimizer = torch.optim.SGD([empty, p], lr=0.1)
    with Scope(optimizer) as scope:
        p.grad, empty.grad = torch.ones(2), torch.ones(0, 3)
        optimizer.step()
    assert [row["layer"] for row in layers(scope)] == ["parameter.1"]


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, optim.MSVAG], ids=lambda m: m.__name__)
def test_coordinates_that_are_not_finite_are_counted_and_left_out(make: Any):
    healthy, ill = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(8))
    optimizer = make([healthy, ill], lr=0.1)
    with Scope(optimizer) as scope:
        for t in range(3):
            healthy.grad = torch.tensor([1.0, -2.0, 3.0, 4.0, 0.0, 1.0]) * (t + 1)
            ill.grad = torch.cat([healthy.grad, torch.tensor([math.nan, math.inf])])
            optimizer.step()
    for one, other in zip(layers(scope)[::2], layers(scope)[1::2], strict=True):
        assert one["nonfinite_share"] == 0
        assert other["nonfinite_share"] == 2 / 8
        for name in set(one) - {"layer", "nonfinite_share"}:
            assert other[name] == pytest.approx(one[name], rel=1e-6, nan_ok=True), name


def test_a_tensor_without_a_finite_coordinate_has_no_values():
    p = nn.Parameter(torch.ones(3))
    (row,) = one_tensor(p, torch.optim.Adam, [torch.full((3,), math.nan)])
    assert row["nonfinite_share"] == 1
    assert math.isnan(row["grad_abs_mean"])
    assert math.isnan(row["spread_median"])


def test_autocast_default_dtype_and_deterministic_mode_do_not_matter():
    def rows() -> list[dict[str, Any]]:
        model = small_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with Scope(optimizer, model) as scope:
            for seed in range(2):
                for p in model.parameters():
                    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
                with context():
                    optimizer.step()
        return scope.rows

    def context() -> Any:
        return torch.autocast("cpu", enabled=False)

    plain = rows()

    def context() -> Any:  # noqa: F811
        return torch.autocast("cpu", dtype=torch.bfloat16)

    assert str(rows()) == str(plain)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with Scope(optimizer, model) as scope:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert len(layers(scope)) == 4


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD], ids=lambda m: m.__name__)
def test_gradient_scaling_is_undone_and_skipped_steps_are_not_measured(make: Any, fused: bool):
    """Without fused, the scaler does not call `step` at all; with it, the kernel unscales, and skips by itself."""
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make([p], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    with Scope(optimizer) as scope:
        for factor in (1.0, math.inf, 3.0):
            optimizer.zero_grad()
            scaler.scale((p * torch.tensor([2.0, factor])).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    first, last = layers(scope)
    assert first["grad_abs_mean"] == 1.5
    assert last["grad_abs_mean"] == 2.5
    assert last["nonfinite_share"] == 0
    assert last["momentum_abs_mean"] == pytest.approx(0.5 * (2 + (0.9 + 3) / 1.9), rel=1e-5)
    assert scope.steps == (3 if fused else 2)
    skipped = [row["step"] for row in scope.rows if row.get("skipped")]
    assert skipped == ([2] if fused else [])


# --- what is written --------------------------------------------------------------------------------------------------


def test_step_1_and_every_nth_step_are_recorded():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for every, expected in ((3, [1, 3, 6]), (lambda n: n in {2, 5}, [2, 5]), (100, [1]), (1, [*range(1, 8)])):
        with Scope(optimizer, model, every=every) as scope:
            for _ in range(7):
                step(model, optimizer)
        assert [row["step"] for row in layers(scope) if row["layer"] == "0.bias"] == expected
        assert scope.steps == 7


def test_shadow_averages_see_steps_that_are_not_recorded():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Scope(optimizer, model) as always, Scope(optimizer, model, every=5) as rarely:
        for seed in range(5):
            step(model, optimizer, seed)
    last = [row for row in layers(always) if row["step"] == 5]
    for one, other in zip(last, [row for row in layers(rarely) if row["step"] == 5], strict=True):
        assert str(one) == str(other)


def test_a_faulty_schedule_is_reported_once(caplog: pytest.LogCaptureFixture):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Scope(optimizer, model, every=lambda n: n / 0) as scope:
        step(model, optimizer)
        step(model, optimizer)
    assert scope.steps == 2
    assert len(caplog.records) == 1


def test_notes_belong_to_the_step_before_them():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Scope(optimizer, model, every=2) as scope:
        scope.note(start=0)
        for t in range(1, 4):
            step(model, optimizer)
            scope.note(loss=torch.tensor(float(t)))
            scope.note(accuracy=t / 4)
        now = [row for row in scope.rows if row["layer"] == ""]
    rows = [row for row in scope.rows if row["layer"] == ""]
    assert rows == now
    assert rows == [
        {"step": 0, "layer": "", "start": 0.0},
        {"step": 1, "layer": "", "lr": 0.1, "loss": 1.0, "accuracy": 0.25},
        {"step": 2, "layer": "", "lr": 0.1, "loss": 2.0, "accuracy": 0.5},
        {"step": 3, "layer": "", "loss": 3.0, "accuracy": 0.75},
    ]


def test_a_bad_note_is_reported_and_not_raised(caplog: pytest.LogCaptureFixture):
    with Scope(torch.optim.SGD(small_model().parameters(), lr=0.1)) as scope:
        scope.note(loss="high")
    assert "could not convert" in caplog.text


def test_parameters_added_later_have_names():
    model = small_model()
    optimizer = torch.optim.Adam(model[0].parameters(), lr=0.01)
    with Scope(optimizer, model) as scope:
        step(model, optimizer)
        optimizer.add_param_group({"params": model[3].parameters()})
        step(model, optimizer)
    assert [row["layer"] for row in layers(scope)][2:] == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_a_folder_holds_the_run(tmp_path: Path):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Scope(optimizer, model, tmp_path / "run", every=2, config={"batch": 16}) as scope:
        for _ in range(4):
            scope.note(loss=step(model, optimizer))
        assert scope.run.status == "running"
        assert scope.rows == []
    run = scope.run
    assert run.status == "finished"
    assert set(run.layers) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    table = run.table("spread_median", "lr", layers=["0.weight"]).to_pydict()
    assert table["step"] == [1, 2, 4]
    assert table["lr"] == pytest.approx([0.01] * 3, rel=2**-21)  # a run keeps 21 bits of a number
    assert run.table("loss", layers=[""]).to_pydict()["step"] == [1, 2, 3, 4]
    assert run.info["config"]["batch"] == 16
    assert run.info["config"]["scope"]["columns"]["factor_msvag"]["source"] == "[balles2018, Eq. 25]"
    assert run.info["tensors"][0] == {"name": "0.weight", "shape": [8, 6], "dtype": "float32", "numel": 48, "group": 0}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_run_that_ends_early_says_so(tmp_path: Path, error: type[BaseException], status: str):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scope = Scope(optimizer, model, str(tmp_path))
    with pytest.raises(error), scope:
        raise error(step(model, optimizer))
    assert scope.run.status == status
    assert hooks(optimizer) == 0


def test_a_sink_of_the_users_is_flushed_and_not_closed():
    class Sink:
        def __init__(self) -> None:
            self.rows: list[tuple[int, str]] = []
            self.flushed = self.closed = 0

        def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
            assert all(isinstance(value, float) for value in values.values())
            self.rows.append((step, layer))

        def flush(self) -> None:
            self.flushed += 1

        def close(self) -> None:
            self.closed += 1

    model, sink = small_model(), Sink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Scope(optimizer, model, sink):
        step(model, optimizer)
    assert sink.rows == [(1, "0.weight"), (1, "0.bias"), (1, "3.weight"), (1, "3.bias"), (1, "")]
    assert (sink.flushed, sink.closed) == (1, 0)


# --- wrong use --------------------------------------------------------------------------------------------------------


def test_wrong_use_is_refused_with_a_hint(tmp_path: Path):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"got Sequential: write Scope\(optimizer, model\)"):
        Scope(model, optimizer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a folder or a sink with write, flush and close, got int"):
        Scope(optimizer, model, 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="records to no folder"):
        _ = Scope(optimizer, model).run
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Scope(optimizer, every=0)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\), got 1"):
        Scope(optimizer, beta=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        Scope(optimizer, model, tmp_path / "file").attach()
    assert hooks(optimizer) == 0
