"""The error tree, and what its messages say."""

from __future__ import annotations

import inspect

import pytest

from learnforge import errors
from learnforge.errors import (
    DivergedError,
    InstallError,
    LearnforgeError,
    PluginError,
    PluginWarning,
    Problem,
    RecipeError,
    RunError,
    RunLockedError,
    StageError,
    TaskError,
    nearest,
)
from learnforge_kit.errors import ExportMismatchError


def test_one_base_catches_all():
    """Every error that learnforge raises on purpose is a LearnforgeError; warnings are not."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert len(classes) >= 11
    assert all(issubclass(c, LearnforgeError) for c in classes if not issubclass(c, Warning))
    assert issubclass(PluginWarning, UserWarning)


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (InstallError, PluginError),
        (DivergedError, StageError),
        (ExportMismatchError, StageError),
        (RunLockedError, RunError),
    ],
)
def test_tree(child, parent):
    """A caller who catches the general error also catches the special one."""
    assert issubclass(child, parent)


def test_docstring_draws_every_error_on_a_line_of_its_own():
    """The tree in the module's docstring has one line for each error, named first."""
    lines = [line.lstrip(" │├└─").split()[:1] for line in (errors.__doc__ or "").splitlines()]
    first_words = [words[0] for words in lines if words]
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, Exception):
            assert name in first_words


@pytest.mark.parametrize("cls", [PluginError, InstallError, TaskError])
def test_mistakes_of_the_caller_exit_with_2(cls):
    """What the caller can mend in the recipe or installation exits with 2; all else exits with 1."""
    assert cls.exit_code == RecipeError.exit_code == 2
    assert StageError.exit_code == RunError.exit_code == LearnforgeError.exit_code == 1


def test_recipe_error_lists_every_problem_in_order():
    """All problems stand in the text, in order, each after its path, under their number."""
    error = RecipeError([Problem("b.c", "first"), Problem("", "second")], "my.toml")
    assert str(error) == "my.toml: 2 problems\n  b.c: first\n  second"
    assert [p.path for p in error.problems] == ["b.c", ""]
    assert str(RecipeError(iter([Problem("a", "x")]))) == "recipe: 1 problem\n  a: x"


def test_diverged_error_says_where_and_what_to_do():
    """The text counts epoch and step and names the options that help."""
    error = DivergedError(3, 7, 12)
    assert (error.epoch, error.step, error.steps) == (3, 7, 12)
    assert "epoch 3, step 7 of 12" in str(error)
    assert "Lower `learning_rate`" in str(error)


def test_nearest_offers_the_closest_name_then_all_sorted():
    """A slip gets its nearest name; a name like nothing gets the list; no names at all are said."""
    assert nearest("evolutoin", ["random", "evolution"]) == (
        "did you mean 'evolution'? There are: evolution, random"
    )
    assert nearest("zzz", iter(["b", "a", "b"])) == "there are: a, b"
    assert nearest("zzz", []) == "there are none"
