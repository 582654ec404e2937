"""Reports: one self-contained HTML file about a dissection, a recorded run, or two runs side by side.

They load on first use: who only asks for a part of the package needs no matplotlib.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["write", "write_diff"]

if TYPE_CHECKING:
    from stepscope.report.html import write, write_diff


def __getattr__(name: str) -> Any:
    if name in __all__:
        from stepscope.report import html

        return getattr(html, name)
    raise AttributeError(f"module 'stepscope.report' has no attribute {name!r}")
