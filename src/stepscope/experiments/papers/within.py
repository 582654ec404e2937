"""[balles2018, Sec. 4.1 and D]: the variance estimated within the mini-batch instead of by moving averages, on P1.

M-SVAG and SVAG, each with both estimates. The variance within a batch comes from eight parts of it. Step sizes are
M-SVAG's as quoted for P1, and for SVAG, which the paper does not train there, the same.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepscope.experiments.claims.claim import Finding
from stepscope.experiments.claims.figure import Figure
from stepscope.experiments.papers import fig5
from stepscope.experiments.papers.curves import Curves, fractional, same
from stepscope.experiments.papers.experiment import Experiment, Extent, Sentence, Stored

if TYPE_CHECKING:
    from stepscope.experiments.executor import Executor
    from stepscope.experiments.progress import Progress

__all__ = ["EXPERIMENTS", "PAIRS"]

ID: Final = "balles2018_within_p1"
PROBLEM: Final = "fashion-mnist"
PAIRS: Final = (("msvag", "m:svag_rho:batch"), ("svag", "g:svag:batch"))
METHODS: Final = tuple(method for pair in PAIRS for method in pair)
ALIKE: Final = math.log(1.25)  # as in fig5: curves that a figure shows together


def train(
    experiment: Experiment, profile: str, folder: Path, executor: "Executor | None", progress: "Progress | None"
) -> Stored:
    """Dissect P1 with the four arms, and keep its curves."""
    return fig5.train_on(PROBLEM, experiment, profile, folder, executor, progress)


def figure(stored: Stored) -> Figure:
    """As Fig. 5, with the same colour for both estimates of a method's variance."""
    return fig5.draw(EXPERIMENTS[ID], stored)


def _alike(moving: str, within: str, stored: Stored) -> Finding:
    rows = Curves(stored).paired("train_loss", (moving, within), log=True)
    return same([a - b for a, b in rows], ALIKE, "log training loss with moving averages less that within the batch")


def _sentence(id: str, name: str, pair: tuple[str, str]) -> Sentence:
    return Sentence(
        id, "Sec. 4.1, mini-batch estimates",
        f"On P1: {name} performs similarly with the variance estimated within the mini-batch.",
        "final training losses within a factor 1.25, two one-sided tests",
        lambda stored: fractional(_alike(*pair, stored), stored),
    )  # fmt: skip


_GRID: Final = dict.fromkeys(METHODS, (fig5.QUOTED["msvag"],))
EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    ID: Experiment(
        ID, "balles2018", "Sec. 4.1", "P1 with the variance within the mini-batch, and by moving averages",
        {
            "paper": Extent(6000, 10, 500, None, METHODS, grid=_GRID),
            "small": Extent(600, 3, 100, 2000, METHODS, grid=_GRID,
                            note="A fraction of the protocol: 10 % of the steps, 3 seeds, 2000 test images"),
            "smoke": Extent(4, 2, 2, 60, METHODS, grid=_GRID, note="A fraction of the protocol: 4 steps, 2 seeds"),
        },
        train,
        figure,
        (
            _sentence("balles-p1-within-batch", "M-SVAG", PAIRS[0]),
            _sentence("balles-p1-within-batch-svag", "SVAG, without momentum,", PAIRS[1]),
        ),
        fig5.gather,
        fig5.plant,
    )
}  # fmt: skip
