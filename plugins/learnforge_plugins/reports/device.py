"""What a device took, as the script of `learnforge profile` measured it there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnforge.errors import RunError
from learnforge.files import fingerprint, write_text
from learnforge.report import Section

_KEPT = "device-"
"""Beginning of the names of profiles that a run's folder keeps."""


def keep_profile(folder: Path, file: Path) -> None:
    """Copy a device's profile into a run's folder, where its reports find it from then on; a new one of the
    same device and runtime replaces the old.

    Raises:
        RunError: The file is none, or the disk refuses.
    """
    read_profile(file)
    text = file.read_text(encoding="utf-8")
    found = json.loads(text)
    write_text(folder / f"{_KEPT}{fingerprint([found['device'], found['runtime']])[:8]}.json", text)


def kept_profiles(folder: Path) -> list[Section]:
    """Return the sections of all devices whose profiles a run's folder keeps."""
    sections = []
    for file in sorted(folder.glob(f"{_KEPT}*.json")):
        try:
            sections.append(read_profile(file))
        except RunError as error:
            sections.append(Section("On a device", f"Not known: {error}"))
    return sections


def read_profile(file: Path) -> Section:
    """Return the section of a device: the latency of each network for each number of images.

    Args:
        file: JSON that the script wrote.

    Raises:
        RunError: The file is none of these.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return _section(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} must be the JSON that a script of `learnforge profile` wrote, but it is not: "
            f"{type(error).__name__}: {error}"
        ) from error


def _section(found: Mapping[str, Any]) -> Section:
    times = {name: own["latency_ms"] for name, own in found["networks"].items()}
    batches = sorted({int(batch) for own in times.values() for batch in own})
    rows = [
        (name, *(_spell(own[str(batch)]) if str(batch) in own else "" for batch in batches))
        for name, own in times.items()
    ]
    peak = found["peak_mebibytes"]
    memory = "" if peak is None else f" All in all the script took {peak:,.0f} MiB at its peak."
    error = found.get("error_percent")
    table = "" if error is None else f" As a table of layers it is off by {error} % on average."
    words = f"Median latency by {found['runtime']}, preprocessing left out.{memory}{table}"
    columns = ("network", *(f"{batch} image{'s' if batch > 1 else ''}" for batch in batches))
    return Section(f"On the device {found['device']}", words, columns, rows)


def _spell(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"
