"""Batch normalisation in episodes: a policy changes how a layer normalises, never what else it does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from learnforge import StageError
from learnforge_kit.engines.normalisation import prepare_normalisation
from learnforge_kit.training.turns import kept_statistics


def random_statistics(network: nn.Module) -> nn.Module:
    """Give a network weights and running statistics that are not the initial ones; it is in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return network.eval()


class Doubled(nn.BatchNorm2d):
    """Does more than normalise."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, and double."""
        return 2 * super().forward(images)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "one axis": lambda: nn.BatchNorm1d(3),
    "three axes": lambda: nn.BatchNorm3d(3),
    "synchronised": lambda: nn.SyncBatchNorm(3),
    "doubled": lambda: Doubled(3),
    "without weights": lambda: Doubled(3, affine=False),
}
SHAPES = {"one axis": (6, 3), "three axes": (6, 3, 2, 2, 2)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_does_what_it_did(name: str) -> None:
    """By its own statistics as in eval mode, by the batch's as in training, in float64."""
    layer = random_statistics(LAYERS[name]()).double()
    images = torch.randn(SHAPES.get(name, (6, 3, 4, 4)), dtype=torch.float64)
    plain = Doubled if isinstance(layer, Doubled) else type(layer)
    trained = nn.BatchNorm2d(3) if plain is nn.SyncBatchNorm else copy.deepcopy(layer)
    trained.load_state_dict(layer.state_dict())
    torch.testing.assert_close(prepare_normalisation(layer, "running")(images), layer(images))
    expected = trained.double().train()(images)
    for policy in ("transductive", "support"):
        torch.testing.assert_close(prepare_normalisation(layer, policy)(images), expected)


def test_the_first_images_give_the_statistics() -> None:
    """A subclass is normalised by the support images, all of the batch alike; and over tasks by vmap."""
    layer = random_statistics(Doubled(3)).double()
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    ours = prepare_normalisation(layer, "support")
    ours.reference = 4  # type: ignore[assignment]
    variance, mean = torch.var_mean(images[:4], (0, 2, 3), correction=0, keepdim=True)
    scale, shift = (p.view(1, 3, 1, 1) for p in layer.parameters())
    expected = 2 * ((images - mean) / (variance + 1e-5).sqrt() * scale + shift)
    torch.testing.assert_close(ours(images), expected)
    tasks = torch.stack([layer.weight.detach(), 3 * layer.weight.detach()])  # type: ignore[operator]

    def of_task(weight: Tensor) -> Tensor:
        return functional_call(ours, {"weight": weight}, (images,))

    found = vmap(of_task)(tasks)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1] - 2 * shift, 3 * (expected - 2 * shift))


FAMILIES = (
    "resnet10t",  # batch normalisation and activation apart
    "tf_efficientnet_lite0",  # batch normalisation with an activation
    "lcnet_050",
    "skresnet18",  # in branches
    "repvgg_a0",  # in parallel
    "resnetv2_50d_gn",  # group normalisation with an activation
    "resnetv2_50d_evos",  # EvoNorm by samples
    "resnetv2_50d_frn",  # filter response normalisation
    "convnext_atto",  # layer normalisation
)


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_families_give_their_own_outputs(name: str) -> None:
    """A network prepared for `running` computes what timm's does, under the same names."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = random_statistics(timm.create_model(name, num_classes=5)).double()
    prepared = prepare_normalisation(network, "running").eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(prepared(images), expected)
    assert expected.abs().max() > 1e-6
    assert prepared.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", ["BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d"])
def test_timm_layers_keep_their_activation(name: str) -> None:
    """In every policy; a frozen layer is none to follow one."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    layer = layers.BatchNormAct2d(3, act_layer=nn.SiLU, inplace=False)
    if name == "SyncBatchNormAct":
        layer = layers.convert_sync_batchnorm(layer)
    elif name == "FrozenBatchNormAct2d":
        layer = layers.FrozenBatchNormAct2d(3, act_layer=nn.SiLU)
    assert type(layer).__name__ == name
    images = torch.randn(6, 3, 4, 4)
    normed = nn.BatchNorm2d(3)(images)
    for policy in ("transductive", "support"):
        found = prepare_normalisation(layer.eval(), policy)(images)
        torch.testing.assert_close(found, layer(images) if "Frozen" in name else nn.functional.silu(normed))


def test_statistics_that_no_policy_moves_are_refused() -> None:
    """EvoNorm's batch kind and a norm of instances go by what they measured, so `running` is true of them."""
    layers = pytest.importorskip("timm.layers")
    for layer in (layers.EvoNorm2dB0(3), nn.InstanceNorm2d(3, track_running_stats=True)):
        network = nn.Sequential(random_statistics(layer))
        images = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(prepare_normalisation(network, "running")(images), network(images))
        with pytest.raises(StageError, match=r"the layer '0' must be a batch normalisation .* 'support'"):
            prepare_normalisation(network, "support")


class Elementary(nn.BatchNorm2d):
    """Normalises without torch's function."""

    def forward(self, images: Tensor) -> Tensor:
        """Centre by the running mean."""
        assert self.running_mean is not None
        return images - self.running_mean.view(1, -1, 1, 1)


def test_a_layer_whose_statistics_cannot_be_reached_is_refused() -> None:
    """Rather than that its policy is passed over; by its own statistics it is used as it is."""
    layer, images = random_statistics(Elementary(3)), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(prepare_normalisation(layer, "running")(images), layer(images))
    with pytest.raises(StageError, match=r"must normalise by torch\.nn\.functional\.batch_norm"):
        prepare_normalisation(layer, "support")(images)


def test_statistics_of_every_kind_are_kept() -> None:
    """For a block, in training mode; those of the exempted part move."""
    layers = pytest.importorskip("timm.layers")
    network = nn.Sequential(nn.BatchNorm2d(3), layers.EvoNorm2dB0(3), layers.BatchNormAct2d(3)).train()
    before = copy.deepcopy(network.state_dict())
    with kept_statistics(network, but=network[2]):
        network(torch.randn(4, 3, 4, 4))
    changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert changed == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
