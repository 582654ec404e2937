"""How the documentation is built: offline, and with warnings as errors (`make docs`)."""

from sphinx.application import Sphinx

import stepscope

project = "stepscope"
author = "The stepscope developers"
copyright = "2026, The stepscope developers"
version = release = stepscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "stepscope"
html_static_path = ["_static"]
html_css_files = ["plain.css"]
html_copy_source = False
html_show_sphinx = False


def setup(application: Sphinx) -> None:
    """Show docstrings as they are typed: they are plain text with an indentation of their own, not reStructuredText."""

    def keep(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
        if any(lines):
            lines[:] = [".. code-block:: text", "", *(f"   {line}" for line in lines), ""]

    application.connect("autodoc-process-docstring", keep)
