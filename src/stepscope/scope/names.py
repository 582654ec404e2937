"""What a parameter tensor is called: its name in the model, without the prefixes that wrappers add."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

__all__ = ["Only", "names_of", "plain_name"]

_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch.compile, FSDP, checkpointing
_IN_FRONT = "module."  # DistributedDataParallel, DataParallel


def plain_name(name: str) -> str:
    """The name without wrappers' prefixes.

    >>> plain_name("module._orig_mod.encoder.weight")
    'encoder.weight'
    """
    for prefix in _ANYWHERE:
        name = name.replace(prefix, "")
    return name.removeprefix(_IN_FRONT)


def names_of(optimizer: Optimizer | Sequence[Optimizer], model: nn.Module | None) -> dict[Tensor, str]:
    """Name of each of the optimizers' tensors: in the model, else as given to an optimizer, else "parameter.3".

    A stripped name that two tensors would share is left as it was.
    """
    given: dict[Tensor, str] = {}
    tensors: list[Tensor] = []
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    for group in (group for one in optimizers for group in one.param_groups):
        tensors += group["params"]
        given.update(zip(group["params"], group.get("param_names") or (), strict=False))
    if model is not None:
        given.update((p, name) for name, p in model.named_parameters())
    full = {p: given.get(p, f"parameter.{i}") for i, p in enumerate(tensors)}
    shared = _repeated(map(plain_name, full.values()))
    return {p: name if plain_name(name) in shared else plain_name(name) for p, name in full.items()}


def _repeated(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


class Only:
    """The tensors whose names match: one of the patterns of `include`, and none of `exclude`, as in a shell."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str], name: Callable[[Tensor], str]) -> None:
        self._include, self._exclude, self._name = include, exclude, name
        self._known: dict[Tensor, bool] = {}

    def __contains__(self, p: object) -> bool:
        assert isinstance(p, Tensor)
        if p not in self._known:
            name = self._name(p)
            ins, outs = ([fnmatch.fnmatchcase(name, x) for x in part] for part in (self._include, self._exclude))
            self._known[p] = any(ins) and not any(outs)
        return self._known[p]
