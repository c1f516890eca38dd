"""Layers by name, by stage and as the embedding, in networks of any make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from learnforge import Plugins, StageError
from learnforge_kit.networks.layers import read_layers
from learnforge_kit.networks.taps import Tapped
from learnforge_testing.network import make_info


def _shapes(network: nn.Module, side: int = 32, channels: int = 3) -> list[tuple[str, list[int]]]:
    layers = read_layers(network.eval(), torch.zeros(1, channels, side, side))
    return [(name, list(layers.shapes[name])) for name in layers.stages]


def test_stages_of_a_resnet(plugins: Plugins) -> None:
    """The three stages of a CIFAR ResNet end with the last block of each width."""
    network = plugins.load("model", "resnet")(depth=14).build(make_info((3, 32, 32)))
    assert _shapes(network) == [("4", [16, 32, 32]), ("6", [32, 16, 16]), ("8", [64, 8, 8])]


def test_stages_of_a_mobilenet(plugins: Plugins) -> None:
    """A stage ends with a block, never with the expansion inside the next one."""
    network = plugins.load("model", "mobilenet")(width=0.25).build(make_info((3, 32, 32)))
    found = _shapes(network)
    assert [shape[1] for _, shape in found] == [32, 16, 8, 4]
    for name, _ in found[:-1]:
        assert type(network.get_submodule(name)).__name__ == "Bottleneck"


@pytest.mark.parametrize(
    ("name", "side", "sizes"),
    [
        ("resnet18", 64, [32, 16, 8, 4, 2]),
        ("mobilenet_v3_small", 64, [32, 16, 8, 4, 2]),
        ("densenet121", 64, [32, 16, 8, 4, 2]),
        ("vgg11", 32, [32, 16, 8, 4, 2, 7]),
        ("squeezenet1_1", 64, [31, 15, 7, 3]),
    ],
)
def test_stages_of_torchvision(name: str, side: int, sizes: list[int]) -> None:
    """torchvision's convolutional networks have a stage for each resolution."""
    found = _shapes(models.get_model(name, weights=None, num_classes=5), side)
    assert [shape[1] for _, shape in found] == sizes


def test_blocks_of_torchvision_are_whole() -> None:
    """A stage of a torchvision ResNet is its last block, not a layer inside."""
    assert [name for name, _ in _shapes(models.resnet18(weights=None), 64)] == [
        "relu",
        "layer1.1",
        "layer2.1",
        "layer3.1",
        "layer4.1",
    ]


class Own(nn.Module):
    """A network of one's own: a backbone through several resolutions, functions in between."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)])
        self.last = nn.Conv2d(6, 6, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = block(images).relu()
        result: Tensor = self.last(images)
        return result


def test_a_network_of_ones_own() -> None:
    """Stages are found inside a backbone, in the order in which layers run; what does not run is no layer."""
    layers = read_layers(Own().eval(), torch.zeros(2, 3, 16, 16))
    assert layers.stages == ("backbone.blocks.0", "backbone.blocks.1", "backbone.last")
    assert layers.embedding == "head:input"
    assert "unused" not in layers.shapes
    assert layers.find("stage 1") == "backbone.blocks.0"
    assert layers.find("stage -1") == layers.find("backbone.last") == "backbone.last"
    assert layers.find("embedding") == layers.find("head:input") == "head:input"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stage 4", "no 'stage 4': it has 3"),
        ("stage 0", "no 'stage 0'"),
        ("stage -4", "no 'stage -4'"),
        ("heads", "no layer 'heads'; did you mean 'head'?"),
        ("unused", "no layer 'unused'"),
    ],
)
def test_unknown_layers_are_refused_with_the_list(name: str, words: str) -> None:
    """The error says what is wrong, and lists stages and layers with their shapes."""
    layers = read_layers(Own().eval(), torch.zeros(2, 3, 16, 16))
    with pytest.raises(StageError) as caught:
        layers.find(name)
    assert words in str(caught.value)
    assert "stage 2 = backbone.blocks.1 [6, 8, 8]" in str(caught.value)
    assert str(caught.value).endswith("backbone.last [6, 4, 4], backbone [6, 4, 4], head [4]")


def test_long_lists_are_cut() -> None:
    """Of many layers the first are listed and the rest counted."""
    network = nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)])
    with pytest.raises(StageError, match=r"39 \[2\], and 10 more$"):
        read_layers(network, torch.zeros(1, 2)).find("stage 1")


def test_reading_changes_nothing() -> None:
    """No hook is left, in training mode as well, and a failing network leaves none."""
    network = Own()
    read_layers(network.eval(), torch.zeros(2, 3, 16, 16))
    with pytest.raises(RuntimeError):
        read_layers(network, torch.zeros(2, 1, 16, 16))
    assert all(not module._forward_hooks for module in network.modules())


def test_transformers_have_an_embedding_and_no_stages() -> None:
    """A vision transformer is listened to by name: its features are tokens."""
    network: Any = models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3)
    layers = read_layers(network.eval(), torch.zeros(1, 3, 32, 32))
    assert layers.embedding == "heads.head:input"
    assert layers.shapes["encoder.layers.encoder_layer_0"] == (17, 16)


def test_channels_last_networks_have_no_stages() -> None:
    """A Swin transformer keeps channels last: its layers are named, not counted."""
    layers = read_layers(models.swin_t(weights=None).eval(), torch.zeros(1, 3, 64, 64))
    assert layers.stages == ()
    assert layers.embedding == "head:input"


class Repeating(nn.Module):
    """Runs one block three times, and its head by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2))
        self.embedding = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for _ in range(3):
            features = self.block(features)
        result: Tensor = self.head(input=self.embedding(features.mean((2, 3))))
        return result


def test_repeated_layers_are_no_stages() -> None:
    """A layer that runs several times has no place of its own; a layer's own name comes before a meaning."""
    network = Repeating().eval()
    layers = read_layers(network, torch.zeros(2, 3, 16, 16))
    assert layers.stages == ("stem",)
    assert layers.find("embedding") == "embedding"
    tapped = Tapped(layers, ["head:input", "embedding"])
    taps = tapped(torch.zeros(2, 3, 16, 16)).taps
    assert torch.equal(taps["head:input"], taps["embedding"])


def test_what_is_overwritten_is_kept() -> None:
    """A tap before an in-place layer shows what its own layer put out."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)).eval()
    layers = read_layers(network, torch.randn(1, 1, 8, 8))
    assert layers.overwritten == {"0"}
    taps = Tapped(layers, ["0", "1"])(torch.randn(4, 1, 8, 8)).taps
    assert taps["0"].min().item() < 0
    assert torch.equal(taps["0"].relu(), taps["1"])


class Pair(nn.Module):
    """Gives two things."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def test_networks_without_class_scores_are_refused() -> None:
    """What gives no single tensor of scores is named."""
    with pytest.raises(StageError, match=r"Pair must put out class scores \[batch, class\], got tuple"):
        read_layers(Pair(), torch.zeros(1, 3))
    with pytest.raises(StageError, match=r"got \[3\]"):
        read_layers(nn.Identity(), torch.zeros(3))
