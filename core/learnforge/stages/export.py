"""Export: the kind of stage `export`, the hole that an exporter fills, and the proof that the file computes
what the network does.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import gt
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.episodes import EpisodeShape, ImageEpisodes, episode_fault
from learnforge.errors import ExportMismatchError, Problem, StageError
from learnforge.files import refusal, remove, write_json
from learnforge.heads import count_parameters
from learnforge.hookspecs import hookimpl
from learnforge.options import plugin_field
from learnforge.plugins import spell
from learnforge.space import time_call
from learnforge.stages.meta import adapt_artifact
from learnforge.stages.meta.adaptation import episode_source
from learnforge.stages.stage import Reference, Stage, check_fit
from learnforge.task import MemorySplit, Split, Task, TaskInfo

Runtime = Callable[[Tensor], Tensor]


class Exporter(ABC):
    """A method of the kind `exporter`: writes a network to a file for a runtime, and reads it back for the
    proof.
    """

    suffix: ClassVar[str]
    """Ending of the file's name, such as `.onnx`."""

    @abstractmethod
    def export(self, module: nn.Module, example: Tensor, path: Path) -> None:
        """Write the module to a file that takes batches of any size.

        Args:
            module: Takes uint8 images [batch, channel, height, width] and gives class scores; in eval mode,
                on the CPU.
            example: Two images as the module takes them.
            path: The file to write.
        """

    @abstractmethod
    def load(self, path: Path) -> Runtime:
        """Return what runs the file: from uint8 images [batch, channel, height, width] to class scores
        [batch, class].
        """


class Deployed(nn.Module):
    """A network with its normalisation inside, so that whoever runs it feeds plain bytes.

    Args:
        network: Takes normalised images.
        task: Gives mean and deviation.
    """

    def __init__(self, network: nn.Module, task: TaskInfo):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(task.mean).view(-1, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(task.std).view(-1, 1, 1) * 255))

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images [batch, channel, height, width] into class scores [batch, class]."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.scale, Tensor)
        scores: Tensor = self.network((images.to(torch.float32) - self.mean) * self.scale)
        return scores


@frozen(kw_only=True)
class ExportStage(Stage):
    """Write a network to a file for a device, and prove the file.

    A meta-learnt network is first taught new classes: those of one test episode, from its support images.

    Args:
        source: TOML key `from`: the stage or artifact's folder to export; the stage above by default.
        tolerance: Largest difference of a class score from the network's own, relative to the largest score.
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    tolerance: float = field(default=1e-4, validator=gt(0.0))

    kind: ClassVar[str] = "export"
    method_kind: ClassVar[str] = "exporter"
    method_base: ClassVar[type] = Exporter

    def check(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        source = inputs["source"]
        if "meta_learner" not in source.adapter_options:
            return check_fit("from", source.task, task.info)
        shape = EpisodeShape(**source.adapter_options["episodes"])
        fault = episode_fault(task.test.labels, shape, "test") if task.episodes is None else ""
        return [Problem("task", fault)] if fault else []

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        artifact, images, labels = self._ready(inputs["source"], task, context)
        module = Deployed(artifact.network(context.plugins), artifact.task).eval()
        with _folder(context) as folder:
            path = folder / f"model{self.method.suffix}"
            metrics = self._export(module, images, labels, path)
            write_json(folder / "model.json", _manual(artifact.task, path.name, self.method))
        metrics |= {
            "classes": list(artifact.task.classes),
            "file": path.name,
            "parameters": count_parameters(module.network),
        }
        return evolve(artifact, metrics=metrics)

    def _ready(self, source: Artifact, task: Task, context: Context) -> tuple[Artifact, Tensor, Tensor]:
        """Return what is exported, and the test images (uint8) and labels that it is proved on."""
        if "meta_learner" not in source.adapter_options:
            images, labels = _gather(task.test)
            return source, images, labels
        shape = EpisodeShape(**source.adapter_options["episodes"])
        source_of = episode_source(task, "test", shape, torch.device("cpu"))
        episode = source_of.draw(context.derive("episode"), torch.zeros(1, dtype=torch.int64))
        if not isinstance(episode, ImageEpisodes):
            raise StageError("only a learner of images can be exported with a support set of its test split")
        info = task.info
        rows = episode.classes[0].tolist()
        adapted = adapt_artifact(
            source, episode.support.images[0], episode.support.labels[0], context.plugins
        )
        names = evolve(
            info, classes=tuple(info.classes[r] for r in rows), origins=tuple(info.origins[r] for r in rows)
        )
        mean = torch.tensor(info.mean).view(-1, 1, 1)
        std = torch.tensor(info.std).view(-1, 1, 1)
        images = ((episode.queries.images[0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return evolve(adapted, task=names), images, episode.queries.labels[0]

    def _export(self, module: Deployed, images: Tensor, labels: Tensor, path: Path) -> dict[str, Any]:
        partial = path.parent / "partial"
        partial.mkdir(exist_ok=True)
        draft = partial / path.name
        try:
            self.method.export(module, images[:2], draft)
            metrics = self._prove(module, self.method.load(draft), images, labels)
            metrics["bytes"] = draft.stat().st_size
            if not metrics["is_equal"]:
                rejected = path.with_name(f"rejected-{path.name}")
                draft.replace(rejected)
                raise ExportMismatchError(
                    f"the exported file must give the network's class scores within {self.tolerance:g} of "
                    "the largest, but it is "
                    f"off by {metrics['relative_difference']:.2g}, and names the same class for "
                    f"{metrics['agreement']:.1%} of the "
                    f"images. It is kept as {rejected.name} for inspection."
                )
            draft.replace(path)
        except OSError as error:
            raise refusal(path, error) from error
        finally:
            remove(partial)
        return metrics

    def _prove(self, module: Deployed, runtime: Runtime, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Compare file and network on every test image, and measure both."""
        with torch.inference_mode():
            own = torch.cat([module(part) for part in images.split(256)])
            theirs = torch.cat([runtime(part) for part in images.split(256)])
        difference = (own - theirs).abs()
        relative = float(difference.max() / own.abs().max().clamp_min(1e-12))
        one, cpu = images[:1], torch.device("cpu")
        return {
            "test_accuracy": float((theirs.argmax(1) == labels).double().mean()),
            "network_accuracy": float((own.argmax(1) == labels).double().mean()),
            "agreement": float((theirs.argmax(1) == own.argmax(1)).double().mean()),
            "max_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
            "relative_difference": relative,
            "is_equal": relative <= self.tolerance,
            "images": len(images),
            "latency_ms": time_call(lambda: runtime(one), None, cpu, 1),
            "network_latency_ms": time_call(lambda: module(one), module, cpu, 1),
        }


@contextmanager
def _folder(context: Context) -> Iterator[Path]:
    if context.folder is not None:
        yield context.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _gather(split: Split) -> tuple[Tensor, Tensor]:
    if isinstance(split, MemorySplit):
        return split.images.cpu(), split.labels.cpu()
    parts = [
        (images.cpu(), labels.cpu()) for images, labels, _ in split.batches(torch.arange(len(split)), 512)
    ]
    return torch.cat([i for i, _ in parts]), torch.cat([labels for _, labels in parts])


def _manual(task: TaskInfo, file: str, exporter: Exporter) -> dict[str, Any]:
    """Return what somebody who runs the file must know."""
    return {
        "file": file,
        "exporter": spell(exporter),
        "input": {
            "type": "uint8",
            "axes": ["batch", "channel", "height", "width"],
            "shape": list(task.input_shape),
        },
        "output": {
            "type": "float32",
            "axes": ["batch", "class"],
            "meaning": "class scores before the softmax",
        },
        "classes": list(task.classes),
        "normalisation": "inside the graph",
    }


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `export`."""
    return {"export": ExportStage}
