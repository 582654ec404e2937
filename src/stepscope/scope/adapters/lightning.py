"""A Lightning callback: `Trainer(callbacks=[ScopeCallback("runs/first")])`.

Lightning computes the gradient inside `optimizer.step()`, and clips it there: a scope reads it after the step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepscope.scope.adapters.loops import Attached, base_class
from stepscope.scope.scope import Scope

__all__ = ["ScopeCallback"]

_Callback = base_class(("lightning.pytorch", "pytorch_lightning"), "Callback", "lightning")


class ScopeCallback(_Callback):  # type: ignore[misc,valid-type]
    """Attaches a `Scope` to the trainer's optimizers while it fits.

    run, options: as `Scope` takes them.  scope: the one at work, or None.
    Notes of each step: `loss`, the mean over its micro-batches, and where the trainer clips and the step is recorded
    `grad_norm_before_clipping`. Steps count as `trainer.global_step` does, resumed runs included; of several
    optimizers, each counts its own.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        super().__init__()
        self._attached = Attached(run, options)
        self._noted: dict[str, Any] = {}
        self._steps = self._resumed = 0

    @property
    def scope(self) -> Scope | None:
        """The scope at work."""
        return self._attached.scope

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: optimizers are there and have been restored."""
        scope = self._attached.attach(trainer.optimizers, pl_module)
        scope.steps = self._steps = self._resumed
        self._noted = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count as the trainer does, also steps that loss scaling skips."""
        if self.scope is not None and len(trainer.optimizers) == 1 and self._steps != trainer.global_step:
            self.scope.steps = self._steps = trainer.global_step
            self._noted = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The gradient is complete and not yet clipped."""
        if trainer.gradient_clip_val and self.scope is not None and self.scope.recording:
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm: Any = torch.nn.utils.get_total_norm(grads)
            self._noted["grad_norm_before_clipping"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note what belongs to the step, if the batch completed one."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # Lightning has divided it by the number of micro-batches
            added = self._noted.get("loss", 0.0) if pl_module.automatic_optimization else 0.0
            self._noted["loss"] = loss.detach() + added
        if self.scope is not None and self.scope.steps != self._steps:
            self._steps = self.scope.steps
            self.scope.note(**self._noted)
            self._noted = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach."""
        self._attached.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach; the run says that it failed."""
        self._attached.detach(exception)

    def state_dict(self) -> dict[str, Any]:
        """Steps so far, for runs that are resumed."""
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._resumed = int(state_dict["steps"])
