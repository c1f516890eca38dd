"""Peak memory: what was held for a while counts, what was held before does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from learnforge.context import Checkpoint, PeakMemory
from learnforge.errors import DamageWarning

SIZE = 200
"""MiB of a tensor."""


def hold() -> None:
    """Hold a tensor for a moment."""
    torch.ones(SIZE * 2**18)


def test_the_peak_is_of_what_was_held_in_between() -> None:
    """A tensor that is gone again is in the peak."""
    memory = PeakMemory(torch.device("cpu"))
    before = memory.mebibytes()
    hold()
    after = memory.mebibytes()
    assert before is not None
    assert after is not None
    assert after - before > 0.9 * SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a process's peak")
def test_what_was_held_before_does_not_count() -> None:
    """A peak from before is forgotten."""
    memory = PeakMemory(torch.device("cpu"))
    hold()
    high = memory.mebibytes()
    low = PeakMemory(torch.device("cpu")).mebibytes()
    assert high is not None
    assert low is not None
    assert high - low > 0.9 * SIZE


@pytest.mark.parametrize("told", [None, "Name:\tpython\n"])
def test_without_proc_the_peak_of_the_process_counts(
    told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Linux's files are missing or say nothing, the system's own count is taken."""
    if told is not None:
        (tmp_path / "status").write_text(told)
    monkeypatch.setattr("learnforge.context._PROCESS", tmp_path)
    memory = PeakMemory(torch.device("cpu")).mebibytes()
    assert memory is not None
    assert memory > 10


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "text", "folder"])
def test_a_damaged_checkpoint_is_told_of_and_taken_away(tmp_path: Path, damage: str) -> None:
    """One bit among the weights, which torch itself would not see, is enough."""
    file = tmp_path / "student.pt"
    checkpoint = Checkpoint(file)
    checkpoint.save(lambda: {"weights": torch.arange(1000.0), "epoch": 3}, final=True)
    state = checkpoint.load(torch.device("cpu"))
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(1000.0))
    data = bytearray(file.read_bytes())
    data[data.find(torch.arange(500.0, 510.0).numpy().tobytes())] ^= 1
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        texts = {"a bit": bytes(data), "cut": bytes(data[:-100]), "empty": b"", "text": b"no"}
        file.write_bytes(texts[damage])
    with pytest.warns(DamageWarning, match=r"student\.pt is damaged, .*; what it held is computed again"):
        assert checkpoint.load(torch.device("cpu")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["student.pt.damaged"]


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A full GPU, or a disk that fails for a moment, is no damage."""
    checkpoint = Checkpoint(tmp_path / "student.pt")
    checkpoint.save(lambda: {"epoch": 3}, final=True)

    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        checkpoint.load(torch.device("cpu"))
    monkeypatch.undo()
    assert checkpoint.load(torch.device("cpu")) == {"epoch": 3}
