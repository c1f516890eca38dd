"""Where the trials of a search stand between rungs: what they reached, what they may go on from, who goes on.

The record of a rung is stored in the trial before anything is decided, so a search that was killed decides
as it would have. The state of a training lies beside the study; where it is missing the trial is trained
again from its start, to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial

from learnforge.context import Context
from learnforge.files import write_atomically
from learnforge_plugins.stages.search.record import Goal, Record

STANDS = "learnforge_rungs"
"""Attribute of an Optuna trial: [{epochs, values, metrics, seconds}], one entry a rung."""


class Ladder:
    """Keeps the trials' rungs.

    Args:
        goal: The search's goal; without rungs every trial runs to its end in one job.
        epochs: Epochs of a whole trial.
        context: Gives the folder that states are kept in.
    """

    def __init__(self, goal: Goal, epochs: int, context: Context):
        self.goal, self.epochs, self.context = goal, epochs, context
        self._index: dict[int, int] = {}
        self._reached: dict[int, int] = {}
        self._at_rest: set[int] = set()
        self._final: set[int] = set()
        self._values: dict[int, dict[int, Sequence[float]]] = {}
        self._states: dict[int, bytes] = {}

    def enter(self, number: int) -> None:
        """Count a new distinct design."""
        self._index.setdefault(number, len(self._index))

    def remember(self, trial: FrozenTrial, record: Record) -> None:
        """Note the rungs of a trial that was told."""
        for stand in trial.user_attrs.get(STANDS, ()):
            self._values.setdefault(stand["epochs"], {})[record.number] = stand["values"]

    def take_up(self, trial: Trial, record: Record) -> None:
        """Take in a trial that is to run, from the last rung that it reached before a kill."""
        stands = trial.user_attrs.get(STANDS, ())
        self._reached[record.number] = 0
        for stand in stands:
            self._values.setdefault(stand["epochs"], {})[record.number] = stand["values"]
            self._reached[record.number] = record.epochs = stand["epochs"]
            record.metrics.update(stand["metrics"])
            record.seconds = stand["seconds"]
            self._at_rest.add(record.number)

    def due(self, numbers: Iterable[int], is_batch: bool) -> list[int]:
        """Return which trials have something to run; of a batch, those furthest behind."""
        waiting = [n for n in numbers if n not in self._at_rest and n not in self._final]
        if not is_batch or not waiting:
            return waiting
        last = min(self._reached[n] for n in waiting)
        return [n for n in waiting if self._reached[n] == last]

    def next_epochs(self, number: int) -> int | None:
        """Return the epochs to which a trial is trained next; None where there are no rungs."""
        if self.goal.rungs is None:
            return None
        levels = self.goal.rungs.levels(self._index[number], self.epochs)
        return next((level for level in levels if level > self._reached[number]), self.epochs)

    def state(self, number: int) -> bytes | None:
        """Return the state that a trial goes on from."""
        file = self._file(number)
        if file is None:
            return self._states.get(number)
        return file.read_bytes() if self._reached[number] and file.exists() else None

    def climb(self, trial: Trial, record: Record, values: Sequence[float], state: bytes | None) -> None:
        """Note that a trial came to its next rung, to its end, or failed."""
        number, epochs = record.number, self.next_epochs(record.number)
        if epochs is not None:
            self._reached[number] = record.epochs = epochs
        if epochs is None or epochs == self.epochs or record.state == "failed":
            self._final.add(number)
            return
        if state is not None:
            self._keep(number, state)
        self._values.setdefault(epochs, {})[number] = list(values)
        self._at_rest.add(number)
        stand = {"epochs": epochs, "values": list(values), "seconds": record.seconds}
        stands: list[dict[str, Any]] = [
            *trial.user_attrs.get(STANDS, ()),
            stand | {"metrics": record.metrics},
        ]
        trial.set_user_attr(STANDS, stands)

    def furthest_behind(self, numbers: Iterable[int]) -> int | None:
        """Return the lowest rung that any of these trials stands at; None where all are at their end."""
        return min((self._reached[n] for n in numbers if n in self._at_rest), default=None)

    def decide(self, number: int, record: Record, only_at: int | None) -> tuple[str, str] | None:
        """Return how a trial ends, `(state, reason)`; None where it goes on.

        Args:
            number: The trial.
            record: Its record.
            only_at: Leave trials that stand at other rungs alone: a batch is decided rung by rung, so that a
                kill between two jobs makes no difference.
        """
        if number in self._final:
            self._forget(number)
            return ("failed", record.reason) if record.state == "failed" else ("evaluated", "")
        if number not in self._at_rest or self.goal.rungs is None:
            return None
        if only_at is not None and self._reached[number] != only_at:
            return None
        self._at_rest.remove(number)
        epochs = self._reached[number]
        compared = sorted({number, *self._peers(number, epochs)})
        values = [self._values[epochs][n] for n in compared]
        position = compared.index(number)
        if self.goal.rungs.goes_on(position, values, self.goal.directions, self.goal.metrics):
            return None
        self._forget(number)
        return "stopped", f"at the rung of epoch {epochs}, compared with {len(compared) - 1} more"

    def _peers(self, number: int, epochs: int) -> set[int]:
        """Return the other trials that one is compared with."""
        rungs = self.goal.rungs
        assert rungs is not None
        others = {n for n in self._values[epochs] if n != number}
        if rungs.method == "halving":
            assert self.goal.batch is not None
            cohort = self._index[number] // self.goal.batch
            return {n for n in others if self._index[n] // self.goal.batch == cohort}
        bracket = rungs.bracket(self._index[number], self.epochs)
        return {n for n in others if rungs.bracket(self._index[n], self.epochs) == bracket}

    def _keep(self, number: int, state: bytes) -> None:
        file = self._file(number)
        if file is None:
            self._states[number] = state
        else:
            write_atomically(file, lambda temporary: _write(temporary, state))

    def _forget(self, number: int) -> None:
        self._states.pop(number, None)
        file = self._file(number)
        if file is not None:
            file.unlink(missing_ok=True)

    def _file(self, number: int) -> Path | None:
        folder = self.context.folder
        return folder / "checkpoint" / f"trial-{number}.pt" if folder else None


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)
