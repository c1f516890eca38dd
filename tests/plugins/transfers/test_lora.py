"""Low-rank adapters: the start, the rank of what is learnt, and the merge."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import StageError, Task
from learnforge.artifact import from_module
from learnforge_kit import Train
from learnforge_plugins.stages.transfer.freezing import freeze
from learnforge_plugins.stages.transfer.stage import TransferStage


def test_it_begins_with_the_old_network(make: Any, net: Any, task: Task) -> None:
    """B is zero, so that the adapted body computes what it did, bit for bit."""
    network = net(3).eval()
    images = torch.randn(2, 1, 8, 8)
    before = network.body(images)
    prepared = make("lora").prepare(copy.deepcopy(network), task.info, task.info)
    assert torch.equal(prepared.body(images), before)


def test_change_by_hand(make: Any, task: Task) -> None:
    """W0 + alpha / rank · B A, for a linear layer of two units and three inputs."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False), nn.Linear(2, 3))
    start = network[1].weight.detach().clone()
    method = make("lora", rank=1, alpha=4.0)
    method.prepare(network, task.info, task.info)
    low = network[1].parametrizations.weight[0]  # type: ignore[union-attr, index]
    with torch.no_grad():
        low.up.copy_(torch.tensor([[1.0], [2.0]]))
        low.down.copy_(torch.arange(64.0)[None])
    change = 4 * torch.stack([torch.arange(64.0), 2 * torch.arange(64.0)])
    torch.testing.assert_close(network[1].weight, start + change)
    method.finish(network)
    torch.testing.assert_close(network[1].weight, start + change)
    assert set(network.state_dict()) == {"1.weight", "2.weight", "2.bias"}


@pytest.mark.parametrize("rank", [1, 2])
def test_what_is_learnt_has_the_rank(rank: int, make: Any, net: Any, task: Task, make_context: Any) -> None:
    """After training, the difference to the old weights has that rank; batch statistics and biases stay."""
    network = net(3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train = Train(epochs=3, batch_size=20, learning_rate=1e-2)
    stage = TransferStage(name="t", method=make("lora", rank=rank), train=train, baseline=False)
    after = stage.run(task, {"source": from_module(network, task.info)}, make_context(None)).weights
    assert after is not None
    change = (after["body.0.weight"] - before["body.0.weight"]).flatten(1)
    assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == rank
    assert all(torch.equal(after[n], before[n]) for n in before if n[:4] == "body" and n != "body.0.weight")


def test_only_adapters_and_head_are_trained(make: Any, net: Any, task: Task) -> None:
    """The old weights are frozen; ranks beyond a matrix's own are cut to it."""
    method = make("lora", rank=100, head_rate=0.5)
    network = method.prepare(net(3), task.info, task.info)
    (phase,) = method.phases(network, task.info, task.info)
    groups = freeze(network, phase)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    adapters = {f"body.0.parametrizations.weight.0.{part}" for part in ("up", "down")}
    assert trained == {"head.weight", "head.bias", *adapters}
    assert {group["scale"] for group in groups} == {1.0, 0.5}
    assert network.body[0].parametrizations.weight[0].down.shape == (4, 9)


def test_layers_choose_what_is_adapted(make: Any, net: Any, task: Task) -> None:
    """By name; unknown names and nothing to adapt are refused."""
    with pytest.raises(StageError, match=r"layers must name parts of the network, \['bdy'\] are none: "):
        make("lora", layers=["bdy"]).prepare(net(3), task.info, task.info)
    with pytest.raises(StageError, match="no linear layer or convolution but its head 'head' to adapt"):
        make("lora", layers=["head"]).prepare(net(3), task.info, task.info)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4), nn.Linear(4, 3))
    make("lora", layers=["2"]).prepare(network, task.info, task.info)
    assert [nn.utils.parametrize.is_parametrized(network[i]) for i in (0, 2, 3)] == [False, True, False]


class _Attentive(nn.Module):
    """Attention between the eight rows of an image, in four features each."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0, :, :4].transpose(0, 1)
        scores: Tensor = self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(0))
        return scores


def test_attention_is_adapted_and_other_parametrizations_are_left_alone(make: Any, task: Task) -> None:
    """Query, key and value of torch's attention get one change; what is parametrized already is refused."""
    network = _Attentive()
    names = set(network.state_dict())
    method = make("lora", rank=1)
    method.prepare(network, task.info, task.info)
    low = network.attention.parametrizations.in_proj_weight[0]
    assert low.up.shape == (12, 1)
    assert nn.utils.parametrize.is_parametrized(network.attention.out_proj, "weight")
    method.finish(network)
    assert set(network.state_dict()) == names
    normed = nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 4)), nn.Linear(4, 3)
    )
    with pytest.raises(StageError, match="1 must be a plain layer to be adapted, it is parametrized already"):
        method.prepare(normed, task.info, task.info)
    with pytest.raises(StageError, match="only the last change can be undone, which is head, not 'low-rank'"):
        make("lora").finish(normed)
