"""Shows the calls of plugins' hooks, for `--trace-hooks`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import wraps
from typing import Any

import pluggy

from learnforge.plugins.found import Plugin


def trace(impl: pluggy.HookImpl, hook_name: str, plugin: Plugin) -> None:
    """Change an implementation so that each call of it is printed on standard error, with its seconds."""
    function = impl.function

    @wraps(function)
    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            seconds = time.perf_counter() - start
            with suppress(OSError):  # nobody reads it any more
                print(f"{hook_name}  {plugin}  {seconds:.6f} s", file=sys.stderr)  # noqa: T201

    if not (impl.wrapper or impl.hookwrapper):  # a wrapper's seconds would be those of what it wraps
        impl.function = call  # type: ignore[misc]
