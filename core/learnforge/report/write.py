"""Writes sections as one self-contained HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from learnforge.files import write_text
from learnforge.report.section import Section
from learnforge.report.sections import make_sections
from learnforge.report.summary import RunSummary, read_summary

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { background: var(--soft); }
@media print { .js-plotly-plot { break-inside: avoid; } }
"""


def write_report(folder: Path, more: Sequence[Section] = ()) -> RunSummary:
    """Write `report.html` and `report.md` into a run's folder.

    Args:
        folder: The run's folder.
        more: Sections of plugins, after the core's.

    Raises:
        RunError: The folder holds no run, or cannot be written.
    """
    run = read_summary(folder)
    sections = [*make_sections(run), *more]
    write_text(folder / "report.html", to_html(run, sections))
    write_text(folder / "report.md", to_markdown(run, sections))
    return run


def to_html(run: RunSummary, sections: Sequence[Section]) -> str:
    """Return a run's report as a page."""
    return page_html(run.name, f"learnforge report, run {run.state}", sections)


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
    return f"# {title}\n\n" + "\n".join(_section_markdown(section) for section in sections)


def table_html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section_html(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    if section.words:
        parts.append(f"<p>{escape(section.words)}</p>")
    if section.rows:
        parts.append(table_html(section.columns, section.rows))
    for figure in section.figures:
        parts.append(
            figure.to_html(
                full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False}
            )
        )
    return "\n".join([*parts, "</section>"])


def _section_markdown(section: Section) -> str:
    lines = [f"## {section.title}", ""]
    if section.words:
        lines += [section.words, ""]
    if section.rows:
        lines += [_row(section.columns), _row(["---"] * len(section.columns)), *map(_row, section.rows), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
