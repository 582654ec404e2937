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
    own_ratio: the same of the calling thread's processor time, which others on a busy machine do not stretch.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    own: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 2):
        for name, function in functions.items():
            start, begin = time.perf_counter(), time.thread_time()
            function()
            own[name].append(time.thread_time() - begin)
            seconds[name].append(time.perf_counter() - start)
    base, own_base = seconds[reference][2:], own[reference][2:]
    return [
        {
            "what": name,
            "seconds": statistics.median(times[2:]),
            "ratio": statistics.median(a / b for a, b in zip(times[2:], base, strict=True)),
            "own_ratio": statistics.median(a / b for a, b in zip(own[name][2:], own_base, strict=True)),
            "to": reference,
        }
        for name, times in seconds.items()
    ]
