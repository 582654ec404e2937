"""Sums over all parts of sharded parameters (DTensor): every process adds its own, in one all-reduce a recorded step.

`float(t.norm())` of a DTensor is the norm of the part that is here, another one in every process. So nothing is asked
of DTensors: each process measures the tensors it holds, and sums of what all of them measured are true of the whole.
"""

import contextlib
import datetime
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepscope.errors import UserError
from stepscope.optim.backends.eager import is_distributed
from stepscope.optim.moments import Numbers
from stepscope.optim.shards import extent
from stepscope.scope.reduce import Packed

__all__ = ["Form", "PeerFailed", "Peers", "agreed", "joined", "leads", "refuse_flattened", "sharded", "totals"]

log = logging.getLogger("stepscope.scope")


class PeerFailed(RuntimeError):
    """A process could not measure its part, so none has the whole."""


def sharded(params: Sequence[Tensor]) -> list[Tensor]:
    """Those that other processes hold parts or copies of."""
    return [p for p in params if is_distributed(p) and _mesh(p).size() > 1]


def _mesh(p: Any) -> Any:
    return p.device_mesh


class Form(NamedTuple):
    """How wide a row of `Packed` is: its sums, its counts, and each of its further sums by name."""

    sums: int
    counts: int
    further: Mapping[str, int]

    def nothing(self) -> Packed:
        """No rows."""
        further = {name: np.zeros((0, width) if width > 1 else 0) for name, width in self.further.items()}
        return Packed(np.zeros((0, self.sums)), np.zeros((0, self.counts)), [], [], further)


def totals(
    params: Sequence[Tensor], measured: Sequence[Tensor], packed: Packed | None, form: Form
) -> tuple[list[Tensor], Packed]:
    """The tensors that were measured in all processes, and what they measured together.

    params: all sharded parameters, the same in every process, whether or not it has anything to say about them.
    measured: those that `packed` has a row of.  packed: None if this process failed; it has to take part all the same.
    Every process of a parameter's mesh has to call this at the same step.
    Raises: PeerFailed if another one failed.
    """
    found: list[Tensor] = []
    parts: list[Packed] = []
    failed = False
    for mesh, group in itertools.groupby(sorted(params, key=_order(params)), _mesh):
        same = list(group)
        vector = _vector(mesh, same, measured, packed, form)
        _add_up(mesh, same, vector)
        failed |= vector[0] > 0
        rows = vector[1:].reshape(len(same), -1)
        # All of the tensor, or nothing: a process may have had no gradient for its part.
        whole = (rows[:, 0] > 0) & (rows[:, 1] == [extent(p).whole for p in same])
        found += itertools.compress(same, whole)
        parts.append(_rows(rows[whole], form))
    if failed and packed is not None:
        raise PeerFailed("a process could not measure its part of the sharded parameters")
    return found, joined(parts)


def joined(parts: Sequence[Packed]) -> Packed:
    """Rows end to end."""
    return Packed(
        np.concatenate([part.sums for part in parts]),
        np.concatenate([part.counts for part in parts]),
        [n for part in parts for n in part.numbers],
        [n for part in parts for n in part.numel],
        {name: np.concatenate([part.further[name] for part in parts]) for name in parts[0].further},
    )


def _order(params: Sequence[Tensor]) -> Any:
    """Sorts by mesh, in the order of the meshes' first parameters."""
    meshes = {mesh: i for i, mesh in reversed(list(enumerate(map(_mesh, params))))}
    return lambda p: meshes[_mesh(p)]


# --- one row a parameter ----------------------------------------------------------------------------------------------
# Whether it was measured; how many numbers it has; what else adds up; and the numbers that its coordinates share, which
# come from one process only.

_SHARED = sum(2 if name == "betas" else 1 for name in Numbers._fields)


def _flat(n: Numbers) -> list[float]:
    return [float(x) for field in n for x in (field if isinstance(field, tuple) else (field,))]


def _numbers(values: Sequence[float]) -> Numbers:
    rest = iter(values)
    fields: dict[str, Any] = {
        name: (next(rest), next(rest)) if name == "betas" else next(rest) for name in Numbers._fields
    }
    kinds = {"raw": bool, "flip": bool, "ascends": bool, "t": int}
    return Numbers(**{name: kinds.get(name, lambda x: x)(value) for name, value in fields.items()})


def _vector(
    mesh: Any, params: Sequence[Tensor], measured: Sequence[Tensor], packed: Packed | None, form: Form
) -> NDArray[np.float64]:
    """A flat vector: whether this process failed, then the rows. A copy of what is counted elsewhere adds nothing."""
    rows = np.zeros((len(params), 2 + form.sums + form.counts + sum(form.further.values()) + _SHARED))
    place = {p: i for i, p in enumerate(measured)}
    mine = [(i, place[p]) for i, p in enumerate(params) if p in place]
    if packed is not None and mine:
        to, of = map(list, zip(*mine, strict=True))
        columns = [
            np.array([[1.0, packed.numel[i]] for i in of]),
            packed.sums[of],
            packed.counts[of],
            *(packed.further[name][of].reshape(len(of), -1) for name in form.further),
            np.array([_flat(packed.numbers[i]) for i in of]),
        ]
        table = np.concatenate(columns, axis=1, dtype=np.float64)
        here = mesh.get_coordinate()
        elsewhere = [d for d in _dimensions(mesh, params) if here[d]]
        for row, p in zip(table, (params[i] for i in to), strict=True):
            if any(_replicated(p, d) for d in elsewhere):
                row[:] = 0
            elif elsewhere:  # the first part is never empty while another one is not
                row[0] = row[-_SHARED:] = 0
        rows[to] = table
    return np.concatenate([[float(packed is None)], rows.ravel()])


def _rows(rows: NDArray[np.float64], form: Form) -> Packed:
    widths = [2, form.sums, form.counts, *form.further.values()]
    head, sums, counts, *further, shared = np.split(rows, np.cumsum(widths).tolist(), axis=1)
    flat = [values if width > 1 else values[:, 0] for values, width in zip(further, form.further.values(), strict=True)]
    return Packed(
        sums,
        counts,
        [_numbers(values) for values in shared.tolist()],
        head[:, 1].astype(int).tolist(),
        dict(zip(form.further, flat, strict=True)),
    )


# --- who adds up with whom --------------------------------------------------------------------------------------------


def _replicated(p: Any, dimension: int) -> bool:
    return bool(p.placements[dimension].is_replicate())


def _dimensions(mesh: Any, params: Sequence[Tensor]) -> list[int]:
    """The dimensions of the mesh along which anything is divided; along the others there are copies of all."""
    return [d for d in range(mesh.ndim) if mesh.size(d) > 1 and not all(_replicated(p, d) for p in params)]


def _add_up(mesh: Any, params: Sequence[Tensor], vector: NDArray[np.float64]) -> None:
    """All-reduce in place, once along each dimension of the mesh that something is divided along."""
    dimensions = _dimensions(mesh, params)
    if not dimensions:
        return
    from torch import distributed

    numbers = torch.from_numpy(vector)
    moved = numbers.to(mesh.device_type)
    for d in dimensions:
        distributed.all_reduce(moved, group=mesh.get_group(d))
    if moved is not numbers:
        numbers.copy_(moved)


def agreed(params: Sequence[Tensor], wish: bool) -> bool:
    """Whether any process wishes it: one of the parameters' meshes. Each of them has to ask."""
    wishes = np.array([float(wish)])
    for mesh in dict.fromkeys(map(_mesh, params)):
        _add_up(mesh, [p for p in params if _mesh(p) is mesh], wishes)
    return bool(wishes[0] > 0)


# --- whether the others are there -------------------------------------------------------------------------------------

PATIENCE = datetime.timedelta(seconds=60)
_met = itertools.count()


class Peers:
    """The processes that have to take part.

    A scope in one process only must not wait for others: its all-reduce would meet theirs of another kind. So at the
    first step to be measured each tells the processes' common store that it is there, and how it was set up.
    """

    def __init__(self, setup: str) -> None:
        """setup: what has to be the same in all of them."""
        self._setup = setup
        self._complete: bool | None = None
        self._name = ""

    def complete(self, params: Sequence[Tensor]) -> bool:
        """Whether every process that has a part of these is there; if not, it is said once."""
        if self._complete is None:
            ranks = sorted({rank for mesh in set(map(_mesh, params)) for rank in mesh.mesh.flatten().tolist()})
            problem = self._missing(ranks)
            self._complete = not problem
            if problem:
                log.warning("sharded parameters are not measured: %s", problem)
        elif self._complete and _store().check([f"{self._name}/left"]):
            self._complete = False
            log.warning(
                "sharded parameters are no longer measured: another process has detached its scope. Detach all of them."
            )
        return self._complete

    def leave(self) -> None:
        """Tell the others not to wait any more. They look at each step that they measure.

        That is in time: the step after this one takes gradients to which this process, too, has to add its share.
        """
        if self._complete:
            with contextlib.suppress(Exception):  # the processes may have parted before
                _store().set(f"{self._name}/left", "")

    def _missing(self, ranks: Sequence[int]) -> str:
        """What is wrong, or nothing."""
        from torch import distributed

        store = _store()
        self._name = name = f"stepscope/{next(_met)}"
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


def _store() -> Any:
    """What all processes share."""
    from torch import distributed

    return distributed.distributed_c10d._get_default_store()


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
