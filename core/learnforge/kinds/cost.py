"""The kind `cost`: what a network costs somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from attrs import asdict, frozen
from torch import nn

from learnforge.spec import TaskInfo


class CostMeter(ABC):
    """A method of the kind `cost`: a frozen attrs class that says what a network costs somewhere.

    The search driver calls `measure` once for each new design, before it is trained. Lists of `costs` in a
    recipe name them; objectives and limits then use a cost by its `label`.
    """

    needs_weights: ClassVar[bool] = False
    """Whether the network must be built with weights on the device, to be run; else it comes on the meta
    device, where nothing is computed."""

    @property
    def label(self) -> str:
        """Name in objectives and limits; "" for the name that the plugin is registered by."""
        return ""

    def content(self) -> str:
        """Return a hash of the files that the cost is read from, for fingerprints; "" where there are none.

        Raises:
            ValueError: A file is missing or of another form; called before anything is computed.
        """
        return ""

    @abstractmethod
    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        """Return the cost of one image in inference; less is better.

        Args:
            network: The network, in eval mode.
            task: Gives the input shape.
        """


@frozen
class Cost:
    """What a network costs for one image in inference.

    Args:
        parameters: Trainable numbers.
        macs: Multiply-adds in convolutions and matrix products; one multiply-add is one.
        peak_activation_bytes: Most bytes of input and intermediate results alive at once in 32-bit
            eager inference.
    """

    parameters: int
    macs: int
    peak_activation_bytes: int

    def as_metrics(self) -> dict[str, float]:
        """Return {name: value}."""
        return asdict(self)


COSTS = ("parameters", "macs", "peak_activation_bytes", "latency_ms")
"""Names of the costs that limits and objectives may use."""
