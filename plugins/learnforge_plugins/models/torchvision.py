"""torchvision's classification models by name, with or without the weights that torchvision publishes.

Pretrained weights are read from torch's own cache and downloaded if they are not there; then the head is
replaced by one for the task's classes, unless there are as many as the weights know.

Reference:
    torchvision documentation, Models and pre-trained weights.
    https://docs.pytorch.org/vision/stable/models.html
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from attrs import evolve, field, frozen
from attrs.validators import min_len
from torch import nn

from learnforge import ArtifactError, Model, TaskInfo, hookimpl, nearest
from learnforge_kit import describe_changes, replace_heads, replace_stem


@frozen
class TorchvisionModel(Model):
    """One of torchvision's classification models.

    Args:
        name: Its name, such as `mobilenet_v3_small` or `resnet18`.
        weights: Name of its weights, such as `DEFAULT` or `IMAGENET1K_V1`; random weights by default.
    """

    name: str = field(validator=min_len(1))
    weights: str | None = None

    smallest_image: ClassVar[int] = 32

    def without_pretrained(self) -> Model:
        return evolve(self, weights=None)

    def is_trained_for(self, task: TaskInfo) -> bool:
        entry = self._entry()
        return entry is not None and len(entry.meta["categories"]) == task.outputs

    def changes(self, task: TaskInfo) -> list[str]:
        entry = self._entry()
        if entry is None:
            return []
        return describe_changes((3, len(entry.meta["categories"])), (task.input_shape[0], task.outputs))

    def require(self) -> None:
        entry = self._entry()
        if entry is not None:
            self._find(entry)

    def build(self, task: TaskInfo) -> nn.Module:
        from torchvision import models

        entry, shown = self._entry(), (3, *task.input_shape[1:])
        if entry is None:
            model: nn.Module = models.get_model(self.name, weights=None, num_classes=task.outputs)
        else:
            classes = len(entry.meta["categories"])
            model = models.get_model(self.name, weights=None, num_classes=classes)
            _load_weights(model, self._find(entry))
            if task.outputs != classes:
                replace_heads(model, evolve(task, input_shape=shown))
        _drop_auxiliary_heads(model)
        if task.input_shape[0] != 3:
            replace_stem(model, shown, task.input_shape[0])
        return model

    def _entry(self) -> Any:
        """Return torchvision's entry for the weights, or None where there are to be none."""
        from torchvision import models

        names = models.list_models(module=models)
        if self.name not in names:
            raise ArtifactError(
                f"torchvision has no classification model {self.name!r}; {nearest(self.name, names)}"
            )
        if self.weights is None:
            return None
        entries = models.get_model_weights(self.name)
        if self.weights not in entries.__members__:
            raise ArtifactError(
                f"{self.name} has no weights {self.weights!r}; {nearest(self.weights, entries.__members__)}"
            )
        return entries[self.weights]

    def _find(self, entry: Any) -> Path:
        """Return the file of the weights, downloading it if it is not in torch's cache."""
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        file = folder / Path(urlparse(entry.url).path).name
        if not file.exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(entry.url, str(file), progress=False)
            except (URLError, OSError) as error:
                raise ArtifactError(
                    f"the weights {self.weights} of {self.name} must be in {file}, and cannot be downloaded "
                    f"({error}). Fetch "
                    f"{entry.url} on a machine with network and put it there, or leave out `weights`."
                ) from error
        return file


def _load_weights(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArtifactError(
            f"{file} must hold the published weights, and cannot be read ({reason}). Remove it, so that it "
            "is fetched anew."
        ) from error


def _drop_auxiliary_heads(model: nn.Module) -> None:
    """Leave one tensor of scores in training to the networks that have further heads there (GoogLeNet
    and Inception).
    """
    if getattr(model, "aux_logits", False):
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)
        model.aux_logits = False  # type: ignore[assignment]


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"torchvision": TorchvisionModel}
