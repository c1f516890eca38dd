"""Every error that learnforge raises on purpose, in one tree.

LearnforgeError                 what a caller catches; the command line prints it without a traceback
├── RecipeError                 a recipe or a method's options are wrong: every problem at once
├── PluginError                 a plugin cannot be found, loaded or used
│   └── InstallError            learnforge itself, or an extra, is not installed
├── TaskError                   the data are missing, corrupt, or not what the stage needs
│   └── VanishedError           a file of them was there when the run began
├── ArtifactError               an artifact cannot be read, or does not fit what is asked of it
├── StageError                  a stage cannot finish
│   ├── DivergedError           the loss is no longer finite; the last good checkpoint is kept
│   ├── PlaceError              a teacher's scores depend on where in its batch an image stands
│   └── ExportMismatchError     the exported file does not compute what the module computes
└── RunError                    the run's folder cannot be used
    └── RunLockedError          another process is running in it
LearnforgeWarning (UserWarning) what a caller should know; the command line prints it as one line
├── PluginWarning               a plugin is at fault, and the run goes on without it
├── CacheWarning                a cache cannot be kept
├── DamageWarning               a file is damaged, and what it held is computed again
└── GapWarning                  a teacher is much larger than its student
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from attrs import frozen


class LearnforgeError(Exception):
    """Base of every error raised on purpose; says what must hold, what came, where, and what to do."""

    exit_code = 1


@frozen
class Problem:
    """One thing wrong in a recipe or in options.

    Args:
        path: Where, as a TOML path such as `stage.search.options.population`.
        message: What must hold, what came, and what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        path = self.path.replace("\n", "\\n")
        return f"{path}: {self.message}" if path else self.message


MOST_SHOWN = 50
"""Problems that the text of an error lists; all are in `problems`."""


class RecipeError(LearnforgeError):
    """A recipe, or the options of a method, break their rules. All problems are reported together.

    Args:
        problems: What is wrong, in the order of the recipe.
        source: The file, or the call, that the problems are in.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], source: str = "recipe"):
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems[:MOST_SHOWN])
        lines += f"\n  and {count - MOST_SHOWN} more" if count > MOST_SHOWN else ""
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}\n{lines}")


class PluginError(LearnforgeError):
    """A plugin cannot be found, loaded or used; the text names the plugin and its distribution."""

    exit_code = 2


class InstallError(PluginError):
    """learnforge is imported from a checkout that is not installed, or an extra is missing."""


class TaskError(LearnforgeError):
    """The data of a task are missing, corrupt, or not what a stage needs."""

    exit_code = 2


class ArtifactError(LearnforgeError):
    """An artifact cannot be read, is damaged, or does not fit what is asked of it."""


class StageError(LearnforgeError):
    """A stage cannot finish; finished stages stay loadable."""


class DivergedError(StageError):
    """A training loss is not finite.

    Args:
        epoch: Epoch of the first bad step, counted from 1.
        step: Step in that epoch, counted from 1.
        steps: Steps in an epoch.
    """

    def __init__(self, epoch: int, step: int, steps: int):
        super().__init__(epoch, step, steps)
        self.epoch, self.step, self.steps = epoch, step, steps

    def __str__(self) -> str:
        return (
            f"the training loss must be finite, but it was not in epoch {self.epoch}, step {self.step} of "
            f"{self.steps}. The last checkpoint before that is kept. Lower `learning_rate`, or set "
            f"`clip_norm` and `warmup_epochs`."
        )


class RunError(LearnforgeError):
    """A run's folder cannot be created, read or written."""


class RunLockedError(RunError):
    """Another process runs in the same folder."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return the hint for an unknown name: the nearest match, then every choice.

    >>> nearest("evolutoin", ["random", "evolution"])
    "did you mean 'evolution'? There are: evolution, random"
    """
    known: Sequence[str] = sorted(set(choices))
    if not known:
        return "there are none"
    close = difflib.get_close_matches(name, known, n=1)
    listing = ", ".join(known)
    return f"did you mean {close[0]!r}? There are: {listing}" if close else f"there are: {listing}"


def printable(text: str) -> str:
    """Return a text for a terminal, in which what would command it is spelt out, as in names of files.

    >>> printable("cat\\x1b[2J.png")
    'cat\\\\x1b[2J.png'
    """
    spelt = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    return "".join(spelt)


class LearnforgeWarning(UserWarning):
    """Base of every warning given on purpose."""


class PluginWarning(LearnforgeWarning):
    """A plugin is at fault and the run goes on without it, or without that notification."""


class DamageWarning(LearnforgeWarning):
    """A file is damaged; what it held is computed again."""
