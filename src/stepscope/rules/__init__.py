"""The update rules: pure elementwise functions composed of named parts, and their registry.

No module here imports a numerical library: a rule runs on whatever it is called with.
"""

from stepscope.rules.compose import CHOICES, Point, compose
from stepscope.rules.methods import METHODS
from stepscope.rules.rule import Hyper, Rule, StepScalar, View, ascending, decayed

__all__ = ["CHOICES", "METHODS", "Hyper", "Point", "Rule", "StepScalar", "View", "ascending", "compose", "decayed"]
