"""Arrays that are cheap to keep and dear to read again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Cache"]


class Cache:
    """What was computed last, up to so many bytes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: Any) -> bool:
        return key in self._kept

    def get(self, key: Any, compute: Callable[[], tuple[Any, ...]], besides: Sequence[Any] = ()) -> Any:
        """The arrays that `compute` gives; it is called again where they were let go.

        besides: arrays that are counted elsewhere.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        arrays = compute()
        size = 64 + sum(array.nbytes for array in arrays if not any(array is other for other in besides))
        self._kept[key] = arrays, size
        self.bytes += size
        while self.bytes > self.budget and len(self._kept) > 1:
            _, (_, old) = self._kept.popitem(last=False)
            self.bytes -= old
        return arrays
