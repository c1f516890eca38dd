"""Errors and warnings of built-in methods and stages."""

from __future__ import annotations

from learnforge.errors import LearnforgeWarning, StageError, TaskError


class VanishedError(TaskError):
    """A file that could be read when the run began cannot be read any more."""


class PlaceError(StageError):
    """A teacher's scores depend on where in its batch an image stands: a cache cannot give every bit back."""


class ExportMismatchError(StageError):
    """An exported file computes something else than the module it came from."""


class CacheWarning(LearnforgeWarning):
    """A cache cannot be kept; what it would have saved is computed."""


class GapWarning(LearnforgeWarning):
    """A teacher is much larger than its student, which may learn more with an assistant between them."""
