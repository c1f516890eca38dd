"""What every cost must keep to: a finite number of a network, the same each time, that changes nothing."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from learnforge.kinds.cost import CostMeter
from learnforge_testing.method import MethodSuite
from learnforge_testing.network import parameter_shapes
from learnforge_testing.suite import needs, require
from learnforge_testing.toys import make_network, make_task


class CostSuite(MethodSuite):
    """Checks of a cost on small convolutional networks.

    Args:
        is_measured: Whether it is a measurement, which scatters from call to call.
    """

    kind: ClassVar[str] = "cost"
    base: ClassVar[type] = CostMeter
    is_measured: ClassVar[bool] = False

    def result(self) -> Any:
        return [] if self.is_measured else [self._cost(width) for width in (4, 8)]

    def test_cost_is_a_number_from_zero(self) -> None:
        """A cost is a finite float, not below 0."""
        found = self._cost(8)
        require(isinstance(found, float), f"a cost must be a float, got {type(found).__name__}")
        require(math.isfinite(found) and found >= 0, f"a cost must be finite and from 0, got {found}")

    def test_label_is_a_name(self) -> None:
        """Its label can stand in a recipe: letters, digits and underscores, or nothing for the
        plugin's name.
        """
        label = self.make().label
        require(
            isinstance(label, str) and (not label or label.isidentifier()),
            f"`label` must be a name of letters, digits and _, or empty, got {label!r}",
        )

    @needs(lambda suite: not suite.is_measured, "the cost is a measurement")
    def test_equal_networks_cost_the_same(self) -> None:
        """The same network costs the same each time."""
        first, second = self._cost(8), self._cost(8)
        require(first == second, f"the same network must cost the same, got {first} and {second}")

    def test_network_is_left_alone(self) -> None:
        """The network keeps its layers and its mode."""
        network = self._network(8)
        before = str(network), parameter_shapes(network), network.training
        self.make().measure(network, make_task().info)
        after = str(network), parameter_shapes(network), network.training
        require(before == after, "a cost must leave the network as it is")
        hooks = [layer for layer in network.modules() if layer._forward_hooks or layer._forward_pre_hooks]
        require(not hooks, f"a cost must remove its hooks, {len(hooks)} layers have some")

    def _cost(self, width: int) -> float:
        found: float = self.make().measure(self._network(width), make_task().info)
        return found

    def _network(self, width: int) -> nn.Module:
        """Return a network as the driver hands it over: with weights, or on the meta device."""
        network = make_network(make_task().info, width).eval()
        return network if self.method.needs_weights else network.to(torch.device("meta"))
