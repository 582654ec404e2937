"""Runs on disk: a folder that grows while training runs, survives a kill, and can be read at any time.

``RunWriter`` records, ``Run`` reads, ``repair`` recovers; whatever else takes measurements only needs to be a ``Sink``.
"""

from stepscope.store.files import plain, write_json
from stepscope.store.format import BlockSink, Sink
from stepscope.store.provenance import provenance
from stepscope.store.reader import Run
from stepscope.store.repair import Repaired, repair
from stepscope.store.writer import RunWriter

__all__ = ["BlockSink", "Repaired", "Run", "RunWriter", "Sink", "plain", "provenance", "repair", "write_json"]
