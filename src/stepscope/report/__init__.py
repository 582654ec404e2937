"""Reports: one self-contained HTML file about a dissection, a recorded run, or two runs side by side."""

from stepscope.report.html import write, write_diff

__all__ = ["write", "write_diff"]
