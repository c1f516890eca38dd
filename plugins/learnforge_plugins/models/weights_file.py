"""A model with weights from a file of one's own: a `.safetensors` file, or a state dict that torch saved.

The file is read as plain tensors, never as code (`weights_only`). `module.` and `_orig_mod.`, which
`DataParallel` and `torch.compile` put before names, are taken off, and a state dict inside a checkpoint is
found under `state_dict`, `model_state_dict` or `model`.

The network is built for as many classes and channels as the file has weights for; then its head is replaced
by one for the task's classes, and its stem averaged over channels, where those are others.

Reference:
    PyTorch documentation, torch.load. https://docs.pytorch.org/docs/stable/generated/torch.load.html
    Hugging Face, safetensors. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from learnforge import (
    ArtifactError,
    LearnforgeWarning,
    Model,
    TaskInfo,
    find_mismatches,
    hash_file,
    hookimpl,
    join_faults,
    load_weights,
    plugin_field,
)
from learnforge_kit import describe_changes, find_heads, find_stem, replace_heads, replace_stem

_INNER = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


@frozen
class WeightsFile(Model):
    """A model with weights from a file.

    Args:
        model: The model, its name or a table.
        file: The file: `.safetensors`, or what `torch.save(network.state_dict(), …)` wrote. Without it the
            model has random weights.
        strict: Refuse a file that lacks a tensor of the network, or has others; otherwise what fits is loaded
            and the rest listed in a warning.
    """

    model: Model = plugin_field("model")
    file: Path | None = None
    strict: bool = True

    smallest_image: ClassVar[int] = 32

    def without_pretrained(self) -> Model:
        return evolve(self, model=self.model.without_pretrained(), file=None)

    def require(self) -> None:
        self.model.without_pretrained().require()
        if self.file is not None:
            _read(self.file)

    def changes(self, task: TaskInfo) -> list[str]:
        if self.file is None:
            return self.model.changes(task)
        weights = _read(self.file)
        made_for = self._made_for(task, weights)
        shapes = [(info.input_shape[0], info.outputs) for info in (made_for, task)]
        with torch.device("meta"):
            network = self.model.without_pretrained().build(made_for)
        faults = find_mismatches(network, weights)
        left_out = [f"not loaded from {self.file.name}: {join_faults(faults)}"] if faults else []
        return describe_changes(shapes[0], shapes[1]) + left_out

    def content(self) -> str:
        if self.file is None:
            return self.model.content()
        if not self.file.is_file():
            raise ArtifactError(f"{self.file} must hold the weights, and is not there")
        return hash_file(self.file)

    def is_trained_for(self, task: TaskInfo) -> bool:
        if self.file is None:
            return self.model.is_trained_for(task)
        return self._made_for(task, _read(self.file)).outputs == task.outputs

    def build(self, task: TaskInfo) -> nn.Module:
        if self.file is None:
            return self.model.build(task)
        weights = _read(self.file)
        made_for = self._made_for(task, weights)
        network = self.model.without_pretrained().build(made_for)
        self._load(network, weights)
        if made_for.outputs != task.outputs:
            replace_heads(network, evolve(task, input_shape=made_for.input_shape))
        if made_for.input_shape[0] != task.input_shape[0]:
            replace_stem(network, made_for.input_shape, task.input_shape[0])
        return network

    def _made_for(self, task: TaskInfo, weights: Mapping[str, Tensor]) -> TaskInfo:
        """Return the task with as many classes and channels as the file has weights for."""
        with torch.device("meta"):
            plain = self.model.without_pretrained().build(task)
        found = find_heads(plain, task)[0], find_stem(plain, task.input_shape)
        head, stem = (f"{name}.weight" for name in found)
        made_for = task
        if head in weights:
            names = tuple(str(label) for label in range(len(weights[head])))
            made_for = evolve(made_for, classes=names, origins=names)
        if stem in weights and weights[stem].ndim == 4:
            made_for = evolve(made_for, input_shape=(weights[stem].shape[1], *task.input_shape[1:]))
        return made_for

    def _load(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        try:
            load_weights(network, weights)
        except ArtifactError as error:
            own = network.state_dict()
            fitting = {n: t for n, t in weights.items() if n in own and t.shape == own[n].shape}
            if self.strict or not fitting:
                hint = "; `strict = false` loads the rest" if fitting else ""
                raise ArtifactError(f"{self.file}: {error}{hint}") from error
            network.load_state_dict(fitting, strict=False)
            faults = join_faults(find_mismatches(network, weights))
            words = f"{self.file}: {len(fitting)} of {len(own)} tensors loaded; {faults}"
            warnings.warn(words, LearnforgeWarning, stacklevel=2)


def _read(file: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name, names as the bare network has them.

    Raises:
        ArtifactError: It is not there, or holds something else.
    """
    try:
        found: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"{file} must hold the weights, and is not there") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArtifactError(
            f"{file} must hold a state dict of tensors alone, and cannot be read ({reason}); save one with "
            f"`torch.save(network.state_dict(), …)` or as safetensors"
        ) from error
    if isinstance(found, Mapping):
        found = next((found[key] for key in _INNER if isinstance(found.get(key), Mapping)), found)
        tensors = {_bare(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise ArtifactError(f"{file} must hold a state dict of tensors, it holds {type(found).__name__}")


def _bare(name: Any) -> str:
    """Return a tensor's name without what wrappers put before it."""
    bare = str(name)
    while bare.startswith(_PREFIXES):
        bare = bare.partition(".")[2]
    return bare


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"weights-file": WeightsFile}
