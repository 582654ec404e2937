"""Reports: one self-contained HTML file about a dissection or a recorded run."""

from stepscope.report.html import write

__all__ = ["write"]
