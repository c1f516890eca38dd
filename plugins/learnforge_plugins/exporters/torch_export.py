"""torch.export: the network as an ahead-of-time graph (`.pt2`), which torch runs without the Python code that
defined it.

Reference:
    PyTorch documentation, torch.export. https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from learnforge import Exporter, Runtime, hookimpl

if TYPE_CHECKING:  # whether a file is of this format is told without torch
    from torch import Tensor, nn

_KEPT = "learnforge.json"
"""Name of the manual among a file's extra files."""


@frozen
class TorchExport(Exporter):
    """Ahead-of-time export of torch, for batches of any size. It has no options."""

    suffix: ClassVar[str] = ".pt2"
    runner: ClassVar[str] = """
def score(images):
    import torch

    return torch.export.load(FILE).module()(torch.from_numpy(images))[0].detach().numpy()
"""

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        import torch

        batch = torch.export.Dim("batch", min=1)
        with torch.no_grad():
            program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)

    def load(self, path: Path) -> Runtime:
        import torch

        module = torch.export.load(path).module()
        return lambda images: module(images)

    def annotate(self, path: Path, manual: str) -> None:
        import torch

        torch.export.save(torch.export.load(path), path, extra_files={_KEPT: manual})

    @classmethod
    def reads(cls, path: Path) -> bool:
        return super().reads(path) and zipfile.is_zipfile(path)

    @classmethod
    def manual(cls, path: Path) -> str | None:
        try:
            with zipfile.ZipFile(path) as archive:
                kept = next((name for name in archive.namelist() if name.endswith(f"/extra/{_KEPT}")), None)
                return archive.read(kept).decode("utf-8") if kept is not None else None
        except (zipfile.BadZipFile, zlib.error):
            return None


@hookimpl
def learnforge_exporters() -> dict[str, type[Exporter]]:
    return {"torch-export": TorchExport}
