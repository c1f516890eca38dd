"""Naming what is in images, or what else a network says of files: by a run, or by an exported file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen
from numpy.typing import NDArray

from learnforge.errors import ArtifactError, LearnforgeError, TaskError
from learnforge.plugins.registry import Plugins
from learnforge_kit.data.images import class_folders, is_there, read_classes, readable_images
from learnforge_kit.exported import ArrayPredictor, ExportedFile, choose_temperature, open_exported

if TYPE_CHECKING:  # torch is imported where it is used: an ONNX file names images without it
    import torch
    from torch import Tensor

    from learnforge.artifact import Artifact
    from learnforge.spec import TaskInfo
    from learnforge_kit.data.splits import MemorySplit


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
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the numbers."""
        return self.task.classes

    @property
    def names_one_class(self) -> bool:
        """Whether an answer is one class."""
        from learnforge.kinds.form import form_of

        return form_of(self.task.form).names_one_class

    def answer(
        self, paths: Sequence[Path], plugins: Plugins, complain: Callable[[str], None]
    ) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Yield names of files, or of rows in one, and of each what people are told, see `Prediction`."""
        from learnforge.kinds.form import form_of

        form = form_of(self.task.form)
        for names, inputs in read_inputs(self.task, paths, plugins, complain):
            yield names, form.shown(self.score(inputs).double() / (self.temperature or 1.0)).numpy()


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
        found = _open_file(open_exported(path, plugins, is_trusted))
    else:
        folder, artifact = load_network(path)
        found = _open_artifact(artifact, folder, plugins, device)
    return evolve(found, temperature=choose_temperature(path, found.temperature, calibrated))


def load_network(path: Path) -> tuple[Path, Artifact]:
    """Return the folder of a run's or a stage's network and the network itself, which answers for inputs.

    Raises:
        ArtifactError: There is none, its task has no targets, or it has not been taught any classes.
    """
    from learnforge.artifact import load_artifact
    from learnforge.kinds.form import form_of
    from learnforge.record import find_artifact
    from learnforge_kit.engines.learner import LearnerOptions

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
    predictor: Predictor | ArrayPredictor,
    paths: Sequence[Path],
    plugins: Plugins,
    complain: Callable[[str], None],
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
    is_any, names_one_class = False, predictor.names_one_class
    for names, shares in predictor.answer(paths, plugins, complain):
        is_any = True
        if shares.shape[1:] != (len(predictor.classes),):
            raise ArtifactError(
                f"{predictor.source}: outputs of the shape {list(shares.shape[1:])} are no list of numbers "
                "to print; `learnforge.load(FOLDER).predict(inputs)` returns them"
            )
        for name, own in zip(names, shares, strict=True):
            if names_one_class:
                best = int(own.argmax())
                yield Prediction(name, tuple(own.tolist()), predictor.classes[best], float(own[best]))
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
        from learnforge.kinds.task import TaskSource

        source = plugins.load("task", str(task.reading.get("use", "")), TaskSource)
        there = {path: None for path in paths if is_there(path)}
        for path in paths:
            if path not in there:
                complain(f"{path} is not there")
        try:
            yield from source.read([*there], task, complain)
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
    import torch

    from learnforge_kit.data.splits import MemorySplit

    folders, faults = class_folders(root), list[str]()
    parts: list[Tensor] = []
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


def _open_artifact(
    artifact: Artifact, folder: Path, plugins: Plugins, device: torch.device | None
) -> Predictor:
    import torch

    from learnforge.spec import in_units
    from learnforge_kit.data.normaliser import Normaliser

    device = device or torch.device("cpu")
    network = artifact.network(plugins).eval().to(device)
    normalise = Normaliser(artifact.task, device)

    def score(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return in_units(network(normalise(images.to(device))), artifact.task).cpu()

    return Predictor(artifact.task, score, folder, artifact.metrics.get("temperature"))


def _open_file(file: ExportedFile) -> Predictor:
    import torch

    from learnforge.kinds.form import form_of
    from learnforge.spec import TaskInfo

    task = TaskInfo(
        file.name,
        file.classes,
        file.classes,
        file.shape,
        (),
        (),
        file.form,
        inputs="bytes" if file.is_bytes else "floats",
        reading=file.reading,
    )
    if not form_of(task.form).has_targets:
        raise ArtifactError(f"{file.name}: the network answers for no files, its task is {task.form}")
    file.exporter.require()
    return Predictor(task, torch.inference_mode()(file.run(file.exporter.load)), file.path, file.temperature)
