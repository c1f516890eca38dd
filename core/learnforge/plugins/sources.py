"""Plugin files and folders: read once, so that what was hashed is what runs, in every process."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import field, frozen

from learnforge.errors import PluginError
from learnforge.files import home_path
from learnforge.plugins.isolation import words


@frozen
class PluginFile:
    """A Python file, or a folder of them, that is loaded as a plugin.

    Args:
        path: Where it was read.
        source: What it says; of a folder its `__init__.py`, which need not be there.
        modules: Of a folder: name and source of each of its other files, sorted by name. They import one
            another as `from .name import …`.
    """

    path: str
    source: bytes = field(repr=False)
    modules: tuple[tuple[str, bytes], ...] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: str | Path | PluginFile) -> PluginFile:
        """Read a file or folder; one that was read already is returned as it is.

        Raises:
            PluginError: It cannot be read, or is neither a folder nor a file whose name ends in .py.
        """
        if isinstance(path, PluginFile):
            return path
        file = home_path(path).resolve()
        if file.suffix != ".py" and not file.is_dir():
            raise PluginError(f"the plugin file {path} must be a Python file that ends in .py, or a folder")
        try:
            if not file.is_dir():
                return cls(str(file), file.read_bytes())
            own = sorted(each for each in file.glob("*.py") if each.stem.isidentifier())
            read = {each.stem: each.read_bytes() for each in own}
        except OSError as error:
            raise PluginError(f"the plugin file {path} cannot be read: {error.strerror}") from error
        if not read:
            raise PluginError(f"the plugin folder {path} must hold Python files, it has none")
        return cls(str(file), read.pop("__init__", b""), tuple(read.items()))

    @property
    def name(self) -> str:
        """The name without its folder."""
        return Path(self.path).name

    @property
    def sha256(self) -> str:
        """Hash (hex) of all that was read."""
        import hashlib  # a tenth of the time that a listing takes

        parts = [
            self.source,
            *(part for name, source in self.modules or () for part in (name.encode(), source)),
        ]
        lengths = (
            b"".join(len(part).to_bytes(8, "big") for part in parts) if self.modules is not None else b""
        )
        return hashlib.sha256(lengths + b"".join(parts)).hexdigest()

    @property
    def module(self) -> str:
        """Name of the module that it runs as."""
        return "learnforge_plugin_" + re.sub(r"[^\w-]", "_", self.name.removesuffix(".py"))

    def run(self) -> list[tuple[str, ModuleType]]:
        """Import the file, or all files of the folder, and return each with its name. Modules have names that
        depend only on the file's, so that workers can unpickle their classes; what runs already with the same
        content is not run again.

        Raises:
            PluginError: Something in it raises.
        """
        top = self.module
        running = sys.modules.get(top)
        if running is None or getattr(running, "__learnforge_source__", None) != self.sha256:
            _forget(top)
        path = Path(self.path)
        own = path if self.modules is None else path / "__init__.py"
        _FINDER.sources[top] = (own, self.source, self.sha256, self.modules is not None)
        for name, source in self.modules or ():
            _FINDER.sources[f"{top}.{name}"] = (path / f"{name}.py", source, self.sha256, False)
        if _FINDER not in sys.meta_path:
            sys.meta_path.append(_FINDER)
        names = [(path.name.removesuffix(".py"), top), *((n, f"{top}.{n}") for n, _ in self.modules or ())]
        try:
            return [(name, importlib.import_module(module)) for name, module in names]
        except (Exception, SystemExit) as error:
            _forget(top)
            raise PluginError(
                f"the plugin file {path}: its import fails with {words(error)}{self._way_out(error)}"
            ) from error

    def _way_out(self, error: BaseException) -> str:
        """Say how a file imports the one beside it, where that is what fails."""
        name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        folder = Path(self.path) if self.modules is not None else Path(self.path).parent
        if not name or not (folder / f"{name}.py").is_file():
            return ""
        first = "" if self.modules is not None else f"pass the folder {folder}, and "
        return f"; {name}.py lies beside it: {first}write `from .{name} import …`"


def _forget(top: str) -> None:
    for names in (sys.modules, _FINDER.sources):
        for name in [name for name in names if name == top or name.startswith(f"{top}.")]:
            del names[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules from what was read, {module: (file, source, hash of its plugin, is a package)}."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[Path, bytes, str, bool]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of a plugin file or folder."""
        if fullname not in self.sources:
            return None
        file, _, _, is_package = self.sources[fullname]
        return importlib.util.spec_from_loader(fullname, self, origin=str(file), is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's source as it was read."""
        file, source, sha256, _ = self.sources[module.__name__]
        module.__file__ = str(file)
        vars(module)["__learnforge_source__"] = sha256
        lines = source.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[str(file)] = (len(source), None, lines, str(file))  # tracebacks show what runs
        exec(compile(source, str(file), "exec"), vars(module))


_FINDER: Any = _Finder()
