"""Watching an optimizer at work: `Scope`, trackers to log to, and what each recorded column means.

`stepscope.scope.adapters` has callbacks for Lightning and Transformers, and a function for Accelerate.
"""

from stepscope.scope import schedules
from stepscope.scope.alarms import ALARMS, Alarm
from stepscope.scope.instruments import INSTRUMENTS, Instrument
from stepscope.scope.scope import Scope
from stepscope.scope.trackers import Tracker

__all__ = ["ALARMS", "INSTRUMENTS", "Alarm", "Instrument", "Scope", "Tracker", "schedules"]
