"""Plugins: found by entry-point metadata, imported only when used, kept from harming the host.

An entry point of the group `learnforge` says by its name what it brings (`searcher.evolution`; a name without
a dot is a hooks-only plugin), so finding out what there is imports nothing. A `Plugins` object holds the
plugins of one run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import frozen

from learnforge import hookspecs
from learnforge.errors import InstallError, PluginError, PluginWarning, Problem, nearest
from learnforge.options import plain, structure

if TYPE_CHECKING:
    from learnforge.task import Batch


@frozen
class Plugin:
    """What the metadata of one entry point, or one file, say about a plugin.

    Args:
        name: Entry-point name: `kind.method`, or a hooks-only plugin's plain name.
        distribution: Name of the distribution that brings it, or the file.
        version: The distribution's version; the file's hash for a file.
        entry_point: What imports it; None for a file.
    """

    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint | None = None

    @property
    def kind(self) -> str:
        """The part before the dot; `hooks` where there is none."""
        return self.name.split(".", 1)[0] if "." in self.name else "hooks"

    @property
    def method(self) -> str:
        """The part after the dot: the name that a recipe uses."""
        return self.name.split(".", 1)[-1]

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


@frozen
class Identity:
    """Which code a method is: what a fingerprint and a provenance say about it.

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


@frozen
class PluginChoice:
    """Which plugins a run enables, refuses and loads from files: plain data, sent to worker processes.

    Args:
        enable: Names of hooks-only plugins to load.
        disable: Names of plugins or distributions that are refused before they are imported.
        files: Python files to load as plugins; only the command line and the API can name them.
    """

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


_IDENTITIES: weakref.WeakKeyDictionary[type, Identity] = weakref.WeakKeyDictionary()


class Plugins:
    """The plugins of one run: looks methods up by kind and name, and calls hooks.

    Args:
        choice: What is enabled, disabled and loaded from files.

    Raises:
        InstallError: learnforge runs from a checkout that was not installed.
        PluginError: A name in `choice` does not exist, or a file cannot be loaded.
    """

    def __init__(self, choice: PluginChoice | None = None):
        self.choice = choice or PluginChoice()
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self._modules: dict[str, ModuleType] = {}
        self._loaded: list[tuple[Plugin, ModuleType]] = []
        self._from_files: dict[tuple[str, str], tuple[type, Plugin]] = {}
        self._refuse_unknown_names()
        self._is_loading = True
        for file in self.choice.files:
            self._load_file(Path(file))
        for name in self.choice.enable:
            self._enable(name)
        self._is_loading = False
        self._check_loaded()

    def __reduce__(self) -> tuple[type[Plugins], tuple[PluginChoice]]:
        """Pickle the choice alone: another process loads the same plugins by name and file."""
        return Plugins, (self.choice,)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The relay whose attributes call hooks, `plugins.hook.learnforge_run_started(run=run)`."""
        return self.manager.hook

    @cached_property
    def found(self) -> tuple[Plugin, ...]:
        """All plugins that are installed, from metadata alone, sorted by name.

        Raises:
            InstallError: learnforge's own entry points are missing.
        """
        return installed()

    def is_disabled(self, plugin: Plugin) -> bool:
        """Tell whether the choice refuses this plugin, by its own name or its distribution's."""
        return plugin.name in self.choice.disable or plugin.distribution in self.choice.disable

    def names(self, kind: str) -> list[str]:
        """List the names that a recipe may use for a kind."""
        installed = {p.method for p in self.found if p.kind == kind and not self.is_disabled(p)}
        return sorted(installed | {name for k, name in self._from_files if k == kind})

    def load(self, kind: str, name: str, base: type | None = None) -> type[Any]:
        """Import the plugin that brings a method and return the method's class.

        Args:
            kind: Kind of plugin, a key of `hookspecs.COLLECTING`.
            name: Name of the method.
            base: Class that the method must derive from.

        Raises:
            PluginError: There is no such method, two distributions bring it, it is disabled, or it is broken.
        """
        from_file = self._from_files.get((kind, name))
        plugin = from_file[1] if from_file else self._find(kind, name)
        cls = from_file[0] if from_file else self._method(plugin)
        if base is not None and not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(f"{plugin}: {name!r} must be a subclass of {base.__name__}, got {cls!r}")
        if inspect.isclass(cls):
            _IDENTITIES[cls] = _identity(kind, name, plugin, cls)
        return cls

    def resolve(self, kind: str, table: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
        """Build a method from a table `{ use = name, option = value, … }`; see `options.Resolve`."""
        try:
            cls = self.load(kind, table["use"])
        except PluginError as error:
            problems.append(Problem(f"{path}.use", str(error)))
            return None
        options = {key: value for key, value in table.items() if key != "use"}
        return structure(cls, options, path, problems, self.resolve)

    def batch_transforms(self, stage: str) -> list[Callable[[Batch], Batch]]:
        """Return the `learnforge_batch` implementations, in pluggy's order of calls; empty costs a step
        nothing.
        """
        implementations = reversed(self.hook.learnforge_batch.get_hookimpls())
        return [_batch_transform(impl, stage) for impl in implementations]

    def changing(self) -> list[Identity]:
        """List the loaded plugins that implement a hook which changes results, for fingerprints."""
        implementations = [i for name in hookspecs.CHANGING for i in getattr(self.hook, name).get_hookimpls()]
        modules = {i.plugin_name: i.plugin for i in implementations}
        return [
            Identity("hooks", name, *_distribution_of(self.found, name), _hash_source(module))
            for name, module in sorted(modules.items())
        ]

    def _find(self, kind: str, name: str) -> Plugin:
        wanted = f"{kind}.{name}"
        candidates = [p for p in self.found if p.name == wanted]
        allowed = self._allowed(wanted)
        if candidates and not allowed:
            raise PluginError(f"{candidates[0]} is disabled by `[plugins] disable`")
        if not allowed:
            raise PluginError(f"there is no {kind} {name!r}; {nearest(name, self.names(kind))}")
        return allowed[0]

    def _allowed(self, name: str) -> list[Plugin]:
        """Return the one plugin of this name that is not disabled, or none.

        Raises:
            PluginError: Two distributions bring it.
        """
        allowed = [p for p in self.found if p.name == name and not self.is_disabled(p)]
        if len(allowed) > 1:
            owners = " and ".join(f"{p.distribution} {p.version}" for p in allowed)
            raise PluginError(f"{name!r} is brought by {owners}; disable one of these distributions")
        return allowed

    def _method(self, plugin: Plugin) -> type[Any]:
        """Return what a plugin's collecting hook offers under the plugin's own name."""
        self._import(plugin)
        hook_name = hookspecs.COLLECTING.get(plugin.kind)
        if hook_name is None:
            raise PluginError(
                f"{plugin}: unknown kind {plugin.kind!r}; {nearest(plugin.kind, hookspecs.COLLECTING)}"
            )
        offered = self._offers(self._modules[plugin.name], hook_name, plugin)
        if plugin.method not in offered:
            raise PluginError(
                f"{plugin}: its `{hook_name}` must offer {plugin.method!r}; {nearest(plugin.method, offered)}"
            )
        return offered[plugin.method]

    def _offers(self, module: ModuleType, hook_name: str, plugin: Plugin) -> dict[str, type[Any]]:
        offered: dict[str, type[Any]] = {}
        for impl in getattr(self.hook, hook_name).get_hookimpls():
            if impl.plugin is module:
                try:
                    offered.update(impl.function())
                except Exception as error:
                    raise PluginError(f"{plugin}: `{hook_name}` fails with {_words(error)}") from error
        return offered

    def _import(self, plugin: Plugin) -> None:
        if plugin.name in self._modules:
            return
        assert plugin.entry_point is not None
        try:
            module = plugin.entry_point.load()
        except Exception as error:
            raise PluginError(
                f"{plugin} cannot be imported: {_words(error)}. Mend or uninstall it, or refuse it with "
                f'`[plugins] disable = ["{plugin.name}"]`.'
            ) from error
        self._register(module, plugin)

    def _register(self, module: ModuleType, plugin: Plugin) -> None:
        if module not in self.manager.get_plugins():
            try:
                self.manager.register(module, name=plugin.name)
                self.manager.subset_hook_caller(  # its own hooks come before the check
                    "learnforge_add_hooks", [p for p in self.manager.get_plugins() if p is not module]
                )(manager=self.manager)
                if not self._is_loading:
                    self._check_hooks(module, plugin)
            except Exception as error:
                if self.manager.is_registered(module):
                    self.manager.unregister(module)
                if isinstance(error, PluginError):
                    raise
                raise PluginError(f"{plugin} does not fit learnforge's hooks: {_words(error)}") from error
            self._guard_notifications(module, plugin)
            self._loaded.append((plugin, module))
        self._modules[plugin.name] = module

    def _check_loaded(self) -> None:
        """Check hooks once all is loaded, since a plugin may use a hook that the next one brings."""
        for plugin, module in self._loaded:
            try:
                self._check_hooks(module, plugin)
            except PluginError as error:
                if plugin.entry_point is None:
                    raise
                self.manager.unregister(module)
                warnings.warn(f"{error} The run goes on without it.", PluginWarning, stacklevel=3)

    def _check_hooks(self, module: ModuleType, plugin: Plugin) -> None:
        """Refuse implementations of unknown hooks, and hook names that lack their mark."""
        known = [name for name in vars(self.hook) if getattr(self.hook, name).has_spec()]
        callers = {caller.name: caller for caller in self.manager.get_hookcallers(module) or ()}
        for name, caller in callers.items():
            if not caller.has_spec():
                raise PluginError(f"{plugin} implements an unknown hook `{name}`; {nearest(name, known)}")
        for name in vars(module):
            if name in known and name not in callers and inspect.isfunction(vars(module)[name]):
                raise PluginError(f"{plugin}: `{name}` must be marked with `@learnforge.hookimpl`")

    def _guard_notifications(self, module: ModuleType, plugin: Plugin) -> None:
        for caller in self.manager.get_hookcallers(module) or ():
            if caller.name not in hookspecs.NOTIFYING:
                continue
            for impl in caller.get_hookimpls():
                if impl.plugin is module and not (impl.hookwrapper or impl.wrapper):
                    impl.function = _guarded(impl.function, caller.name, plugin)  # type: ignore[misc]

    def _enable(self, name: str) -> None:
        """Load a hooks-only plugin; a broken one is named and left out."""
        for plugin in self._allowed(name):
            try:
                self._import(plugin)
            except PluginError as error:
                warnings.warn(f"{error} The run goes on without it.", PluginWarning, stacklevel=2)

    def _load_file(self, file: Path) -> None:
        plugin = Plugin(file.stem, str(file), _hash_path(file))
        module = _import_file(file, plugin)
        self._register(module, plugin)
        for kind, hook_name in hookspecs.COLLECTING.items():
            for name, cls in self._offers(module, hook_name, plugin).items():
                self._from_files[kind, name] = (cls, plugin)

    def _refuse_unknown_names(self) -> None:
        owners = {p.distribution for p in self.found}
        names = {p.name for p in self.found}
        for name in self.choice.disable:
            if name not in owners | names:
                raise PluginError(
                    f"`[plugins] disable`: {name!r} is no plugin or distribution; "
                    f"{nearest(name, owners | names)}"
                )
        hooks_only = {p.name for p in self.found if p.kind == "hooks"}
        for name in self.choice.enable:
            if name not in hooks_only:
                raise PluginError(
                    f"`[plugins] enable`: {name!r} is no hooks-only plugin; {nearest(name, hooks_only)}"
                )
            if not self._allowed(name):
                raise PluginError(
                    f"`[plugins]`: {name!r} is both enabled and disabled; take it out of one list"
                )


def installed() -> tuple[Plugin, ...]:
    """Find every installed plugin from entry-point metadata, importing none of them.

    Raises:
        InstallError: learnforge's own entry points are missing, as in a checkout that was never installed.
    """
    points = importlib.metadata.entry_points(group=hookspecs.GROUP)
    found = sorted((_plugin(point) for point in points), key=lambda p: (p.name, p.distribution))
    if not any(p.distribution == "learnforge" for p in found):
        raise InstallError(
            f"learnforge is imported from {Path(__file__).parent}, but it is not installed, so its methods "
            "are not "
            f"registered. Run `pip install -e .` in the checkout."
        )
    return tuple(found)


def identify(method: object) -> Identity:
    """Say which code a method instance is; one that was never loaded by name is identified by its source."""
    cls = type(method)
    if cls in _IDENTITIES:
        return _IDENTITIES[cls]
    module = inspect.getmodule(cls)
    return Identity("local", cls.__qualname__, cls.__module__, "", _hash_source(module) if module else "")


def spell(method: object) -> dict[str, Any]:
    """Write a method instance as the table that a recipe would use: `{"use": name, **options}`."""
    return {"use": identify(method).name, **plain(method, lambda part: identify(part).name)}


def _plugin(point: importlib.metadata.EntryPoint) -> Plugin:
    distribution = point.dist
    if distribution is None:
        return Plugin(point.name, "(unknown)", "", point)
    return Plugin(point.name, distribution.name, distribution.version, point)


def _import_file(file: Path, plugin: Plugin) -> ModuleType:
    """Import a file under a name that depends only on its stem, so that worker processes can unpickle its
    classes.
    """
    name = f"learnforge_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--plugin {file}: must be a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{plugin} cannot be imported: {_words(error)}") from error
    return module


def _guarded(function: Callable[..., Any], hook_name: str, plugin: Plugin) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            warnings.warn(
                f"{plugin}: `{hook_name}` fails with {_words(error)}; the run goes on.",
                PluginWarning,
                stacklevel=2,
            )
            return None

    return call


def _batch_transform(impl: pluggy.HookImpl, stage: str) -> Callable[[Batch], Batch]:
    def transform(batch: Batch) -> Batch:
        arguments = {"batch": batch, "stage": stage}
        changed = impl.function(*[arguments[name] for name in impl.argnames])
        return batch if changed is None else changed  # type: ignore[return-value]

    return transform


def _distribution_of(found: Iterable[Plugin], name: str) -> tuple[str, str]:
    return next(((p.distribution, p.version) for p in found if p.name == name), ("(file)", ""))


def _identity(kind: str, name: str, plugin: Plugin, cls: type) -> Identity:
    """Identify a method; a file counts by its content, wherever it lies."""
    is_file = plugin.entry_point is None
    owner = ("(file)", "") if is_file else (plugin.distribution, plugin.version)
    return Identity(kind, name, *owner, _source_hash(plugin, cls))


def _source_hash(plugin: Plugin, cls: type) -> str:
    """Hash the source where a version does not pin the code: files and editable installs."""
    if plugin.entry_point is not None and not _is_editable(plugin.entry_point):
        return ""
    module = inspect.getmodule(cls)
    return _hash_source(module) if module else ""


def _is_editable(point: importlib.metadata.EntryPoint) -> bool:
    text = point.dist.read_text("direct_url.json") if point.dist else None
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))


def _hash_source(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _hash_path(Path(file)) if file else ""


def _hash_path(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise PluginError(f"the plugin file {file} cannot be read: {error.strerror}") from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
