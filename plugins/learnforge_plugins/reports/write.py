"""Writes sections as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from learnforge.files import write_text
from learnforge.report import Picture, RunSummary, Section
from learnforge_plugins.reports.device import kept_profiles
from learnforge_plugins.reports.figures import THEMED
from learnforge_plugins.reports.progress import read_run
from learnforge_plugins.reports.sections import make_sections

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --line: #d0d7de; --soft: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --ink: #e6e8ea; --line: #3a4048; --soft: #23282e; }
}
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --line: #d0d7de; --soft: #f3f4f6; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--page); color: var(--ink); }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p { overflow-wrap: anywhere; }
.table, figure { overflow-x: auto; }
.table { background: linear-gradient(90deg, var(--page) 40%, transparent) 0 0 / 3rem 100% local no-repeat,
  linear-gradient(270deg, var(--page) 40%, transparent) 100% 0 / 3rem 100% local no-repeat,
  linear-gradient(90deg, #7779, transparent) 0 0 / 1rem 100% scroll no-repeat,
  linear-gradient(270deg, #7779, transparent) 100% 0 / 1rem 100% scroll no-repeat; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { background: var(--soft); }
figure { margin: 1rem 0; }
figcaption { font-size: .85rem; text-align: center; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); gap: 1rem; }
.pictures figure { margin: 0; } .pictures img { width: 100%; }
.themed :is([class$=tick], .infolayer) text,
.themed :is(.axis-title, .axis-extent-text) { fill: var(--ink) !important; text-shadow: none !important; }
@media print {
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .table, figure { overflow: visible; } .plot { zoom: .7; }
  table { font-size: .75em; } th, td { overflow-wrap: anywhere; }
}
"""


def write_report(folder: Path, more: Sequence[Section] = ()) -> RunSummary:
    """Write `report.html` and `report.md` into a run's folder.

    Args:
        folder: The run's folder.
        more: Sections of plugins, after the core's and those of devices.

    Raises:
        RunError: The folder holds no run, or cannot be written.
    """
    run = read_run(folder)
    sections = [*make_sections(run), *kept_profiles(folder), *more]
    write_text(folder / "report.html", to_html(run, sections))
    write_text(folder / "report.md", to_markdown(run, sections))
    return run


def to_html(run: RunSummary, sections: Sequence[Section]) -> str:
    """Return a run's report as a page."""
    words = [f"learnforge report, run {run.state}", run.day, run.processor]
    return page_html(run.name, ", ".join(part for part in words if part), sections)


def to_markdown(run: RunSummary, sections: Sequence[Section]) -> str:
    """Return a run's report as Markdown, without pictures."""
    return page_markdown(run.name, sections)


def page_html(title: str, words: str, sections: Sequence[Section]) -> str:
    """Return a page of sections; Plotly's script is inside, so that it works without a network."""
    from plotly.offline import get_plotlyjs

    has_figures = any(section.figures for section in sections)
    script = f"<script>{get_plotlyjs()}</script>" if has_figures else ""
    body = "\n".join(_section_html(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: learnforge</title><style>{_STYLE}</style>{script}</head>\n"
        f"<body><main><h1>{escape(title)}</h1><p>{escape(words)}</p>\n{body}</main></body></html>\n"
    )


def page_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return sections as Markdown, without pictures."""
    return f"# {_as_text(title)}\n\n" + "\n".join(_section_markdown(section) for section in sections)


def table_html(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; where it is wider than the page, the keyboard scrolls it too."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{escape(label)}"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def prove_section(section: Section) -> None:
    """Spell a section once: whatever its figures raise is the fault of who made it."""
    _section_html(section)
    _section_markdown(section)


def _section_html(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.words.split("\n\n") if paragraph]
    if section.rows:
        parts.append(table_html(section.title, section.columns, section.rows))
    parts += [_figure_html(figure, section.title) for figure in section.figures]
    if section.pictures:
        parts += [f"<p>{escape(section.caption)}</p>"] if section.caption else []
        parts.append(f'<div class="pictures">{"".join(map(_picture_html, section.pictures))}</div>')
    return "\n".join([*parts, "</section>"])


def _figure_html(figure: Any, title: str) -> str:
    config = {"responsive": True, "displayModeBar": False}
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    name = re.sub("<[^>]*>", "", figure.layout.title.text or "")
    label = escape(f"{title}: {name}" if name else title)
    own = " themed" if figure.layout.meta == THEMED else ""
    return f'<figure class="plot{own}" tabindex="0" aria-label="{label}">{plot}</figure>'


def _picture_html(picture: Picture) -> str:
    words = escape(picture.words)
    image = f'<img src="data:image/png;base64,{picture.png}" alt="">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _section_markdown(section: Section) -> str:
    lines = [f"## {_as_text(section.title)}", ""]
    if section.words:
        lines += [_as_text(section.words), ""]
    if section.rows:
        lines += [_row(section.columns), _row(["---"] * len(section.columns)), *map(_row, section.rows), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_as_text(cell).replace("|", "\\|") for cell in cells) + " |"


def _as_text(words: str) -> str:
    """Escape what Markdown would take for HTML."""
    return escape(words, quote=False)
