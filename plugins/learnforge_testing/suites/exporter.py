"""What every exporter must keep to: one file, where it was asked for, that computes what the network does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learnforge.kinds.exporter import Exporter, Runtime
from learnforge.options.structure import build
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo
from learnforge_plugins.stages.export import Deployed
from learnforge_testing.elsewhere import Where, call_elsewhere
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require

BATCHES, EXAMPLES = (1, 2, 7), 64


TOLERANCE = 1e-4
"""Largest difference of a class score, relative to the largest one: the export stage's own default."""

ROUGH = 0.2
"""The same for methods that quantise, whose files the stage judges by accuracy."""

_INFO = TaskInfo(
    "noise", ("a", "b", "c"), ("noise:a", "noise:b", "noise:c"), (3, 8, 8), (0.4,) * 3, (0.2,) * 3
)


class _Residual(nn.Module):
    """x + f(x) for a depthwise separable f with batch normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = images + self.inner(images)
        return added


class ExporterSuite(MethodSuite):
    """Checks of exporters, on networks of the layers that models for small devices have."""

    kind: ClassVar[str] = "exporter"
    base: ClassVar[type] = Exporter

    def networks(self) -> Mapping[str, nn.Module]:
        """Return networks for images [batch, 3, 8, 8] and three classes, in words."""
        with seeded(0):
            wide, norm = nn.AdaptiveAvgPool2d((2, 1)), nn.BatchNorm2d(6)
            found = {
                "a linear layer": nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
                "adaptive pooling to 2 × 1": nn.Sequential(nn.MaxPool2d(2), wide, *_head(6)),
                "batch normalisation": nn.Sequential(*_stem(), norm, nn.ReLU(), *_pooled(6)),
                "depthwise convolutions and residual adds": _mixed(),
                "group normalisation and dropout": nn.Sequential(
                    *_stem(), nn.GroupNorm(2, 6), nn.Hardswish(), nn.Dropout(0.5), *_pooled(6)
                ),
            }
            return {words: _unsettle(network) for words, network in found.items()}

    def result(self) -> Any:
        module = self._module()
        with self._exported(module) as (path, runtime):
            return [path.suffix, [runtime(_images(count)) for count in BATCHES]]

    def test_file_is_written_at_the_path(self) -> None:
        """The file lies where it was asked for, under the method's own ending, and is not empty."""
        suffix = self.method.suffix
        require(
            suffix.startswith(".") and suffix == suffix.strip(), f"suffix must be as `.onnx`, is {suffix!r}"
        )
        with _folder() as folder:
            path = folder / f"model{suffix}"
            self.make().export(self._module(), _images(EXAMPLES), path)
            require(path.is_file(), f"`export` must write {path.name}, it wrote {_names(folder)}")
            require(path.stat().st_size > 0, f"{path.name} must not be empty")

    def test_nothing_lies_beside_the_file(self) -> None:
        """The file is all that an export leaves: the stage hands over nothing else."""
        with _folder() as folder:
            path = folder / f"model{self.method.suffix}"
            self.make().export(self._module(), _images(EXAMPLES), path)
            self.make().load(path)
            others = [name for name in _names(folder) if name != path.name]
            require(not others, f"`export` must leave nothing beside {path.name}, it left {others}")

    def test_folder_may_have_any_name(self) -> None:
        """A file in a folder with spaces and letters beyond ASCII is written and loads."""
        module = self._module()
        with _folder() as folder:
            inside = folder / "my models, größe 2"
            inside.mkdir()
            path = inside / f"model{self.method.suffix}"
            self.make().export(module, _images(EXAMPLES), path)
            found = self.make().load(path)(_images(2))
            require(found.shape == (2, 3), f"scores must be [2, 3], got {list(found.shape)}")

    def test_file_computes_what_the_network_does(self) -> None:
        """Scores of 1, 2 and 7 images are the network's, float32 [batch, class], to 1e-4 of the
        largest; to 0.2 for methods that quantise.
        """
        module = self._module()
        with self._exported(module) as (_, runtime):
            for count in BATCHES:
                with torch.inference_mode():
                    own, found = module(_images(count)), runtime(_images(count))
                require(
                    found.dtype == torch.float32 and found.shape == own.shape,
                    f"{count} images: scores must be float32 {list(own.shape)}, got {found.dtype} "
                    f"{list(found.shape)}",
                )
                off = _difference(found, own)
                self._require_close(off, f"{count} images: scores must be the network's")

    def test_usual_layers_are_exported(self) -> None:
        """Networks of all usual layers compute the same from their file, for another batch size too."""
        images = _images(3)
        for words, network in self.networks().items():
            module = Deployed(network, _INFO).eval()
            try:
                with self._exported(module) as (_, runtime), torch.inference_mode():
                    off = _difference(runtime(images), module(images))
            except Exception as error:
                raise AssertionError(f"a network with {words}: {type(error).__name__}: {error}") from error
            self._require_close(off, f"a network with {words}: scores must be its own")

    def test_network_and_example_are_left_alone(self) -> None:
        """Weights and buffers stay bit for bit, every layer its mode, and the example images as they are."""
        module, images = self._module(), _images(EXAMPLES)
        before, state = _facts(module), {n: t.clone() for n, t in module.state_dict().items()}
        with _folder() as folder:
            self.make().export(module, images, folder / f"model{self.method.suffix}")
        after = module.state_dict()
        require(list(after) == list(state), f"the names of weights must stay, they became {list(after)}")
        changed = [name for name, tensor in state.items() if not torch.equal(after[name], tensor)]
        require(not changed, f"`export` must leave the network alone, it changed {', '.join(changed)}")
        require(
            _facts(module) == before, "`export` must leave the mode of every layer and `requires_grad` alone"
        )
        require(torch.equal(images, _images(EXAMPLES)), "`export` must leave the example images alone")

    def test_second_export_computes_the_same(self) -> None:
        """A module that was exported before gives a file with the same scores, bit for bit."""
        module = self._module()
        scores = []
        for _ in range(2):
            with self._exported(module) as (_, runtime):
                scores.append(runtime(_images(7)))
        off = _difference(scores[1], scores[0])
        require(off == 0, f"a second export must give the scores of the first, it is off by {off:.2g}")

    def test_files_do_not_mix(self) -> None:
        """Two files that are loaded at a time each compute their own network."""
        modules = self._module(), self._module(seed=1)
        with self._exported(modules[0]) as (_, first), self._exported(modules[1]) as (_, second):
            for number, (module, runtime) in enumerate(zip(modules, (first, second), strict=True), 1):
                with torch.inference_mode():
                    off = _difference(runtime(_images(2)), module(_images(2)))
                self._require_close(off, f"file {number} must compute its own network")

    def test_file_loads_in_another_process(self) -> None:
        """A process that has seen no export of the module computes the same scores from the file."""
        module = self._module()
        with self._exported(module) as (path, runtime):
            here = runtime(_images(7))
            method = Where.of(self.method)
            there = call_elsewhere(_run_file, method, dict(self.options), str(path), _images(7).tolist())
        off = _difference(torch.tensor(there), here)
        self._require_close(off, "another process must compute the scores from the file")

    def _require_close(self, off: float, words: str) -> None:
        require(off <= (TOLERANCE if self.method.is_exact else ROUGH), f"{words}, off by {off:.2g}")

    def _module(self, seed: int = 0) -> Deployed:
        """Return a network with its normalisation inside, as the stage hands it over."""
        with seeded(seed):
            return Deployed(_unsettle(_mixed()), _INFO).eval()

    @contextmanager
    def _exported(self, module: nn.Module) -> Iterator[tuple[Path, Runtime]]:
        with _folder() as folder:
            path = folder / f"model{self.method.suffix}"
            self.make().export(module, _images(EXAMPLES), path)
            yield path, self.make().load(path)


def _stem() -> tuple[nn.Module, ...]:
    return (nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),)


def _head(width: int) -> tuple[nn.Module, ...]:
    return nn.Flatten(), nn.Linear(width, 3)


def _pooled(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), *_head(width)


def _mixed() -> nn.Sequential:
    stem = *_stem(), nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(*stem, _Residual(6), *_pooled(6))


def _unsettle(network: nn.Module) -> nn.Module:
    """Give batch normalisation statistics and weights that are not the initial ones."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network


def _images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


def _facts(module: nn.Module) -> Any:
    modes = {name: layer.training for name, layer in module.named_modules()}
    return modes, {name: p.requires_grad for name, p in module.named_parameters()}


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest score; NaN never fits."""
    off = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return float(off.detach().nan_to_num(nan=float("inf")))


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _run_file(method: Where, options: dict[str, Any], path: str, images: list[Any]) -> list[Any]:
    """Run an exported file, in another process."""
    exporter: Exporter = build(method.load(), options, method.name)
    scores: list[Any] = exporter.load(Path(path))(torch.tensor(images, dtype=torch.uint8)).tolist()
    return scores
