"""A scope on what `Accelerator.prepare` returned."""

from typing import Any

from stepscope.errors import UserError
from stepscope.scope.scope import Scope

__all__ = ["watch"]


def watch(accelerator: Any, optimizer: Any, model: Any = None, run: Any = None, **options: Any) -> Scope:
    """A scope on a prepared optimizer, which also logs to the accelerator's trackers, if there are any.

    Use it as any `Scope`, in every process: `with watch(accelerator, optimizer, model, "runs/first") as scope:`.
    run, options: as `Scope` takes them.  sinks: instead of the accelerator's trackers.
    Raises: UserError for an optimizer that DeepSpeed steps, which no hook of torch's sees.
    """
    kind = str(getattr(accelerator, "distributed_type", "")).rpartition(".")[2]
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise UserError(
            f"{kind} steps the optimizer by itself, where a Scope cannot look on; use FSDP2 or DDP instead."
        )
    options.setdefault("sinks", [accelerator] if getattr(accelerator, "trackers", None) else [])
    return Scope(optimizer, model, run, **options)
