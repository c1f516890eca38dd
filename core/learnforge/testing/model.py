"""The duties of a model: one network, for tasks of any shape and number of classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from learnforge.heads import find_head, replace_head
from learnforge.randomness import seeded
from learnforge.space import Model, measure_cost
from learnforge.task import TaskInfo
from learnforge.testing.method import MethodSuite
from learnforge.testing.network import images_for, require_outputs, require_training
from learnforge.testing.suite import require
from learnforge.testing.toys import make_info


class ModelSuite(MethodSuite):
    """Checks of a model without its pretrained weights.

    Args:
        shapes: Channels, height and width of the images that it must take.
    """

    base: ClassVar[type] = Model
    kind: ClassVar[str] = "model"
    shapes: ClassVar[tuple[tuple[int, int, int], ...]] = ((1, 8, 8), (3, 32, 32))

    def result(self) -> Any:
        network = self.build(self.task)
        with torch.no_grad():
            return [dict(network.state_dict()), network.eval()(images_for(self.task, 2))]

    @property
    def task(self) -> TaskInfo:
        """A task of the first shape with three classes."""
        return make_info(self.shapes[0], 3)

    def build(self, task: TaskInfo, seed: int = 0) -> nn.Module:
        """Build the network with weights from a seed, as the core does."""
        model: Model = self.make().without_pretrained()
        with seeded(seed):
            return model.build(task)

    def test_networks_give_class_scores(self) -> None:
        """Scores are [batch, outputs] for images of every shape and any number of classes."""
        for shape in self.shapes:
            for outputs in (2, 5):
                task = make_info(shape, outputs)
                require_outputs(self.build(task), task)

    def test_networks_train(self) -> None:
        """One step gives every parameter a finite gradient."""
        for shape in self.shapes:
            task = make_info(shape, 3)
            require_training(self.build(task), task)

    def test_weights_come_from_torch_generator(self) -> None:
        """The same seed gives the same weights, another one others."""
        first, again, other = (self.build(self.task, seed).state_dict() for seed in (0, 0, 1))
        require(
            all(torch.equal(t, again[n]) for n, t in first.items()), "one seed must give one set of weights"
        )
        require(any(not torch.equal(t, other[n]) for n, t in first.items()), "another seed must give others")

    def test_state_round_trip(self) -> None:
        """Weights of one network make another compute the same: artifacts are loaded that way."""
        first, second = self.build(self.task, 0), self.build(self.task, 1)
        second.load_state_dict(first.state_dict())
        images = images_for(self.task, 2)
        with torch.no_grad():
            same = torch.equal(first.eval()(images), second.eval()(images))
        require(same, "a network with another's weights must give the other's class scores")

    def test_head_can_be_replaced(self) -> None:
        """The layer of the class scores is found, and one for another number of classes fits in its place."""
        network = self.build(self.task)
        name = find_head(network, self.task.outputs)
        replace_head(network, self.task.outputs, 7)
        require_outputs(network, make_info(self.shapes[0], 7))
        require(find_head(network, 7) == name, f"the head must stay {name}")

    def test_cost_matches_the_network(self) -> None:
        """What is counted on the meta device is what is built."""
        for shape in self.shapes:
            task = make_info(shape, 3)
            with torch.device("meta"):
                cost = measure_cost(self.make().without_pretrained().build(task), task)
            own = sum(p.numel() for p in self.build(task).parameters())
            require(
                cost.parameters == own,
                f"counted {cost.parameters} parameters on the meta device, built {own}",
            )
            require(cost.macs > 0, "a network must cost multiply-adds")

    def test_eval_leaves_the_state_alone(self) -> None:
        """In eval mode a network's scores and state stay the same from call to call."""
        network = self.build(self.task).eval()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        images = images_for(self.task, 2)
        with torch.no_grad():
            first, second = network(images), network(images)
        require(torch.equal(first, second), "in eval mode the same images must get the same scores")
        same = all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        require(same, "in eval mode a network must not change its state")
