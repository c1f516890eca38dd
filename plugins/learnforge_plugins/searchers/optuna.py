"""Any of Optuna's samplers, by name: those of optuna.samplers, and those of installed packages
from OptunaHub.

Reference:
    Akiba, Sano, Yanase, Ohta & Koyama, Optuna: a next-generation hyperparameter optimization framework, 2019.
    arXiv:1907.10902
    https://optuna.readthedocs.io/en/stable/reference/samplers/index.html
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import optuna
from attrs import field, frozen

from learnforge import Searcher, View, hookimpl
from learnforge_kit import FreshSampler

STATELESS = ("RandomSampler", "TPESampler", "NSGAIISampler", "NSGAIIISampler")
"""Samplers whose only state is the study."""


@frozen
class OptunaSampler(Searcher):
    """A sampler of Optuna's.

    Args:
        sampler_name: TOML key `sampler`: a class in `optuna.samplers`, or `package.module:Class` of an
            installed package.
        arguments: Keyword arguments of the class; the seed comes from the run.
        exact: Make a fresh sampler for each trial, so that a resumed search goes on as it would have. Right
            for samplers whose only state is the study, the default for Optuna's own of that sort.
    """

    is_baseline: ClassVar[bool] = True  # the sampler may be any
    repeat_rate: ClassVar[float] = 1.0
    resumes_exactly: ClassVar[bool] = True  # with the default sampler; see `exact`

    sampler_name: str = field(default="TPESampler", metadata={"key": "sampler"})
    arguments: Mapping[str, Any] = field(factory=dict)
    exact: bool | None = None

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        cls = self._find()
        takes_seed = "seed" in inspect.signature(cls).parameters

        def make(own_seed: int) -> optuna.samplers.BaseSampler:
            seeds = {"seed": own_seed} if takes_seed else {}
            made: optuna.samplers.BaseSampler = cls(**self.arguments, **seeds)
            return made

        whole = make(seed % 2**32)  # wrong arguments show now, not in the first trial
        is_exact = self.sampler_name in STATELESS if self.exact is None else self.exact
        return FreshSampler(seed, make) if is_exact else whole

    def _find(self) -> Any:
        module_name, _, name = self.sampler_name.rpartition(":")
        try:
            module = importlib.import_module(module_name or "optuna.samplers")
        except ImportError as error:
            raise ValueError(f"sampler: {module_name} must be an installed package: {error}") from error
        found = getattr(module, name, None)
        if not (inspect.isclass(found) and issubclass(found, optuna.samplers.BaseSampler)):
            known = ", ".join(
                n for n in dir(optuna.samplers) if n.endswith("Sampler") and not n.startswith("Base")
            )
            raise ValueError(
                f"sampler: {module.__name__} must have a sampler {name!r}; optuna.samplers has {known}"
            )
        return found


@hookimpl
def learnforge_searchers() -> dict[str, type[Searcher]]:
    return {"optuna": OptunaSampler}
