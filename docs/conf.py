"""Settings of the documentation; `python -m sphinx -W -b html docs docs/_build` builds it."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reference  # docs/reference.py

project = "learnforge"
author = "The learnforge developers"
project_copyright = author
release = version = version_of("learnforge")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated", "changes.d"]
nitpicky = True

html_theme = "furo"
html_title = "learnforge"


def setup(app: object) -> None:
    """Write the reference pages out of the code before the sources are read."""
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "generated"))  # type: ignore[attr-defined]
