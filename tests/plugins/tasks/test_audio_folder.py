"""WAV files: every type of samples, length and rate, log-mel bands, layouts, and what cannot be read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from learnforge import Plugins, Task, TaskError
from learnforge.options.structure import build
from learnforge_kit import Spectrogram
from learnforge_kit.data.sounds import FLOOR, mel_filters, read_wave
from learnforge_plugins.tasks.audio_folder import AudioFolder
from learnforge_testing import TaskSuite

RATE = 8000


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE, loudness: float = 0.5) -> np.ndarray:
    """Make a tone, float64 [sample] in [-1, 1]."""
    return loudness * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)


def save(path: Path, wave: np.ndarray, rate: int = RATE) -> Path:
    """Write 16-bit samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (wave * 32767).round().astype(np.int16))
    return path


def fill(root: Path, count: int = 10, classes: tuple[str, ...] = ("high", "low", "middle")) -> Path:
    """Write a folder for each class, every tone of another height."""
    for place, name in enumerate(classes):
        for number in range(count):
            save(root / name / f"{number}.wav", tone(300 * (place + 1) + 7 * number))
    return root


@pytest.fixture
def load(plugins: Plugins, tmp_path: Path) -> Any:
    """Load the folder `data`."""

    def load_folder(**options: Any) -> Task:
        given = {"root": str(tmp_path / "data"), "rate": RATE, "seconds": 0.5, "mels": 20, **options}
        return build(plugins.load("task", "audio-folder"), given, "test").load()  # type: ignore[no-any-return]

    return load_folder


def test_it_keeps_the_duties_of_tasks(tmp_path: Path) -> None:
    """Class folders of tones pass the suite."""
    options = {"root": str(fill(tmp_path / "data", 20)), "rate": RATE, "seconds": 0.5, "mels": 16}
    suite = TaskSuite.of(AudioFolder, options)
    assert [outcome for outcome in suite.run() if outcome.state == "failed"] == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_samples_of_any_type_are_the_same_wave(tmp_path: Path, dtype: Any) -> None:
    """Unsigned bytes, whole numbers and floats all become [-1, 1]."""
    wave = tone(440)
    scale = {np.uint8: 127, np.int16: 32767, np.int32: 2**31 - 1, np.float32: 1}[dtype]
    stored = (wave * scale + (128 if dtype == np.uint8 else 0)).astype(dtype)
    wavfile.write(tmp_path / "own.wav", RATE, stored)
    found = read_wave(tmp_path / "own.wav", RATE).numpy()
    np.testing.assert_allclose(found, wave, atol=0.02 if dtype == np.uint8 else 1e-3)


def test_channels_are_averaged_and_rates_changed(tmp_path: Path) -> None:
    """Stereo at 16 kHz becomes the mean at 8 kHz, of half as many samples."""
    both = np.stack([tone(300, rate=16_000), tone(300, rate=16_000, loudness=0.1)], 1).astype(np.float32)
    wavfile.write(tmp_path / "own.wav", 16_000, both)
    found = read_wave(tmp_path / "own.wav", RATE)
    assert len(found) == 4000
    np.testing.assert_allclose(found[100:-100], tone(300, loudness=0.3)[100:-100], atol=2e-3)


def test_a_tone_is_in_its_band() -> None:
    """The band whose triangle is over a tone's frequency is the loudest, and silence is the floor."""
    own = Spectrogram(RATE, 0.5, 20, 32.0, 16.0)
    for hertz in (250.0, 1000.0, 3000.0):
        found = own.of_wave(torch.from_numpy(tone(hertz).astype(np.float32)))
        assert found.shape == (1, 20, 32)
        mel = 2595 * math.log10(1 + hertz / 700)
        top = 2595 * math.log10(1 + RATE / 2 / 700)
        assert abs(int(found[0, :, 16].argmax()) + 1 - 21 * mel / top) <= 1
    silent = own.of_wave(torch.zeros(100))
    torch.testing.assert_close(silent, torch.full((1, 20, 32), math.log(FLOOR)))


def test_filters_are_triangles_that_sum_to_one() -> None:
    """Between the first and the last peak every frequency is shared out among two bands."""
    filters = mel_filters(16_000, 512, 40)
    assert filters.shape == (40, 257)
    peaks = filters.argmax(1)
    middle = filters[:, int(peaks[0]) + 1 : int(peaks[-1])].sum(0)
    torch.testing.assert_close(middle, torch.ones_like(middle), atol=1e-5, rtol=0)
    assert bool((peaks.diff() >= 0).all())


def test_the_middle_is_heard_and_silence_put_around() -> None:
    """Longer waves lose both ends evenly, shorter ones get silence at both."""
    own = Spectrogram(RATE, 0.1, 8, 8.0, 4.0)
    wave = torch.from_numpy(tone(500, 0.2).astype(np.float32))
    torch.testing.assert_close(own.of_wave(wave), own.of_wave(wave[400:1200]))
    short = wave[:301]
    padded = torch.cat([torch.zeros(249), short, torch.zeros(250)])
    torch.testing.assert_close(own.of_wave(short), own.of_wave(padded))


def test_classes_are_folders_or_in_names(load: Any, tmp_path: Path) -> None:
    """Both layouts give the same task, but for its origins' order of files."""
    fill(tmp_path / "data")
    task = load()
    assert task.info.classes == ("high", "low", "middle")
    assert task.info.input_shape == (1, 20, 32)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [18, 6, 6]
    for file in sorted((tmp_path / "data").rglob("*.wav")):
        file.rename(tmp_path / "data" / f"{file.parent.name}_{file.name}")
    named = load(pattern="^(?P<label>[a-z]+)_", test_pattern="_[01]$")
    assert named.info.classes == task.info.classes
    assert [len(split) for split in (named.train, named.validation, named.test)] == [18, 6, 6]
    assert sorted(named.test.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(TaskError, match="is in no class's folder; put it there, or say by `pattern`"):
        load()
    with pytest.raises(TaskError, match=r"'_x\$' finds no file, so nothing is the test"):
        load(pattern="^(?P<label>[a-z]+)_", test_pattern="_x$")
    with pytest.raises(TaskError, match="finds no class in the name"):
        load(pattern="(?P<label>[0-9]{5})")


def test_folders_of_splits_are_taken_as_they_are(load: Any, tmp_path: Path) -> None:
    """A file in `test` is test; what has no folder is split off the training files."""
    fill(tmp_path / "data" / "train")
    fill(tmp_path / "data" / "test", 3)
    task = load()
    assert [len(split) for split in (task.train, task.validation, task.test)] == [24, 6, 9]


def test_test_classes_are_only_tested(load: Any, tmp_path: Path) -> None:
    """All of their files are the test, none of the others'."""
    fill(tmp_path / "data")
    task = load(test_classes=["low"])
    assert task.info.classes == ("high", "middle", "low")
    assert task.test.labels.tolist() == [2] * 10
    assert [len(split) for split in (task.train, task.validation)] == [16, 4]
    for name in ("high", "middle"):
        for number in range(4):
            save(tmp_path / "data" / "test" / name / f"{number}.wav", tone(2000 + number))
    again = load(test_classes=["low"])  # what is said to be the test is left out, not learnt from
    assert [len(split) for split in (again.train, again.validation, again.test)] == [16, 4, 10]
    with pytest.raises(TaskError, match="there is no class 'midle'; did you mean 'middle'"):
        load(test_classes=["midle"])


def test_new_files_are_read_as_the_training_files_were(load: Any, tmp_path: Path) -> None:
    """Of files and of folders; what cannot be read is told and left out."""
    fill(tmp_path / "data")
    task = load()
    good, bad = tmp_path / "data" / "low" / "0.wav", tmp_path / "bad.wav"
    bad.write_bytes(b"RIFFnothing")
    told: list[str] = []
    ((names, inputs),) = AudioFolder.read([good, bad, tmp_path / "data" / "high"], task.info, told.append)
    assert names == [str(good), *(str(tmp_path / "data" / "high" / f"{n}.wav") for n in range(10))]
    own = Spectrogram(RATE, 0.5, 20, 32.0, 16.0)
    assert torch.equal(inputs[0], own.of_file(good))
    assert len(told) == 1
    assert "bad.wav cannot be read as a WAV file" in told[0]


def test_files_that_cannot_be_read_are_all_named(load: Any, tmp_path: Path) -> None:
    """Before anything is trained."""
    fill(tmp_path / "data")
    for name in ("x", "y"):
        (tmp_path / "data" / "low" / f"{name}.wav").write_bytes(b"no sound")
    wavfile.write(tmp_path / "data" / "low" / "empty.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(TaskError, match="3 of 33 files cannot be read") as told:
        load()
    assert all(f"{name}.wav" in str(told.value) for name in ("x", "y", "empty"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "("}, "must be a regular expression"),
        ({"pattern": "[a-z]"}, r"must have a group \(\?P<label>"),
        ({"mels": 1}, "mels"),
    ],
)
def test_wrong_options_are_refused(load: Any, options: dict[str, Any], words: str) -> None:
    """A pattern that finds nothing, before any file is read."""
    with pytest.raises(Exception, match=words):
        load(**options)
