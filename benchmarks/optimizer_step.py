"""One optimizer step of the eager and the compiled backend against torch's own classes, one thread, float32."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks._timing import side_by_side
from stepscope import optim

SIZES = {"one tensor of 3.2 million": [3_200_000], "60 tensors of 5,000": [5_000] * 60}
METHODS = ("sgd", "msgd", "mssd", "svag", "msvag", "adam", "adam_one_beta", "rmsprop", "adagrad")


def measure() -> list[dict[str, Any]]:
    """A row for each method and list of tensors."""
    torch.set_num_threads(1)
    rows = []
    for label, sizes in SIZES.items():
        steps = {"torch.optim.Adam": _stepper(lambda p: torch.optim.Adam(p, foreach=False), sizes)}
        steps["torch.optim.Adam(fused)"] = _stepper(lambda p: torch.optim.Adam(p, fused=True), sizes)
        for name in METHODS:
            kind = optim.METHODS[name]
            steps[f"stepscope.optim.{kind.__name__}"] = _stepper(kind, sizes)
            steps[f"stepscope.optim.{kind.__name__}(fused)"] = _stepper(lambda p, kind=kind: kind(p, fused=True), sizes)
        rows += [row | {"what": f"{label}: {row['what']}"} for row in side_by_side(steps, "torch.optim.Adam")]
    return rows


def _stepper(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], sizes: list[int]
) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in sizes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(parameters).step
