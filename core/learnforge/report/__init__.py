"""The report: what a run found, as `report.html` (one file, works offline) and `report.md`, made from the
run's folder.
"""

from learnforge.report.section import Picture, Section
from learnforge.report.summary import RunSummary, StageSummary, read_summary

__all__ = ["Picture", "RunSummary", "Section", "StageSummary", "read_summary"]
