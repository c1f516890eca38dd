"""The checks that methods of every kind share."""

from __future__ import annotations

import inspect
import random
import sys
from abc import abstractmethod
from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from learnforge.errors import RecipeError
from learnforge.options.structure import build, option_key
from learnforge.plugins.registry import Plugins
from learnforge_kit.description import OptionDescription, describe
from learnforge_testing.elsewhere import digest, digest_elsewhere
from learnforge_testing.suite import Suite, needs, require

_WRONG = {"a number": "one", "a whole number": "one", "true or false": "yes", "a string": 1, "a path": 1}


_LINKS = ("arXiv:", "doi:", "https://")


class MethodSuite(Suite):
    """Checks of a method as a class, and of its results as a function of its inputs and seed alone.

    Args:
        base: The class of learnforge that methods of the kind derive from.
        needs_reference: Whether the docstring must say where the method is from.
    """

    base: ClassVar[type]
    needs_reference: ClassVar[bool] = True
    _known_digest: ClassVar[str]

    @abstractmethod
    def result(self) -> Any:
        """Return what the method computes for fixed inputs and seeds: tensors, numbers and text, nested.

        Called twice here and once in another process; all three must be equal bit for bit.
        """

    def test_method_is_a_frozen_class_of_its_kind(self) -> None:
        """It is a frozen attrs class that derives from its kind's base and leaves nothing abstract."""
        cls = self.method
        require(issubclass(cls, self.base), f"{cls.__name__} must derive from {self.base.__name__}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        require(not missing, f"{cls.__name__} must implement {', '.join(missing)}")
        require(
            "__attrs_attrs__" in vars(cls), f"{cls.__name__} must be decorated with `@attrs.frozen` itself"
        )
        blank = object.__new__(cls)
        for field in attrs.fields(cls):
            try:
                setattr(blank, field.name, None)
            except attrs.exceptions.FrozenInstanceError:
                continue
            raise AssertionError(f"{cls.__name__} must be frozen, but {field.name} can be set")

    def test_docstring_describes_every_option(self) -> None:
        """The docstring begins with a sentence and has a line for every option, and for nothing else."""
        name, text = self.method.__name__, inspect.getdoc(self.method) or ""
        is_sentence = text.split("\n")[0].endswith(".")
        require(
            vars(self.method)["__doc__"] and is_sentence,
            f"{name} must have a docstring that begins with a sentence",
        )
        wordless = [option.name for option in self._own_options() if not option.words]
        require(not wordless, f"{name}: `Args:` must describe {', '.join(wordless)}")
        section = text.partition("Args:\n")[2].split("\n\n")[0].splitlines()
        named = {line.split(":")[0].strip() for line in section if line[:4] == "    " and line[4:5].strip()}
        left_over = sorted(named - {field.name for field in attrs.fields(self.method)})
        require(not left_over, f"{name}: `Args:` describes {', '.join(left_over)}, no option")

    @needs(lambda suite: suite.needs_reference, "this kind needs no reference")
    def test_docstring_cites_a_reference(self) -> None:
        """Its module's docstring, or its own, says where the method is from: `Reference:` and a link."""
        module = inspect.getdoc(sys.modules[self.method.__module__]) or ""
        texts = [text.partition("Reference:")[2] for text in (module, inspect.getdoc(self.method) or "")]
        require(
            any(link in text for text in texts for link in _LINKS),
            f"the docstring of {self.method.__module__} must have a section `Reference:` with one of "
            f"{', '.join(_LINKS)}",
        )

    def test_unknown_option_is_refused(self) -> None:
        """An option that the method lacks is refused by name."""
        self._refuses("no_such_option", 1, "unknown option")

    def test_ill_typed_options_are_refused(self) -> None:
        """Every option refuses a value of another type, before anything is computed."""
        for option in self._own_options():
            if option.type in _WRONG:
                self._refuses(option.name, _WRONG[option.type], "must be")

    def test_numbers_have_ranges(self) -> None:
        """Every option that is a number has a validator, since its range is a part of what it means."""
        types = {option.name: option.type for option in describe(self.method)}
        fields = [f for f in attrs.fields(self.method) if f.init and "number" in types.get(option_key(f), "")]
        unbounded = [field.name for field in fields if field.validator is None]
        require(not unbounded, f"{self.method.__name__}: {', '.join(unbounded)} must have a validator")

    def test_random_state_is_untouched(self) -> None:
        """It draws nothing from global generators, and its result does not depend on them."""
        before = self._digest()  # the first call imports what it needs, and imports may draw
        require(
            before == self._result_after(1) == self._result_after(2),
            "the result must not depend on global random generators or on what was computed before",
        )

    def test_result_is_the_same_in_another_process(self) -> None:
        """Another process, with other hashes of strings, computes the same bits."""
        require(
            self._digest() == digest_elsewhere(type(self)),
            "the result must be the same in a process with another PYTHONHASHSEED; look for an order that "
            "comes out of a set, and for state outside of the method",
        )

    def _digest(self) -> str:
        """Return the digest of the result, computed once for all checks."""
        cls = type(self)
        if "_known_digest" not in vars(cls):
            cls._known_digest = digest(self.result())
        return cls._known_digest

    def _own_options(self) -> list[OptionDescription]:
        """List the options that the base class does not bring."""
        inherited = {option.name for option in describe(self.base)} if attrs.has(self.base) else set()
        return [option for option in describe(self.method) if option.name not in inherited]

    def _refuses(self, name: str, value: Any, words: str) -> None:
        try:
            build(self.method, {**self.options, name: value}, self.method.__name__, Plugins().resolve)
        except RecipeError as error:
            faults = [str(problem) for problem in error.problems if problem.path == name]
            require(
                any(words in fault for fault in faults), f"{name} = {value!r} must be refused, got {error}"
            )
            return
        raise AssertionError(f"{self.method.__name__}: {name} = {value!r} must be refused")

    def _result_after(self, seed: int) -> str:
        """Return the digest of the result with the global generators in some state, which must stay."""
        before = _global_states()
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            start = digest(_global_states())
            found = digest(self.result())
            require(
                start == digest(_global_states()),
                "the global generators of random, numpy and torch must be left alone",
            )
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])
        return found


def _global_states() -> Any:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()
