"""The callback in a real Trainer of Transformers, which wraps its optimizer by Accelerate."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepscope import Run

# What importing Transformers, and small trainers, warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
transformers = pytest.importorskip("transformers", exc_type=ImportError)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.net(x)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


def data() -> list[dict[str, Tensor]]:
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(1))
    return [{"x": row, "labels": row[:1] ** 2} for row in x]


class Failing(transformers.TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise ZeroDivisionError("of the user's own")


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        **{
            "output_dir": str(folder / "out"),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_grad_norm": 0.125,
            "learning_rate": 0.01,
            "num_train_epochs": 2,
            "logging_steps": 2,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 3,
            **options,
        }
    )
    return transformers.Trainer(
        Model(), arguments, train_dataset=data(), eval_dataset=data()[:8], callbacks=list(callbacks)
    )


class Norms(transformers.TrainerCallback):
    """What the optimizer is about to use, from the library's own hook between clipping and the step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.rows.append({name: float(p.grad.norm()) for name, p in model.named_parameters()})


def test_the_gradient_in_force_is_recorded_clipped_and_accumulated(tmp_path: Path):
    from stepscope.scope.adapters.transformers import ScopeCallback

    callback, norms = ScopeCallback(tmp_path / "run", every=2), Norms()
    watched = trainer(tmp_path, callback, norms, eval_strategy="epoch")
    watched.train()
    plain = trainer(tmp_path, eval_strategy="epoch")
    plain.train()
    assert all(map(torch.equal, watched.model.parameters(), plain.model.parameters()))
    assert callback.scope is None
    run = Run(tmp_path / "run")
    assert run.status == "finished"
    rows = [row for row in run.table("grad_norm").to_pylist() if row["layer"]]
    assert {row["step"] for row in rows} == {1, 2, 4, 6, 8}
    for row in rows:
        assert row["grad_norm"] == pytest.approx(norms.rows[row["step"] - 1][row["layer"]], rel=1e-6)
    logged = {entry["step"]: entry for entry in watched.state.log_history if "loss" in entry}
    notes = run.table("loss", "grad_norm_before_clipping", "eval_loss", layers=[""]).to_pylist()
    assert {row["step"]: row["loss"] for row in notes if not math.isnan(row["loss"])} == {
        t: pytest.approx(entry["loss"]) for t, entry in logged.items()
    }
    before = {row["step"]: row["grad_norm_before_clipping"] for row in notes}
    assert all(before[t] == pytest.approx(entry["grad_norm"]) for t, entry in logged.items())
    assert [row["step"] for row in notes if not math.isnan(row["eval_loss"])] == [4, 8]


def test_a_training_that_fails_passes_its_error_on_and_the_next_one_starts_anew(tmp_path: Path):
    from stepscope.scope.adapters.transformers import ScopeCallback

    callback = ScopeCallback()
    failing = trainer(tmp_path, callback, Failing())
    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        failing.train()
    first = callback.scope
    assert first is not None
    assert first.steps == 3
    inner = failing.optimizer.optimizer
    assert len(inner._optimizer_step_post_hooks) == 1
    failing.pop_callback(Failing)
    failing.train()
    assert len(inner._optimizer_step_post_hooks) == 0
    assert callback.scope is None


def test_a_resumed_training_counts_on(tmp_path: Path):
    from stepscope.scope.adapters.transformers import ScopeCallback

    options = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path, ScopeCallback(tmp_path / "run"), max_steps=3, **options).train()
    trainer(tmp_path, ScopeCallback(tmp_path / "run"), **options).train(resume_from_checkpoint=True)
    steps = Run(tmp_path / "run").table("grad_norm", layers=["net.0.weight"]).to_pydict()["step"]
    assert steps == list(range(1, 9))


def test_a_small_language_model_with_tied_embeddings_trains_the_same(tmp_path: Path):
    """GPT-2 of two layers: LayerNorm, dropout, the embedding and the head are one tensor."""
    from stepscope.scope.adapters.transformers import ScopeCallback

    class Last(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scopes.append(callback.scope if watched else None)

    weights, scopes = [], []
    for watched in (True, False):
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(config)
        callback = ScopeCallback()
        arguments = trainer(tmp_path).args
        tokens = torch.randint(50, (32, 16), generator=torch.Generator().manual_seed(1))
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        added = [callback, Last()] if watched else []
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=added).train()
        weights.append([p.detach().clone() for p in model.parameters()])
        names = [name for name, _ in model.named_parameters()]
    assert all(map(torch.equal, *weights))
    layers = {row["layer"] for row in scopes[0].rows} - {""}
    assert layers == set(names)
    assert "lm_head.weight" not in layers
