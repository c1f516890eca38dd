"""Sounds from WAV files, as log-mel spectrograms.

    mel(f) = 2595 log10(1 + f / 700),  filters are triangles between points at equal distances in mel
    x      = log(filters · |STFT|² + 1e-6)

Reference:
    Davis & Mermelstein, Comparison of parametric representations for monosyllabic word recognition in
    continuously spoken sentences, 1980. doi:10.1109/TASSP.1980.1163420
    Young et al., The HTK book (the mel scale's formula), 2006
"""

from __future__ import annotations

import functools
import math
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from learnforge.errors import TaskError
from learnforge.files import require_regular

MOST_RATE = 1_000_000
"""Samples a second that a file may say it has."""

FLOOR = 1e-6
"""Added to the power in each band, of waves in [-1, 1], before the logarithm."""


@frozen
class Spectrogram:
    """How a wave becomes a spectrogram.

    Args:
        rate: Samples a second; files of another rate are resampled.
        seconds: Length; longer waves lose both ends, shorter ones get silence at both.
        mels: Bands, from 2.
        window: Milliseconds of a window.
        hop: Milliseconds from one window to the next.
    """

    rate: int = field(default=16_000, validator=[ge(100), le(MOST_RATE)])
    seconds: float = field(default=1.0, validator=[gt(0.0), le(600.0)])
    mels: int = field(default=40, validator=[ge(2), le(1024)])
    window: float = field(default=32.0, validator=[gt(0.0), le(10_000.0)])
    hop: float = field(default=16.0, validator=[ge(0.1), le(10_000.0)])

    def of_file(self, file: Path) -> Tensor:
        """Read a file into float32 [1, mels, frame].

        Raises:
            TaskError: It cannot be read; its name is in the text.
        """
        return self.of_wave(read_wave(file, self.rate))

    def of_wave(self, wave: Tensor) -> Tensor:
        """Return the spectrogram, float32 [1, mels, frame], of a wave float32 [sample] in [-1, 1]."""
        size = max(1, round(self.seconds * self.rate))
        surplus = len(wave) - size
        if surplus > 0:
            wave = wave[surplus // 2 : surplus // 2 + size]
        elif surplus < 0:
            wave = torch.nn.functional.pad(wave, (-surplus // 2, -surplus - -surplus // 2))
        window = max(2, round(self.window * self.rate / 1000))
        hop = max(1, round(self.hop * self.rate / 1000))
        found = torch.stft(
            wave,
            window,
            hop,
            window=torch.hann_window(window),
            pad_mode="constant",
            return_complex=True,
        )
        filters = mel_filters(self.rate, window, self.mels)
        return torch.log(filters @ found.abs().square() + FLOOR)[None]


@functools.lru_cache(maxsize=16)
def mel_filters(rate: int, window: int, mels: int) -> Tensor:
    """Return triangular filters, float32 [mels, window // 2 + 1], from 0 Hz to half the rate."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)
    low, middle, high = points[:-2, None], points[1:-1, None], points[2:, None]
    rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return torch.minimum(rise, fall).clamp_min(0.0).float()


def read_wave(file: Path, rate: int) -> Tensor:
    """Read a WAV file as float32 [sample] in [-1, 1], the mean of its channels, at a rate.

    Raises:
        TaskError: It cannot be read; its name is in the text.
    """
    from scipy.io import wavfile  # slow to import
    from scipy.signal import resample_poly

    try:
        require_regular(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no sound
            own, samples = wavfile.read(file)
    except Exception as error:  # scipy raises whatever damaged bytes lead it to
        raise TaskError(f"{file} cannot be read as a WAV file: {error}") from error
    if samples.size == 0 or not 1 <= own <= MOST_RATE:
        raise TaskError(f"{file} cannot be read as a WAV file: {samples.size} samples at {own} a second")
    wave = _unit(samples)
    wave = wave.mean(1) if wave.ndim > 1 else wave
    if own != rate:
        ratio = Fraction(rate, int(own))
        wave = resample_poly(wave, ratio.numerator, ratio.denominator)
    if not np.isfinite(wave).all():
        raise TaskError(f"{file} cannot be read as a WAV file: its samples are not finite")
    return torch.from_numpy(wave.astype(np.float32))


def _unit(samples: np.ndarray) -> np.ndarray:
    """Return samples as float64 in [-1, 1], whatever their type in the file."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
