"""Any update rule on any landscape under any noise: single trajectories with their inner state, or millions at once."""

from stepscope.simulate.landscapes import LANDSCAPES, Landscape, find
from stepscope.simulate.run import Sweep, Trajectory, run, sweep

__all__ = ["LANDSCAPES", "Landscape", "Sweep", "Trajectory", "find", "run", "sweep"]
