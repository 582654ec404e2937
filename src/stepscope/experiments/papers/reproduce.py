"""Running an experiment in a folder, and reading what it left; without training where that is there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepscope.errors import UserError, unknown_name
from stepscope.experiments.claims.claim import Finding
from stepscope.experiments.claims.figure import Figure
from stepscope.experiments.claims.ledger import entry
from stepscope.experiments.papers import fig5, hessians, spread, within
from stepscope.experiments.papers.experiment import Experiment, Stored, load_stored
from stepscope.store.files import refusal, write_json

if TYPE_CHECKING:
    from stepscope.experiments.executor import Executor
    from stepscope.experiments.progress import Progress

__all__ = ["EXPERIMENTS", "Reproduction", "read", "reproduce"]

EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    **fig5.EXPERIMENTS,
    **within.EXPERIMENTS,
    **hessians.EXPERIMENTS,
    **spread.EXPERIMENTS,
}
CURVES: Final = "curves.json"
SO_FAR: Final = "curves-so-far.json"


@dataclass(frozen=True)
class Reproduction:
    """An experiment's figure and what its sentences' tests found, by id."""

    experiment: Experiment
    stored: Stored
    figure: Figure
    findings: Mapping[str, Finding]


def reproduce(
    id: str,
    profile: str,
    folder: Path,
    *,
    executor: "Executor | None" = None,
    progress: "Progress | None" = None,
    finished: bool = False,
    take_up: Stored | None = None,
) -> Reproduction:
    """Train what is missing, keep the curves in ``folder/curves.json`` and the verdicts beside them.

    Called again it goes on where it was interrupted, and once the curves are there it only reads them.
    finished: read what is finished, whoever is at work there, and train nothing; the curves go to SO_FAR.
    take_up: a kept run of the same experiment and profile, whose runs are not trained again.
    Raises: UserError for an unknown experiment or profile, for a folder that belongs to others, and what training
    raises.
    """
    experiment = EXPERIMENTS.get(id)
    if experiment is None:
        raise unknown_name("experiment", id, EXPERIMENTS)
    experiment.extent(profile)
    found = load_stored(folder / CURVES)
    if found is None and finished:
        found = experiment.gather(experiment, profile, folder)
        if not any(arm.get("runs", True) for arm in found["arms"]):
            raise UserError(f"{folder} holds no finished run of {id} yet: leave --finished out.")
        write_json(folder / SO_FAR, found)
    elif found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(refusal(error, folder / CURVES)) from error
        if take_up is not None:
            if experiment.plant is None:
                raise UserError(f"runs of {id} cannot be taken up: what is kept of them is too little.")
            taken = experiment.plant(take_up, experiment, profile, folder)
            if progress is not None:
                progress.note(f"{taken} runs were taken up, and are not trained again.")
        found = experiment.train(experiment, profile, folder, executor, progress)
        write_json(folder / CURVES, found)
    elif (found["experiment"], found["profile"]) != (id, profile):
        there = f"{found['experiment']} at profile {found['profile']}"
        raise UserError(f"{folder} holds {there}: choose another --out, or delete it.")
    done = read(found)
    rows = [
        {**vars(entry(one.id, done.findings[one.id])), "statement": one.statement, "threshold": one.threshold}
        for one in experiment.sentences
    ]
    write_json(folder / "verdicts.json", {"experiment": id, "extent": found["extent"], "verdicts": rows})
    return done


def read(stored: Stored) -> Reproduction:
    """Figure and findings from what a run left."""
    experiment = EXPERIMENTS[stored["experiment"]]
    findings = {one.id: one.test(stored) for one in experiment.sentences}
    return Reproduction(experiment, stored, experiment.figure(stored), findings)
