"""At which steps a scope records: functions of the step's number, the first step being 1.

A schedule with a method `saw(step, values)` is also told what is noted of the run as a whole, such as the loss.
"""

import math
from collections.abc import Callable, Mapping

__all__ = ["DenseAfterSpike", "Schedule", "every", "log_spaced"]

Schedule = Callable[[int], bool]


def every(n: int) -> Schedule:
    """Step 1 and every n-th one.  Raises: ValueError for n < 1.

    >>> [step for step in range(1, 10) if every(4)(step)]
    [1, 4, 8]
    """
    if n < 1:
        raise ValueError(f"every must be at least 1, got {n}")
    return lambda step: step == 1 or step % n == 0


def log_spaced(per_decade: int = 20) -> Schedule:
    """Every step at first, then so many in each power of ten.  Raises: ValueError for per_decade < 1.

    >>> [step for step in range(1, 101) if log_spaced(4)(step)]
    [1, 2, 4, 6, 10, 18, 32, 57, 100]
    """
    if per_decade < 1:
        raise ValueError(f"per_decade must be at least 1, got {per_decade}")

    def reached(step: int) -> int:
        return math.floor(per_decade * math.log10(step) + 1e-9)

    return lambda step: step == 1 or reached(step) > reached(step - 1)


class DenseAfterSpike:
    """A schedule of its own, and every step for a while after a noted value has jumped.

    base: the schedule while all is quiet, a number standing for `every`.  steps: how long it stays dense.
    of: name of the noted value.  ratio: a jump is a value more than this multiple of its slow average, or none that is
    finite.  The average has a memory of 50 values and judges from the fifth on.

    >>> schedule = DenseAfterSpike(1000, steps=3)
    >>> for step in range(1, 12):
    ...     schedule.saw(step, {"loss": 9.0 if step == 7 else 1.0})
    >>> [step for step in range(2, 20) if schedule(step)]
    [8, 9, 10]
    """

    def __init__(self, base: int | Schedule, *, steps: int = 50, of: str = "loss", ratio: float = 2.0) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not ratio > 1:
            raise ValueError(f"ratio must be greater than 1, got {ratio}")
        self._base = base if callable(base) else every(base)
        self._steps, self._of, self._ratio = steps, of, ratio
        self._average, self._count = 0.0, 0
        self._dense: list[tuple[int, int]] = []

    def __call__(self, step: int) -> bool:
        """Whether to record this step."""
        return any(first <= step <= last for first, last in self._dense) or self._base(step)

    def saw(self, step: int, values: Mapping[str, float]) -> None:
        """Take note of a value after this step."""
        value = values.get(self._of)
        if value is None:
            return
        finite = math.isfinite(value)
        if not finite or (self._count >= 5 and value > self._ratio * self._average > 0):
            self._dense = [*self._dense[-1:], (step + 1, step + self._steps)]
        if finite:
            self._count += 1
            self._average += (value - self._average) / min(self._count, 50)
