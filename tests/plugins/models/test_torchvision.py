"""torchvision's models: names, weights from the cache, and what happens without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn

from learnforge import ArtifactError, Model, Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build


def _info(shape: tuple[int, int, int] = (3, 32, 32), classes: int = 4) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo("task", names, names, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the model from options."""

    def make_model(**options: Any) -> Model:
        return build(plugins.load("model", "torchvision"), options, "test")

    return make_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point torch's cache into the test's folder and cut the network off."""

    def refuse(url: str, file: str, **options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path / "hub/checkpoints"


def _publish(cache: Path, name: str, weights: str) -> nn.Module:
    """Put random weights into the cache under the published file's name."""
    from torchvision import models

    entry = models.get_model_weights(name)[weights]
    torch.manual_seed(0)
    network = models.get_model(name, num_classes=1000)
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / entry.url.rsplit("/", 1)[1])
    return network


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 224, 224)])
def test_random_weights_need_no_file(make: Any, cache: Path, shape: tuple[int, int, int]) -> None:
    """Without `weights` nothing is looked for, and the network fits the task's channels and classes."""
    model = make(name="mobilenet_v3_small")
    model.require()
    with torch.device("meta"):
        network = model.build(_info(shape))
        assert network(torch.empty(2, *shape)).shape == (2, 4)
    assert not cache.exists()


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out(make: Any, name: str) -> None:
    """Networks that would give several tensors of scores in training give one, as in eval mode."""
    with torch.device("meta"):
        network = make(name=name).build(_info((3, 96, 96)))
        for is_training in (True, False):
            assert network.train(is_training)(torch.empty(2, 3, 96, 96)).shape == (2, 4)
    assert not any("aux" in weight.lower() for weight in network.state_dict())


@pytest.mark.parametrize("ask", ["require", "build"])
def test_missing_weights_offline_say_what_is_wanted(make: Any, cache: Path, ask: str) -> None:
    """Uncached and offline, the error names the file, the address, and what to do instead."""
    model = make(name="mobilenet_v3_small", weights="DEFAULT")
    file = cache / "mobilenet_v3_small-047dcff4.pth"
    with pytest.raises(ArtifactError, match="no route to host") as caught:
        model.require() if ask == "require" else model.build(_info())
    text = str(caught.value)
    assert f"the weights DEFAULT of mobilenet_v3_small must be in {file}" in text
    assert "Fetch https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth" in text
    assert "or leave out `weights`" in text
    assert not file.exists()


def test_cached_weights_are_loaded_under_a_new_head(make: Any, cache: Path) -> None:
    """Every layer but the last has the file's weights, and the last one fits the task."""
    published = _publish(cache, "mobilenet_v3_small", "IMAGENET1K_V1")
    model = make(name="mobilenet_v3_small", weights="DEFAULT")
    model.require()
    network = model.build(_info())
    own, theirs = network.state_dict(), published.state_dict()
    assert own.keys() == theirs.keys()
    changed = {name for name in own if own[name].shape != theirs[name].shape}
    assert changed == {"classifier.3.weight", "classifier.3.bias"}
    assert all(torch.equal(own[name], theirs[name]) for name in own.keys() - changed)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_the_head_stays_where_the_classes_are_as_many(make: Any, cache: Path) -> None:
    """With 1,000 classes the published head is kept and the model may teach as it is, with others not."""
    published = _publish(cache, "squeezenet1_1", "IMAGENET1K_V1")
    model = make(name="squeezenet1_1", weights="IMAGENET1K_V1")
    network = model.build(_info((3, 64, 64), 1000))
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in published.state_dict().items())
    assert model.is_trained_for(_info(classes=1000))
    assert not model.is_trained_for(_info(classes=4))
    assert not make(name="squeezenet1_1").is_trained_for(_info(classes=1000))


def test_pretrained_stem_fits_grey_images(make: Any, cache: Path) -> None:
    """A grey image gets the features of the colour image with three equal channels."""
    _publish(cache, "mobilenet_v3_small", "IMAGENET1K_V1")
    model = make(name="mobilenet_v3_small", weights="DEFAULT")
    grey, colour = (model.build(_info((channels, 32, 32))).eval() for channels in (1, 3))
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = grey.features[0](image), colour.features[0](image.expand(1, 3, 32, 32))
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-5)


def test_damaged_weights_are_named(make: Any, cache: Path) -> None:
    """A cut-off file, and one of another network, are errors that name the file and what to do."""
    _publish(cache, "mobilenet_v3_small", "IMAGENET1K_V1")
    file = cache / "mobilenet_v3_small-047dcff4.pth"
    whole = file.read_bytes()
    model = make(name="mobilenet_v3_small", weights="DEFAULT")
    for content in (whole[: len(whole) // 2], b"", b"no weights"):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{file} must hold the published weights, .* Remove it"):
            model.build(_info())
    torch.save(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(ArtifactError, match=rf"{file} must hold the published weights"):
        model.build(_info())


def test_pretrained_weights_can_be_left_out(make: Any, cache: Path) -> None:
    """The same model without its weights builds offline."""
    model = make(name="resnet18", weights="IMAGENET1K_V1").without_pretrained()
    assert model == make(name="resnet18")
    with torch.device("meta"):
        assert model.build(_info()).fc.out_features == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, r"no classification model 'resnet81'; did you mean 'resnet18'\?"),
        ({"name": "fcn_resnet50"}, r"no classification model 'fcn_resnet50'"),
        (
            {"name": "resnet18", "weights": "IMAGENET1K_V2"},
            r"resnet18 has no weights 'IMAGENET1K_V2'; did you mean 'IMAGENET1K_V1'\? There are: DEFAULT",
        ),
    ],
)
def test_unknown_names_are_refused(make: Any, options: dict[str, str], message: str) -> None:
    """Unknown models, models of other tasks and unknown weights are refused before anything is fetched."""
    with pytest.raises(ArtifactError, match=message):
        make(**options).require()


def test_name_is_needed(make: Any) -> None:
    """The model's name has no default."""
    with pytest.raises(RecipeError, match=r"name: is missing; it must be a string"):
        make()
