"""What every change of a network must keep to: made again, it gives the same layers, whose weights fit."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import nn

from learnforge.changes import apply_change, changes_of
from learnforge.kinds.change import Change
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo, copy_weights, find_mismatches
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require
from learnforge_testing.toys import make_network, make_task


class ChangeSuite(MethodSuite):
    """Checks of a change on a small convolutional network."""

    kind: ClassVar[str] = "change"
    base: ClassVar[type] = Change
    needs_reference: ClassVar[bool] = False

    def network(self, task: TaskInfo) -> nn.Module:
        """Return a network to change, with its weights from a seed. Override it for changes of others."""
        return make_network(task)

    def result(self) -> Any:
        return copy_weights(self._changed())

    def test_name_is_the_one_it_is_registered_by(self) -> None:
        """Artifacts keep `name`, and look the change up by it."""
        name = getattr(self.method, "name", None)
        require(isinstance(name, str), f"`name` must be the change's name, got {name!r}")

    def test_network_gives_the_tasks_scores(self) -> None:
        """The changed network takes the task's images and gives a score for each of its classes."""
        network, task = self._changed().eval(), self._task()
        with torch.no_grad():
            scores = network(torch.zeros(2, *task.input_shape))
        require(
            tuple(scores.shape) == (2, task.outputs),
            f"the changed network must give scores [2, {task.outputs}], it gives {list(scores.shape)}",
        )

    def test_it_is_written_down(self) -> None:
        """`changes_of` lists it, with equal fields."""
        found = changes_of(self._changed())
        require(found == (self.make(),), f"the network's record must be the change alone, it is {found}")

    def test_made_again_it_computes_the_same(self) -> None:
        """On a fresh network it makes the same layers, and with the same weights the same scores."""
        network, again = self._changed().eval(), self._changed(seed=1).eval()
        faults = find_mismatches(again, network.state_dict())
        require(not faults, f"made again, the change must give the same tensors; {'; '.join(faults)}")
        again.load_state_dict(network.state_dict())
        images = torch.rand(2, *self._task().input_shape)
        with torch.no_grad():
            require(
                torch.equal(network(images), again(images)),
                "made again and with the same weights, the network must give the same scores",
            )

    def test_shapes_alone_are_enough(self) -> None:
        """On torch's device `meta`, where checks build networks, it makes the same layers."""
        with torch.device("meta"):
            sketch = apply_change(self.network(self._task()), self.make(), self._task())
        faults = find_mismatches(sketch, self._changed().state_dict())
        require(not faults, f"on the device meta it must make the same tensors; {'; '.join(faults)}")

    def test_copies_are_independent(self) -> None:
        """Two networks changed by one object share no weight."""
        change = self.make()
        first, second = (apply_change(self.network(self._task()), change, self._task()) for _ in range(2))
        shared = {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
        require(not shared, "networks that are changed by one object must not share weights")

    def test_undoing_keeps_what_it_computes(self) -> None:
        """Where it can be undone, the restored network gives the changed one's scores."""
        change = self.make()
        if type(change).undo is Change.undo:
            return
        network = self._changed().eval()
        images = torch.rand(2, *self._task().input_shape)
        with torch.no_grad():
            before = network(images)
            after = change.undo(copy.deepcopy(network)).eval()(images)
        require(
            torch.allclose(before, after, rtol=1e-4, atol=1e-5),
            "undone, the network must compute what it computed with the change",
        )

    def _task(self) -> TaskInfo:
        return make_task().info

    def _changed(self, seed: int = 0) -> nn.Module:
        with seeded(seed):
            return apply_change(self.network(self._task()), self.make(), self._task())
