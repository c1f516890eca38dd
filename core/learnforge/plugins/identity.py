"""Which code a method is: what fingerprints and provenances say about it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
from attrs import frozen

from learnforge.errors import PluginError
from learnforge.files import fingerprint, hash_file
from learnforge.options.structure import plain
from learnforge.plugins.found import Plugin, installed
from learnforge.plugins.kinds import GROUP

FROM_FILE = "(file)"
"""Stands for the distribution of a plugin file, which counts by its content, wherever it lies."""

ADDED = "(added in Python)"
"""Stands for the distribution of hooks that the caller added."""


@frozen
class Identity:
    """Which code a method is.

    Args:
        kind: Kind of plugin, such as `distiller`.
        name: Name in recipes.
        distribution: Who brings it.
        version: Version of the distribution.
        source: SHA-256 of all files of the distribution, or of the plugin file.
    """

    kind: str
    name: str
    distribution: str
    version: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name} of {self.distribution} {self.version}".rstrip()


_IDENTITIES: weakref.WeakKeyDictionary[type, Identity] = weakref.WeakKeyDictionary()
_BY_NAME: dict[tuple[str, str], type] = {}


def identify(method: object) -> Identity:
    """Say which code a method instance is; one that was never loaded by name is identified by its source."""
    cls = type(method)
    if cls in _IDENTITIES:
        return _IDENTITIES[cls]
    return Identity("local", cls.__qualname__, cls.__module__, "", hash_source(inspect.getmodule(cls)))


def distribution_of(method: object) -> str:
    """Return who brings a method instance: a distribution, `FROM_FILE`, or "" for code of the caller's."""
    cls = type(method)
    if cls in _IDENTITIES:
        return _IDENTITIES[cls].distribution
    top = cls.__module__.split(".")[0]
    if top.startswith("learnforge_plugin_"):
        return FROM_FILE
    points = ((plugin.entry_point, plugin.distribution) for plugin in installed())
    return next((owner for point, owner in points if point and point.module.split(".")[0] == top), "")


def bring_back(distribution: str) -> str:
    """Say how to get a method back that is not there any more."""
    if distribution == FROM_FILE:
        return "a plugin file brought it; pass that, `--plugin FILE`"
    return f"it is from a package that is not installed: pip install {distribution}"


def spell(method: object) -> dict[str, Any]:
    """Write a method instance as the table that a recipe would use: `{"use": name, **options}`."""
    return {"use": identify(method).name, **plain(method, lambda part: identify(part).name)}


def files_read(value: Any) -> list[str]:
    """Hash what is read from files: what a method's `content()` says, and files and folders among options."""
    if isinstance(value, Path):
        return [_hash_path(value)]
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in files_read(item)]
    if isinstance(value, (tuple, list)):
        return [found for item in value for found in files_read(item)]
    if not attrs.has(type(value)):
        return []
    content = getattr(type(value), "content", None)
    said = content(value) if inspect.isfunction(content) else ""
    fields = [f for f in attrs.fields(type(value)) if not f.metadata.get("placement")]
    return [said, *(found for f in fields for found in files_read(getattr(value, f.name)))]


def _hash_path(path: Path) -> str:
    if path.is_file():
        return _hash_cached(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    return fingerprint([[str(file.relative_to(path)), _hash_cached(file)] for file in files])


def remember(kind: str, name: str, plugin: Plugin, cls: type) -> None:
    """Note which plugin a class was loaded from, and by which name."""
    _IDENTITIES[cls] = Identity(kind, name, *owner_of(plugin), pin_source(plugin, inspect.getmodule(cls)))
    _BY_NAME[kind, name] = cls


def recall(kind: str, name: str) -> type | None:
    """Return the class that was last loaded by a name, if any was."""
    return _BY_NAME.get((kind, name))


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
    """Hash (hex) all code that a plugin comes with: its distribution's files, or the plugin file."""
    if plugin.entry_point is None or plugin.entry_point.dist is None:
        return hash_source(module)
    return fingerprint(hash_code(plugin.entry_point.dist))


def identify_hooks(hook_name: str, plugin: Plugin, hooks: Any) -> Identity:
    """Say which code implements a hook, the hook as its kind."""
    return Identity(hook_name, plugin.name, *owner_of(plugin), hash_hooks(plugin, hooks))


def hash_hooks(plugin: Plugin, hooks: Any) -> str:
    """Hash (hex) a plugin's code; of an object also what it holds: its options, or, where it was added in
    Python, what its repr shows.
    """
    if isinstance(hooks, ModuleType):
        return pin_source(plugin, hooks)
    module = inspect.getmodule(type(hooks))
    if plugin.distribution == ADDED:
        return fingerprint([hash_source(module), repr(hooks)])
    return fingerprint([pin_source(plugin, module), plain(hooks), files_read(hooks)])


def core_version() -> str:
    """Return learnforge's version, with a hash of its packages' code where the install is editable."""
    distribution = importlib.metadata.distribution(GROUP)
    if not _says_editable(distribution):
        return distribution.version
    return f"{distribution.version}+source.{fingerprint(hash_code(distribution))[:12]}"


def hash_code(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """Hash every file that a distribution brings, {name: SHA-256}: as the wheel's RECORD says, or where that
    may lag behind, in editable installs and those without one, as the files are.
    """
    files = distribution.files or []
    recorded = {str(f): str(f.hash.value) for f in files if f.hash is not None and not _is_of_the_install(f)}
    if recorded and not _says_editable(distribution):
        return recorded
    found = [(root, file) for root in _roots(distribution) for file in _code_in(root)]
    return {file.relative_to(root.parent).as_posix(): _hash_cached(file) for root, file in sorted(found)}


def code_of(plugins: Iterable[Plugin]) -> dict[str, dict[str, str]]:
    """Return {distribution: {file: SHA-256}} of all distributions that bring one of some plugins."""
    points = [plugin.entry_point for plugin in plugins if plugin.entry_point is not None]
    owners = {point.dist.name: point.dist for point in points if point.dist is not None}
    return {name: hash_code(owner) for name, owner in sorted(owners.items())}


def _is_of_the_install(file: importlib.metadata.PackagePath) -> bool:
    """Tell whether a file differs from one install of the same wheel to the next."""
    return file.parts[0] == ".." or file.parts[0].endswith(".dist-info") or file.suffix == ".pyc"


def _roots(distribution: importlib.metadata.Distribution) -> list[Path]:
    """List the packages and modules of a distribution: those that its entry points name, and all that lie
    beside them where an editable install puts a folder on the path.
    """
    tops = {point.module.split(".")[0] for point in distribution.entry_points if point.group == GROUP}
    specs = [importlib.util.find_spec(top) for top in sorted(tops)]
    found = [Path(str(spec.origin)) for spec in specs if spec is not None and spec.origin]
    found = [file.parent if file.name == "__init__.py" else file for file in found]
    links = [Path(str(file.locate())) for file in distribution.files or () if file.suffix == ".pth"]
    lines = [Path(line) for link in links for line in link.read_text(encoding="utf-8").splitlines()]
    beside = [file.parent for folder in lines if folder.is_dir() for file in folder.glob("*/__init__.py")]
    return sorted({*found, *(package for package in beside if package.name not in ("tests", "docs"))})


def _code_in(root: Path) -> list[Path]:
    files = [root] if root.is_file() else root.rglob("*")
    return [f for f in files if f.is_file() and "__pycache__" not in f.parts and f.suffix != ".pyc"]


def _hash_cached(file: Path) -> str:
    try:
        state = file.stat()
        return _hash_as_it_was(file, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise PluginError(f"{file}, which counts by its content, cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=4096)
def _hash_as_it_was(file: Path, changed: int, size: int) -> str:
    return hash_file(file)


def _says_editable(distribution: importlib.metadata.Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))
