"""Each fault of an exporter turns the check red that is meant for it, and no other.

Reference: https://docs.python.org/3/library/pickle.html
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import Exporter, Runtime
from learnforge_testing.suites.exporter import ExporterSuite


@frozen
class Pickled(Exporter):
    """Pickles the module."""

    suffix: ClassVar[str] = ".pt"

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        with path.open("wb") as file:
            torch.save(module, file)

    def load(self, path: Path) -> Runtime:
        with path.open("rb") as file:
            module: nn.Module = torch.load(file, weights_only=False)
        return lambda images: module(images)


@frozen
class Boxed(Pickled):
    """Makes a folder where the file should be."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        path.mkdir()
        super().export(module, images, path / "module")

    def load(self, path: Path) -> Runtime:
        return super().load(path / "module")


@frozen
class Dotless(Pickled):
    """Forgets the dot of the ending."""

    suffix: ClassVar[str] = "pt"


@frozen
class Littering(Pickled):
    """Leaves a log behind."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        super().export(module, images, path)
        path.with_suffix(".log").write_text("done")


@frozen
class Narrow(Pickled):
    """Knows folders in ASCII alone."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        super().export(module, images, Path(str(path).encode("ascii").decode()))


@frozen
class Fixed(Pickled):
    """Pads single images to the example's two, and gives both."""

    def load(self, path: Path) -> Runtime:
        runtime = super().load(path)
        return lambda images: runtime(images.repeat(2, 1, 1, 1) if len(images) == 1 else images)


@frozen
class Coarse(Pickled):
    """Rounds the scores of single images."""

    def load(self, path: Path) -> Runtime:
        runtime = super().load(path)
        return lambda images: runtime(images) * (1.001 if len(images) == 1 else 1.0)


@frozen
class Ungrouped(Pickled):
    """Has no word for group normalisation."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        if any(isinstance(layer, nn.GroupNorm) for layer in module.modules()):
            raise NotImplementedError("GroupNorm")
        super().export(module, images, path)


@frozen
class Freezing(Pickled):
    """Leaves the parameters frozen."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        super().export(module, images, path)
        module.requires_grad_(False)


@frozen
class Counting(Pickled):
    """Counts its batches in the network's own buffers."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        super().export(module, images, path)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.add_(1)


@frozen
class Scribbling(Pickled):
    """Draws on the example images."""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        super().export(module, images, path)
        images.zero_()


@frozen
class Tiring(Pickled):
    """Gives other scores for a module that it exported before."""

    known: ClassVar[Any] = weakref.WeakSet()

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        again = module in self.known
        self.known.add(module)
        bias = head.bias.detach().clone()
        with torch.no_grad():
            head.bias.add_(1e-3 if again else 0.0)
        super().export(module, images, path)
        with torch.no_grad():
            head.bias.copy_(bias)


@frozen
class Single(Pickled):
    """Runs the file that was loaded last."""

    last: ClassVar[list[Runtime]] = []

    def load(self, path: Path) -> Runtime:
        self.last.append(super().load(path))
        return lambda images: self.last[-1](images)


@frozen
class Remembering(Pickled):
    """Keeps the module in the process and writes a word."""

    modules: ClassVar[dict[Path, nn.Module]] = {}

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        path.write_text("see elsewhere")
        self.modules[path] = module

    def load(self, path: Path) -> Runtime:
        module = self.modules[path]
        return lambda images: module(images)


FAULTS: list[tuple[type[Exporter], list[str]]] = [
    (Pickled, []),
    (Boxed, ["file_is_written_at_the_path"]),
    (Dotless, ["file_is_written_at_the_path"]),
    (Littering, ["nothing_lies_beside_the_file"]),
    (Narrow, ["folder_may_have_any_name"]),
    (Fixed, ["file_computes_what_the_network_does"]),
    (Coarse, ["file_computes_what_the_network_does"]),
    (Ungrouped, ["usual_layers_are_exported"]),
    (Freezing, ["network_and_example_are_left_alone"]),
    (Counting, ["network_and_example_are_left_alone"]),
    (Scribbling, ["network_and_example_are_left_alone"]),
    (Tiring, ["second_export_computes_the_same"]),
    (Single, ["files_do_not_mix"]),
    (Remembering, ["file_loads_in_another_process"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[Exporter], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(ExporterSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of exporters is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(ExporterSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Littering, "nothing_lies_beside_the_file", r"nothing beside model\.pt, it left \['model\.log'\]"),
        (Coarse, "file_computes_what_the_network_does", r"1 images: .* the network's, off by 0\.001"),
        (
            Ungrouped,
            "usual_layers_are_exported",
            "and dropout: NotImplementedError: GroupNorm",
        ),
        (Counting, "network_and_example_are_left_alone", r"it changed network\.1\.num_batches_tracked"),
    ],
)
def test_messages_say_what_came(method: type[Exporter], check: str, words: str) -> None:
    """A failure names files, layers and numbers."""
    with pytest.raises(AssertionError, match=words):
        getattr(ExporterSuite.of(method)(), f"test_{check}")()
