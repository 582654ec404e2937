"""One optimizer step on a GPU: ours, plain and measured, against torch's fused Adam and against copying as many bytes.

Times are the device's own, between two events. Without a GPU there is nothing to measure and no row.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stepscope import optim
from stepscope.optim.sums import Request

SIZES: Mapping[str, list[int]] = {
    "one tensor of 25 million": [25_000_000],
    "1000 tensors of 1000": [1000] * 1000,
    "like GPT-2 small": [
        *(50257 * 768, 1024 * 768),
        *[size for _ in range(12) for size in (768 * 2304, 2304, 768 * 768, 768, 768 * 3072, 3072, 3072 * 768, 768)],
        *[768] * 50,
    ],
}
STREAMS: Mapping[str, int] = {"sgd": 3, "msgd": 5, "msvag": 7, "adam": 7}  # numbers read and written an element
ROUNDS = 30
TORCH = "torch.optim.Adam(fused)"


def measure() -> list[dict[str, Any]]:
    """Rows for each list of tensors: ratios to torch's fused Adam, whose own is to a copy of seven streams."""
    if not torch.cuda.is_available():
        print("no GPU")
        return []
    rows = []
    for label, sizes in SIZES.items():
        steps = {TORCH: _stepper(lambda p: torch.optim.Adam(p, fused=True), sizes)}
        for name, streams in STREAMS.items():
            kind = optim.METHODS[name]
            ours = f"stepscope.optim.{kind.__name__}"
            steps[ours] = _stepper(kind, sizes)
            steps[f"{ours}, every statistic"] = _stepper(kind, sizes, observed=True)
            steps[f"a copy of {streams} streams"] = _copy(sum(sizes), streams)
        seconds = _times(steps)
        for name, times in seconds.items():
            peer = f"a copy of {STREAMS['adam']} streams" if name == TORCH else TORCH
            ratio = statistics.median(a / b for a, b in zip(times, seconds[peer], strict=True))
            row = {"what": f"{label}: {name}", "seconds": statistics.median(times), "ratio": ratio, "to": peer}
            rows.append(row | {"device": torch.cuda.get_device_name()})
    return rows


def _times(steps: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each in each round, in turn; two rounds before the first compile and warm up.

    Each is called twice and the second call is timed, with the host ahead of the device where it can be. Statistics
    are fetched a step later.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS + 2):
        for name, step in steps.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            step()
            start.record()
            step()
            stop.record()
            stop.synchronize()
            if i >= 2:
                seconds[name].append(start.elapsed_time(stop) / 1e3)
    return seconds


def _stepper(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], sizes: list[int], *, observed: bool = False
) -> Callable[[], object]:
    generator = torch.Generator("cuda").manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n, generator=generator, device="cuda")) for n in sizes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, device="cuda")
    optimizer: Any = make(parameters)
    request = Request(measure=True)

    def step() -> None:
        if observed:
            for part in optimizer.step_sums.measured if optimizer.step_sums else []:
                part.counted.sums.sum()  # comes from the device
            optimizer.request_sums(request)
        optimizer.step()

    return step


def _copy(elements: int, streams: int) -> Callable[[], object]:
    """A copy that reads and writes as many bytes as that many streams of float32."""
    size = elements * streams // 2
    source, target = (torch.empty(size, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)
