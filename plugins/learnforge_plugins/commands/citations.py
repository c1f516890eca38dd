"""The papers behind methods, read from the `Reference:` part of their files' docstrings, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

_YEAR = re.compile(r"\b(?:19|20)\d\d\b")


_ENTRY = re.compile(
    r"(?P<authors>.+? & [^,]+|.+? et al\.|[^,]+), (?P<title>.+?), (?P<year>(?:19|20)\d\d)\b",
    re.DOTALL,
)


_LINKS = re.compile(r"(arXiv:[\w./-]+\w|doi:\S+[\w)]|https?://\S+\w)")


@frozen
class Citation:
    """A published source.

    Args:
        authors: Surnames, in order; "others" stands for those that are not named.
        title: Title, without the full stop.
        year: Year.
        link: `arXiv:…`, `doi:…`, an address, or "".
    """

    authors: tuple[str, ...]
    title: str
    year: int
    link: str = ""

    @property
    def key(self) -> str:
        """A key such as `finn2017model`."""
        first = re.sub(r"\W", "", self.authors[0].split()[-1].lower())
        word = re.sub(r"\W", "", self.title.split()[0].lower())
        return f"{first}{self.year}{word}"

    def as_bibtex(self) -> str:
        """Return a BibTeX entry."""
        fields = {"author": " and ".join(self.authors), "title": f"{{{self.title}}}", "year": str(self.year)}
        kind, _, target = self.link.partition(":")
        if kind == "arXiv":
            fields |= {"eprint": target, "archivePrefix": "arXiv"}
        elif kind == "doi":
            fields["doi"] = target
        elif self.link:
            fields["url"] = self.link
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{self.key},\n{lines}\n}}"


def read_citations(doc: str) -> Iterator[Citation]:
    """Yield the sources that a docstring names under `Reference:`.

    What has no year, such as the documentation of a library, is left out.

    Args:
        doc: The docstring of a method's file.
    """
    for text in _entries(doc):
        found = _ENTRY.match(text)
        if found is None:
            continue
        authors = found["authors"].replace(" et al.", ", others").replace(" & ", ", ")
        link = _LINKS.search(text, found.end("year"))
        names = tuple(name.strip() for name in authors.split(",") if name.strip())
        yield Citation(names, found["title"], int(found["year"]), link[0] if link else "")


def write_bibtex(docs: Iterable[str]) -> str:
    """Return the sources of several docstrings, each once, sorted by key."""
    found: dict[str, Citation] = {}
    for doc in docs:
        for citation in read_citations(doc):
            known = found.get(citation.key)
            # of two entries of a paper the one that says more
            if known is None or _fullness(citation) > _fullness(known):
                found[citation.key] = citation
    return "\n\n".join(found[key].as_bibtex() for key in sorted(found)) + "\n" * bool(found)


def _fullness(citation: Citation) -> tuple[bool, int]:
    return bool(citation.link), len(citation.authors)


def _entries(doc: str) -> Iterator[str]:
    """Yield the entries of the part `Reference:`; one begins with a name after one with its year or link."""
    entry = ""
    for line in _block(doc):
        is_new = line[0].isupper() and ", " in line
        if is_new and (_YEAR.search(entry) or _LINKS.search(entry)):
            yield entry
            entry = ""
        entry = f"{entry} {line}".strip()
    if entry:
        yield entry


def _block(doc: str) -> Iterator[str]:
    is_inside = False
    for line in doc.splitlines():
        if line.strip() == "Reference:":
            is_inside = True
        elif is_inside and line.strip():
            if not line.startswith("    "):
                return
            yield line.strip()
