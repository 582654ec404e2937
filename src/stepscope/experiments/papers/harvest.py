"""The finished trials of a dissection as curves, whether or not all are done, and taking up those of an earlier run.

A trial's name is a hash of all that it depends on, the problem's data included. So a run that was kept half-way is gone
on with anywhere: its trials take their places in a new folder, and only what is missing is trained.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stepscope.errors import DamagedData, UserError
from stepscope.experiments.arms import label
from stepscope.experiments.papers.curves import so_far
from stepscope.experiments.papers.experiment import SCHEMA, Experiment, Stored
from stepscope.experiments.plan import TUNING_SEED
from stepscope.experiments.tuning import Tried, best, edge, judge
from stepscope.store.files import write_json

__all__ = ["COLUMNS", "gather", "plant"]

COLUMNS: Final = ("train_loss", "train_metric", "test_loss", "test_metric")
OWN: Final = ("seed", "record_every")  # what differs between the runs of an arm
DIGITS: Final = 5


def gather(experiment: Experiment, profile: str, folder: Path) -> Stored:
    """What the finished trials in ``folder/dissection`` left; its extent says how many there are to be.

    Raises: UserError if nothing was begun there.
    """
    extent, place = experiment.extent(profile), folder / "dissection"
    if not (place / "dissect.json").is_file():
        raise UserError(f"{folder} holds no finished run of {experiment.id} yet: leave --finished out.")
    settings = _json(place / "dissect.json")
    if (settings["steps"], len(settings["seeds"])) != (extent.steps, extent.seeds):
        raise UserError(f"{folder} holds a run of another profile than {profile}: name it with --profile.")
    mark = settings["problem fingerprint"]
    results = [_json(file) for file in sorted((place / "trials").glob("[!.]*/result.json"))]
    results = [one for one in results if one["config"]["problem"] == mark and one["status"] != "failed"]
    arms = [_arm(method, [one for one in results if one["config"]["method"] == method]) for method in extent.methods]
    environment = _json(place / "environment.json")
    taken_up = place / "taken-up.json"
    return {
        "schema": SCHEMA,
        "experiment": experiment.id,
        "profile": profile,
        "extent": so_far(extent.note, sum(len(arm["runs"]) for arm in arms), extent.seeds * len(extent.methods)),
        "seeds": extent.seeds,
        "steps": extent.steps,
        "environment": {key: environment.get(key) for key in ("packages", "hardware", "python", "git")},
        "taken_up": _json(taken_up)["environments"] if taken_up.is_file() else [],
        "arms": arms,
    }


def _arm(method: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Its search and its runs at the step size that was chosen."""
    tried: dict[float, Tried] = {}
    for one in results:
        if one["config"]["seed"] >= TUNING_SEED:
            tried[one["config"]["lr"]] = judge(one["evaluations"], one["status"], "paper", higher_is_better=True)
    runs = sorted(
        (one for one in results if one["config"]["seed"] < TUNING_SEED), key=lambda one: int(one["config"]["seed"])
    )
    if tried and any(outcome.stable for outcome in tried.values()):
        runs = [one for one in runs if one["config"]["lr"] == best(tried)]
    lr = runs[0]["config"]["lr"] if runs else None
    shared = {key: value for key, value in runs[0]["config"].items() if key not in OWN} if runs else None
    return {
        "method": method,
        "label": label(method),
        "lr": lr,
        "lr_at_edge": None if lr is None else edge(tried, lr),
        "tuning": [
            {"lr": at, "status": outcome.status, "score": outcome.score, "train_loss": outcome.train_loss}
            for at, outcome in sorted(tried.items())
        ],
        "trial": shared,
        "runs": [_columns(one) for one in runs],
    }


def _columns(result: Mapping[str, Any]) -> dict[str, Any]:
    rows, own = result["evaluations"], {key: result["config"][key] for key in OWN}
    columns = {name: [_rounded(row[name]) for row in rows] for name in COLUMNS}
    return {**own, "status": result["status"], "steps": result["steps"], "step": [row["step"] for row in rows],
            **columns}  # fmt: skip


def plant(stored: Stored, experiment: Experiment, profile: str, folder: Path) -> int:
    """Put the finished trials of a run that is kept where a dissection in the folder finds them.  Returns how many.

    Their numbers are the kept ones, of 5 digits; recorded steps were not kept. Trials that are there stay.
    Raises: UserError for a run of something else.
    """
    if (stored.get("experiment"), stored.get("profile")) != (experiment.id, profile):
        raise UserError(
            f"the run to take up is of {stored.get('experiment')} at profile {stored.get('profile')}, "
            f"not of {experiment.id} at {profile}."
        )
    planted = 0
    for arm in stored["arms"]:
        for run in arm["runs"]:
            config = {**arm["trial"], **{key: run[key] for key in OWN}}
            # As in Trial.id; a file that was edited gives an id that nobody asks for.
            id = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
            place = folder / "trials" / id / "result.json"
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_json(place, {"config": config, "status": run["status"], "steps": run["steps"],
                                   "evaluations": _rows(run)})  # fmt: skip
                planted += 1
    if planted:
        known = _json(folder / "taken-up.json")["environments"] if (folder / "taken-up.json").is_file() else []
        of = [*stored.get("taken_up", ()), stored["environment"]]
        write_json(folder / "taken-up.json", {"environments": known + [one for one in of if one not in known]})
    return planted


def _rows(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A result's evaluations; the validation examples' values were not kept."""
    names = [*COLUMNS, "validation_loss", "validation_metric"]
    return [
        {"step": step, **{name: run[name][i] if name in COLUMNS else None for name in names}}
        for i, step in enumerate(run["step"])
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedData(f"{file} cannot be read: {error}") from error
    return found
