"""A claim of a paper: where it stands, what it says in our words, how it is decided, and what we found."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from stepscope.experiments.claims.figure import Figure
from stepscope.experiments.effects import ALPHA, holm

__all__ = ["Claim", "Finding", "Random", "Verdict", "claim", "corrected", "decide"]


class Verdict(StrEnum):
    """What a measurement says about a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds under a condition"
    FAILS = "fails"
    UNDECIDED = "undecided"
    INDICATES = "indicates"
    CANNOT = "cannot be tested"


@dataclass(frozen=True)
class Finding:
    """What a claim's test found.

    measured: our number, in a sentence.  condition: for HOLDS_IF, under which; for CANNOT, why; for UNDECIDED, what
    would decide.  n, error, interval, p: sample size, standard error, 95 % interval and raw p value.
    data: columns of numbers.  figure: what to draw.
    """

    verdict: Verdict
    measured: str
    condition: str = ""
    n: int | None = None
    error: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    figure: Figure | None = None


Random = Callable[[str], np.random.Generator]
"""Independent streams by name; the same name gives the same numbers in every run."""


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    id: "balles-...", "eigen-...", "kaiser-...", "tutorial-..." or "beyond-...".  paper, place: a key of references.bib
    and the section, equation or figure.  statement: in our own words.  threshold: what decides, fixed before the run.
    theirs: the number they print, if any.  family: claims tested on one figure, whose p values are corrected together.
    """

    id: str
    paper: str
    place: str
    statement: str
    threshold: str
    test: Callable[[Random], Finding]
    theirs: str = ""
    family: str = ""

    def run(self) -> Finding:
        """Carry out the test."""
        return self.test(self.random)

    def random(self, name: str) -> np.random.Generator:
        """The claim's stream of that name."""
        return np.random.default_rng([zlib.crc32(self.id.encode()), zlib.crc32(name.encode())])


def claim(
    registry: list[Claim],
    id: str,
    paper: str,
    place: str,
    *,
    statement: str,
    threshold: str,
    theirs: str = "",
    family: str = "",
) -> Callable[[Callable[[Random], Finding]], Callable[[Random], Finding]]:
    """Decorates a claim's test and enters the claim in its module's list."""

    def enter(test: Callable[[Random], Finding]) -> Callable[[Random], Finding]:
        registry.append(Claim(id, paper, place, statement, threshold, test, theirs, family))
        return test

    return enter


def decide(holds: bool) -> Verdict:
    """The verdict of a claim that is a plain comparison."""
    return Verdict.HOLDS if holds else Verdict.FAILS


def corrected(findings: Mapping[str, Finding], families: Mapping[str, str]) -> dict[str, Finding]:
    """Holm's correction over each family: a finding whose corrected p exceeds ALPHA is undecided, whatever it said.

    findings, families: by claim.  Claims without a p value or a family are left as they are.  [holm1979]
    """
    out = dict(findings)
    for family in sorted(set(families.values()) - {""}):
        members = [i for i, name in families.items() if name == family and i in out and out[i].p is not None]
        raw: Sequence[float] = [p for i in members if (p := out[i].p) is not None]
        for i, p in zip(members, holm(raw), strict=True):
            verdict = out[i].verdict
            if p > ALPHA and verdict in (Verdict.HOLDS, Verdict.FAILS, Verdict.HOLDS_IF):
                why = f"p = {p:.2g} after correction for {len(members)} tests of one figure"
                out[i] = replace(out[i], verdict=Verdict.UNDECIDED, p=p, condition=why)
            else:
                out[i] = replace(out[i], p=p)
    return out
