"""The Lightning callback in real trainers, against the same training by hand."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stepscope import Run, UserError
from stepscope.scope.adapters import loops

# What importing Lightning, and small trainers, warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
lightning = pytest.importorskip("lightning.pytorch", exc_type=ImportError)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 5, generator=generator)
    return TensorDataset(x, x[:, :1] ** 2)


class Module(lightning.LightningModule):
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.net, self.fail_at = net(), fail_at

    def training_step(self, batch: Any, index: int) -> Tensor:
        if index == self.fail_at:
            raise ZeroDivisionError("of the user's own")
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(callback: Any, module: Any = None, ckpt: Any = None, **options: Any) -> Any:
    trainer = lightning.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [callback] if callback else [],
            **options,
        }
    )
    module = module or Module()
    trainer.fit(module, DataLoader(data(), batch_size=5), ckpt_path=ckpt)
    return trainer, module


def by_hand(accumulate: int, clip: float) -> list[dict[str, float]]:
    """Two epochs; what the optimizer was given at each step."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for _ in range(2):
        loader = iter(DataLoader(data(), batch_size=5))
        while batches := list(itertools.islice(loader, accumulate)):
            optimizer.zero_grad()
            losses = [nn.functional.mse_loss(model(x), y) / accumulate for x, y in batches]
            for loss in losses:
                loss.backward()
            before = nn.utils.clip_grad_norm_(model.parameters(), clip)
            row = {"before": float(before), "loss": float(sum(losses))}
            row |= {f"net.{name}": float(p.grad.norm()) for name, p in model.named_parameters()}
            found.append(row)
            optimizer.step()
    return found


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradient_in_force_is_recorded_clipped_and_accumulated(accumulate: int, tmp_path: Path):
    from stepscope.scope.adapters.lightning import ScopeCallback

    callback = ScopeCallback(tmp_path / "run", every=2)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.125}
    trainer, watched = fit(callback, **options)
    _, plain = fit(None, **options)
    assert all(map(torch.equal, watched.parameters(), plain.parameters()))
    run, expected = Run(tmp_path / "run"), by_hand(accumulate, 0.125)
    assert run.status == "finished"
    assert trainer.global_step == len(expected) == 16 // accumulate
    rows = run.table("grad_norm").to_pylist()
    recorded = {1, *range(2, len(expected) + 1, 2)}
    assert {row["step"] for row in rows if row["layer"]} == recorded
    for row in rows:
        if row["layer"]:
            assert row["grad_norm"] == pytest.approx(expected[row["step"] - 1][row["layer"]], rel=1e-5)
    notes = {row["step"]: row for row in run.table("loss", "grad_norm_before_clipping", layers=[""]).to_pylist()}
    for t, row in enumerate(expected, 1):
        assert notes[t]["loss"] == pytest.approx(row["loss"], rel=1e-5)
        norm = notes[t]["grad_norm_before_clipping"]
        assert (norm == pytest.approx(row["before"], rel=1e-5)) if t in recorded else norm is None or math.isnan(norm)


def hooks(optimizer: torch.optim.Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_a_training_that_fails_passes_its_error_on_and_leaves_nothing(tmp_path: Path):
    from stepscope.scope.adapters.lightning import ScopeCallback

    callback, module = ScopeCallback(tmp_path / "run"), Module(fail_at=3)
    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        fit(callback, module)
    assert Run(tmp_path / "run").status == "failed"
    assert callback.scope is None


def test_a_resumed_training_counts_on(tmp_path: Path):
    from stepscope.scope.adapters.lightning import ScopeCallback

    trainer, _ = fit(ScopeCallback(tmp_path / "run"), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(ScopeCallback(tmp_path / "run"), ckpt=tmp_path / "last.ckpt")
    steps = Run(tmp_path / "run").table("grad_norm", layers=["net.0.weight"]).to_pydict()["step"]
    assert steps == list(range(1, 17))


class Two(Module):
    """Manual optimization, as GANs need it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(5, 1)

    def training_step(self, batch: Any, index: int) -> None:
        for optimizer, model in zip(self.optimizers(), (self.net, self.other), strict=True):
            loss = model(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net.parameters()), torch.optim.SGD(self.other.parameters(), lr=0.1)]


def test_several_optimizers_are_observed_together(tmp_path: Path):
    from stepscope.scope.adapters.lightning import ScopeCallback

    trainer, _ = fit(ScopeCallback(tmp_path, every=4), Two())
    run = Run(tmp_path)
    assert set(run.layers) == {
        *(f"net.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        "other.weight",
        "other.bias",
    }
    assert trainer.global_step == 32
    for layer in ("net.0.weight", "other.bias"):
        assert run.table("grad_norm", layers=[layer]).to_pydict()["step"] == [1, 4, 8, 12, 16]


def test_lightnings_own_precision_and_loggers_work(tmp_path: Path):
    """bf16 autocast, and a logger of Lightning's as a tracker."""
    from stepscope.scope.adapters.lightning import ScopeCallback

    logger = lightning.loggers.TensorBoardLogger(tmp_path, name="tb")
    fit(ScopeCallback(every=5, sinks=[logger]), precision="bf16-mixed", logger=logger)
    logger.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    found = events.Scalars("stepscope/net.0.weight/update_to_weight")
    assert [event.step for event in found] == [1, 5, 10, 15]
    assert len(events.Scalars("stepscope/loss")) == 16


def test_a_missing_library_is_named():
    with pytest.raises(UserError, match=r"needs nothing: pip install 'stepscope\[nothing\]'"):
        loops.base_class(("no_such_module",), "Callback", "nothing")
