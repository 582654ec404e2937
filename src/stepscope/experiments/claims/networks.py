"""Claims about trained networks: each sentence is tested on the run of its experiment that is kept, if one is."""

from collections.abc import Callable

from stepscope.experiments.claims.claim import Claim, Finding, Random, Verdict
from stepscope.experiments.papers import fig5, hessians, spread, within
from stepscope.experiments.papers.experiment import Experiment, Sentence, kept

__all__ = ["CLAIMS"]


def _test(experiment: Experiment, sentence: Sentence) -> Callable[[Random], Finding]:
    def test(random: Random) -> Finding:
        stored = kept(experiment.id)
        if stored is None:
            why = f"no run is kept: `stepscope reproduce {experiment.id} --profile paper` makes one, on a GPU or a cluster"
            return Finding(Verdict.CANNOT, "not measured yet", why)
        return sentence.test(stored)

    return test


CLAIMS: list[Claim] = [
    Claim(
        one.id, experiment.paper, one.place, one.statement, one.threshold, _test(experiment, one), family=experiment.id
    )
    for module in (fig5, within, hessians, spread)
    for experiment in module.EXPERIMENTS.values()
    for one in experiment.sentences
]
