"""Which code a method is: what fingerprints and provenances say about it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from learnforge.errors import PluginError
from learnforge.options.structure import plain
from learnforge.plugins.found import Plugin
from learnforge.plugins.kinds import GROUP

FROM_FILE = "(file)"
"""Stands for the distribution of a plugin file, which counts by its content, wherever it lies."""


@frozen
class Identity:
    """Which code a method is.

    Args:
        kind: Kind of plugin, such as `distiller`.
        name: Name in recipes.
        distribution: Who brings it.
        version: Version of the distribution.
        source: SHA-256 of the source file where the version does not pin it (editable installs and files),
            else "".
    """

    kind: str
    name: str
    distribution: str
    version: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name} of {self.distribution} {self.version}".rstrip()


_IDENTITIES: weakref.WeakKeyDictionary[type, Identity] = weakref.WeakKeyDictionary()


def identify(method: object) -> Identity:
    """Say which code a method instance is; one that was never loaded by name is identified by its source."""
    cls = type(method)
    if cls in _IDENTITIES:
        return _IDENTITIES[cls]
    return Identity("local", cls.__qualname__, cls.__module__, "", hash_source(inspect.getmodule(cls)))


def spell(method: object) -> dict[str, Any]:
    """Write a method instance as the table that a recipe would use: `{"use": name, **options}`."""
    return {"use": identify(method).name, **plain(method, lambda part: identify(part).name)}


def remember(kind: str, name: str, plugin: Plugin, cls: type) -> None:
    """Note which plugin a class was loaded from, and by which name."""
    _IDENTITIES[cls] = Identity(kind, name, *owner_of(plugin), pin_source(plugin, inspect.getmodule(cls)))


def owner_of(plugin: Plugin) -> tuple[str, str]:
    """Return distribution and version of a plugin as records name them."""
    return (FROM_FILE, "") if plugin.entry_point is None else (plugin.distribution, plugin.version)


def hash_source(module: ModuleType | None) -> str:
    """Hash (hex) a module's source; a plugin file's as it was when it was read; "" where there is none."""
    read = getattr(module, "__learnforge_source__", None)
    if read is not None:
        return str(read)
    file = getattr(module, "__file__", None)
    if not file:
        return ""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise PluginError(f"the source of a method, {file}, cannot be read: {error.strerror}") from error


def pin_source(plugin: Plugin, module: ModuleType | None) -> str:
    """Hash (hex) a plugin's module where its version does not pin the code: editable installs and files."""
    is_pinned = plugin.entry_point is not None and not _is_editable(plugin.entry_point)
    return "" if is_pinned else hash_source(module)


def core_version() -> str:
    """Return learnforge's version, with a hash of its packages' code where the install is editable."""
    distribution = importlib.metadata.distribution(GROUP)
    if not _says_editable(distribution):
        return distribution.version
    digest = hashlib.sha256()
    for root in _editable_roots(distribution):
        for file in sorted(root.rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{distribution.version}+source.{digest.hexdigest()[:12]}"


def _editable_roots(distribution: importlib.metadata.Distribution) -> list[Path]:
    """List the folders that an editable install puts on the path; the core's alone where it names none."""
    files = [Path(str(file.locate())) for file in distribution.files or () if file.suffix == ".pth"]
    lines = [Path(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.is_dir()] or [Path(__file__).parents[1]]


def _is_editable(point: importlib.metadata.EntryPoint) -> bool:
    return point.dist is not None and _says_editable(point.dist)


def _says_editable(distribution: importlib.metadata.Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))
