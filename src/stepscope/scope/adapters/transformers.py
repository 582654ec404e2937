"""A callback for the Trainer of Transformers: `Trainer(..., callbacks=[ScopeCallback("runs/first")])`."""

from collections.abc import Mapping
from typing import Any

from stepscope.scope.adapters.loops import Attached, base_class
from stepscope.scope.scope import Scope

__all__ = ["ScopeCallback"]

_Callback = base_class(("transformers",), "TrainerCallback", "transformers")


class ScopeCallback(_Callback):  # type: ignore[misc,valid-type]
    """Attaches a `Scope` to the trainer's optimizer while it trains.

    run, options: as `Scope` takes them. What the trainer logs of the loss and of evaluations is noted at its step; its
    `grad_norm` is called `grad_norm_before_clipping`, which is what it is. Steps count as `state.global_step` does.
    A training that raises tells its callbacks nothing: the scope is detached at the next one, or by `detach`.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        self._attached = Attached(run, options)

    @property
    def scope(self) -> Scope | None:
        """The scope at work."""
        return self._attached.scope

    def detach(self) -> None:
        """Stop observing."""
        self._attached.detach()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach to the optimizer inside Accelerate's wrapper."""
        self._attached.attach([kwargs["optimizer"]], kwargs.get("model"))
        self.on_step_begin(args, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count as the trainer does, also steps that loss scaling skips."""
        if self.scope is not None:
            self.scope.steps = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Note the loss, the gradient's norm and what evaluations found."""
        if self.scope is not None:
            self.scope.note(**{_noted(name): value for name, value in (logs or {}).items() if _is_noted(name)})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Detach."""
        self.detach()


def _is_noted(name: str) -> bool:
    timing = name.endswith(("_runtime", "_per_second"))
    return name in ("loss", "grad_norm") or (name.startswith("eval_") and not timing)


def _noted(name: str) -> str:
    return "grad_norm_before_clipping" if name == "grad_norm" else name
