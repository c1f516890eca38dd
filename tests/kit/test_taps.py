"""Taps catch what layers put out, and leave the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learnforge.errors import StageError
from learnforge.kinds.seen.network import Outputs
from learnforge_kit.networks.layers import read_layers
from learnforge_kit.networks.taps import Tapped


def listen(network, names=(), images=None):
    """Tap a network whose images are pairs of numbers."""
    return Tapped(read_layers(network, torch.zeros(1, 2) if images is None else images), names)


@pytest.fixture
def network():
    """Two layers by hand: x → 2x → relu → sum of it."""
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.eye_(first.weight)
    first.weight.data *= 2
    nn.init.ones_(last.weight)
    return nn.Sequential(nn.Sequential(first, nn.ReLU()), last)


def test_taps_are_what_the_layers_put_out(network):
    """Logits are the network's, and each tap is its layer's output, by hand."""
    outputs = listen(network, ["0.0", "0"])(torch.tensor([[1.0, -3.0]]))
    assert outputs.logits.tolist() == [[2.0]]
    assert set(outputs.taps) == {"0.0", "0"}
    assert outputs.taps["0.0"].tolist() == [[2.0, -6.0]]
    assert outputs.taps["0"].tolist() == [[2.0, 0.0]]


def test_gradients_flow_through_taps(network):
    """A loss on a tap reaches the layers before it and no others."""
    listen(network, ["0.0"])(torch.ones(1, 2)).taps["0.0"].sum().backward()
    assert network[0][0].weight.grad is not None
    assert network[1].weight.grad is None


def test_calls_do_not_share_what_they_caught(network):
    """The outputs of one call stay as they are when the next is made."""
    tapped = listen(network, ["0"])
    first, second = tapped(torch.tensor([[1.0, 0.0]])), tapped(torch.tensor([[5.0, 0.0]]))
    assert first.taps["0"].tolist() == [[2.0, 0.0]]
    assert second.taps["0"].tolist() == [[10.0, 0.0]]


def test_two_listeners_on_one_network(network):
    """Each listener catches its own layers, and closing one leaves the other."""
    one, other = listen(network, ["0"]), listen(network, ["0.0"])
    one.close()
    assert set(other(torch.ones(1, 2)).taps) == {"0.0"}
    assert one(torch.ones(1, 2)).taps == {}


def test_close_leaves_the_network_as_it_was(network):
    """After `close` no hook is left anywhere."""
    listen(network, ["0", "1"]).close()
    assert all(not m._forward_hooks for m in network.modules())


def test_no_taps():
    """Without layers the outputs are the logits alone."""
    assert listen(nn.Identity())(torch.ones(1, 2)).taps == {}
    assert Outputs(torch.ones(1)).taps == {}


def test_unknown_layer_gets_the_nearest_and_no_hook_stays(network):
    """A layer that does not exist is refused with the nearest name and the list; nothing is hooked."""
    with pytest.raises(
        StageError, match=r"no layer '0\.00'; did you mean '0\.0'\?.* Layers: 0\.0 \[2\], 0\.1 \[2\]"
    ):
        listen(network, ["0", "0.00"])
    assert all(not m._forward_hooks for m in network.modules())


def test_what_goes_into_a_layer(network):
    """`layer:input` is the layer's input, and `embedding` that of the last layer; neither leaves a hook."""
    tapped = listen(network, ["1:input", "embedding"])
    outputs = tapped(torch.tensor([[1.0, -3.0]]))
    assert {name: tap.tolist() for name, tap in outputs.taps.items()} == {
        "1:input": [[2.0, 0.0]],
        "embedding": [[2.0, 0.0]],
    }
    tapped.close()
    assert all(not m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("compile_", [lambda n: torch.compile(n, backend="aot_eager"), lambda n: n])
def test_compiled_networks_are_listened_to(network, compile_):
    """Under `torch.compile` layers have their plain names, and taps and gradients are the same."""
    compiled = compile_(network)
    compiled(torch.ones(1, 2))  # what is compiled here knows nothing of taps
    outputs = listen(compiled, ["0.0", "embedding"])(torch.tensor([[1.0, -3.0]]))
    assert outputs.taps["0.0"].tolist() == [[2.0, -6.0]]
    assert outputs.taps["embedding"].tolist() == [[2.0, 0.0]]
    outputs.taps["0.0"].sum().backward()
    assert network[0][0].weight.grad is not None


def test_a_network_compiled_in_place_is_listened_to(network):
    """`network.compile()` keeps its names and is listened to as well."""
    network.compile(backend="aot_eager")
    network(torch.ones(1, 2))
    outputs = listen(network, ["0.0"])(torch.tensor([[1.0, -3.0]]))
    assert outputs.taps["0.0"].tolist() == [[2.0, -6.0]]


def test_only_its_own_call_is_caught() -> None:
    """A layer that this call skips has no tap, though the network ran in between."""

    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.is_skipped = nn.Linear(3, 3), False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if self.is_skipped else self.part(images)

    network = Skipping()
    tapped = listen(network, ["part"], torch.zeros(1, 3))
    network(torch.zeros(1, 3))
    network.is_skipped = True
    assert tapped(torch.zeros(1, 3)).taps == {}
