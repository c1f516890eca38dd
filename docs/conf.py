"""Settings of the documentation; `python -m sphinx -W -b html docs docs/_build` builds it."""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))

import api  # docs/api.py
import docstrings  # docs/docstrings.py
import reference  # docs/reference.py

project = "learnforge"
author = "The learnforge developers"
project_copyright = author
release = version = version_of("learnforge")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated", "changes.d"]

nitpicky = True
nitpick_ignore_regex = [
    # types of other libraries and of Python: every build would have to fetch their inventories
    (r"py:.*", r"(?!learnforge).*"),
    # types in signatures that are no public names, such as what a private function returns
    (r"py:.*", r"learnforge\w*(\.\w+)*\.[a-z_]\w*\.\w+"),
]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "learnforge"
html_static_path = ["static"]
html_css_files = ["learnforge.css"]


def write_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, before napoleon reads its sections."""
    text = docstrings.to_rst(inspect.cleandoc("\n".join(lines)), api.public_classes())
    # without a blank line first, napoleon takes the words of a value up to a colon for its type
    is_value = what in ("attribute", "property", "data")
    lines[:] = [*[""] * is_value, *text.splitlines(), ""]


def find_public(app: Sphinx, env: BuildEnvironment, node: Any, content: Any) -> nodes.Node | None:
    """Resolve the full name of where a public name is defined: its page has it under its public name."""
    public = api.public_names().get(node.get("reftarget", ""))
    if public is None:
        return None
    domain = env.domains["py"]
    for sort in ("class", "data", "exception", "func"):
        found = domain.resolve_xref(env, node["refdoc"], app.builder, sort, public, node, content)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    """Write the reference pages out of the code before the sources are read."""
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "generated"))
    app.connect("autodoc-process-docstring", write_docstring, priority=100)
    app.connect("missing-reference", find_public)
