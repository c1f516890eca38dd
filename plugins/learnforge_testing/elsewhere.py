"""Another process with another hash seed, to find results that hang on the order of a set or hidden state.

One process serves all suites of a session, so torch is imported there once.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from learnforge.plugins.sources import PluginFile
from learnforge.randomness import preserved
from learnforge_kit.workers import Workers
from learnforge_testing.suite import Suite

T = TypeVar("T")


_PROCESSES: list[concurrent.futures.ProcessPoolExecutor] = []


@frozen
class Where:
    """Where a class is found: plain data, for another process.

    Args:
        module: Name of its module.
        name: Its qualified name.
        file: The module's file, for one that cannot be imported by name.
    """

    module: str
    name: str
    file: str

    @classmethod
    def of(cls, target: type) -> Where:
        """Locate a class.

        Raises:
            ValueError: It is defined inside a function, where another process cannot find it.
        """
        if "<locals>" in target.__qualname__:
            raise ValueError(
                f"{target.__qualname__} must be defined at the top of its module, not in a function"
            )
        file = getattr(sys.modules[target.__module__], "__file__", None) or ""
        return cls(target.__module__, target.__qualname__, file)

    def load(self) -> type[Any]:
        """Import the module and return the class."""
        found: type[Any] = reduce(getattr, self.name.split("."), self._module())
        return found

    def _module(self) -> Any:
        if self.module in sys.modules:
            return sys.modules[self.module]
        if self.module.startswith("learnforge_plugin_"):
            file = Path(self.file)
            is_of_folder = "." in self.module or file.name == "__init__.py"
            PluginFile.read(file.parent if is_of_folder else file).run()
            return sys.modules[self.module]
        try:
            return importlib.import_module(self.module)
        except ImportError:
            spec = importlib.util.spec_from_file_location(self.module, self.file)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[self.module] = module
            spec.loader.exec_module(module)
            return module


def digest(value: Any) -> str:
    """Hash (hex) a nested result: tensors by type, shape and bytes, the rest as JSON; sets are refused."""
    return hashlib.sha256(json.dumps(_plain(value)).encode()).hexdigest()


def digest_elsewhere(suite: type[Suite]) -> str:
    """Return the digest of a suite's `result()` in a process whose hashes of strings are others than here."""
    base = getattr(suite, "made_from", None)
    method = Where.of(suite.method) if base else None
    given = getattr(suite, "made_with", {})
    future = _process().submit(_digest, Where.of(base or suite), method, given, torch.get_num_threads())
    return future.result(timeout=600)


def call_elsewhere(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a module-level function gives in another process; its arguments and value are pickled."""
    return _process().submit(function, *arguments).result(timeout=600)


def _process() -> concurrent.futures.ProcessPoolExecutor:
    if not _PROCESSES:
        _PROCESSES.append(_start())
        atexit.register(_PROCESSES[0].shutdown, wait=False, cancel_futures=True)
    return _PROCESSES[0]


def _start() -> concurrent.futures.ProcessPoolExecutor:
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "2" if before == "1" else "1"  # read when the new interpreter starts
    try:
        process = Workers(1, torch.get_num_threads(), _set_up, (list(sys.path),))
        process.submit(os.getpid).result(timeout=120)
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
    return process


def _set_up(path: list[str]) -> None:
    sys.path[:] = path


def _digest(suite: Where, method: Where | None, given: Mapping[str, Any], threads: int) -> str:
    torch.set_num_threads(threads)
    cls = suite.load()
    made = cls.of(method.load(), **given) if method else cls
    with preserved():  # the next method finds torch as this one did
        return digest(made().result())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(raw).hexdigest()]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, frozenset)):
        raise TypeError(f"a result must have an order, {value!r} has none")
    if isinstance(value, Mapping):
        return [[str(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if attrs.has(type(value)):
        return _plain(attrs.asdict(value, recurse=False))
    return value
