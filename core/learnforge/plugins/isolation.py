"""Keeps a plugin's faults in notifications from the host: each is reported once with its owner, and goes
no further.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import TYPE_CHECKING, Any

import pluggy

from learnforge.errors import PluginError
from learnforge.hookspecs import CHANGING
from learnforge.plugins.found import Plugin

if TYPE_CHECKING:
    from learnforge.kinds.task import Batch

Complain = Callable[[str, BaseException], None]
"""Reports a fault in words; raises it instead where plugins are held strictly."""


def guard(impl: pluggy.HookImpl, hook_name: str, plugin: Plugin, complain: Complain) -> None:
    """Change a notification's implementation so that what it raises is reported and not raised."""

    def report(error: BaseException) -> None:
        complain(f"{plugin}: `{hook_name}` fails with {words(error)}. {plugin.way_out}", error)

    guarded: Callable[..., Any] = _guarded_wrapper if impl.wrapper or impl.hookwrapper else _guarded
    impl.function = guarded(impl.function, report)  # type: ignore[misc]


def name_owner(impl: pluggy.HookImpl, hook_name: str, plugin: Plugin) -> None:
    """Change an implementation so that what is wrong with it says whose it is: what it raises, and what it
    returns in the place of a result.
    """
    function, wanted = impl.function, CHANGING[hook_name]

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            result = function(*arguments)
        except Exception as error:
            raise PluginError(
                f"{plugin}: `{hook_name}` fails with {words(error)}. {plugin.way_out}"
            ) from error
        if result is not None and all(cls.__name__ != wanted for cls in type(result).__mro__):
            fault = f"must return {wanted} or None, it returned {result!r}"
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


def _guarded(function: Callable[..., Any], report: Callable[[BaseException], None]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            report(error)
            return None

    return call


def _guarded_wrapper(
    function: Callable[..., Generator[Any, Any, Any]], report: Callable[[BaseException], None]
) -> Callable[..., Generator[Any, Any, Any]]:
    """Guard both halves of a wrapper; the calls inside it take place whatever it does."""

    @wraps(function)
    def call(*arguments: Any) -> Generator[Any, Any, Any]:
        generator = None
        try:
            generator = function(*arguments)
            next(generator)
        except (Exception, SystemExit) as error:
            report(error)
            generator = None
        result = yield
        if generator is None:
            return result
        try:
            generator.send(result)
        except StopIteration as stop:
            return stop.value
        except (Exception, SystemExit) as error:
            report(error)
            return result
        report(RuntimeError("a wrapper must yield once"))
        return result

    return call


def as_transform(impl: pluggy.HookImpl, stage: str) -> Callable[[Batch], Batch]:
    """Return an implementation of `learnforge_batch` as a function of the batch alone."""

    def transform(batch: Batch) -> Batch:
        arguments = {"batch": batch, "stage": stage}
        changed = impl.function(*[arguments[name] for name in impl.argnames])
        return batch if changed is None else changed  # type: ignore[return-value]

    return transform
