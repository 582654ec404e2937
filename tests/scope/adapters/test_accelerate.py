"""Scopes on optimizers that a real Accelerator has wrapped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stepscope import Scope, UserError

# What importing Accelerate warns about is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
accelerate = pytest.importorskip("accelerate", exc_type=ImportError)


@pytest.fixture(autouse=True)
def afresh() -> Any:
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def prepared(**options: Any) -> tuple[Any, nn.Module, Any, Any]:
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, x[:, :1] ** 2), batch_size=4)
    return accelerator, *accelerator.prepare(model, optimizer, loader)


def train(accelerator: Any, model: nn.Module, optimizer: Any, loader: Any) -> list[list[float]]:
    """Norms of the gradients at each real step."""
    norms = []
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.125)
                norms.append([float(p.grad.norm()) for p in model.parameters()])
            optimizer.step()
            optimizer.zero_grad()
    return norms


def test_a_wrapped_optimizer_refuses_hooks_and_is_observed_all_the_same():
    from stepscope.scope.adapters.accelerate import watch

    parts = prepared(gradient_accumulation_steps=3)
    accelerator, model, optimizer, _ = parts
    assert isinstance(optimizer, torch.optim.Optimizer)
    with pytest.raises(AttributeError):
        optimizer.register_step_post_hook(lambda *_: None)
    with Scope(optimizer, model) as plain, watch(accelerator, optimizer, model) as scope:
        norms = train(*parts)
    assert scope.steps == len(norms) == 2
    assert str(scope.rows) == str(plain.rows)
    found = [row["grad_norm"] for row in scope.rows if row["layer"]]
    assert found == pytest.approx([norm for step in norms for norm in step], rel=1e-6)


def test_the_accelerators_trackers_get_the_numbers(tmp_path: Path):
    from stepscope.scope.adapters.accelerate import watch

    parts = prepared(log_with="tensorboard", project_dir=tmp_path)
    accelerator, model, optimizer, _ = parts
    accelerator.init_trackers("here")
    with watch(accelerator, optimizer, model, every=3) as scope:
        train(*parts)
        scope.note(loss=0.5)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "here"))
    events.Reload()
    assert [e.step for e in events.Scalars("stepscope/0.weight/factor_adam")] == [1, 3, 6]
    assert [(e.step, e.value) for e in events.Scalars("stepscope/loss")] == [(6, 0.5)]


def test_an_accelerator_without_trackers_and_one_with_deepspeed_are_told_apart():
    from stepscope.scope.adapters.accelerate import watch

    accelerator, model, optimizer, _ = prepared()
    assert watch(accelerator, optimizer, model).attach().detach() is None
    with pytest.raises(UserError, match="call init_trackers before"):
        Scope(optimizer, model, sinks=[accelerator]).attach()

    class Deep:
        distributed_type = "DistributedType.DEEPSPEED"

    with pytest.raises(UserError, match="DEEPSPEED steps the optimizer by itself"):
        watch(Deep(), optimizer, model)
