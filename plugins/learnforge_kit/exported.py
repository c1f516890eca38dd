"""Exported files: what reads them, what they say of themselves, and images named by them without torch."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from learnforge.errors import ArtifactError, LearnforgeError, PluginError
from learnforge.kinds.exporter import Exporter
from learnforge.plugins.registry import Plugins
from learnforge_kit.data.images import readable_pixels

REJECTED = "rejected-"
"""Beginning of the names of files that failed their proof."""

MOST_PIXELS = 2**18
"""Pixels that go through a runtime at once: more take it more memory, which it keeps, and no less time."""

_Values = TypeVar("_Values")


@frozen(eq=False)
class ExportedFile:
    """A file that an export stage wrote, by what it says of itself.

    Args:
        path: The file.
        exporter: What runs it.
        use: The exporter's name.
        name: The file's name when it was written.
        classes: Names of classes, or of numbers.
        shape: Shape of an input, such as channels, height and width of an image.
        is_bytes: Whether inputs are bytes of images; floats else.
        form: Name of the task's form.
        reading: How files are read into inputs; empty for images.
        temperature: What scores are divided by before the softmax, where one is known.
    """

    path: Path
    exporter: Exporter
    use: str
    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    is_bytes: bool
    form: str
    reading: Mapping[str, Any]
    temperature: float | None

    def run(
        self, load: Callable[[Path], Callable[[_Values], _Values] | None]
    ) -> Callable[[_Values], _Values]:
        """Return what runs the file; it is loaded when it is first called.

        Args:
            load: The exporter's `load` or `load_arrays`.

        Raises:
            ArtifactError: By what is returned, where the file cannot be run.
        """
        runtime: Callable[[_Values], _Values] | None = None

        def run(inputs: _Values) -> _Values:
            nonlocal runtime
            try:
                runtime = runtime or load(self.path)
                assert runtime is not None
                return runtime(inputs)
            except LearnforgeError:  # it says what is missing
                raise
            except Exception as error:  # whatever the runtime raises
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise ArtifactError(f"{self.path} cannot be run by {self.use}: {reason}") from error

        return run


@frozen(eq=False)
class ArrayPredictor:
    """Names images by a file that runs on numpy's arrays, without torch.

    Args:
        file: The file.
        score: From uint8 images [image, channel, height, width] to class scores [image, class].
        temperature: What scores are divided by before the softmax; None for 1.
    """

    file: ExportedFile
    score: Callable[[NDArray[Any]], NDArray[Any]]
    temperature: float | None = None

    @property
    def source(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.file.classes

    @property
    def names_one_class(self) -> bool:
        """Whether an answer is one class, which it is."""
        return True

    def answer(
        self, paths: Sequence[Path], plugins: Plugins, complain: Callable[[str], None]
    ) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Yield names of files, and of each the classes' shares of the softmax over the scores."""
        for files, images in readable_pixels(paths, self.file.shape, complain, MOST_PIXELS):
            found = self.score(images)
            if found.ndim != 2 or len(found) != len(files):
                raise ArtifactError(
                    f"{self.source} must give scores [image, class] for {len(files)} images, it gives "
                    f"{list(found.shape)}"
                )
            scores = found.astype(np.float64) / (self.temperature or 1.0)
            shares = np.exp(scores - scores.max(1, keepdims=True))
            yield list(map(str, files)), shares / shares.sum(1, keepdims=True)


def open_arrays(
    path: Path, plugins: Plugins, calibrated: bool = False, is_trusted: bool = False
) -> ArrayPredictor | None:
    """Open an exported file that names images, where its format runs without torch; None where it does not.

    Args:
        path: The file.
        plugins: Where exporters are looked up.
        calibrated: Divide scores by the file's temperature; see `open_predictor`.
        is_trusted: Whether code in a file may run.

    Raises:
        ArtifactError: It is no such file, no temperature is known, or it may hold code and is not trusted.
    """
    file = open_exported(path, plugins, is_trusted)
    has_arrays = type(file.exporter).load_arrays is not Exporter.load_arrays
    # what other forms show of outputs is a plugin's code, which computes with torch
    if not has_arrays or file.form != "classification" or not file.is_bytes or file.reading:
        return None
    temperature = choose_temperature(path, file.temperature, calibrated)
    return ArrayPredictor(file, file.run(file.exporter.load_arrays), temperature)


def choose_temperature(path: Path, known: float | None, calibrated: bool) -> float | None:
    """Return what scores are divided by, None for 1.

    Raises:
        ArtifactError: Confidence is to be calibrated, and no temperature is known.
    """
    if calibrated and known is None:
        raise ArtifactError(
            f"{path}: no temperature is known of the network. Stages that train on a task measure one on its "
            "validation images, unless all of these are named right; a network that was taught from a few "
            "examples has none. Leave `--calibrated` out"
        )
    return known if calibrated else None


def open_exported(path: Path, plugins: Plugins, is_trusted: bool) -> ExportedFile:
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
        name, written_by, said = manual["file"], dict(manual["exporter"]), _read_manual(manual)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: what its export stage said of it, in the file or the `model.json` beside it, is "
            f"damaged: {type(error).__name__}: {error}. Export the network again"
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
    return ExportedFile(path, exporter, written_by["use"], **said)


def _read_manual(manual: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manual of an exported file says of its inputs and outputs."""
    reading, temperature = manual["preprocessing"], manual.get("temperature")
    shape = tuple(map(int, manual["input"]["shape"]))
    if min(shape, default=0) < 1:
        raise ValueError(f"an input must have sizes of at least 1, the manual says {list(shape)}")
    if temperature is not None and not 0 < float(temperature) < math.inf:
        raise ValueError(f"a temperature must be a number above 0, the manual says {temperature}")
    return {
        "name": str(manual["file"]),
        "classes": tuple(map(str, manual["classes"])),
        "shape": shape,
        "is_bytes": manual["input"]["type"] == "uint8",
        "form": str(manual.get("form", "classification")),
        "reading": dict(reading) if isinstance(reading, Mapping) else {},
        "temperature": temperature,
    }


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
