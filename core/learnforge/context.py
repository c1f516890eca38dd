"""What a stage is handed: seed, device, executor, hooks, progress and folder. There are no globals to
reach for.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import evolve, field, frozen

from learnforge.errors import DamageWarning, Problem, RecipeError
from learnforge.files import refusal, remove, write_atomically
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive

if TYPE_CHECKING:
    from learnforge.kinds.executor import Executor

CHECKPOINT_SECONDS = 2.0
"""Training states are written at most this often, so that epochs of milliseconds don't wait for the disk."""


class Tracker(Protocol):
    """Shows how far one piece of work is."""

    def advance(self, text: str = "") -> None:
        """Count one step as done and show a few words about it."""


class Progress(Protocol):
    """Shows what a run is doing; see the hook `learnforge_progress`."""

    def track(self, label: str, total: int, done: int = 0) -> contextlib.AbstractContextManager[Tracker]:
        """Show work of `total` steps, `done` of them already finished."""


class Silence:
    """A progress that shows nothing."""

    @contextlib.contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Show nothing."""
        yield self

    def advance(self, text: str = "") -> None:
        """Show nothing."""


class Checkpoint:
    """The state of one training on the disk: tensors and plain data, written atomically, read without
    unpickling code.

    Args:
        path: File; None keeps nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        # a training shorter than the interval writes its last state only
        self._written = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the last state, its tensors on `device`, or None; a damaged one is told and put aside."""
        if self.path is None or not self.path.exists():
            return None
        fault = _damage_of(self.path)
        if not fault:
            try:
                return dict(torch.load(self.path, map_location=device, weights_only=True))
            except (pickle.UnpicklingError, EOFError) as error:  # of no checkpoint, or a stranger's
                fault = str(error)
        words = f"{self.path} is damaged, {fault[:200]}"
        warnings.warn(f"{words}; what it held is computed again", DamageWarning, stacklevel=2)
        self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
        return None

    def save(self, make_state: Callable[[], Mapping[str, Any]], final: bool = False) -> None:
        """Write a state, unless one was written within `CHECKPOINT_SECONDS` and this is not the final one."""
        if self.path is None or (not final and time.monotonic() - self._written < CHECKPOINT_SECONDS):
            return
        state = dict(make_state())
        write_atomically(self.path, lambda temporary: _save(state, temporary))
        self._written = time.monotonic()


def _damage_of(path: Path) -> str:
    """Say what is wrong with a zip file, or "". What the system refuses, such as a disk, is no damage."""
    try:
        if not path.is_file():
            return "it is no regular file"
        with zipfile.ZipFile(path) as packed:
            if "data.pkl" not in {name.rpartition("/")[2] for name in packed.namelist()}:
                return "it is no checkpoint"
            # torch itself compares no checksum
            return "a checksum is of something else" if packed.testzip() is not None else ""
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises whatever damaged bytes lead it to
        return str(error)


def _save(state: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as stream:
            torch.save(state, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides what the disk said
            raise error.__context__ from error
        raise


Emit = Callable[..., None]


def _emit_nothing(event: str, **data: Any) -> None:
    """Ignore an event, for work without a run."""


@frozen(eq=False)
class Context:
    """What a stage needs from the outside.

    Args:
        stage: Name of the stage.
        seed: Seed of everything random in the stage.
        device: Where networks are trained.
        folder: Folder of the stage; None keeps nothing.
        plugins: The run's plugins.
        cache_folder: Folder for what runs share and can compute again, such as teacher caches; None keeps
            nothing beyond the stage.
        executor: Where a search's trials run.
        workers: Trials at a time.
        deterministic: Ask CUDA for reproducible kernels.
        progress: Shows what is going on.
        emit: Fires a hook of the kind "what happened" and writes it to the event log:
            `emit("epoch_finished", …)`.
    """

    stage: str
    seed: int
    device: torch.device
    plugins: Plugins
    folder: Path | None = None
    cache_folder: Path | None = None
    executor: Executor | None = None
    workers: int = 1
    deterministic: bool = False
    progress: Progress = field(factory=Silence)
    emit: Emit = _emit_nothing

    def derive(self, *parts: str | int) -> int:
        """Return a seed for one use in this stage."""
        return derive(self.seed, *parts)

    def seeded_with(self, *parts: str | int) -> Context:
        """Return this context with the seed of a part of the stage."""
        return evolve(self, seed=self.derive(*parts))

    def checkpoint(self, part: str) -> Checkpoint:
        """Return where the state of one of the stage's trainings is kept."""
        return Checkpoint(self.folder / "checkpoint" / f"{part}.pt" if self.folder else None)

    def clear_checkpoints(self) -> None:
        """Remove the training states, when the stage's artifact is written."""
        if self.folder:
            try:
                remove(self.folder / "checkpoint")
            except OSError as error:
                raise refusal(self.folder, error) from error


def choose_device(name: str, path: str = "run.device", source: str = "recipe") -> torch.device:
    """Return the device that somebody asks for.

    Args:
        name: `auto` (CUDA, else MPS, else the CPU) or a torch device, `cpu`, `cuda`, `cuda:1`, `mps`.
        path: Where it is asked for, for the error.
        source: Recipe or command, for the error.

    Raises:
        RecipeError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        # torch accepts any index until something is put there
        torch.empty(1, device=device)
        if device.type == "cpu" and device.index:
            raise RuntimeError("there is one CPU, `cpu`")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        message = f"must be `auto` or a device of this machine, got {name!r}: {reason}"
        raise RecipeError([Problem(path, message)], source) from error
    return device


_PROCESS = Path("/proc/self")
"""What Linux tells of this process: proc(5)."""


class PeakMemory:
    """Measures from where it is made on: on a CPU all that the process holds, without worker processes; on a
    GPU what its tensors take. One at a time.

    Where the system does not forget an earlier peak, as other ones than Linux, that of the process's whole
    life counts.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.init()  # nothing may have been computed there yet
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM

    def mebibytes(self) -> float | None:
        """Return the peak so far; None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        with suppress(OSError, StopIteration):
            lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
        try:
            import resource
        except ImportError:  # Windows
            return None
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 2**10
