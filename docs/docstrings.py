"""Turns docstrings, which are plain text with `code` in backticks, into Markdown and reStructuredText."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterator

from attrs import frozen

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Reference", "Differs", "Measured")
_PAPERS = (
    (re.compile(r"arXiv:([\w.-]+/?\w+)"), r"[arXiv:\1](https://arxiv.org/abs/\1)"),
    (re.compile(r"doi:(\S+[\w)])"), r"[doi:\1](https://doi.org/\1)"),
    (re.compile(r"(?<![(\w/])(https?://\S+[\w/])"), r"<\1>"),
)
_ENTRY_END = re.compile(r"(arXiv:\S+|doi:\S+|https?://\S+)$")


@frozen
class Block:
    """A part of a docstring.

    Args:
        sort: `prose`, `list`, `literal`, `doctest`, or the name of a section such as `Args`.
        text: Its text; that of literals and sections without their indentation.
    """

    sort: str
    text: str


def blocks(docstring: str) -> Iterator[Block]:
    """Yield the parts of a docstring, which `inspect.getdoc` has cleaned, in order."""
    group: list[str] = []
    for line in [*docstring.splitlines(), None]:
        if line is not None and group and _belongs(line, group):
            group.append(line)
            continue
        if any(group):
            yield _block(group)
        group = [line] if line else []


def _belongs(line: str, group: list[str]) -> bool:
    """Tell whether a line goes on with the part that the lines before it began."""
    first = group[0]
    if first.startswith(" ") or first.rstrip(":") in SECTIONS:
        return not line or line.startswith(" ")
    if not line or line.rstrip(":") in SECTIONS:
        return False
    if first.startswith("- "):
        return True
    return first.startswith(">>>") or not line.startswith((" ", ">>>", "- "))


def _block(lines: list[str]) -> Block:
    first = lines[0]
    if first.rstrip(":") in SECTIONS and first.endswith(":"):
        return Block(first[:-1], _dedented(lines[1:]))
    if first.startswith(" "):
        return Block("literal", _dedented(lines))
    if first.startswith(">>>"):
        return Block("doctest", "\n".join(lines))
    return Block("list" if first.startswith("- ") else "prose", "\n".join(lines).rstrip())


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip("\n")


def to_markdown(docstring: str) -> str:
    """Return a docstring as Markdown, without the sections that say what arguments are."""
    parts = []
    for block in blocks(docstring):
        if block.sort in ("prose", "list"):
            parts.append(_escaped(block.text, r"\*_[]<>$|"))
        elif block.sort in ("literal", "doctest"):
            # remarks stand at the right margin of the source, which is wider than a page
            text = re.sub(r" {4,}(\(.*\))$", r"    \1", block.text, flags=re.MULTILINE)
            parts.append(f"```{language(text)}\n{text}\n```")
        elif block.sort == "Reference":
            parts.append("**Reference**\n\n" + "\n".join(f"- {entry}" for entry in _references(block.text)))
        elif block.sort in ("Differs", "Measured"):
            title = {"Differs": "Differs from the paper", "Measured": "Measured"}[block.sort]
            parts.append(f"**{title}**\n\n{to_markdown(block.text)}")
    return "\n\n".join(parts)


def language(text: str) -> str:
    """Guess what a literal part of a docstring is written in; equations are text."""
    if text.startswith("$ "):
        return "console"
    if text.startswith(("import ", "from ", "class ", "def ", "@", ">>>")):
        return "python"
    return "json" if text.startswith('{"') else "text"


def _references(text: str) -> Iterator[str]:
    """Yield the entries of a `Reference:` section; each ends with its link, or with the section."""
    entry: list[str] = []
    for line in text.splitlines():
        entry.append(line.strip())
        if _ENTRY_END.search(line.strip()):
            yield _linked(" ".join(entry))
            entry = []
    if entry:
        yield _linked(" ".join(entry))


def _linked(entry: str) -> str:
    escaped = _escaped(entry, r"\*_<>$|")
    for pattern, link in _PAPERS:
        escaped = pattern.sub(link, escaped)
    return escaped


def to_rst(docstring: str, public: Collection[str] = ()) -> str:
    """Return a docstring as reStructuredText with Google-style sections, as `sphinx.ext.napoleon` reads it.

    Args:
        docstring: The docstring, cleaned.
        public: Full names of public classes; where a docstring has one as code, it becomes a link.
    """
    links = {name.rpartition(".")[2]: name for name in public}

    def code(span: str) -> str:
        return f":py:class:`~{links[span]}`" if span in links else f"``{span}``"

    parts = []
    for block in blocks(docstring):
        if block.sort == "literal":
            body = textwrap.indent(block.text, "    ")
            parts.append(f".. code-block:: {language(block.text)}\n\n{body}")
        elif block.sort == "doctest":
            parts.append(block.text)
        elif block.sort in ("prose", "list"):
            parts.append(_escaped(block.text, r"\*|", code, ends=True))
        else:
            text = _escaped(block.text, r"\*|", code, ends=True)
            is_prose = block.sort in ("Reference", "Differs", "Measured")
            indented = textwrap.indent(text, "    ")
            parts.append(f"**{block.sort}:** {text}" if is_prose else f"{block.sort}:\n{indented}")
    return "\n\n".join(parts)


def _escaped(
    text: str, characters: str, code: Callable[[str], str] = "`{}`".format, ends: bool = False
) -> str:
    """Escape what means something in markup, but for code in backticks, which `code` writes.

    Args:
        text: Prose.
        characters: What is escaped.
        code: Writes a piece of code.
        ends: Escape underscores at the end of words alone, as reStructuredText needs it.
    """
    parts = re.split(r"(?<!`)`([^`]+)`(?!`)", text)
    special = re.compile("[" + re.escape(characters) + "]" + (r"|_(?=\W|$)" if ends else ""))
    return "".join(
        code(" ".join(part.split())) if number % 2 else special.sub(lambda m: "\\" + m[0], part)
        for number, part in enumerate(parts)
    )
