"""Times of several functions side by side: each round calls all of them once, and ratios are taken within a round."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def side_by_side(
    functions: Mapping[str, Callable[[], object]], reference: str, rounds: int = 30
) -> list[dict[str, Any]]:
    """Rows for the functions: median seconds, and the median over rounds of the ratio to `reference`.

    A slow moment of the machine hits all functions of its round alike; two rounds before the first warm caches up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    base = seconds[reference][2:]
    return [
        {
            "what": name,
            "seconds": statistics.median(times[2:]),
            "ratio": statistics.median(a / b for a, b in zip(times[2:], base, strict=True)),
            "to": reference,
        }
        for name, times in seconds.items()
    ]
