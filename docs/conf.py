"""Settings of the documentation; `python -m sphinx -W -b html docs docs/_build` builds it."""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring

sys.path.insert(0, str(Path(__file__).parent))

import api  # docs/api.py
import docstrings  # docs/docstrings.py
import reference  # docs/reference.py

project = "learnforge"
author = "The learnforge developers"
project_copyright = author
release = version = version_of("learnforge")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
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
sections = Config(napoleon_use_rtype=False)

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "learnforge"
html_static_path = ["static"]
html_css_files = ["learnforge.css"]


def write_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText; napoleon reads its sections."""
    text = docstrings.to_rst(inspect.cleandoc("\n".join(lines)), api.public_classes())
    # handed over without `what`: napoleon would take the words of an attribute up to a colon for its type
    lines[:] = [*GoogleDocstring(text, sections).lines(), ""]


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


def write_inline(writer: Any, node: nodes.math) -> None:
    """Write an equation in a line as MathML, which browsers show without a script from the network."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_block(writer: Any, node: nodes.math_block) -> None:
    """Write an equation of its own as MathML."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write the reference pages out of the code before the sources are read."""
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "generated"))
    app.connect("autodoc-process-docstring", write_docstring)
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    app.connect("missing-reference", find_public)
