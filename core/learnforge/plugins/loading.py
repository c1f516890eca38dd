"""Imports plugins, registers their hooks, and reports what is wrong with them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs
import pluggy
from attrs import evolve

from learnforge import hookspecs
from learnforge.errors import PluginError, PluginWarning, Problem, RecipeError, nearest
from learnforge.options.structure import structure
from learnforge.plugins.choice import ENVIRONMENT, PluginChoice
from learnforge.plugins.found import Plugin
from learnforge.plugins.isolation import guard, name_owner, watching
from learnforge.plugins.kinds import GROUP, KINDS

_COLLECTING = frozenset({*(kind.hook for kind in KINDS.values()), "learnforge_add_hooks"})
"""Hooks that say what there is, in whatever order they are called."""


class Loader:
    """The modules of one run's plugins, behind one pluggy manager.

    Args:
        choice: What is enabled, disabled and loaded from files.
        found: All installed plugins.

    Raises:
        PluginError: A file cannot be loaded, or two enabled plugins have one name.
        RecipeError: An option of a plugin is wrong.
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
        self._is_starting = True
        for file in choice.files:
            whole = Plugin(file.name, file.name, file.sha256[:12])
            with watching(whole, "its import", self.complain, is_fatal=True):
                modules = list(file.run())
            for name, module in modules:
                plugin = evolve(whole, name=name)
                self.register(module, plugin)
                for cls in _hook_classes(module):
                    own = evolve(plugin, name=cls.__name__)
                    self.register(self._make(cls, own), own)
        self._enable()
        self._is_starting = False
        self._check_registered()
        self._check_settings()

    def load(self, plugin: Plugin) -> Any:
        """Return a plugin's module, imported if it was not yet.

        Raises:
            PluginError: It cannot be imported, or its hooks are wrong.
        """
        if plugin.key not in self.modules:
            assert plugin.entry_point is not None, "files are loaded at the start"
            try:
                with watching(plugin, "its import", self.complain, is_fatal=True):
                    module = plugin.entry_point.load()
            except PluginError as error:
                raise self._failed(plugin, str(error)) from error.__cause__
            self.register(self._make(module, plugin) if inspect.isclass(module) else module, plugin)
        return self.modules[plugin.key][1]

    def register(self, module: Any, plugin: Plugin) -> None:
        """Let a module's hooks take part.

        Raises:
            PluginError: Its hooks are unknown or take wrong arguments.
        """
        if not self.manager.is_registered(module):
            if plugin.key in self.modules:
                raise PluginError(f"{plugin} has two parts called {plugin.name!r}; rename one")
            # pluggy warns of deprecated hooks and arguments, and does not say whose
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    self._add(module, plugin)
                except (Exception, SystemExit) as error:
                    self.forget(module)
                    is_told = isinstance(error, PluginError)
                    fault = f"{plugin} does not fit learnforge's hooks: {error}. {plugin.way_out}"
                    raise self._failed(plugin, str(error) if is_told else fault) from error
            for warning in caught:
                self.complain(f"{plugin}: {warning.message}")
            self._wrap(module, plugin)
            self.registered.append((plugin, module))
            self._put_in_order()
        self.modules[plugin.key] = (plugin, module)

    def _make(self, cls: type[Any], plugin: Plugin) -> Any:
        """Make hooks that are written as a class, with the options of `[plugins.NAME]`.

        Raises:
            PluginError: It is no frozen attrs class.
            RecipeError: An option is wrong.
        """
        problems: list[Problem] = []
        if not attrs.has(cls):
            raise self._failed(plugin, f"{plugin}: {cls.__name__} must be decorated with `@attrs.frozen`")
        hooks = structure(cls, self.choice.options_of(plugin.name), f"plugins.{plugin.name}", problems)
        if hooks is None:
            raise RecipeError(problems, f"options of {plugin}")
        try:
            hash(hooks)
        except TypeError:
            fault = f"{plugin}: {cls.__name__} must be hashable, as by `frozen(eq=False)`"
            raise self._failed(plugin, fault) from None
        return hooks

    def _check_settings(self) -> None:
        """Refuse options of what takes none, and of what is not loaded.

        Raises:
            PluginError: Naming the place, and what takes options here.
        """
        taking = [plugin.name for plugin, hooks in self.registered if attrs.has(type(hooks))]
        loaded = {plugin.name for plugin, _ in self.registered}
        for wish in self.choice.wishes:
            for name in sorted(set(wish.settings) - set(taking)):
                fault = f"{wish.where}: options of {name!r}, which is no loaded plugin"
                if name in loaded:
                    raise PluginError(f"{wish.where}: options of {name!r}, which takes none; take them out")
                is_known = any(plugin.is_named(name) for plugin in self.found)
                hint = f'add "{name}" to `enable`' if is_known else nearest(name, taking)
                if not wish.is_general:
                    raise PluginError(f"{fault}; {hint}")
                if not is_known:  # it is for runs that enable it
                    self.complain(f"{fault}; {hint}.")

    def _put_in_order(self) -> None:
        """Let hooks be called in the stated order: of files and enabled plugins as they are listed, then of
        those added in Python as they were added, then of all others by name.
        """
        acting = [(p, m) for p, m in self.registered if set(self.hooks_of(m)) - _COLLECTING]
        wanted = sorted(acting, key=lambda pair: self._rank(pair[0]))
        # pluggy calls first what was registered last
        for plugin, module in reversed(wanted):
            self.manager.unregister(module)
            with warnings.catch_warnings(action="ignore"):  # told when the module came
                self.manager.register(module, name=plugin.key)
            self._wrap(module, plugin)

    def _rank(self, plugin: Plugin) -> tuple[int, int, str]:
        """Return where a plugin's hooks are called."""
        files = [file.name for file in self.choice.files]
        if plugin.distribution in files and plugin.entry_point is None:
            return 0, files.index(plugin.distribution), ""
        named = [word for wish in self.choice.wishes for word in wish.enable]
        places = [place for place, word in enumerate(named) if plugin.is_named(word)]
        if places and plugin.entry_point is not None:
            return 1, places[0], plugin.key
        return (3, 0, plugin.key) if plugin.entry_point is not None else (2, 0, "")

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
                with watching(plugin, f"`{hook_name}`", self.complain, is_fatal=True):
                    offered = impl.function()
                    if not isinstance(offered, Mapping):
                        raise TypeError(f"it must return {{name: class}}, got {offered!r}")
                    return dict(offered)
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
            chosen = [p for p in twins if self.choice.names_wholly(p)]
            if len(twins) > 1 and len(chosen) == 1:
                if plugin is not chosen[0]:
                    continue
            elif len(twins) > 1:
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
        for plugin, place in self.choice.overruled_by_environment(self.found):
            self.complain(f"{plugin} is enabled by {place} and disabled by {ENVIRONMENT}; it is left out.")

    def _add(self, module: Any, plugin: Plugin) -> None:
        self._check_arguments(module, plugin)
        self.manager.register(module, name=plugin.key)
        others = [p for p in self.manager.get_plugins() if p is not module]
        # the hooks that it brings come before the check of those that it implements
        self.manager.subset_hook_caller("learnforge_add_hooks", others)(manager=self.manager)
        if not self._is_starting:
            self._check_hooks(module, plugin)

    def _check_arguments(self, module: Any, plugin: Plugin) -> None:
        """Refuse arguments that a hook does not have, in words of our own."""
        for name, function in inspect.getmembers(module, inspect.isroutine):
            if not hasattr(function, f"{GROUP}_impl"):
                continue
            if inspect.iscoroutinefunction(function):
                raise PluginError(
                    f"{plugin}: `{name}` must be an ordinary function, not async. {plugin.way_out}"
                )
            if not self.has_hook(name):
                continue
            spec = getattr(self.manager.hook, name).spec
            taken = [p for p in inspect.signature(function).parameters if p != "self"]
            unknown = [argument for argument in taken if argument not in spec.argnames]
            if unknown:
                words = f"{unknown[0]!r}; {nearest(unknown[0], spec.argnames)}"
                raise PluginError(f"{plugin}: `{name}` has no argument {words}. {plugin.way_out}")

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
                continue
            if plugin.kind == "hooks" and plugin.entry_point is not None and not self.hooks_of(module):
                self.complain(f"{plugin} implements no hook, so enabling it does nothing.")

    def _check_hooks(self, module: Any, plugin: Plugin) -> None:
        """Refuse implementations of unknown hooks, and hook names that lack their mark."""
        known = [name for name in vars(self.manager.hook) if self.has_hook(name)]
        implemented = self.hooks_of(module)
        for name in implemented:
            impls = getattr(self.manager.hook, name).get_hookimpls()
            is_optional = all(impl.optionalhook for impl in impls if impl.plugin is module)
            if name not in known and not is_optional:
                fault = f"{plugin} implements an unknown hook `{name}`; {nearest(name, known)}."
                raise PluginError(f"{fault} {plugin.way_out}")
        for name in known:
            if name not in implemented and inspect.isroutine(inspect.getattr_static(module, name, None)):
                fault = f"{plugin}: `{name}` must be marked with `@learnforge.hookimpl`."
                raise PluginError(f"{fault} {plugin.way_out}")

    def _wrap(self, module: Any, plugin: Plugin) -> None:
        """Guard notifications, and let what raises in a hook that changes results say whose it is."""
        for caller in self.manager.get_hookcallers(module) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is not module:
                    continue
                if self.choice.is_tracing:
                    from learnforge.plugins.tracing import trace  # most runs need none of it

                    trace(impl, caller.name, plugin)
                if caller.name in hookspecs.NOTIFYING:
                    guard(impl, caller.name, plugin, self.complain)
                elif caller.name in hookspecs.CHANGING:
                    name_owner(impl, caller.name, plugin, self.complain)

    def _failed(self, plugin: Plugin, fault: str) -> PluginError:
        self.faults[plugin.key] = fault
        return PluginError(fault)


def _hook_classes(module: ModuleType) -> list[type[Any]]:
    """List the classes of a plugin file that are marked with `@hookimpl`, in the order of the file."""
    own = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    return [cls for cls in own if f"{GROUP}_impl" in vars(cls)]
