"""Finds installed plugins by their entry points, importing none of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any

from attrs import frozen

from learnforge.errors import InstallError
from learnforge.plugins.kinds import GROUP


@frozen
class Plugin:
    """What the metadata of one entry point, or one file, say about a plugin.

    Args:
        name: Entry-point name: `kind.method`, or a hooks-only plugin's plain name. A file's is its stem.
        distribution: Name of the distribution that brings it, or of the file.
        version: The distribution's version; a file's hash.
        entry_point: What imports it; None for a file.
        incompatible: Why this version of learnforge cannot use it, or "".
    """

    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint | None = None
    incompatible: str = ""

    @property
    def kind(self) -> str:
        """The part before the dot; `hooks` where there is none."""
        return self.name.split(".", 1)[0] if "." in self.name else "hooks"

    @property
    def method(self) -> str:
        """The part after the dot: the name that a recipe uses."""
        return self.name.split(".", 1)[-1]

    @property
    def key(self) -> str:
        """`distribution:name`, which no other plugin has."""
        return f"{self.distribution}:{self.name}"

    @property
    def way_out(self) -> str:
        """What to do about a fault of this plugin, in a sentence."""
        if self.entry_point is None:
            return "Mend it, or leave it out."
        refuse = f'`--no-plugin {self.name}` or `[plugins] disable = ["{self.name}"]`'
        return f"Mend or uninstall it, or refuse it with {refuse}."

    def is_named(self, word: str) -> bool:
        """Tell whether a word means this plugin: its name, its distribution, or `distribution:name`."""
        owner, colon, name = word.rpartition(":")
        if colon:
            return name == self.name and self.is_of(owner)
        return word == self.name or self.is_of(word)

    def is_of(self, distribution: str) -> bool:
        """Tell whether a distribution brings this plugin; upper case and `_` for `-` make no difference."""
        first, second = (name.lower().replace("_", "-") for name in (distribution, self.distribution))
        return first == second

    def __str__(self) -> str:
        if self.entry_point is None:
            return f"plugin file {self.distribution}" if self.version else f"{self.name} {self.distribution}"
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


def installed() -> tuple[Plugin, ...]:
    """Find every installed plugin from entry-point metadata, importing none of them, sorted by name.

    Raises:
        InstallError: learnforge's own entry points are missing, as in a checkout that was never installed.
    """
    owners: dict[int, _Owner] = {}
    try:
        points = tuple(importlib.metadata.entry_points(group=GROUP))
        for point in points:
            if id(point.dist) not in owners:  # reading a distribution's metadata parses a file each time
                owners[id(point.dist)] = _Owner.of(point.dist)
    except ValueError:  # the files of some distribution, whosever it is, are no UTF-8
        points = _readable_points()
        owners = {id(point.dist): _Owner.of(point.dist) for point in points}
    core = next((owner for owner in owners.values() if owner.name == GROUP), None)
    if core is None:
        raise InstallError(
            f"learnforge is imported from {Path(__file__).parents[1]}, but it is not installed, so its "
            f"methods are not registered. Run `pip install -e .` in the checkout."
        )
    reasons = {key: _incompatibility(owner, core.version) for key, owner in owners.items()}
    owned = [(point, owners[id(point.dist)], reasons[id(point.dist)]) for point in points]
    found = [Plugin(point.name, owner.name, owner.version, point, why) for point, owner, why in owned]
    return tuple(sorted(found, key=lambda p: (p.name, p.distribution)))


def unreadable_distributions() -> list[str]:
    """List the folders of installed distributions whose names or entry points cannot be read."""
    broken = [each for each in importlib.metadata.distributions() if not _is_readable(each)]
    return [str(getattr(each, "_path", each)) for each in broken]


def _readable_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return the entry points of the distributions that can be read; of two of one name the first counts."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for each in importlib.metadata.distributions():
        if _is_readable(each):
            found.setdefault(_normal(each.metadata["Name"] or ""), each)
    return tuple(point for each in found.values() for point in each.entry_points.select(group=GROUP))


def _is_readable(distribution: importlib.metadata.Distribution) -> bool:
    try:
        return bool(distribution.metadata["Name"]) and distribution.entry_points is not None
    except ValueError:
        return False


def missing_module(plugin: Plugin) -> str:
    """Return why a plugin's module cannot be there, found out without importing anything, or ""."""
    point = plugin.entry_point
    if point is None:
        return ""
    match = point.pattern.match(point.value)
    if match is None:
        return f"its entry point must name a module, got {point.value!r}"
    package = match.group("module").split(".")[0]
    if importlib.util.find_spec(package) is None:
        return f"its package {package!r} cannot be found; install {plugin.distribution} again"
    return ""


def locate(plugin: Plugin) -> Path | None:
    """Return the file of a plugin's module, of a package its `__init__.py`, which need not be there; None
    where its top-level package is not found. Imports nothing.
    """
    match = plugin.entry_point.pattern.match(plugin.entry_point.value) if plugin.entry_point else None
    if match is None:
        return None
    package, *parts = match.group("module").split(".")
    try:
        spec = importlib.util.find_spec(package)  # of a top-level package: that runs none of its code
    except ValueError:  # a module in memory that does not say where it is from
        return None
    if spec is None or spec.origin is None:
        return None
    if not parts:
        return Path(spec.origin)
    place = Path(spec.origin).parent.joinpath(*parts)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@frozen
class _Owner:
    """What is read of a distribution."""

    name: str
    version: str
    requires: tuple[str, ...] = ()

    @classmethod
    def of(cls, distribution: Any) -> _Owner:
        if distribution is None:
            return cls("(unknown)", "")
        metadata = distribution.metadata
        name, version = metadata["Name"] or "(unknown)", metadata["Version"] or "(unknown)"
        return cls(name, version, tuple(metadata.get_all("Requires-Dist") or ()))


def _incompatibility(owner: _Owner, core: str) -> str:
    """Hold a distribution's requirement on learnforge, where it has one, against the core that runs."""
    if owner.name == GROUP:
        return ""
    for text in owner.requires:
        if _normal(re.split(r"[^\w.-]", text, maxsplit=1)[0]) != GROUP:
            continue
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            return f"its requirement {text!r} cannot be read; install another version of {owner.name}"
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if applies and not wanted.specifier.contains(core, prereleases=True):
            return (
                f"{owner.name} {owner.version} is written for learnforge {wanted.specifier}, this is {core}; "
                f"install versions of the two that fit"
            )
    return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
