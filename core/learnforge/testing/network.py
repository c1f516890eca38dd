"""What every network that learnforge builds must do, shared by the suites of spaces and models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge.task import TaskInfo
from learnforge.testing.suite import require


def images_for(task: TaskInfo, count: int) -> Tensor:
    """Return normalised images of noise: float [count, channel, height, width]."""
    return torch.randn(count, *task.input_shape, generator=torch.Generator().manual_seed(count))


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Return the shape of everything in a network's state, by name."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def require_outputs(network: nn.Module, task: TaskInfo) -> None:
    """Require finite class scores of the right shape, in eval mode for each image those it gets alone."""
    network.eval()
    with torch.no_grad():
        scores = network(images_for(task, 3))
        require(
            list(scores.shape) == [3, task.outputs],
            f"must give [3, {task.outputs}], gave {list(scores.shape)}",
        )
        require(bool(scores.isfinite().all()), "class scores must be finite")
        alone = network(images_for(task, 3)[:1])
    require(list(alone.shape) == [1, task.outputs], f"one image must give [1, {task.outputs}]")
    is_same = torch.allclose(alone, scores[:1], rtol=1e-3, atol=1e-4)
    require(is_same, "in eval mode an image's scores must not depend on the images beside it")


def require_training(network: nn.Module, task: TaskInfo) -> None:
    """Require that one step gives every parameter a finite gradient and leaves the scores finite."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images, labels = images_for(task, 8), torch.arange(8) % task.outputs
    loss = F.cross_entropy(network(images), labels)
    require(bool(loss.isfinite()), f"the loss of a fresh network must be finite, it is {loss.item()}")
    loss.backward()
    for name, parameter in network.named_parameters():
        require(parameter.grad is not None, f"{name} must take part in the scores, it gets no gradient")
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} must be finite")  # type: ignore[union-attr]
    optimizer.step()
    require(bool(network(images).isfinite().all()), "class scores must be finite after a step")
