"""Layers put together to blocks, so that a page about a thousand of them can be read."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Block", "blocks"]


@dataclass(frozen=True)
class Block:
    """Layers that are shown as one.  members: their places among all layers."""

    name: str
    members: tuple[int, ...]


def blocks(names: Sequence[str], most: int) -> list[Block]:
    """At most ``most`` blocks of the layers ``names``, in their order.

    Where there are more layers, those that share the longest beginning of their names, cut at a dot, for which there
    are few enough blocks; where those are very few, neighbours among the blocks of one part more.

    >>> names = ["a.0.w", "a.0.b", "a.1.w", "a.1.b", "head"]
    >>> [(block.name, len(block.members)) for block in blocks(names, 3)]
    [('a.0', 2), ('a.1', 2), ('head', 1)]
    >>> [block.name for block in blocks(["x", "y", "z", "u"], 2)]
    ['x … y', 'z … u']
    """
    if len(names) <= most:
        return [Block(name, (place,)) for place, name in enumerate(names)]
    depth = max(name.count(".") for name in names) + 1
    finer = _beginnings(names, depth)
    while depth > 1 and len(coarser := _beginnings(names, depth - 1)) >= most / 3:
        finer, depth = coarser, depth - 1
        if len(finer) <= most:
            return [Block(name, tuple(members)) for name, members in finer.items()]
    whole = list(finer.items())
    edges = [round(n * len(whole) / most) for n in range(most + 1)]
    found = []
    for start, stop in itertools.pairwise(edges):
        some = whole[start:stop]
        name = some[0][0] if len(some) == 1 else f"{some[0][0]} … {some[-1][0]}"
        found.append(Block(name, tuple(place for _, members in some for place in members)))
    return found


def _beginnings(names: Sequence[str], depth: int) -> dict[str, list[int]]:
    """The places of the names by their first so many parts."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(".".join(name.split(".")[:depth]), []).append(place)
    return groups
