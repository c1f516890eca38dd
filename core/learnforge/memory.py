"""How much memory a piece of work holds at its peak."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

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
