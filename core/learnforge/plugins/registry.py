"""The plugins of one run: looks methods up by kind and name, and calls hooks."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import asdict, evolve

from learnforge import hookspecs
from learnforge.errors import PluginError, PluginWarning, Problem, nearest
from learnforge.options.structure import structure
from learnforge.plugins.choice import PluginChoice, Standing, beside, is_usable, survey
from learnforge.plugins.found import Plugin, installed
from learnforge.plugins.identity import Identity, bring_back, code_of, identify_hooks, pin_source, remember
from learnforge.plugins.isolation import as_transform, watching
from learnforge.plugins.kinds import GROUP, KINDS, hook_of
from learnforge.plugins.loading import Loader

if TYPE_CHECKING:
    import torch

    from learnforge.kinds.task import Batch


class Plugins:
    """The plugins of one run.

    Args:
        choice: What is enabled, disabled and loaded from files; the environment has the last word.

    Raises:
        InstallError: learnforge runs from a checkout that was not installed.
        PluginError: A name in `choice` does not exist, or a file cannot be loaded.
    """

    def __init__(self, choice: PluginChoice | None = None):
        self.choice = (choice or PluginChoice()).with_environment(os.environ)
        self.choice.check(self.found)
        self._loader = Loader(self.choice, self.found)
        self._files: dict[str, list[tuple[Plugin, type]]] = {}
        for kind in KINDS:
            self._in_files(kind)  # a file at fault is found now, not when its method is used
        for plugin, cls in [pair for found in self._files.values() for pair in found]:
            self._remember(plugin, cls)  # in a worker, whose objects are unpickled, too

    def __reduce__(self) -> tuple[Callable[..., Plugins], tuple[PluginChoice, list[tuple[str, str]]]]:
        """Pickle the choice and the names of what is loaded: another process loads the same plugins, files
        by their content, and knows their classes by the same names.
        """
        # hooks-only plugins come with the choice, and commands run in this process alone
        own = [p for p in self.loaded if p.entry_point is not None and p.kind not in ("hooks", "command")]
        return _load_again, (self.choice, [(p.kind, f"{p.distribution}:{p.method}") for p in own])

    @property
    def manager(self) -> pluggy.PluginManager:
        """The pluggy manager behind it, with a plugin for each module, named `distribution:name`."""
        return self._loader.manager

    @property
    def hook(self) -> pluggy.HookRelay:
        """The relay whose attributes call hooks, `plugins.hook.learnforge_run_started(run=run)`."""
        return self._loader.manager.hook

    @cached_property
    def found(self) -> tuple[Plugin, ...]:
        """All plugins that are installed, from metadata alone, sorted by name.

        Raises:
            InstallError: learnforge's own entry points are missing.
        """
        return installed()

    @property
    def loaded(self) -> tuple[Plugin, ...]:
        """All plugins that were imported so far."""
        return tuple(plugin for plugin, _ in self._loader.modules.values())

    def standings(self) -> tuple[Standing, ...]:
        """Tell how every plugin stands: what the metadata say, and which were loaded or failed here."""
        files = [Standing(p, "loaded") for p, _ in self._loader.modules.values() if p.entry_point is None]
        standings = [*map(self._standing, survey(self.found, self.choice)), *files]
        usable = [standing.plugin for standing in standings if standing.status in ("available", "loaded")]
        return tuple(beside(standing, usable) for standing in standings)

    def names(self, kind: str) -> list[str]:
        """List the names that a recipe may use for a kind; those of duplicates with their distribution."""
        candidates = self._candidates(kind)
        methods = [plugin.method for plugin in candidates]
        return sorted(
            f"{p.distribution}:{p.method}" if methods.count(p.method) > 1 else p.method for p in candidates
        )

    def find(self, kind: str, name: str) -> Plugin:
        """Return the plugin that brings a method, importing nothing.

        Args:
            kind: Kind of plugin.
            name: Name of the method, or `distribution:name`.

        Raises:
            PluginError: There is no such method, two distributions bring it, or it may not be used.
        """
        owner, _, method = name.rpartition(":")

        def is_meant(plugin: Plugin) -> bool:
            return plugin.name == f"{kind}.{method}" and (not owner or plugin.is_of(owner))

        named = [plugin for plugin in self._candidates(kind) if is_meant(plugin)]
        own = [p for p in named if p.is_of(GROUP) and all(other.entry_point for other in named)]
        if len(named) > 1 and own:  # another package must not break recipes that worked without it
            others = " and ".join(plugin.key for plugin in named if plugin not in own)
            warnings.warn(f"{kind} {name!r} is learnforge's own, not {others}", PluginWarning, stacklevel=2)
        elif len(named) > 1:
            owners = " and ".join(p.distribution + f" {p.version}" * bool(p.entry_point) for p in named)
            choices = " or ".join(f'"{p.distribution}:{method}"' for p in named)
            raise PluginError(f"{kind} {name!r} is brought by {owners}; write {choices}, or disable one")
        if named:
            return (own or named)[0]
        for standing in survey(self.found, self.choice):
            if is_meant(standing.plugin):
                raise PluginError(str(standing))
        kinds = {*KINDS, *(plugin.kind for plugin in self.found)}
        if kind not in kinds and not self.names(kind):
            raise PluginError(f"there is no kind of plugin {kind!r}; {nearest(kind, kinds)}")
        hint = nearest(name, self.names(kind))
        if owner and not any(plugin.is_of(owner) for plugin in self.found):
            hint = bring_back(owner)
        elif "did you mean" not in hint:
            hint += "; one of your own comes from a package, or from `--plugin FILE`"
        raise PluginError(f"there is no {kind} {name!r}; {hint}")

    def load(self, kind: str, name: str, base: type | None = None) -> Any:
        """Import the plugin that brings a method and return the method's class.

        Args:
            kind: Kind of plugin, such as `distiller`.
            name: Name of the method; `distribution:name` chooses between two that bring it.
            base: Class that the method must derive from.

        Raises:
            PluginError: There is no such method, two distributions bring it, it is disabled, or it is broken.
        """
        plugin = self.find(kind, name)
        cls = self._from_file(plugin) or self._method(plugin)
        if base is not None and not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(f"{plugin}: {name!r} must be a subclass of {base.__name__}, got {cls!r}")
        if inspect.isclass(cls):
            # an undecorated subclass inherits the attribute, and would lose its own options
            if "__attrs_attrs__" not in vars(cls):
                raise PluginError(f"{plugin}: {cls.__name__} must be decorated with `@attrs.frozen` itself")
            self._remember(plugin, cls)
        return cls

    def add(self, hooks: Any) -> None:
        """Let an object or module of the caller's take part, its functions marked with `@hookimpl`.

        It is known in this process alone, so it can listen, show and refuse designs, which happens here; what
        acts in worker processes as well must be installed or in a file.

        Raises:
            PluginError: It implements no hook, an unknown one, or one that acts in worker processes; or it
                cannot be hashed.
        """
        from learnforge.plugins.added import add_hooks  # most runs need none of it

        add_hooks(self._loader, hooks)

    def resolve(self, kind: str, table: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
        """Build a method from a table `{ use = name, option = value, … }`; see `options.Resolve`."""
        try:
            cls = self.load(kind, table["use"])
        except PluginError as error:
            problems.append(Problem(f"{path}.use", str(error)))
            return None
        options = {key: value for key, value in table.items() if key != "use"}
        return structure(cls, options, path, problems, self.resolve)

    def batch_transforms(self, **where: Any) -> list[Callable[[Batch, torch.Generator], Batch]]:
        """Return the `learnforge_batch` implementations, in the order of calls; none cost a step nothing.

        Args:
            where: What they are told beside the batch: `task`, `stage` and `part`.
        """
        # pluggy lists implementations in the reverse of the order in which it calls them
        return [as_transform(i, **where) for i in reversed(self.hook.learnforge_batch.get_hookimpls())]

    def gather(
        self, hook_name: str, of: type, prove: Callable[[Any], object] | None = None, **arguments: Any
    ) -> list[Any]:
        """Call a hook whose results, lists of `of`, are shown; what fails, or cannot be proved by `prove`, is
        reported and left out.
        """
        gathered: list[Any] = []
        for impl in reversed(getattr(self.hook, hook_name).get_hookimpls()):
            plugin = next(p for p, module in self._loader.registered if module is impl.plugin)
            with watching(plugin, f"`{hook_name}`", self._loader.complain):
                given = impl.function(*(arguments[name] for name in impl.argnames)) or ()
                results = [given] if isinstance(given, str) else list(given)
                strangers = [result for result in results if not isinstance(result, of)]
                if strangers:
                    raise TypeError(f"it must give objects of {of.__name__}, gave {strangers[0]!r}")
                if prove is not None:
                    list(map(prove, results))
                gathered += results
        return gathered

    def changing(self) -> list[Identity]:
        """List the implementations of hooks that change results, in the order of their calls."""
        return [
            identify_hooks(name, plugin, hooks)
            for name in hookspecs.CHANGING
            for plugin, hooks in self._implementing(name)
        ]

    def implementing(self, hook_name: str) -> list[Plugin]:
        """List the loaded plugins that implement a hook, in the order in which they are called."""
        return [plugin for plugin, _ in self._implementing(hook_name)]

    def _implementing(self, hook_name: str) -> list[tuple[Plugin, Any]]:
        owners = {id(module): (plugin, module) for plugin, module in self._loader.registered}
        return [owners[id(i.plugin)] for i in reversed(getattr(self.hook, hook_name).get_hookimpls())]

    def record(self) -> dict[str, Any]:
        """Return what a run's record says of its plugins: what was chosen, and all that were loaded."""
        return {
            "wishes": [asdict(wish) for wish in self.choice.wishes if not wish.is_empty],
            "strict": self.choice.strict,
            "files": [{"name": f.name, "path": f.path, "sha256": f.sha256} for f in self.choice.files],
            "loaded": [
                {
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "source": pin_source(plugin, module),
                    "hooks": self._loader.hooks_of(module),
                }
                for _, (plugin, module) in sorted(self._loader.modules.items())
            ],
            "code": code_of(self.loaded),
        }

    def module_of(self, plugin: Plugin) -> ModuleType:
        """Return a plugin's module, imported if it was not yet.

        Raises:
            PluginError: It is disabled or incompatible, or cannot be imported.
        """
        for standing in survey(self.found, self.choice):
            if standing.plugin.key == plugin.key and standing.status in ("disabled", "incompatible"):
                raise PluginError(str(standing))
        module: ModuleType = self._loader.load(plugin)
        return module

    def load_hooks(self, name: str) -> bool:
        """Let an installed hooks-only plugin take part from now on, and tell whether it may: one that is
        disabled stays away.

        Raises:
            PluginError: It cannot be imported.
        """
        for plugin in self.found:
            if plugin.name == name and is_usable(plugin, self.choice):
                self._loader.load(plugin)
                return True
        return False

    def hooks_of(self, plugin: Plugin) -> list[str]:
        """List the hooks that a loaded plugin implements."""
        return self._loader.hooks_of(self._loader.modules[plugin.key][1])

    def _standing(self, standing: Standing) -> Standing:
        if standing.plugin.key in self._loader.faults:
            return evolve(standing, status="failed", reason=self._loader.faults[standing.plugin.key])
        is_loaded = standing.plugin.key in self._loader.modules
        return evolve(standing, status="loaded", reason="") if is_loaded else standing

    def _candidates(self, kind: str) -> list[Plugin]:
        """List what may be used for a kind: installed plugins, and methods in files."""
        usable = [p for p in self.found if p.kind == kind and is_usable(p, self.choice)]
        return usable + [plugin for plugin, _ in self._in_files(kind)]

    def _in_files(self, kind: str) -> list[tuple[Plugin, type]]:
        """List the methods of a kind that plugin files bring."""
        hook_name = hook_of(kind)
        if kind not in self._files and self._loader.has_hook(hook_name):
            self._files[kind] = []
            for file, module in self._loader.registered:
                offered = self._loader.offers(module, hook_name, file) if file.entry_point is None else {}
                for name, cls in offered.items():
                    plugin = Plugin(f"{kind}.{name}", file.distribution, file.version)
                    self._files[kind].append((plugin, cls))
                    self._loader.modules[plugin.key] = (plugin, module)
        return self._files.get(kind, [])

    def _remember(self, plugin: Plugin, cls: type) -> None:
        is_only = sum(other.name == plugin.name for other in self._candidates(plugin.kind)) == 1
        owner = "" if is_only or plugin.is_of(GROUP) else f"{plugin.distribution}:"
        remember(plugin.kind, owner + plugin.method, plugin, cls)

    def _from_file(self, plugin: Plugin) -> type | None:
        return next((cls for found, cls in self._in_files(plugin.kind) if found is plugin), None)

    def _method(self, plugin: Plugin) -> Any:
        """Return what a plugin's collecting hook offers under the plugin's own name."""
        module = self._loader.load(plugin)
        hook_name = hook_of(plugin.kind)
        if not self._loader.has_hook(hook_name):
            raise PluginError(
                f"{plugin}: unknown kind {plugin.kind!r}, no loaded plugin brings a hook `{hook_name}`; "
                f"{nearest(plugin.kind, KINDS)}"
            )
        offered = self._loader.offers(module, hook_name, plugin)
        if plugin.method not in offered:
            hint = nearest(plugin.method, offered)
            if hook_name not in self._loader.hooks_of(module):
                implemented = ", ".join(self._loader.hooks_of(module)) or "no hook"
                hint = f"its entry point must name a module with that hook, this one implements {implemented}"
            raise PluginError(f"{plugin}: its `{hook_name}` must offer {plugin.method!r}; {hint}")
        return offered[plugin.method]


def _load_again(choice: PluginChoice, names: Sequence[tuple[str, str]]) -> Plugins:
    """Load what another process loaded, which has told its faults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        plugins = Plugins(choice)
        for kind, name in names:
            with suppress(PluginError):  # what only the other process could load is told when it is used
                plugins.load(kind, name)
        return plugins
