"""The exponential moving average of a network's weights over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(AveragedModel):
    """The average of a network.

    Args:
        network: The network.
        decay: Share of the average that a step keeps.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def update_parameters(self, model: nn.Module) -> None:
        """Take a step's weights in."""
        super().update_parameters(model)
        # a mean of counters would be no count, and would change those of frozen layers
        with torch.no_grad():
            for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
                if not own.is_floating_point():
                    own.copy_(other)

    @contextmanager
    def shown(self, network: nn.Module) -> Iterator[None]:
        """Put the averaged weights into the network for a block."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.module.state_dict())
        yield
        network.load_state_dict(own)
