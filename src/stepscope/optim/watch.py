"""Whether the tensors of a step are still the ones that were looked at, and where their gradients lie now.

Asking a thousand tensors costs more than stepping them, so where that is known to work, their headers are read. Else
they are asked block by block: all questions about a block while it is in the core's cache.
"""

import contextlib
import operator
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stepscope.optim.backends.headers import headers
from stepscope.optim.backends.kinds import Kinds

__all__ = ["GRADIENT", "Watch", "identical"]

_BLOCK = 64  # tensors
_MANY = 32  # parameters from which on it pays to find out how to read headers
GRADIENT = operator.attrgetter("grad")


def identical(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(a) == len(b) and all(map(operator.is_, a, b))


class _Block(NamedTuple):
    """Some parameters, their state with all that is in it, and tensors with their addresses.

    shaped: the parameters that could change their strides alone, the address and the gradient's form being the same.
    """

    params: list[Tensor]
    shaped: list[Tensor]
    entries: list[dict[str, Any]]
    values: list[Any]
    tensors: list[Tensor]
    addresses: list[int]
    kinds: Kinds


class Watch:
    """Parameters with what a kernel reads and writes for them, as they are now.

    params, grads: plain tensors, none where only state is watched.  entries: states of parameters, whose tensors under
    `names` must stay where they are.  beside: further tensors that must.  Gradients are not kept alive.
    ask: read no headers.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        entries: Sequence[dict[str, Any]],
        names: Sequence[str],
        beside: Sequence[Sequence[Tensor]] = (),
        *,
        ask: bool = False,
    ) -> None:
        names = names if entries else ()
        self.gradients: Callable[[], Sequence[int] | NDArray[np.int64]]
        """Where the gradients lie.  LookupError if anything else is not what or where it was."""
        if len(params) >= _MANY and not ask and (reader := headers()) is not None:
            columns = [params, *([entry[name] for entry in entries] for name in names), *beside]
            with contextlib.suppress(LookupError):
                self.gradients = reader.watch(columns, grads, entries, names)
                return
        self.gradients = _Asked(params, grads, entries, names, beside).gradients


class _Asked:
    """Asks every tensor, in blocks."""

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        entries: Sequence[dict[str, Any]],
        names: Sequence[str],
        beside: Sequence[Sequence[Tensor]],
    ) -> None:
        self._blocks = []
        for i in range(0, max(len(params), len(entries)), _BLOCK):
            part = slice(i, i + _BLOCK)
            block, kept = list(params[part]), list(entries[part])
            shaped = [p for p in block if p.dim() > 1]
            tensors = [*block, *(entry[name] for entry in kept for name in names)]
            tensors += [t for column in beside for t in column[part]]
            self._blocks.append(
                _Block(
                    block,
                    shaped,
                    kept,
                    list(chain.from_iterable(map(dict.values, kept))),
                    tensors,
                    list(map(Tensor.data_ptr, tensors)),
                    Kinds([*shaped, *grads[part]]),
                )
            )

    def gradients(self) -> list[int]:
        found: list[int] = []
        for block in self._blocks:
            grads = list(map(GRADIENT, block.params))
            if not (
                identical(list(chain.from_iterable(map(dict.values, block.entries))), block.values)
                and block.kinds.fit([*block.shaped, *grads])
                and list(map(Tensor.data_ptr, block.tensors)) == block.addresses
            ):
                raise LookupError("a tensor has changed")
            found += map(Tensor.data_ptr, grads)
        return found
