"""Naming what is in images, or what else a network says of files: by a run, or by an exported file."""

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
from learnforge.errors import ArtifactError, LearnforgeError, PluginError, TaskError
from learnforge.kinds.exporter import Exporter, Runtime
from learnforge.kinds.form import form_of
from learnforge.kinds.task import TaskSource
from learnforge.plugins.registry import Plugins
from learnforge.record import find_artifact
from learnforge.spec import TaskInfo, in_units
from learnforge_kit.data.images import class_folders, is_there, read_classes, readable_images
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.data.splits import MemorySplit
from learnforge_kit.engines.learner import LearnerOptions


@frozen(eq=False)
class Predictor:
    """What answers for files.

    Args:
        task: Names of classes, shape of inputs, form, and how files are read.
        score: From inputs as splits hold them, such as uint8 images [image, channel, height, width], to
            outputs [image, …], such as class scores, on the CPU and in the targets' own units.
        source: The stage's folder or the file.
        temperature: What scores are divided by before the softmax; None for 1.
    """

    task: TaskInfo
    score: Callable[[Tensor], Tensor]
    source: Path
    temperature: float | None = None

    @property
    def names_one_class(self) -> bool:
        """Whether an answer is one class."""
        return form_of(self.task.form).names_one_class


@frozen
class Prediction:
    """What an input was taken for.

    Args:
        file: The file, or the row of one.
        shares: For each class its share of the softmax over the scores, in (0, 1]; for other forms what they
            tell people, such as probabilities, or the numbers themselves.
        label: Name of the class with the highest score; None where an answer is not one class.
        confidence: That class's share.
    """

    file: str
    shares: tuple[float, ...]
    label: str | None = None
    confidence: float | None = None


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
        ArtifactError: There is no network, one whose task has no targets, no temperature is known, or a file
            that may hold code is not trusted.
    """
    if path.is_file():
        found = _open_file(path, plugins, is_trusted)
    else:
        folder, artifact = load_network(path)
        found = _open_artifact(artifact, folder, plugins, device or torch.device("cpu"))
    if calibrated and found.temperature is None:
        raise ArtifactError(
            f"{path}: no temperature is known of the network. Stages that train on a task measure one on its "
            "validation images, unless all of these are named right; a network that was taught from a few "
            "examples has none. Leave `--calibrated` out"
        )
    return found if calibrated else evolve(found, temperature=None)


def load_network(path: Path) -> tuple[Path, Artifact]:
    """Return the folder of a run's or a stage's network and the network itself, which answers for inputs.

    Raises:
        ArtifactError: There is none, its task has no targets, or it has not been taught any classes.
    """
    folder = find_artifact(path)
    artifact = load_artifact(folder)
    if not form_of(artifact.task.form).has_targets:
        raise ArtifactError(f"{path}: the network answers for no files, its task is {artifact.task.form}")
    if LearnerOptions.of(artifact) is not None:
        raise ArtifactError(
            f"{path}: the network has learnt to learn, but no classes yet; teach it some: learnforge adapt "
            f"{path} --support FOLDER"
        )
    return folder, artifact


def predict_files(
    predictor: Predictor, paths: Sequence[Path], plugins: Plugins, complain: Callable[[str], None]
) -> Iterator[Prediction]:
    """Answer for what is in files.

    Args:
        predictor: What answers.
        paths: Files and folders; of these all images at any depth, or what the task's source reads.
        plugins: Where the source of the task is looked up, which reads files that are no images.
        complain: Told of every file that is not there or cannot be read; it is left out.

    Raises:
        TaskError: No file can be read.
        ArtifactError: Nothing reads files into such inputs, or outputs are no list of numbers.
    """
    form, is_any = form_of(predictor.task.form), False
    for names, inputs in read_inputs(predictor.task, paths, plugins, complain):
        is_any = True
        shares = form.shown(predictor.score(inputs).double() / (predictor.temperature or 1.0))
        if shares.shape[1:] != (len(predictor.task.classes),):
            raise ArtifactError(
                f"{predictor.source}: outputs of the shape {list(shares.shape[1:])} are no list of numbers "
                "to print; `learnforge.load(FOLDER).predict(inputs)` returns them"
            )
        for name, own in zip(names, shares, strict=True):
            if form.names_one_class:
                best = int(own.argmax())
                label, confidence = predictor.task.classes[best], float(own[best])
                yield Prediction(name, tuple(own.tolist()), label, confidence)
            else:
                yield Prediction(name, tuple(own.tolist()))
    if not is_any:
        raise TaskError("none of the files can be read")


def read_inputs(
    task: TaskInfo, paths: Sequence[Path], plugins: Plugins, complain: Callable[[str], None]
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield names, and inputs as splits hold them, out of files: images, or what the task's source reads.

    Args:
        task: How files are read.
        paths: Files and folders.
        plugins: Where the source of the task is looked up.
        complain: Told of every file that is not there or cannot be read; it is left out.

    Raises:
        ArtifactError: Nothing reads files into such inputs, or what the task says of it makes no sense.
    """
    if task.reading:
        source = plugins.load("task", str(task.reading.get("use", "")), TaskSource)
        there = [path for path in paths if is_there(path)]
        for path in paths:
            if path not in there:
                complain(f"{path} is not there")
        try:
            yield from source.read(there, task, complain)
        except (LearnforgeError, OSError):
            raise
        except Exception as error:  # what a file says of its reading may be anything
            name = task.reading["use"]
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError(
                f"the task {name!r} cannot read files as the network wants: {reason}"
            ) from error
        return
    if task.inputs != "bytes":
        raise ArtifactError(
            f"nothing reads files into inputs of the shape {list(task.input_shape)}; "
            "`learnforge.load(FOLDER).predict(inputs)` answers for a tensor"
        )
    for files, images in readable_images(paths, task.input_shape, complain):
        yield list(map(str, files)), images


def read_examples(root: Path, task: TaskInfo, plugins: Plugins) -> tuple[list[str], MemorySplit, list[str]]:
    """Read a folder of examples, in which each folder is a class: images, or what the task's source reads.

    Returns:
        Names of the classes, sorted; the inputs with their labels; and why others cannot be read.

    Raises:
        TaskError: There are fewer than two classes, or a class has nothing that can be read.
        ArtifactError: Nothing reads files into such inputs.
    """
    if not task.reading and task.inputs == "bytes":
        return read_classes(root, task.input_shape)
    folders, faults, parts = class_folders(root), list[str](), list[Tensor]()
    if len(folders) < 2:
        raise TaskError(
            f"{root} must hold a folder for each of two classes at least, it holds {len(folders)}"
        )
    for folder in folders:
        own = [inputs for _, inputs in read_inputs(task, [folder], plugins, faults.append)]
        if not own:
            raise TaskError(
                f"class {folder.name}: none of the files in {folder} can be read; put examples there"
            )
        parts.append(torch.cat(own))
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return [folder.name for folder in folders], MemorySplit(torch.cat(parts), labels), faults


def _open_artifact(artifact: Artifact, folder: Path, plugins: Plugins, device: torch.device) -> Predictor:
    network = artifact.network(plugins).eval().to(device)
    normalise = Normaliser(artifact.task, device)

    def score(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return in_units(network(normalise(images.to(device))), artifact.task).cpu()

    return Predictor(artifact.task, score, folder, artifact.metrics.get("temperature"))


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
        name, written_by, task = manual["file"], dict(manual["exporter"]), _task_of(manual)
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

    return Predictor(task, score, path, manual.get("temperature"))


def _task_of(manual: Mapping[str, Any]) -> TaskInfo:
    """Return what the manual of an exported file says of the task; the file normalises by itself."""
    classes = tuple(map(str, manual["classes"]))
    reading = manual["preprocessing"]
    info = TaskInfo(
        str(manual["file"]),
        classes,
        classes,
        tuple(map(int, manual["input"]["shape"])),
        (),
        (),
        str(manual.get("form", "classification")),
        inputs="bytes" if manual["input"]["type"] == "uint8" else "floats",
        reading=dict(reading) if isinstance(reading, Mapping) else {},
    )
    if not form_of(info.form).has_targets:
        raise ArtifactError(f"{manual['file']}: the network answers for no files, its task is {info.form}")
    return info


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
