"""Sums over all parts of sharded parameters (DTensor): every process adds its own, in one all-reduce a recorded step.

`float(t.norm())` of a DTensor is the norm of the part that is here, another one in every process. So nothing is asked
of DTensors: each process measures the tensors it holds, and sums of what all of them measured are true of the whole.
"""

import datetime
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepscope.errors import UserError
from stepscope.optim.backends.eager import is_distributed
from stepscope.optim.shards import extent
from stepscope.scope.reduce import SHARED, Packed, joined

__all__ = ["PeerFailed", "Peers", "leads", "refuse_flattened", "sharded", "totals"]

log = logging.getLogger("stepscope.scope")


class PeerFailed(RuntimeError):
    """A process could not measure its part, so none has the whole."""


def sharded(params: Sequence[Tensor]) -> list[Tensor]:
    """Those that other processes hold parts or copies of."""
    return [p for p in params if is_distributed(p) and _mesh(p).size() > 1]


def _mesh(p: Any) -> Any:
    return p.device_mesh


def totals(
    params: Sequence[Tensor], measured: Sequence[Tensor], packed: Packed, *, failed: bool = False
) -> tuple[list[Tensor], Packed]:
    """The tensors that any process measured, and their sums over all processes.

    params: all sharded parameters, the same in every process, whether or not it has anything to say about them.
    measured: those that `packed` has a row of.  failed: this process has nothing to say; it has to take part all the
    same.
    Every process of a parameter's mesh has to call this at the same step.
    Raises: PeerFailed if another one failed.
    """
    found: list[Tensor] = []
    summed = packed.take([])
    elsewhere = False
    for mesh, group in itertools.groupby(sorted(params, key=_order(params)), _mesh):
        same = list(group)
        vector = _packed(mesh, same, measured, packed, failed)
        _add_up(mesh, same, vector)
        elsewhere |= vector[0] > 0
        rows = vector[1:].reshape(len(same), -1)
        part = packed.of_table(rows[:, 1:])
        # All of the tensor, or nothing: a process may have had no gradient for its part.
        whole = [i for i, p in enumerate(same) if rows[i, 0] > 0 and part.numel[i] == extent(p).whole]
        found += [same[i] for i in whole]
        summed = joined(summed, part.take(whole))
    if elsewhere and not failed:
        raise PeerFailed("a process could not measure its part of the sharded parameters")
    return found, summed


def _order(params: Sequence[Tensor]) -> Any:
    """Sorts by mesh, in the order of the meshes' first parameters."""
    meshes = {mesh: i for i, mesh in reversed(list(enumerate(map(_mesh, params))))}
    return lambda p: meshes[_mesh(p)]


# --- one row a parameter ----------------------------------------------------------------------------------------------
# Whether it was measured, what adds up, and the numbers that its coordinates share, from one process only.


def _packed(mesh: Any, params: Sequence[Tensor], measured: Sequence[Tensor], packed: Packed, failed: bool) -> Any:
    """A flat vector: whether this process failed, then the rows. A copy of what is counted elsewhere adds nothing."""
    rows = np.zeros((len(params), 1 + packed.table().shape[1]))
    place = {} if failed else {p: i for i, p in enumerate(measured)}
    mine = [(i, place[p]) for i, p in enumerate(params) if p in place]
    if mine:
        to, of = map(list, zip(*mine, strict=True))
        table = np.concatenate([np.ones((len(of), 1)), packed.take(of).table()], axis=1)
        shared = [0, *range(-SHARED, 0)]
        here = mesh.get_coordinate()
        for row, p in zip(table, (params[i] for i in to), strict=True):
            if any(here[d] and _replicated(p, d) for d in _dimensions(mesh, params)):
                row[:] = 0
            elif any(here[d] for d in _dimensions(mesh, params)):
                row[shared] = 0  # the first part is never empty while another one is not
        rows[to] = table
    return np.concatenate([[float(failed)], rows.ravel()])


# --- who adds up with whom --------------------------------------------------------------------------------------------


def _replicated(p: Any, dimension: int) -> bool:
    return bool(p.placements[dimension].is_replicate())


def _dimensions(mesh: Any, params: Sequence[Tensor]) -> list[int]:
    """The dimensions of the mesh along which anything is divided; along the others there are copies of all."""
    return [d for d in range(mesh.ndim) if mesh.size(d) > 1 and not all(_replicated(p, d) for p in params)]


def _add_up(mesh: Any, params: Sequence[Tensor], packed: Any) -> None:
    """All-reduce in place, once along each dimension of the mesh that something is divided along."""
    dimensions = _dimensions(mesh, params)
    if not dimensions:
        return
    from torch import distributed

    vector = torch.from_numpy(packed)
    moved = vector.to(mesh.device_type)
    for d in dimensions:
        distributed.all_reduce(moved, group=mesh.get_group(d))
    if moved is not vector:
        vector.copy_(moved)


# --- whether the others are there -------------------------------------------------------------------------------------

PATIENCE = datetime.timedelta(seconds=60)
_numbers = itertools.count()


class Peers:
    """The processes that have to take part.

    A scope in one process only must not wait for others: its all-reduce would meet theirs of another kind. So at the
    first step to be measured each tells the processes' common store that it is there, and how it was set up.
    """

    def __init__(self, setup: str) -> None:
        """setup: what has to be the same in all of them."""
        self._setup = setup
        self._complete: bool | None = None

    def complete(self, params: Sequence[Tensor]) -> bool:
        """Whether every process that has a part of these is there; if not, it is said once."""
        if self._complete is None:
            ranks = sorted({rank for mesh in set(map(_mesh, params)) for rank in mesh.mesh.flatten().tolist()})
            problem = self._missing(ranks)
            self._complete = not problem
            if problem:
                log.warning("sharded parameters are not measured: %s", problem)
        return self._complete

    def _missing(self, ranks: Sequence[int]) -> str:
        """What is wrong, or nothing."""
        from torch import distributed

        store = distributed.distributed_c10d._get_default_store()
        name = f"stepscope/{next(_numbers)}"
        keys = [f"{name}/{rank}" for rank in ranks]
        store.set(f"{name}/{distributed.get_rank()}", self._setup)
        try:
            store.wait(keys, PATIENCE)
        except Exception:
            store.set(f"{name}/given up", "")
            return (
                f"not every process of ranks {list(ranks)} has attached a Scope. "
                "Each holds a part of them, so attach one in each, with the same `every`; only rank 0 writes."
            )
        if store.check([f"{name}/given up"]):
            return "another process waited for this one in vain. Attach a Scope in all of them, with the same `every`."
        setups = sorted({store.get(key).decode() for key in keys})
        return f"the scopes of their processes differ: {'; '.join(setups)}" if len(setups) > 1 else ""


def leads() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def refuse_flattened(model: nn.Module | None) -> None:
    """Raise UserError for parameters whose parts cannot be told from tensors of their own."""
    if any(
        type(module).__name__ == "FullyShardedDataParallel" for module in ([] if model is None else model.modules())
    ):
        raise UserError(
            "FullyShardedDataParallel flattens parameters and shows each process a part that looks like the whole. "
            "Shard the model with torch.distributed.fsdp.fully_shard instead, which Scope measures."
        )
