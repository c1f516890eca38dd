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
from learnforge.errors import LearnforgeError, Problem, StageError
from learnforge.files import refusal, remove, write_json, write_text
from learnforge.hookspecs import hookimpl
from learnforge.kinds.exporter import Exporter, Runtime
from learnforge.kinds.form import form_of
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Split, Task
from learnforge.options.structure import plugin_field
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo, input_constants
from learnforge_kit.costs.measuring import time_call
from learnforge_kit.data.episodes import ImageEpisodes, episode_fault
from learnforge_kit.drawing import permutation
from learnforge_kit.engines.adaptation import adapt_artifact
from learnforge_kit.engines.learner import LearnerOptions, episode_source
from learnforge_kit.errors import ExportMismatchError
from learnforge_kit.measured import OnTest, beyond_accuracy, spell_score
from learnforge_kit.networks.layers import count_parameters
from learnforge_kit.networks.modules import check_fit, check_modules
from learnforge_kit.training.evaluation import score
from learnforge_plugins.stages.exported import Agreement, Exported

MANY = 64
"""Images of the larger batch that is timed."""

BATCH = 256
"""Images that are read at once."""


RUNNER_BEGINS, RUNNER_ENDS = "# runner", "# end of runner"
"""Comments in `scripts/run_model.py` around what an exporter replaces."""


class Deployed(nn.Module):
    """A network with its normalisation inside, so that whoever runs it feeds plain bytes, or floats in their
    own units, and gets numbers in those of the targets.

    Args:
        network: Takes normalised images.
        task: Gives means and deviations.
    """

    def __init__(self, network: nn.Module, task: TaskInfo):
        super().__init__()
        self.network = network
        mean, scale = input_constants(task)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.has_units = bool(task.target_mean)
        self.register_buffer("target_mean", torch.tensor(task.target_mean or (0.0,)))
        self.register_buffer("target_std", torch.tensor(task.target_std or (1.0,)))

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images [batch, channel, height, width] into class scores [batch, class], or the inputs
        of another task into its outputs.
        """
        shown = (images.to(torch.float32) - self.get_buffer("mean")) * self.get_buffer("scale")
        outputs: Tensor = self.network(shown)
        if self.has_units:
            return outputs * self.get_buffer("target_std") + self.get_buffer("target_mean")
        return outputs

    def learnt(self, outputs: Tensor) -> Tensor:
        """Return outputs in the units that splits have their targets in."""
        if self.has_units:
            return (outputs - self.get_buffer("target_mean")) / self.get_buffer("target_std")
        return outputs


@frozen(eq=False)
class Proof:
    """Test images that a file is proved on. Iterating yields (images as the split holds them, their labels),
    `BATCH` images at a time, on the CPU.

    Args:
        split: The images.
        labels: What they are, int64 [image], or what else the task's form has for targets.
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
        largest_loss: Accuracy that a quantised file may lose, or what else the task's form measures first,
            in [0, 1].
        calibration: Training images that a quantised file is calibrated with, at least 2.
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    tolerance: float = field(default=1e-4, validator=gt(0.0))
    largest_loss: float = field(default=0.01, validator=[ge(0.0), le(1.0)])
    calibration: int = field(default=256, validator=ge(2))

    kind: ClassVar[str] = "export"
    forms: ClassVar[frozenset[str] | None] = None
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
            compared, size = self._export(module, artifact.task, learnt_from, proof, path, manual)
            write_json(folder / "model.json", manual)
            if self.method.runner and _is_of_pictures(artifact.task):
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
        mean, scale = input_constants(info)
        support = episode.support.images[0] / scale + mean
        if info.inputs == "bytes":
            support = support.round().clamp(0, 255).to(torch.uint8)
        return evolve(adapted, task=names), Proof.of_classes(task.test, rows, support)

    def _learnt_from(self, task: Task, proof: Proof, context: Context) -> Tensor:
        """Return training images to calibrate with, at random; the test's own where a task has no others."""
        if not len(task.train):
            return proof.first(self.calibration)
        order = permutation(context.derive("calibration"), len(task.train))[: self.calibration]
        found = torch.cat([part.cpu() for part, _, _ in task.train.batches(order, BATCH)])
        return found if len(found) > 1 else torch.cat([found, found])

    def _export(
        self,
        module: Deployed,
        task: TaskInfo,
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
            compared = self._prove(module, task, self.method.load(draft), proof)
            size = draft.stat().st_size
            fault = self._fault(compared, task)
            if fault:
                from learnforge_kit.exported import REJECTED  # which reads images, as no other stage does

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

    def _fault(self, compared: Agreement, task: TaskInfo) -> str:
        """Return why the file is not handed over, or ""."""
        names_classes, measure = form_of(task.form).names_one_class, compared.file.measure
        what = "class scores" if names_classes else "outputs"
        same = f"agrees with it by {measure} {spell_score(measure, compared.agreement)} on {compared.images}"
        if names_classes:
            same = f"names the same class for {compared.agreement:.1%} of {compared.images} images"
        if self.method.is_exact and not compared.is_equal:
            return (
                f"the exported file must give the network's {what} within {self.tolerance:g} of the "
                f"largest, but it is off by {compared.relative_difference:.2g}, and {same}"
            )
        file, network = compared.file.test, compared.network.test
        if not self.method.is_exact and network - file > self.largest_loss + 1e-9:
            return (
                f"the exported file may lose {spell_score(measure, self.largest_loss)} of {measure} "
                f"(`largest_loss`), but it gets {spell_score(measure, file)} where the network gets "
                f"{spell_score(measure, network)}, and {same}"
            )
        return ""

    def _prove(self, module: Deployed, task: TaskInfo, runtime: Runtime, proof: Proof) -> Agreement:
        """Compare file and network on every test image, and measure both."""
        with torch.inference_mode():
            parts = [(module(images), runtime(images), labels) for images, labels in proof]
        own, theirs, labels = map(torch.cat, zip(*parts, strict=True))
        by_file, by_network = module.learnt(theirs), module.learnt(own)
        difference = (own - theirs).abs()
        # in the units that were learnt, since a large mean would hide any difference
        relative = float((by_network - by_file).abs().max() / by_network.abs().max().clamp_min(1e-12))
        some = proof.first(MANY)
        one, many, cpu = some[:1], some[torch.arange(MANY) % len(some)], torch.device("cpu")
        answers = form_of(task.form).answers(by_network)
        tested, known = (score(outputs, labels, task).measures for outputs in (by_file, by_network))
        return Agreement(
            file=OnTest.of_scores(tested),
            network_accuracy=known.get("accuracy"),
            network_measures=beyond_accuracy(known),
            agreement=score(by_file, answers, task).value,
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


def _is_of_pictures(task: TaskInfo) -> bool:
    """Tell whether a task's inputs are image files, each of which is of one class."""
    is_shown = task.inputs == "bytes" and task.input_shape[0] in (1, 3)
    return is_shown and form_of(task.form).names_one_class


def _manual(task: TaskInfo, file: str, exporter: Exporter) -> dict[str, Any]:
    """Return what somebody who runs the file must know."""
    form, is_image = form_of(task.form), task.inputs == "bytes"
    axes = (
        ["channel", "height", "width"]
        if is_image
        else [f"axis {n + 1}" for n in range(len(task.input_shape))]
    )
    outputs = ["class", *(f"axis {n + 2}" for n in range(len(form.outputs(task)) - 1))]
    return {
        "file": file,
        "exporter": spell(exporter),
        "form": task.form,
        "input": {
            "type": "uint8" if is_image else "float32",
            "axes": ["batch", *axes],
            "shape": list(task.input_shape),
        },
        "output": {"type": "float32", "axes": ["batch", *outputs], "meaning": form.meaning},
        "classes": list(task.classes),
        "preprocessing": "turned upright as EXIF says, bilinear resize of the shorter side to the input's, "
        "the middle cut out"
        if is_image
        else dict(task.reading),
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
