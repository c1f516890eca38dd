"""timm's image models by name, with or without the weights that timm publishes (extra `timm`).

Pretrained weights are read from the cache of the Hugging Face hub and downloaded if they are not there;
timm itself fits them to the task's channels, and its head to the task's classes.

Reference:
    Wightman, PyTorch image models, 2019. https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import evolve, field, frozen
from attrs.validators import min_len
from torch import nn

from learnforge import ArtifactError, Model, TaskInfo, hookimpl, nearest
from learnforge_kit import describe_changes


@frozen
class TimmModel(Model):
    """One of timm's models.

    Args:
        name: Its name, such as `resnet18` or `mobilenetv3_small_100.lamb_in1k`.
        pretrained: Start from the weights that timm publishes under the name.
    """

    name: str = field(validator=min_len(1))
    pretrained: bool = False

    smallest_image: ClassVar[int] = 32

    def without_pretrained(self) -> Model:
        return evolve(self, pretrained=False)

    def is_trained_for(self, task: TaskInfo) -> bool:
        if not self.pretrained:
            return False
        settings = _timm().get_pretrained_cfg(self._known())
        return settings is not None and settings.num_classes == task.outputs

    def changes(self, task: TaskInfo) -> list[str]:
        settings = _timm().get_pretrained_cfg(self._known()) if self.pretrained else None
        if settings is None:
            return []
        made_for = settings.input_size[0], settings.num_classes
        return describe_changes(made_for, (task.input_shape[0], task.outputs))

    def require(self) -> None:
        if not self.pretrained:
            return
        name = self._known()
        settings = _timm().get_pretrained_cfg(name)
        if settings is None or not settings.has_weights:
            raise ArtifactError(f"timm publishes no weights for {name}; leave out `pretrained`")
        self._create(name)

    def build(self, task: TaskInfo) -> nn.Module:
        name = self._known()
        settings = _timm().get_pretrained_cfg(name)
        # networks of one size, such as vision transformers, are told the images' own
        size = {"img_size": task.input_shape[1]} if settings is not None and settings.fixed_input_size else {}
        return self._create(name, num_classes=task.outputs, in_chans=task.input_shape[0], **size)

    def _create(self, name: str, **options: Any) -> nn.Module:
        try:
            network: nn.Module = _timm().create_model(name, pretrained=self.pretrained, **options)
        except (OSError, RuntimeError) as error:
            if not self.pretrained:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ArtifactError(
                f"the weights of timm's {name} must be in the cache of the Hugging Face hub, and cannot be "
                f"fetched ({reason}). Fetch them on a machine with network and copy the cache (HF_HOME), "
                f"give a file of your own with `weights-file`, or leave out `pretrained`."
            ) from error
        return network

    def _known(self) -> str:
        timm = _timm()
        if not timm.is_model(self.name):
            names = timm.list_models()
            raise ArtifactError(f"timm has no model {self.name!r}; {nearest(self.name, names)}")
        return self.name


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ArtifactError("timm's models need timm: pip install 'learnforge[timm]'") from error
    return timm


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"timm": TimmModel}
