"""WAV files in folders of classes, or with the class in their names, as log-mel spectrograms.

`train/ val/ test/` with the classes inside, or the classes alone; what is missing is split off the training
files. Spectrograms are floats of the shape [1, band, frame], which all networks for grey images take; time
and frequency masks are settings of a training, `train = { time_mask = 0.2, frequency_mask = 0.2 }`.

Reference:
    Davis & Mermelstein, Comparison of parametric representations for monosyllabic word recognition in
    continuously spoken sentences, 1980. doi:10.1109/TASSP.1980.1163420
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, gt, le, lt
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl, nearest
from learnforge_kit import MemorySplit, Spectrogram, files_inside, measure_channels, stratified

_NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test",)}
_ENDING = ".wav"
_AT_ONCE = 256


def _check_pattern(instance: object, attribute: Any, value: str | None) -> None:
    try:
        groups = re.compile(value or "").groupindex
    except re.error as error:
        raise ValueError(f"{attribute.name!r} must be a regular expression: {error}") from error
    if value is not None and attribute.name == "pattern" and "label" not in groups:
        raise ValueError(f"'pattern' must have a group (?P<label>…), which is the class, got {value!r}")


@frozen
class AudioFolder(TaskSource):
    r"""WAV files, a class in each folder or in each file's name.

    Args:
        root: The folder: with `train` (and perhaps `val`, `test`) inside, or with one sub-folder for each
            class.
        pattern: A regular expression that finds the class in a file's name without its ending, as its group
            `label`, such as `(?P<label>\d)_`; without one the class is the name of the file's folder.
        test_pattern: A regular expression for the names of files that are the test, such as `_[0-4]$`.
        classes: Classes to learn; all but the test classes by default.
        test_classes: Classes that only the test split shows, all of their files, for meta-learning.
        rate: Samples a second; files of another rate are resampled.
        seconds: Length of what is heard: the middle of longer files, silence around shorter ones.
        mels: Bands of the spectrogram, from 2.
        window: Milliseconds of a window.
        hop: Milliseconds from one window to the next.
        validation: Share of the training files to validate with, where there is no folder for it.
        test: Share to test with, where nothing says which they are.
        split_seed: Which random split, from 0.
    """

    root: Path
    pattern: str | None = field(default=None, validator=_check_pattern)
    test_pattern: str | None = field(default=None, validator=_check_pattern)
    classes: tuple[str, ...] | None = None
    test_classes: tuple[str, ...] = ()
    rate: int = field(default=16_000, validator=[ge(100), le(1_000_000)])
    seconds: float = field(default=1.0, validator=[gt(0.0), le(600.0)])
    mels: int = field(default=40, validator=[ge(2), le(1024)])
    window: float = field(default=32.0, validator=[gt(0.0), le(10_000.0)])
    hop: float = field(default=16.0, validator=[ge(0.1), le(10_000.0)])
    validation: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    test: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    split_seed: int = field(default=0, validator=ge(0))

    def load(self) -> Task:
        files = self._find()
        classes = self._choose(sorted({label for _, label, _ in files}))
        spectrogram = Spectrogram(self.rate, self.seconds, self.mels, self.window, self.hop)
        kept = [own for own in files if own[1] in classes]
        inputs = _read_all([file for file, _, _ in kept], spectrogram)
        labels = torch.tensor([classes.index(label) for _, label, _ in kept])
        parts = self._split([part for _, _, part in kept], labels, classes)
        mean, std = measure_channels(inputs[parts["train"]])
        name = self.root.resolve().name
        info = TaskInfo(
            name,
            tuple(classes),
            tuple(f"{name}:{own}" for own in classes),
            tuple(inputs.shape[1:]),
            mean,
            std,
            inputs="floats",
            reading={"use": "audio-folder", **asdict(spectrogram)},
        )
        splits = [MemorySplit(inputs[own], labels[own]) for own in parts.values()]
        return Task(info, splits[0], splits[1], splits[2])

    @classmethod
    def read(
        cls, files: Sequence[Path], task: TaskInfo, complain: Callable[[str], None]
    ) -> Iterator[tuple[list[str], Tensor]]:
        spectrogram = Spectrogram(**{name: v for name, v in task.reading.items() if name != "use"})
        found: list[Path] = []
        for path in files:
            inside = sorted(_wav_files(path)) if path.is_dir() else [path]
            found += inside
            if not inside:
                complain(f"{path} holds no WAV file")
        for start in range(0, len(found), _AT_ONCE):
            names: list[str] = []
            inputs: list[Tensor] = []
            for file in found[start : start + _AT_ONCE]:
                try:
                    inputs.append(spectrogram.of_file(file))
                    names.append(str(file))
                except TaskError as error:
                    complain(str(error))
            if names:
                yield names, torch.stack(inputs)

    def _find(self) -> list[tuple[Path, str, str]]:
        """Return every WAV file with its class and its part, "" where nothing says which."""
        if not self.root.is_dir():
            raise TaskError(f"task.root: must be a folder of WAV files, {self.root} is none")
        parts = {name: part for part, names in _NAMES.items() for name in names}
        found = []
        for file in sorted(_wav_files(self.root)):
            inside = file.relative_to(self.root).parts
            part = parts.get(inside[0], "") if len(inside) > 1 + (self.pattern is None) else ""
            if self.test_pattern is not None:
                part = "test" if re.search(self.test_pattern, file.stem) else part or "train"
            label = inside[-2] if self.pattern is None and len(inside) > 1 else ""
            if self.pattern is not None:
                match = re.search(self.pattern, file.stem)
                if match is None:
                    raise TaskError(f"task.pattern: {self.pattern!r} finds no class in the name {file.name}")
                label = match["label"]
            if not label:
                raise TaskError(
                    f"task.root: {file} is in no class's folder; put it there, or say by `pattern` where its "
                    "name has the class"
                )
            found.append((file, label, part))
        if not found:
            raise TaskError(f"task.root: {self.root} holds no WAV file")
        if self.test_pattern is not None and all(part != "test" for _, _, part in found):
            raise TaskError(f"task.test_pattern: {self.test_pattern!r} finds no file, so nothing is the test")
        return found

    def _choose(self, there: Sequence[str]) -> list[str]:
        """Return the classes to learn, then those of the test alone."""
        for key, names in (("classes", self.classes or ()), ("test_classes", self.test_classes)):
            unknown = [name for name in names if name not in there]
            if unknown:
                raise TaskError(f"task.{key}: there is no class {unknown[0]!r}; {nearest(unknown[0], there)}")
        both = sorted(set(self.classes or ()) & set(self.test_classes))
        if both:
            raise TaskError(f"task.test_classes: must not be among the classes, {', '.join(both)} are")
        own = [name for name in there if name not in self.test_classes and name in (self.classes or there)]
        return [*own, *self.test_classes]

    def _split(self, said: Sequence[str], labels: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
        """Return the places of training, validation and test files."""
        if self.validation + self.test >= 1:
            total = self.validation + self.test
            raise TaskError(f"task: validation + test must be below 1, got {total:g}")
        is_new = labels >= len(classes) - len(self.test_classes)
        places = {
            part: torch.tensor([own == part for own in said]) & ~is_new for part in ("validation", "test")
        }
        pool = (~is_new & ~places["validation"] & ~places["test"]).nonzero().flatten()
        if self.test_classes:  # what is said to be test of other classes is left out
            places["test"] = is_new
        shares = [0.0 if places[part].any() else getattr(self, part) for part in ("validation", "test")]
        cut = stratified(labels[pool], shares, self.split_seed)
        drawn = dict(zip(("validation", "test"), cut, strict=False))
        found = {
            part: own.nonzero().flatten() if own.any() else pool[drawn[part]] for part, own in places.items()
        }
        return {"train": pool[cut[2]], **found}


def _wav_files(folder: Path) -> Iterator[Path]:
    return (file for file in files_inside(folder) if file.suffix.lower() == _ENDING)


def _read_all(files: Sequence[Path], spectrogram: Spectrogram) -> Tensor:
    """Read all files, or name those that cannot be read."""

    def read(file: Path) -> Tensor | str:
        try:
            return spectrogram.of_file(file)
        except TaskError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(read, files))
    bad = [words for words in found if isinstance(words, str)]
    if bad:
        shown = "\n  ".join(bad[:20]) + (f"\n  and {len(bad) - 20} more" if len(bad) > 20 else "")
        raise TaskError(f"{len(bad)} of {len(files)} files cannot be read; mend or remove them:\n  {shown}")
    return torch.stack([own for own in found if isinstance(own, Tensor)])


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"audio-folder": AudioFolder}
