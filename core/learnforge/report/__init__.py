"""The report: `report.html` and `report.md` out of a run."""

from learnforge.report.section import Section

__all__ = ["Section"]
