"""What the papers claim, tested: one module per part of a paper, one function per claim."""

from stepscope.experiments.claims.claim import Claim, Finding, Verdict
from stepscope.experiments.claims.figure import Figure
from stepscope.experiments.claims.ledger import claims, reproduce, run_all, stored

__all__ = ["Claim", "Figure", "Finding", "Verdict", "claims", "reproduce", "run_all", "stored"]
