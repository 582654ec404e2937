"""Reports: one self-contained HTML file about a dissection or a recorded run.

`write` loads on first use: who only asks for a part of the package needs no matplotlib.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["write"]

if TYPE_CHECKING:
    from stepscope.report.html import write


def __getattr__(name: str) -> Any:
    if name == "write":
        from stepscope.report.html import write

        return write
    raise AttributeError(f"module 'stepscope.report' has no attribute {name!r}")
