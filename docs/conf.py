"""Builds the site: `python -m sphinx -W -b html docs docs/_build`."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import arada  # noqa: E402

project = "arada"
author = "the authors of arada"
release = arada.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "arada"
html_show_copyright = False
templates_path = []
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
# The notebook holds its outputs; a test runs it.
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": False}
suppress_warnings = ["mystnb.unknown_mime_type"]


def setup(app):
    """Docstrings write absolute values and norms with bars, which reStructuredText would take for substitutions."""

    def escape_bars(app, what, name, obj, options, lines):
        lines[:] = [line.replace("|", "\\|") for line in lines]

    app.connect("autodoc-process-docstring", escape_bars)
