"""How to build a network, and the weights that fit it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learnforge.changes import apply_change, changes_of
from learnforge.errors import ArtifactError, LearnforgeError, PluginError
from learnforge.plugins.identity import FROM_FILE, bring_back, distribution_of, identify, spell
from learnforge.plugins.kinds import GROUP
from learnforge.plugins.registry import Plugins

if TYPE_CHECKING:
    from learnforge.kinds.model import Model
    from learnforge.kinds.space import Space


@frozen
class TaskInfo:
    """What a network must know of a task: plain data, kept with every artifact.

    Args:
        name: Name for people.
        classes: Class names; a label is an index into them. Names of numbers for regression, of actions
            for environments.
        origins: For each class the original label that it was made from, as `data set:label`. A rotated 4 and
            an upright 4 have one origin, so no split of labels can tear them apart.
        input_shape: Channels, height and width of an image, or the shape of what else is shown.
        mean: Mean of each channel, which is the first axis, of the training inputs; of images in [0, 1].
        std: Standard deviation of each channel, above 0; of images in (0, 1].
        form: Name of the form: what targets are, and how outputs are judged.
        inputs: What splits hold: `bytes` of images, or `floats`.
        outputs_per_class: Numbers that a network puts out for each of `classes`, from 1.
        target_mean: For targets that are numbers the mean of each over the training split, in their own unit;
            splits hold what is left of them, over `target_std`. Empty where they are as they are.
        target_std: Their standard deviations, above 0.
        reading: How files are read into inputs: plain data of the task source that made it, whose name is
            under "use"; empty for images.
    """

    name: str
    classes: tuple[str, ...]
    origins: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    form: str = "classification"
    inputs: Literal["bytes", "floats"] = "bytes"
    outputs_per_class: int = 1
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    reading: Mapping[str, Any] = field(factory=dict, hash=False)

    @property
    def outputs(self) -> int:
        """Number of a network's outputs, of which every class has its share."""
        return len(self.classes) * self.outputs_per_class


def _as_tuple(changes: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(changes)  # a list, where they were read from JSON


@frozen
class NetworkSpec:
    """How to build a network: plain data that names a model, or a space and a design in it.

    Args:
        kind: `model`, `space`, or `module` for a module that the caller brought and must bring again.
        table: What a recipe would say, `{"use": name, **options}`; for a module its class's name.
        design: The design, for a space.
        changes: What was changed in the network since, first one first: `{"use": name, **options}` of
            changes, which `build` makes again.
        owners: {"kind.name": distribution} of what is not learnforge's own among model, space and changes.
    """

    kind: str
    table: Mapping[str, Any]
    design: Mapping[str, Any] | None = None
    changes: tuple[Mapping[str, Any], ...] = field(default=(), converter=_as_tuple)
    owners: Mapping[str, str] = {}

    @classmethod
    def of_model(cls, model: Model) -> NetworkSpec:
        """Describe a model."""
        return cls("model", spell(model), owners=_owners("model", model))

    @classmethod
    def of_space(cls, space: Space, design: Mapping[str, Any] | None = None) -> NetworkSpec:
        """Describe a design of a space; without one, a network of the space that is still to be found."""
        return cls("space", spell(space), design, owners=_owners("space", space))

    def build(self, task: TaskInfo, plugins: Plugins, pretrained: bool = True) -> nn.Module:
        """Build the network for a task, initialised from torch's global generator.

        Args:
            task: Gives the input shape and the number of outputs.
            plugins: Where the model or space is looked up.
            pretrained: Let a model load the pretrained weights that its options name.

        Raises:
            ArtifactError: The network was a caller's own module, its plugin cannot build it any more, or a
                change cannot be made again.
        """
        if self.kind == "module":
            raise ArtifactError(
                f"this artifact holds the weights of the module {self.table['use']!r}, which only its "
                "author's code can "
                f"build; pass it, `learnforge.load(path, module=...)`"
            )
        fault = f"the {self.kind} of this artifact cannot be built"
        source = self._resolve(self.kind, self.table, plugins, fault)
        if self.design is not None:
            module = source.build(dict(self.design), task)
        else:
            module = (source if pretrained else source.without_pretrained()).build(task)
        assert isinstance(module, nn.Module)
        return self.changed(module, task, plugins)

    def changed(self, module: nn.Module, task: TaskInfo, plugins: Plugins) -> nn.Module:
        """Return a network as its model, space or author builds it with all changes made again.

        Raises:
            ArtifactError: A change is not installed, or cannot be made again.
        """
        for table in self.changes:
            fault = "a change of this artifact's network cannot be made again"
            change = self._resolve("change", table, plugins, fault)
            try:
                module = apply_change(module, change, task)
            except LearnforgeError:
                raise
            except Exception as error:  # whatever a plugin's own code raises
                raise ArtifactError(
                    f"the change {table['use']!r} cannot be made again: {type(error).__name__}: {error}"
                ) from error
        return module

    def as_changed(self, network: nn.Module) -> NetworkSpec:
        """Return this spec with the changes that were made to a network that it built."""
        made = [c for c in changes_of(network) if self.kind == "module" or not c.follows_task]
        owners = dict(self.owners)
        for change in made:
            owners |= _owners("change", change, change.name)
        tables = tuple({**spell(change), "use": change.name} for change in made)
        return evolve(self, changes=tables, owners=owners)

    def _resolve(self, kind: str, table: Mapping[str, Any], plugins: Plugins, fault: str) -> Any:
        """Make what a table names, by the code of who brought it and of nobody else."""
        name, problems = str(table["use"]), list[Any]()
        owner = self.owners.get(f"{kind}.{name}", "")
        own = name if ":" in name or owner in ("", FROM_FILE) else f"{owner}:{name}"
        try:
            found = plugins.find(kind, own)
        except PluginError as error:
            hint = f"; {bring_back(owner)}" if owner == FROM_FILE else ""
            raise ArtifactError(f"{fault}: {error}{hint}") from error
        if owner == FROM_FILE and found.entry_point is not None:
            raise ArtifactError(f"{fault}: {kind} {name!r} is another one here; {bring_back(owner)}")
        made = plugins.resolve(kind, {**table, "use": own}, kind, problems)
        if made is None:
            raise ArtifactError(f"{fault}: {'; '.join(map(str, problems))}")
        return made


def _owners(kind: str, method: object, name: str = "") -> dict[str, str]:
    owner = distribution_of(method)
    return {} if owner in ("", GROUP) else {f"{kind}.{name or identify(method).name}": owner}


def hash_tensor(tensor: Tensor) -> str:
    """Return the SHA-256 (hex) of a tensor's type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a detached copy of a module's state dict on the CPU.

    Raises:
        ArtifactError: Layers are lazy still, and have no weights.
    """
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ArtifactError(
            f"{type(module).__name__} has lazy layers, whose shapes are not known yet; run a batch through "
            "it first"
        )
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict, or say tensor by tensor why it does not fit.

    Raises:
        ArtifactError: A tensor is missing, unexpected, or of another shape.
    """
    faults = find_mismatches(module, weights)
    if faults:
        raise ArtifactError(f"the weights do not fit {type(module).__name__}: {join_faults(faults)}")
    module.load_state_dict(dict(weights))


def find_mismatches(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Say tensor by tensor why a state dict does not fit: missing, unexpected, or of another shape."""
    own = module.state_dict()
    faults = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unexpected {name}" for name in weights if name not in own]
    faults += [
        f"{name} is {list(weights[name].shape)}, the network wants {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    return faults


def join_faults(faults: Sequence[str]) -> str:
    """Spell the first few faults, and how many more there are."""
    return "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")


def in_units(outputs: Tensor, task: TaskInfo) -> Tensor:
    """Return a network's outputs in the units of the task's targets, float64 where these are scaled."""
    std, mean = (torch.tensor(v, dtype=torch.float64) for v in (task.target_std, task.target_mean))
    return outputs.double().cpu() * std + mean if task.target_std else outputs


def input_constants(task: TaskInfo, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return what a split's inputs are normalised with, `(inputs - mean) * scale`: float, a number for each
    channel, which is the first axis.
    """
    shape, unit = (-1, *[1] * (len(task.input_shape) - 1)), 255 if task.inputs == "bytes" else 1
    mean, std = (torch.tensor(values, device=device).view(shape) * unit for values in (task.mean, task.std))
    return mean, 1 / std


@frozen
class Provenance:
    """Where an artifact comes from.

    Args:
        stage: Name of the stage.
        kind: Kind of the stage.
        method: Method with its options, as a recipe would write it.
        identity: Distribution, version and source hash of the method.
        seed: Seed of the run.
        fingerprint: Fingerprint of the stage: equal fingerprints, equal results.
        parents: Fingerprints of the artifacts that it was made from.
        trained_on: For each task that it or an ancestor was trained on: name, `origins` (original labels),
            `samples` (count) and `content` (hash of the training images).
    """

    stage: str = ""
    kind: str = ""
    method: Mapping[str, Any] = field(factory=dict)
    identity: Mapping[str, str] = field(factory=dict)
    seed: int = 0
    fingerprint: str = ""
    parents: tuple[str, ...] = ()
    trained_on: tuple[Mapping[str, Any], ...] = ()

    @property
    def origins(self) -> frozenset[str]:
        """Original labels that the artifact or an ancestor was trained on."""
        return frozenset(origin for entry in self.trained_on for origin in entry["origins"])


def _check_unit_range(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ArtifactError(f"images must be uint8, or float in [0, 1], got {images.dtype}")
    low, high = map(float, images.aminmax()) if images.numel() else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise ArtifactError(
            f"float images must be in [0, 1], got values from {low:.4g} to {high:.4g}. Pass bytes as uint8, "
            "or divide them by 255; images that are normalised already go to `artifact.network()`"
        )


def trained_on(task_name: str, origins: Sequence[str], batch_source: Any) -> dict[str, Any]:
    """Return the provenance entry for training on a split."""
    named = {"task": task_name, "origins": list(origins)}
    return {**named, "samples": len(batch_source), "content": batch_source.content}


def normalise(images: Tensor, task: TaskInfo) -> Tensor:
    """Turn images into what a network takes; see `Artifact.normalise`.

    Raises:
        ArtifactError: They are neither bytes nor floats in [0, 1], or not of the task's shape.
    """
    if not isinstance(images, Tensor):
        raise ArtifactError(
            f"images must be a torch tensor, got {type(images).__module__}.{type(images).__qualname__}; "
            "an array becomes one by torch.from_numpy(images)"
        )
    if tuple(images.shape[1:]) != tuple(task.input_shape):
        raise ArtifactError(
            f"images must be {['image', *task.input_shape]}, as in the task {task.name}, got "
            f"{list(images.shape)}"
        )
    if task.inputs == "bytes" and images.dtype != torch.uint8:
        _check_unit_range(images)
        images = images.float() * 255
    mean, scale = input_constants(task)
    return (images.float() - mean) * scale


LONGEST_SHOWN = 200
"""Characters of a text among metrics that are printed; pictures have thousands."""


class Metrics(dict[str, Any]):
    """What a stage measured, {name: value}: an ordinary dict, whose long texts, such as pictures, are shown
    by their length.
    """

    def __repr__(self) -> str:
        return repr(_shortened(dict(self)))


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"<{len(value):,} characters>"
    if isinstance(value, Mapping):
        return {name: _shortened(item) for name, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, (list, tuple)) else value
