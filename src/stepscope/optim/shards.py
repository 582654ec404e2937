"""Where the part of a parameter that is here lies in the whole: sharded parameters (DTensor) are measured in place."""

from typing import Any, NamedTuple

from torch import Tensor

from stepscope.optim.backends.eager import is_distributed, local

__all__ = ["Extent", "extent", "size"]


class Extent(NamedTuple):
    """Numbers start to start + n of a flattened tensor of `whole` numbers, n of them being here.

    Which blocks of a large tensor are sampled depends on both, so that shards sample what the whole tensor would.
    scattered: those that are here are no piece of it; start is 0.
    """

    start: int
    whole: int
    scattered: bool = False


def size(p: Tensor) -> int:
    """How many real numbers this process holds of a tensor."""
    part: Tensor = local(p)
    return part.numel() * (2 if part.is_complex() else 1)


def extent(p: Any) -> Extent:
    """The extent of the part that is here.

    A shard of rows is one piece of the flattened tensor. Shards of other dimensions are not: their sample is as dense
    as the whole tensor's, and begins with each of them.
    """
    reals = 2 if p.is_complex() else 1
    whole = p.numel() * reals
    if not is_distributed(p) or p.dim() == 0 or p.numel() == 0:
        return Extent(0, whole)
    first, rows = 0, p.shape[0]
    here = p.device_mesh.get_coordinate()
    for i, placement in enumerate(p.placements):
        if placement.is_replicate():
            continue
        if here is None or type(placement).__name__ != "Shard" or placement.dim != 0:
            return Extent(0, whole, scattered=True)
        share = -(-rows // p.device_mesh.size(i))  # as torch.chunk: the last shards may be smaller, or empty
        begin = min(here[i] * share, rows)
        first, rows = first + begin, min(share, rows - begin)
    return Extent(first * (whole // p.shape[0]), whole)
