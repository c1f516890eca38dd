"""Imports plugins, registers their hooks, and reports what is wrong with them."""

from __future__ import annotations

import inspect
import linecache
import sys
import time
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pluggy

from learnforge import hookspecs
from learnforge.discovery import GROUP, Plugin, PluginChoice, PluginFile
from learnforge.errors import PluginError, PluginWarning, nearest
from learnforge.plugins.isolation import guard, words


class Loader:
    """The modules of one run's plugins, behind one pluggy manager.

    Args:
        choice: What is enabled, disabled and loaded from files.
        found: All installed plugins.

    Raises:
        PluginError: A file cannot be loaded, or two enabled plugins have one name.
    """

    def __init__(self, choice: PluginChoice, found: Sequence[Plugin]):
        self.choice, self.found = choice, found
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.modules: dict[str, tuple[Plugin, Any]] = {}
        """{key of a plugin: the plugin and its module}; several plugins may share a module."""
        self.registered: list[tuple[Plugin, Any]] = []
        """Every module once, with the plugin by which it was first loaded."""
        self.faults: dict[str, str] = {}
        """{key of a plugin: why it cannot be used}."""
        self.import_seconds: dict[str, float] = {}
        """{key of a plugin: seconds that its import took, with all that it imports}."""
        self._is_starting = True
        for file in choice.files:
            plugin = Plugin(file.name.removesuffix(".py"), file.name, file.sha256)
            self.register(_run_file(file), plugin)
        self._enable()
        self._is_starting = False
        self._check_registered()

    def load(self, plugin: Plugin) -> Any:
        """Return a plugin's module, imported if it was not yet.

        Raises:
            PluginError: It cannot be imported, or its hooks are wrong.
        """
        if plugin.key not in self.modules:
            assert plugin.entry_point is not None, "files are loaded at the start"
            start = time.perf_counter()
            try:
                module = plugin.entry_point.load()
            except (Exception, SystemExit) as error:
                fault = f"{plugin} cannot be imported: {words(error)}. {plugin.way_out}"
                raise self._failed(plugin, fault) from error
            self.import_seconds[plugin.key] = time.perf_counter() - start
            self.register(module, plugin)
        return self.modules[plugin.key][1]

    def register(self, module: Any, plugin: Plugin) -> None:
        """Let a module's hooks take part.

        Raises:
            PluginError: Its hooks are unknown or take wrong arguments.
        """
        if not self.manager.is_registered(module):
            # pluggy warns of deprecated hooks and arguments, and does not say whose
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    self._add(module, plugin)
                except PluginError as error:
                    self.forget(module)
                    raise self._failed(plugin, str(error)) from error
                except (Exception, SystemExit) as error:
                    self.forget(module)
                    fault = f"{plugin} does not fit learnforge's hooks: {error}. {plugin.way_out}"
                    raise self._failed(plugin, fault) from error
            for warning in caught:
                self.complain(f"{plugin}: {warning.message}")
            self._guard_notifications(module, plugin)
            self.registered.append((plugin, module))
        self.modules[plugin.key] = (plugin, module)

    def forget(self, module: Any) -> None:
        """Take a module's hooks out again."""
        if self.manager.is_registered(module):
            self.manager.unregister(module)
        self.registered = [(plugin, other) for plugin, other in self.registered if other is not module]
        self.modules = {key: pair for key, pair in self.modules.items() if pair[1] is not module}

    def has_hook(self, name: str) -> bool:
        """Tell whether a hook is specified, by learnforge or by a loaded plugin."""
        caller = getattr(self.manager.hook, name, None)
        return caller is not None and caller.has_spec()

    def hooks_of(self, module: Any) -> list[str]:
        """List the hooks that a registered module implements."""
        return sorted(caller.name for caller in self.manager.get_hookcallers(module) or ())

    def offers(self, module: Any, hook_name: str, plugin: Plugin) -> dict[str, Any]:
        """Return what a module offers by a collecting hook, {name: class}.

        Raises:
            PluginError: The hook fails, or gives something else.
        """
        for impl in getattr(self.manager.hook, hook_name).get_hookimpls():
            if impl.plugin is module:
                try:
                    return dict(impl.function())
                except (Exception, SystemExit) as error:
                    fault = f"{plugin}: `{hook_name}` fails with {words(error)}. {plugin.way_out}"
                    raise PluginError(fault) from error
        return {}

    def complain(
        self, message: str, error: BaseException | None = None, consequence: str = "The run goes on."
    ) -> None:
        """Report a fault that the run survives; raise it where plugins are held strictly.

        Raises:
            PluginError: The choice is strict.
        """
        if self.choice.strict:
            raise PluginError(message) from error
        warnings.warn(f"{message} {consequence}", PluginWarning, stacklevel=3)

    def _enable(self) -> None:
        """Load what is enabled; what cannot be used, and what is broken, is named and left out."""
        enabled = [p for p in self.found if (self.choice.verdict(p) or ("", ""))[0] == "enable"]
        for plugin in enabled:
            twins = [p for p in enabled if p.name == plugin.name]
            if len(twins) > 1:
                owners = " and ".join(f"{p.distribution} {p.version}" for p in twins)
                raise PluginError(
                    f"{plugin.name!r} is brought by {owners}; enable {plugin.key!r}, or disable one of them"
                )
            try:
                if plugin.incompatible:
                    raise PluginError(f"{plugin} is incompatible: {plugin.incompatible}.")
                self.load(plugin)
            except PluginError as error:
                self.complain(str(error), error, "The run goes on without it.")

    def _add(self, module: Any, plugin: Plugin) -> None:
        self.manager.register(module, name=plugin.key)
        others = [p for p in self.manager.get_plugins() if p is not module]
        # the hooks that it brings come before the check of those that it implements
        self.manager.subset_hook_caller("learnforge_add_hooks", others)(manager=self.manager)
        if not self._is_starting:
            self._check_hooks(module, plugin)

    def _check_registered(self) -> None:
        """Check hooks once all is loaded, since a plugin may use a hook that the next one brings."""
        for plugin, module in tuple(self.registered):
            try:
                self._check_hooks(module, plugin)
            except PluginError as error:
                if plugin.entry_point is None:
                    raise
                self.forget(module)
                self.complain(str(self._failed(plugin, str(error))), error, "The run goes on without it.")

    def _check_hooks(self, module: Any, plugin: Plugin) -> None:
        """Refuse implementations of unknown hooks, and hook names that lack their mark."""
        known = [name for name in vars(self.manager.hook) if self.has_hook(name)]
        implemented = self.hooks_of(module)
        for name in implemented:
            if name not in known:
                fault = f"{plugin} implements an unknown hook `{name}`; {nearest(name, known)}."
                raise PluginError(f"{fault} {plugin.way_out}")
        for name, value in getattr(module, "__dict__", {}).items():
            if name in known and name not in implemented and inspect.isfunction(value):
                fault = f"{plugin}: `{name}` must be marked with `@learnforge.hookimpl`."
                raise PluginError(f"{fault} {plugin.way_out}")

    def _guard_notifications(self, module: Any, plugin: Plugin) -> None:
        for caller in self.manager.get_hookcallers(module) or ():
            for impl in caller.get_hookimpls() if caller.name in hookspecs.NOTIFYING else ():
                if impl.plugin is module:
                    guard(impl, caller.name, plugin, self.complain)

    def _failed(self, plugin: Plugin, fault: str) -> PluginError:
        self.faults[plugin.key] = fault
        return PluginError(fault)


def _run_file(file: PluginFile) -> ModuleType:
    """Run a plugin file as a module whose name depends only on the file's, so that workers can unpickle its
    classes; one that runs already with the same content is returned as it is.
    """
    name = f"learnforge_plugin_{file.name.removesuffix('.py')}"
    running = sys.modules.get(name)
    if running is not None and getattr(running, "__learnforge_source__", None) == file.sha256:
        return running
    module = ModuleType(name)
    module.__file__ = file.path
    vars(module)["__learnforge_source__"] = file.sha256
    lines = file.source.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[file.path] = (len(file.source), None, lines, file.path)  # tracebacks show what runs
    sys.modules[name] = module
    try:
        exec(compile(file.source, file.path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"the plugin file {file.path} cannot be imported: {words(error)}") from error
    return module
