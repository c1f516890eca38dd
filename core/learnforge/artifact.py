"""Artifacts: what every stage takes and gives. A folder holds one as JSON and safetensors, never as
pickled code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from attrs import asdict, evolve, field, frozen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from learnforge.changes import with_changes
from learnforge.errors import ArtifactError, RunError
from learnforge.files import fingerprint, hash_file, read_record, write_atomically, write_json, write_record
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.spec import (
    Metrics,
    NetworkSpec,
    Provenance,
    TaskInfo,
    copy_weights,
    hash_tensor,
    in_units,
    load_weights,
    normalise,
)

if TYPE_CHECKING:
    from learnforge.kinds.model import Model
    from learnforge.kinds.task import Task

FORMAT = 4
_HELD = ("weights.safetensors", "metrics.json")
"""Files beside the description, which holds their hashes."""


@frozen(eq=False)
class Artifact:
    """A network with all that is known about it.

    Args:
        spec: How to build the network.
        task: The task whose inputs it takes and whose classes it tells apart.
        weights: State dict (parameters and buffers), on the CPU; None for a network that nobody has trained.
        adapter: A method's own tensors, such as learned inner learning rates.
        adapter_options: A method's own plain data, such as the number of inner steps.
        metrics: What the stage measured, JSON-able.
        provenance: Where it comes from.
        module: The caller's own module, for a spec of the kind `module`, without the spec's changes.
        data: The task itself, where it was made in this session; not saved.
        made: The network that the weights were copied from; not saved. The runner holds what the spec builds
            against it before a stage may end.
    """

    spec: NetworkSpec
    task: TaskInfo
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    adapter: Mapping[str, Tensor] = field(factory=dict, repr=False)
    adapter_options: Mapping[str, Any] = field(factory=dict)
    metrics: Mapping[str, Any] = field(factory=Metrics, converter=Metrics, repr=False)
    provenance: Provenance = field(factory=Provenance)
    module: nn.Module | None = field(default=None, repr=False)
    data: Task | None = field(default=None, repr=False)
    made: nn.Module | None = field(default=None, repr=False)

    @property
    def content(self) -> str:
        """Hash (hex) of all that the network computes with: spec, weights, adapter."""
        tensors = {f"weights/{n}": t for n, t in (self.weights or {}).items()}
        tensors |= {f"adapter/{n}": t for n, t in self.adapter.items()}
        hashes = {name: hash_tensor(tensor) for name, tensor in tensors.items()}
        return fingerprint([asdict(self.spec), self.weights is None, dict(self.adapter_options), hashes])

    def network(
        self, plugins: Plugins | None = None, seed: int = 0, task: TaskInfo | None = None
    ) -> nn.Module:
        """Build the network and load its weights.

        Args:
            plugins: Where the model or space is looked up; all that is installed, if None.
            seed: Seeds the initialisation where there are no weights.
            task: Build for this task instead, with fresh weights; for models whose number of outputs
                must differ.

        Raises:
            ArtifactError: The network cannot be built, or the weights do not fit it.
        """
        target = task or self.task
        with seeded(seed):
            if self.module is not None:
                module = self._own_module(target, plugins)
            else:
                # fetched weights would only be overwritten by its own, and fit no other task's outputs
                is_pretrained = self.weights is None and task is None
                module = self.spec.build(target, plugins or Plugins(), is_pretrained)
        if self.weights is not None and task is None:
            load_weights(module, self.weights)
        return module

    def _own_module(self, task: TaskInfo, plugins: Plugins | None) -> nn.Module:
        """Return a copy of the caller's module with all changes made again."""
        assert self.module is not None
        module = with_changes(copy.deepcopy(self.module))
        return self.spec.changed(module, task, plugins or Plugins()) if self.spec.changes else module

    @property
    def is_buildable(self) -> bool:
        """Whether it says which network it stands for; a stand-in for what a stage will make may not."""
        return self.module is not None or self.spec.kind == "model" or self.spec.design is not None

    def with_state(self, module: nn.Module, **changes: Any) -> Artifact:
        """Return this artifact with a network's weights, copied to the CPU, what was changed in it, and other
        fields as given.
        """
        spec = self.spec.as_changed(module)
        return evolve(self, spec=spec, weights=copy_weights(module), made=module, **changes)

    def predict(self, images: Tensor, plugins: Plugins | None = None) -> Tensor:
        """Return class scores for images, float [image, class], or for another task's inputs its outputs, in
        the targets' own units.

        Args:
            images: uint8 [image, channel, height, width], or float in [0, 1]; see `normalise`.

        Raises:
            ArtifactError: Images are not of the task's shape, or not of that kind.
        """
        shown = self.normalise(images)
        network = self._in_use(plugins)
        with torch.inference_mode():
            return in_units(network(shown), self.task)

    def _in_use(self, plugins: Plugins | None) -> nn.Module:
        """Return the network in eval mode, built again for other plugins and where its weights are no longer
        the artifact's; a module is the caller's, and may be another than before in any way.
        """
        known, network = _IN_USE.get(self, (plugins, None))
        if network is None or known != plugins or not _are_same(network.state_dict(), self.weights or {}):
            network = self.network(plugins).eval()
            if self.module is None:
                _IN_USE[self] = plugins, network
        return network

    def _repr_html_(self) -> str:
        """Show the artifact in a notebook."""
        rows = {
            "network": str(self.spec.table["use"]),
            "made by": self._maker(),
            "task": f"{self.task.name} ({self.task.form})",
            "classes": ", ".join(self.task.classes[:12]) + (", …" if len(self.task.classes) > 12 else ""),
            "input": " × ".join(map(str, self.task.input_shape)),
        }
        for name in ("test_accuracy", "parameters", "macs", "latency_ms"):
            value = self.metrics.get(name)
            if isinstance(value, (int, float)):
                rows[name.replace("_", " ")] = _spell_number(name, value)
        if "test" in self.metrics:
            measure = self.metrics["measure"]
            rows[measure] = f"{_spell_number(measure, self.metrics['test']['after'])} after adaptation"
        return html_table(rows)

    def _maker(self) -> str:
        parts = self.provenance.stage, self.provenance.method.get("use", "")
        return " ".join(str(part) for part in parts if part)

    def __repr__(self) -> str:
        made, network = self._maker(), f"{self.spec.table['use']} for {self.task.name}"
        score = self.metrics.get("test_accuracy")
        found = [network, made and f"made by {made}", "" if score is None else f"test accuracy {score:.1%}"]
        return f"Artifact({', '.join(part for part in found if part)})"

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images into what the network takes: float, each channel with mean 0 and deviation 1 over the
        training images.

        Args:
            images: uint8 [image, channel, height, width], or float in [0, 1], as torchvision's transforms
                make them; for a task whose inputs are floats those, in their own units. What is normalised
                already goes to `network()` itself.

        Raises:
            ArtifactError: They are neither, or not of the task's shape.
        """
        return normalise(images, self.task)

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors`, `metrics.json`, then `artifact.json`, which makes the artifact whole.

        Raises:
            RunError: The disk refuses.
        """
        tensors = {f"weights/{name}": t for name, t in (self.weights or {}).items()}
        tensors |= {f"adapter/{name}": t for name, t in self.adapter.items()}
        weights = folder / "weights.safetensors"
        write_atomically(weights, lambda path: _save_tensors(tensors, path))
        write_json(folder / "metrics.json", dict(self.metrics))
        # last, and with the hashes of the others: a kill before it leaves no artifact, never half of one
        write_record(
            folder / "artifact.json",
            {
                "format": FORMAT,
                "spec": asdict(self.spec),
                "task": asdict(self.task),
                "has_weights": self.weights is not None,
                "sha256": {name: hash_file(folder / name) for name in _HELD},
                "adapter_options": dict(self.adapter_options),
                "provenance": asdict(self.provenance),
            },
        )


_IN_USE: WeakKeyDictionary[Artifact, tuple[Plugins | None, nn.Module]] = WeakKeyDictionary()


def _are_same(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    return all(n in own and own[n].dtype == t.dtype and own[n].equal(t) for n, t in weights.items())


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the disk's words are in it
        raise OSError(str(error)) from error


def _spell_number(name: str, value: float) -> str:
    if name.endswith("accuracy"):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def html_table(rows: Mapping[str, str]) -> str:
    """Return facts as a table for notebooks."""
    cell = "<tr><th>{}</th><td>{}</td></tr>".format
    return f"<table>{''.join(cell(escape(name), escape(value)) for name, value in rows.items())}</table>"


def load_artifact(folder: Path, module: nn.Module | None = None) -> Artifact:
    """Read an artifact from its folder.

    Args:
        folder: The folder of a stage, which holds `artifact.json`.
        module: The network, for an artifact made from a module of the caller's.

    Raises:
        ArtifactError: There is none, it was written by a newer learnforge, or its files do not
            belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file; `learnforge predict` runs exported ones" if folder.exists() else "is not there"
        raise ArtifactError(f"an artifact is a folder, {folder} {what}")
    try:
        data = read_record(folder / "artifact.json")
        if data["format"] != FORMAT:
            age = "newer; upgrade it" if data["format"] > FORMAT else "older; run it again"
            raise ArtifactError(f"{folder}: the learnforge that wrote it (format {data['format']}) is {age}")
        for name in _HELD:
            # a kill between two writes can leave new weights beside the old description
            if hash_file(folder / name) != data["sha256"][name]:
                raise ArtifactError(f"{folder}: {name} is not the file that artifact.json was written for")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "weights.safetensors")
        artifact = Artifact(
            spec=NetworkSpec(**data["spec"]),
            task=TaskInfo(**_with_tuples(data["task"])),
            weights=_part(tensors, "weights/") if data["has_weights"] else None,
            adapter=_part(tensors, "adapter/"),
            adapter_options=data["adapter_options"],
            metrics=metrics,
            provenance=Provenance(**_with_tuples(data["provenance"])),
            module=module,
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} holds no artifact: {Path(error.filename).name} is missing") from error
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from error
    except RunError as error:
        raise ArtifactError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder}: the artifact is damaged ({type(error).__name__}: {error}); run the stage again"
        ) from error
    if module is not None and artifact.weights is not None and not artifact.spec.changes:
        load_weights(module, artifact.weights)
    return artifact


def from_module(module: nn.Module, task: TaskInfo) -> Artifact:
    """Wrap a caller's own module with its present weights."""
    spec = NetworkSpec("module", {"use": type(module).__qualname__})
    return Artifact(spec, task, copy_weights(module), module=module)


def from_model(model: Model, task: TaskInfo) -> Artifact:
    """Wrap a model that nobody has trained here; its own pretrained weights come when it is built."""
    return Artifact(NetworkSpec.of_model(model), task)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
