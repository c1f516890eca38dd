"""Naming what is in images: by the network of a run, or by an exported file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from learnforge.artifact import Artifact, load_artifact
from learnforge.errors import ArtifactError, PluginError
from learnforge.kinds.exporter import Exporter, Runtime
from learnforge.plugins.registry import Plugins
from learnforge.record import find_artifact
from learnforge_kit.data.images import readable_images
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.engines.learner import LearnerOptions


@frozen(eq=False)
class Predictor:
    """What gives class scores.

    Args:
        classes: Names, in the order of the scores.
        input_shape: Channels, height and width of an image.
        score: From uint8 images [image, channel, height, width] to scores [image, class], on the CPU.
        source: The stage's folder or the file.
        temperature: What scores are divided by before the softmax; None for 1.
    """

    classes: Sequence[str]
    input_shape: tuple[int, int, int]
    score: Callable[[Tensor], Tensor]
    source: Path
    temperature: float | None = None


@frozen
class Prediction:
    """What an image was taken for.

    Args:
        file: The image.
        label: Name of the class with the highest score.
        confidence: Its share of the softmax over the scores, in (0, 1].
        shares: That of every class, in their order.
    """

    file: Path
    label: str
    confidence: float
    shares: tuple[float, ...]


def open_predictor(
    path: Path,
    plugins: Plugins,
    device: torch.device | None = None,
    calibrated: bool = False,
    is_trusted: bool = False,
) -> Predictor:
    """Open a run's or a stage's folder, or a file that an export stage wrote.

    Args:
        path: The folder, or the file beside its `model.json`.
        plugins: Where models and exporters are looked up.
        device: Where a network of a folder computes; a file's runtime decides for itself.
        calibrated: Divide scores by the temperature that fits the validation images best (Guo et al., 2017),
            so that a confidence is about the share of images that are named right.
        is_trusted: Whether code in a file may run; formats that are data need no trust.

    Raises:
        ArtifactError: There is no network, one that names no classes, no temperature is known, or a file that
            may hold code is not trusted.
    """
    if path.is_file():
        found = _open_file(path, plugins, is_trusted)
    else:
        folder, artifact = load_classifier(path)
        found = _open_artifact(artifact, folder, plugins, device or torch.device("cpu"))
    if calibrated and found.temperature is None:
        raise ArtifactError(
            f"{path}: no temperature is known of the network. Stages that train on a task measure one on its "
            "validation images, unless all of these are named right; a network that was taught from a few "
            "examples has none. Leave `--calibrated` out"
        )
    return found if calibrated else evolve(found, temperature=None)


def load_classifier(path: Path) -> tuple[Path, Artifact]:
    """Return the folder of a run's or a stage's network and the network itself, which names classes.

    Raises:
        ArtifactError: There is none, it names no classes, or has not been taught any.
    """
    folder = find_artifact(path)
    artifact = load_artifact(folder)
    if artifact.task.form != "classification":
        raise ArtifactError(f"{path}: the network names no classes, its task is {artifact.task.form}")
    if LearnerOptions.of(artifact) is not None:
        raise ArtifactError(
            f"{path}: the network has learnt to learn, but no classes yet; teach it some: learnforge adapt "
            f"{path} --support FOLDER"
        )
    return folder, artifact


def predict_files(
    predictor: Predictor, paths: Sequence[Path], complain: Callable[[str], None]
) -> Iterator[Prediction]:
    """Name images from files.

    Args:
        predictor: What names them.
        paths: Files and folders; of these all images at any depth.
        complain: Told of every file that is not there or no image; it is left out.

    Raises:
        TaskError: No file can be read.
    """
    for files, images in readable_images(paths, predictor.input_shape, complain):
        shares = (predictor.score(images).float() / (predictor.temperature or 1.0)).softmax(1)
        for file, own in zip(files, shares, strict=True):
            best = int(own.argmax())
            yield Prediction(file, predictor.classes[best], float(own[best]), tuple(own.tolist()))


def _open_artifact(artifact: Artifact, folder: Path, plugins: Plugins, device: torch.device) -> Predictor:
    network = artifact.network(plugins).eval().to(device)
    normalise = Normaliser(artifact.task, device)

    def score(images: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = network(normalise(images.to(device)))
            return found.cpu()

    temperature = artifact.metrics.get("temperature")
    return Predictor(artifact.task.classes, artifact.task.input_shape, score, folder, temperature)


def _open_file(path: Path, plugins: Plugins, is_trusted: bool) -> Predictor:
    """Open a file by the exporter of its format. Which one that is follows from the file's name and first
    bytes; what it says of itself only chooses among those that read the format.
    """
    beside = path.with_name("model.json")
    exporters = _exporters_of(path, plugins)
    inside = _manual_inside(path, exporters)
    if inside is None and not beside.is_file():
        raise ArtifactError(
            f"{path} must be a whole file that an export stage wrote, with its manual inside, or lie beside "
            "the `model.json` of that stage; it has neither, as a file of another kind or a damaged one"
        )
    try:
        manual: dict[str, Any] = json.loads(beside.read_text("utf-8") if inside is None else inside)
        name, written_by, classes = manual["file"], dict(manual["exporter"]), list(manual["classes"])
        channels, height, width = map(int, manual["input"]["shape"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} must lie beside the `model.json` that its export stage wrote: {type(error).__name__}: "
            f"{error}"
        ) from error
    if inside is None and name != path.name:
        raise ArtifactError(f"the `model.json` beside {path} is that of {name}")
    if not exporters:
        raise ArtifactError(
            f"{path} must be of a format that an installed exporter reads, by its ending and its first bytes"
        )
    if written_by.get("use") not in exporters:
        written_by = {"use": next(iter(exporters))}
    problems: list[Any] = []
    exporter = plugins.resolve("exporter", written_by, "exporter", problems)
    if exporter is None:
        raise ArtifactError(f"{path}: {'; '.join(str(problem) for problem in problems)}")
    if exporter.loads_code and not is_trusted:
        raise ArtifactError(
            f"{path} may hold code, which runs when it is read: say `--trust` if you would run code of "
            "whoever wrote it. The folder of its run, and ONNX files, are data and need none"
        )
    exporter.require()
    runtime: Runtime | None = None

    def score(images: Tensor) -> Tensor:
        nonlocal runtime
        try:
            with torch.inference_mode():
                runtime = runtime or exporter.load(path)
                return runtime(images)
        except Exception as error:  # whatever the runtime raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ArtifactError(f"{path} cannot be run by {written_by['use']}: {reason}") from error

    return Predictor(classes, (channels, height, width), score, path, manual.get("temperature"))


def _exporters_of(path: Path, plugins: Plugins) -> dict[str, type[Exporter]]:
    """Return {name: exporter} of those whose format a file has, that of the longest ending first."""
    found: dict[str, type[Exporter]] = {}
    for name in plugins.names("exporter"):
        with contextlib.suppress(PluginError):  # one that is broken keeps no other from reading its own
            found[name] = plugins.load("exporter", name, Exporter)
    order = sorted(found, key=lambda name: -len(found[name].suffix))
    try:
        return {name: found[name] for name in order if found[name].reads(path)}
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _manual_inside(path: Path, exporters: Mapping[str, type[Exporter]]) -> str | None:
    """Return what the file itself says of how it is run, if its format can."""
    try:
        return next((said for cls in exporters.values() if (said := cls.manual(path)) is not None), None)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
