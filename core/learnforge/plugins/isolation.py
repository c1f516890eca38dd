"""Keeps a plugin's faults in notifications from the host: each is reported once with its owner, and goes
no further.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pluggy

from learnforge.errors import PluginError
from learnforge.hookspecs import CHANGING
from learnforge.plugins.found import Plugin

if TYPE_CHECKING:
    import torch

    from learnforge.kinds.task import Batch

Complain = Callable[..., None]
"""Reports a fault, `complain(words, error)`; raises it instead where plugins are held strictly."""


@contextmanager
def watching(plugin: Plugin, what: str, complain: Complain, is_fatal: bool = False) -> Iterator[None]:
    """Run code of a plugin's: what it raises is told with its owner, but for Ctrl-C, and what it changes of
    torch's global settings is put back and told.

    Args:
        plugin: The plugin.
        what: Which part of it, for the words.
        complain: Told what is wrong.
        is_fatal: Raise what it raises.

    Raises:
        PluginError: It raises, and that is fatal.
    """
    before = _torch().read_settings() if _torch() else None
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (is_fatal and isinstance(error, PluginError)):
            raise
        fault = f"{plugin}: {what} fails with {words(error)}. {plugin.way_out}"
        if is_fatal:
            raise PluginError(fault) from error
        complain(fault, error)
    finally:
        changed = _torch().restore_settings(before or _torch().FRESH) if _torch() else []
    if changed:
        complain(f"{plugin}: {what} changes {', '.join(changed)} of torch, and must not. It is put back.")


def _torch() -> Any:
    """Return what looks at torch's settings; None where nobody has imported torch yet, as for `--help`."""
    return import_module("learnforge.randomness") if "torch" in sys.modules else None


def guard(impl: pluggy.HookImpl, hook_name: str, plugin: Plugin, complain: Complain) -> None:
    """Change a notification's implementation so that what it raises is reported and not raised."""
    watch = partial(watching, plugin, f"`{hook_name}`", complain)
    guarded: Callable[..., Any] = _guarded_wrapper if impl.wrapper or impl.hookwrapper else _guarded
    impl.function = guarded(impl.function, watch)  # type: ignore[misc]


def name_owner(impl: pluggy.HookImpl, hook_name: str, plugin: Plugin, complain: Complain) -> None:
    """Change an implementation so that what is wrong with it says whose it is: what it raises, and what it
    returns in the place of a result.
    """
    function, wanted = impl.function, CHANGING[hook_name]

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with watching(plugin, f"`{hook_name}`", complain, is_fatal=True):
            result = function(*arguments)
        fault = ""
        if result is not None and all(cls.__name__ != wanted for cls in type(result).__mro__):
            fault = f"must return {wanted} or None, it returned {result!r:.200}"
        elif hook_name == "learnforge_batch" and result is not None:
            given = dict(zip(impl.argnames, arguments, strict=True)).get("batch", result)
            fault = _batch_fault(given, result)
        if fault:
            raise PluginError(f"{plugin}: `{hook_name}` {fault}. {plugin.way_out}")
        return result

    if not (impl.wrapper or impl.hookwrapper):
        impl.function = call  # type: ignore[misc]


def words(error: BaseException) -> str:
    """Say what an error is in one line."""
    try:
        text = str(error).split("\n", 1)[0]
    except Exception:
        text = "whose text cannot be had"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _guarded(function: Callable[..., Any], watch: Callable[[], AbstractContextManager[None]]) -> Any:
    @wraps(function)
    def call(*arguments: Any) -> Any:
        with watch():
            return function(*arguments)

    return call


def _guarded_wrapper(
    function: Callable[..., Generator[Any, Any, Any]], watch: Callable[[], AbstractContextManager[None]]
) -> Callable[..., Generator[Any, Any, Any]]:
    """Guard both halves of a wrapper; the calls inside it take place whatever it does."""

    @wraps(function)
    def call(*arguments: Any) -> Generator[Any, Any, Any]:
        opened = None
        with watch():
            generator = function(*arguments)
            next(generator)
            opened = generator
        result = yield
        with watch():
            if opened is not None:
                try:
                    opened.send(result)
                except StopIteration as stop:
                    return stop.value
                raise RuntimeError("a wrapper must yield once")
        return result

    return call


def _batch_fault(given: Any, result: Any) -> str:
    """Say why no step can be made with what a hook made of a batch, or ""."""
    before, after = given.images, result.images
    if getattr(after, "dtype", None) != before.dtype or after.device != before.device:
        return f"must return images of {before.dtype} on {before.device}, it returned {after!r:.100}"
    if after.ndim != before.ndim or after.shape[1] != before.shape[1]:
        return f"must return images as [batch, {before.shape[1]}, height, width], got {list(after.shape)}"
    sizes = [len(part) for part in (after, result.labels, result.indices)]
    return "" if len(set(sizes)) == 1 else f"must return as many labels and indices as images, got {sizes}"


def as_transform(impl: pluggy.HookImpl, **where: Any) -> Callable[[Batch, torch.Generator], Batch]:
    """Return an implementation of `learnforge_batch` as a function of the batch and what to draw from."""

    def transform(batch: Batch, generator: torch.Generator) -> Batch:
        arguments = {"batch": batch, "generator": generator, **where}
        changed = impl.function(*[arguments[name] for name in impl.argnames])
        return batch if changed is None else changed  # type: ignore[return-value]

    return transform
