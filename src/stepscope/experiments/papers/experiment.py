"""What an experiment is, and its profiles: the paper's protocol, or a stated fraction of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from stepscope.errors import DamagedData, unknown_name
from stepscope.experiments.claims.claim import Finding
from stepscope.experiments.claims.figure import Figure

if TYPE_CHECKING:
    from stepscope.experiments.executor import Executor
    from stepscope.experiments.progress import Progress

__all__ = ["PROFILES", "SCHEMA", "Experiment", "Extent", "Sentence", "Stored", "kept", "load_stored"]

PROFILES: Final = ("paper", "small", "smoke")
ProfileName = Literal["paper", "small", "smoke"]
SCHEMA: Final = "stepscope.experiment/1"
STORED: Final = Path(__file__).parent / "stored"

Stored = Mapping[str, Any]
"""What a run left: "experiment", "profile", "extent" in words ("" for the whole protocol), "steps", and "arms"."""


@dataclass(frozen=True)
class Extent:
    """How much of the protocol is done.

    steps: of a run.  seeds: runs of each method.  evaluate_every: steps.  evaluated: test examples that each evaluation
    looks at, and as many training examples; None for all.  budget: step sizes tried by search for a method
    without a `grid`.  methods: what is compared.  note: what is fractional, for the caption; "" for nothing.
    """

    steps: int
    seeds: int
    evaluate_every: int
    evaluated: int | None
    methods: tuple[str, ...]
    budget: int = 12
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Sentence:
    """A sentence of the paper as a test that was fixed before the run.

    id: of the claim in the ledger.  place: section or figure.  statement: in our words.  threshold: what decides.
    test: from what a run left.
    """

    id: str
    place: str
    statement: str
    threshold: str
    test: Callable[[Stored], Finding]


@dataclass(frozen=True)
class Experiment:
    """A figure of a paper.

    train: (experiment, profile, folder, executor, progress) -> what it leaves; resumes in the same folder.
    gather: (experiment, profile, folder) -> what the runs that are finished there leave.
    plant: (a kept run, experiment, profile, folder) -> how many of its runs are not to be trained again; None if its
    runs cannot be taken up.
    """

    id: str
    paper: str
    place: str
    title: str
    profiles: Mapping[str, Extent]
    train: "Callable[[Experiment, str, Path, Executor | None, Progress | None], Stored]"
    figure: Callable[[Stored], Figure]
    sentences: tuple[Sentence, ...]
    gather: "Callable[[Experiment, str, Path], Stored]"
    plant: "Callable[[Stored, Experiment, str, Path], int] | None" = None

    def extent(self, profile: str) -> Extent:
        """Of a profile.  Raises: UserError for an unknown one."""
        if profile not in self.profiles:
            raise unknown_name("profile", profile, self.profiles)
        return self.profiles[profile]


def load_stored(file: Path) -> Stored | None:
    """What a run left in a file; None without one.  Raises: DamagedData if it cannot be read."""
    if not file.is_file():
        return None
    try:
        found: Stored = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedData(f"{file} cannot be read: {error}") from error
    return found


def kept(id: str) -> Stored | None:
    """The run of an experiment that came with this version, if one did."""
    return load_stored(STORED / f"{id}.json")
