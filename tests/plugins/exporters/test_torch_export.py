"""torch.export: the file computes what the network does, for any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, TaskInfo
from learnforge.options.structure import build
from learnforge_plugins.stages.export import Deployed

INFO = TaskInfo("shapes", ("a", "b", "c"), ("s:a", "s:b", "s:c"), (1, 8, 8), (0.4,), (0.2,))


@pytest.fixture(scope="module", params=["conv4", "mobilenet", "resnet"])
def exported(
    request: pytest.FixtureRequest, plugins: Plugins, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A built-in model with uneven weights and statistics, and the file made of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small: dict[str, Any] = {"conv4": {"width": 8}, "mobilenet": {"width": 0.25}, "resnet": {"depth": 8}}
        network = build(plugins.load("model", request.param), small[request.param], "test").build(INFO)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2.0)
    module = Deployed(network, INFO).eval()
    exporter = plugins.load("exporter", "torch-export")()
    path = tmp_path_factory.mktemp("export") / f"model{exporter.suffix}"
    exporter.export(module, _images(2), path)
    return module, exporter.load(path), path


def _images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_file_takes_batches_of_any_size(exported: Any, count: int) -> None:
    """Exported with two images, the file takes one, two and seven, and gives the network's class scores."""
    module, runtime, _ = exported
    with torch.no_grad():
        expected, found = module(_images(count)), runtime(_images(count))
    assert found.shape == (count, 3)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_images_of_a_batch_do_not_see_each_other(exported: Any) -> None:
    """An image gets the same scores alone as in a batch."""
    _, runtime, _ = exported
    images = _images(7)
    with torch.no_grad():
        assert torch.allclose(runtime(images)[3:4], runtime(images[3:4]), rtol=1e-5, atol=1e-5)


def test_file_has_the_suffix(exported: Any) -> None:
    """The file is written where it was asked for, under the ending `.pt2`."""
    path: Path = exported[2]
    assert path.suffix == ".pt2"
    assert path.stat().st_size > 1000


def test_the_manual_is_inside(exported: Any, plugins: Plugins, tmp_path: Path) -> None:
    """A file tells how it is run, in any language, and computes the same; another file tells nothing."""
    module, _, path = exported
    exporter = plugins.load("exporter", "torch-export")()
    assert exporter.manual(path) is None
    file = tmp_path / "model.pt2"
    file.write_bytes(path.read_bytes())
    exporter.annotate(file, '{"classes": ["Größe"]}')
    assert exporter.manual(file) == '{"classes": ["Größe"]}'
    with torch.no_grad():
        assert torch.allclose(exporter.load(file)(_images(7)), module(_images(7)), rtol=1e-5, atol=1e-5)
    data = bytearray(file.read_bytes())
    data[data.index(b"Gr\xc3")] ^= 1
    file.write_bytes(data)
    assert exporter.manual(file) is None
    file.write_bytes(b"PK nothing")
    assert exporter.manual(file) is None
