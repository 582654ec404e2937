"""Watching an optimizer at work: `Scope`, and what each recorded column means."""

from stepscope.scope import schedules
from stepscope.scope.alarms import ALARMS, Alarm
from stepscope.scope.instruments import INSTRUMENTS, Instrument
from stepscope.scope.scope import Scope

__all__ = ["ALARMS", "INSTRUMENTS", "Alarm", "Instrument", "Scope", "schedules"]
