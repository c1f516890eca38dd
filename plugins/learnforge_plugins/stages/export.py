"""Export: the kind of stage `export`, what an exporter is asked for, and the proof that the file computes
what the network does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.errors import ExportMismatchError, LearnforgeError, Problem, StageError
from learnforge.files import refusal, remove, write_json, write_text
from learnforge.hookspecs import hookimpl
from learnforge.kinds.exporter import Exporter, Runtime
from learnforge.kinds.stage import Reference, Stage, check_fit
from learnforge.kinds.task import Split, Task
from learnforge.options.structure import plugin_field
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo, byte_constants
from learnforge_kit.costs.measuring import time_call
from learnforge_kit.data.episodes import ImageEpisodes, episode_fault
from learnforge_kit.drawing import permutation
from learnforge_kit.engines.adaptation import adapt_artifact
from learnforge_kit.engines.learner import LearnerOptions, episode_source
from learnforge_kit.networks.layers import count_parameters
from learnforge_kit.networks.modules import check_modules
from learnforge_plugins.stages.measured import Agreement, Exported

MANY = 64
"""Images of the larger batch that is timed."""

BATCH = 256
"""Images that are read at once."""


RUNNER_BEGINS, RUNNER_ENDS = "# runner", "# end of runner"
"""Comments in `scripts/run_model.py` around what an exporter replaces."""
REJECTED = "rejected-"
"""Beginning of the names of files that failed their proof."""


class Deployed(nn.Module):
    """A network with its normalisation inside, so that whoever runs it feeds plain bytes.

    Args:
        network: Takes normalised images.
        task: Gives mean and deviation.
    """

    def __init__(self, network: nn.Module, task: TaskInfo):
        super().__init__()
        self.network = network
        mean, scale = byte_constants(task)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images [batch, channel, height, width] into class scores [batch, class]."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.scale, Tensor)
        scores: Tensor = self.network((images.to(torch.float32) - self.mean) * self.scale)
        return scores


@frozen(eq=False)
class Proof:
    """Test images that a file is proved on. Iterating yields (images uint8 [image, channel, height, width],
    labels [image]), `BATCH` images at a time, on the CPU.

    Args:
        split: The images.
        labels: What they are, int64 [image].
        seen: Bytes of images that are left out, since the network was taught them.
    """

    split: Split
    labels: Tensor
    seen: frozenset[bytes] = frozenset()

    @classmethod
    def of_classes(cls, split: Split, rows: list[int], support: Tensor) -> Proof:
        """All images of some classes but those that were learnt from; labels are places in `rows`."""
        labels = torch.full((int(split.labels.max()) + 1,), -1)
        labels[torch.tensor(rows)] = torch.arange(len(rows))
        places = labels[split.labels.cpu()]
        own = (places >= 0).nonzero().flatten()
        return cls(split.select(own), places[own], frozenset(image.numpy().tobytes() for image in support))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch, _, rows in self.split.batches(torch.arange(len(self.split)), BATCH):
            images, labels = batch.cpu(), self.labels[rows.cpu()]
            if self.seen:
                fresh = torch.tensor([image.numpy().tobytes() not in self.seen for image in images])
                images, labels = images[fresh], labels[fresh]
            if len(images):
                yield images, labels

    def first(self, count: int) -> Tensor:
        """Return the first `count` images, or as many as there are."""
        found: list[Tensor] = []
        for images, _ in self:
            found.append(images)
            if sum(map(len, found)) >= count:
                break
        return torch.cat(found)[:count]


@frozen(kw_only=True)
class ExportStage(Stage):
    """Write a network to a file for a device, and prove the file.

    A meta-learnt network is first taught new classes, those of one test episode, from its support images; the
    file is proved on all other test images of these classes.

    Args:
        source: TOML key `from`: the stage or artifact's folder to export; the stage above by default.
        tolerance: Largest difference of a class score from the network's own, relative to the largest score.
        largest_loss: Accuracy that a quantised file may lose, in [0, 1].
        calibration: Training images that a quantised file is calibrated with, at least 2.
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    tolerance: float = field(default=1e-4, validator=gt(0.0))
    largest_loss: float = field(default=0.01, validator=[ge(0.0), le(1.0)])
    calibration: int = field(default=256, validator=ge(2))

    kind: ClassVar[str] = "export"
    method_kind: ClassVar[str] = "exporter"
    method_base: ClassVar[type] = Exporter

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        source = inputs["source"]
        try:
            self.method.require()
        except LearnforgeError as error:
            return [Problem("use", str(error))]
        options = LearnerOptions.of(source)
        if options is None:
            return check_fit("from", source.task, task.info) or check_modules(self, inputs)
        is_drawn = task.episodes is None
        fault = episode_fault(task.test.labels, options.episodes, "test") if is_drawn else ""
        return [Problem("task", fault)] if fault else []

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        artifact, proof = self._ready(inputs["source"], task, context)
        module = Deployed(artifact.network(context.plugins), artifact.task).eval()
        temperature = artifact.metrics.get("temperature")
        with _folder(context) as folder:
            path = folder / f"model{self.method.suffix}"
            manual = _manual(artifact.task, path.name, self.method)
            if temperature is not None:
                manual["temperature"] = temperature
            learnt_from = self._learnt_from(task, proof, context)
            compared, size = self._export(module, learnt_from, proof, path, manual)
            write_json(folder / "model.json", manual)
            if self.method.runner and artifact.task.input_shape[0] in (1, 3):
                write_text(folder / "run_model.py", _script(self.method.runner))
        measured = Exported(
            proof=compared,
            bytes=size,
            classes=list(artifact.task.classes),
            file=path.name,
            parameters=count_parameters(module.network),
            temperature=temperature,
        )
        return evolve(artifact, metrics=measured.as_metrics())

    def _ready(self, source: Artifact, task: Task, context: Context) -> tuple[Artifact, Proof]:
        """Return what is exported, and what it is proved on."""
        options = LearnerOptions.of(source)
        if options is None:
            return source, Proof(task.test, task.test.labels.cpu())
        source_of = episode_source(task, "test", options.episodes, torch.device("cpu"))
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
        support = ((episode.support.images[0] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return evolve(adapted, task=names), Proof.of_classes(task.test, rows, support)

    def _learnt_from(self, task: Task, proof: Proof, context: Context) -> Tensor:
        """Return training images to calibrate with, at random; the test's own where a task has no others."""
        if not len(task.train):
            return proof.first(self.calibration)
        order = permutation(context.derive("calibration"), len(task.train))[: self.calibration]
        found = torch.cat([part.cpu() for part, _, _ in task.train.batches(order, BATCH)])
        return found if len(found) > 1 else found.repeat(2, 1, 1, 1)

    def _export(
        self,
        module: Deployed,
        learnt_from: Tensor,
        proof: Proof,
        path: Path,
        manual: dict[str, Any],
    ) -> tuple[Agreement, int]:
        """Write the file, compare it with the network, and return how they compare and its size in bytes."""
        partial = path.parent / "partial"
        partial.mkdir(exist_ok=True)
        draft = partial / path.name
        try:
            self._write(module, learnt_from, draft)
            self.method.annotate(draft, json.dumps(manual))
            compared = self._prove(module, self.method.load(draft), proof)
            size = draft.stat().st_size
            fault = self._fault(compared)
            if fault:
                rejected = path.with_name(f"{REJECTED}{path.name}")
                draft.replace(rejected)
                raise ExportMismatchError(f"{fault}. It is kept as {rejected.name} for inspection.")
            draft.replace(path)
        except OSError as error:
            raise refusal(path, error) from error
        finally:
            remove(partial)
        return compared, size

    def _write(self, module: Deployed, images: Tensor, path: Path) -> None:
        """Write the file, or say what the exporter makes nothing of."""
        try:
            self.method.export(module, images, path)
        except (OSError, LearnforgeError):
            raise
        except Exception as error:  # whatever the exporter's libraries raise
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            words = next((line for line in str(cause).splitlines() if line.strip()), "")
            raise StageError(
                f"{type(self.method).__name__} cannot write this network: {type(cause).__name__}: {words}. "
                'Choose another exporter, such as use = "torch-export", or a network without that operation'
            ) from error

    def _fault(self, compared: Agreement) -> str:
        """Return why the file is not handed over, or ""."""
        same = f"names the same class for {compared.agreement:.1%} of {compared.images} images"
        if self.method.is_exact and not compared.is_equal:
            return (
                f"the exported file must give the network's class scores within {self.tolerance:g} of the "
                f"largest, but it is off by {compared.relative_difference:.2g}, and {same}"
            )
        file, network = compared.test_accuracy, compared.network_accuracy
        if not self.method.is_exact and network - file > self.largest_loss + 1e-9:
            return (
                f"the exported file may lose {self.largest_loss:.1%} of accuracy (`largest_loss`), but it "
                f"gets {file:.1%} where the network gets {network:.1%}, and {same}"
            )
        return ""

    def _prove(self, module: Deployed, runtime: Runtime, proof: Proof) -> Agreement:
        """Compare file and network on every test image, and measure both."""
        with torch.inference_mode():
            parts = [(module(images), runtime(images), labels) for images, labels in proof]
        own, theirs, labels = map(torch.cat, zip(*parts, strict=True))
        difference = (own - theirs).abs()
        relative = float(difference.max() / own.abs().max().clamp_min(1e-12))
        some = proof.first(MANY)
        one, many, cpu = some[:1], some[torch.arange(MANY) % len(some)], torch.device("cpu")
        return Agreement(
            test_accuracy=float((theirs.argmax(1) == labels).double().mean()),
            network_accuracy=float((own.argmax(1) == labels).double().mean()),
            agreement=float((theirs.argmax(1) == own.argmax(1)).double().mean()),
            max_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            relative_difference=relative,
            images=len(labels),
            latency_ms=time_call(lambda: runtime(one), None, cpu, 1),
            network_latency_ms=time_call(lambda: module(one), module, cpu, 1),
            latency_64_ms=time_call(lambda: runtime(many), None, cpu, 1),
            network_latency_64_ms=time_call(lambda: module(many), module, cpu, 1),
            is_exact=self.method.is_exact,
            is_equal=relative <= self.tolerance,
        )


@contextmanager
def _folder(context: Context) -> Iterator[Path]:
    if context.folder is not None:
        yield context.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


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
        "preprocessing": "turned upright as EXIF says, bilinear resize of the shorter side to the input's, "
        "the middle cut out",
        "normalisation": "inside the graph",
    }


def _script(runner: str) -> str:
    """Return a script that runs an exported file on an image without learnforge; see `Exporter.runner`."""
    text = resources.files("learnforge_plugins.scripts").joinpath("run_model.py").read_text("utf-8")
    start, end = text.index(RUNNER_BEGINS), text.index(RUNNER_ENDS)
    return text[:start] + runner.strip() + text[end + len(RUNNER_ENDS) :]


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `export`."""
    return {"export": ExportStage}
