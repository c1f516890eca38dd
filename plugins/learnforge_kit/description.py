"""What the options of a method are, in words: for `learnforge plugins NAME` and the documentation."""

from __future__ import annotations

import inspect
import re
import tomllib
from typing import Any

import attrs
from attrs import NOTHING, frozen

from learnforge.errors import Problem, RecipeError
from learnforge.options.structure import expected_words, option_key, option_types, plain


@frozen
class OptionDescription:
    """One option of a method, as the documentation and `learnforge plugins NAME` show it.

    Args:
        name: Key in a recipe.
        type: What a value must be.
        range: What its validators allow, "" where they cannot be put in a few words.
        default: Value where the key is missing, or `required`.
        words: Its line in the docstring, with the unit.
    """

    name: str
    type: str
    range: str
    default: str
    words: str


def describe(cls: type) -> list[OptionDescription]:
    """List the options of an attrs class with type, default and the words of its docstring, or of the class
    that it has them from.
    """
    words: dict[str, str] = {}
    for base in filter(attrs.has, reversed(cls.__mro__)):
        words |= _argument_words(inspect.cleandoc(base.__doc__ or ""))
    hints = option_types(cls)
    return [
        OptionDescription(
            option_key(f),
            expected_words(hints[f.name], f),
            _range_words(f.validator),
            "required" if f.default is NOTHING else _show_default(f.default),
            words.get(f.name, ""),
        )
        for f in attrs.fields(cls)
        if f.init and not f.metadata.get("internal")
    ]


def _range_words(validator: Any) -> str:
    """Say in a few words what attrs' own validators allow."""
    if hasattr(validator, "_validators"):
        return ", ".join(filter(None, map(_range_words, validator._validators)))
    if hasattr(validator, "compare_op") and hasattr(validator, "bound"):
        return f"{validator.compare_op} {validator.bound}"
    if hasattr(validator, "member_validator"):
        return _range_words(validator.member_validator)
    if hasattr(validator, "value_validator"):
        return _range_words(validator.value_validator)
    if hasattr(validator, "validator"):
        return _range_words(validator.validator)
    if hasattr(validator, "options") and isinstance(validator.options, (tuple, list, frozenset, range)):
        return "in " + ", ".join(map(repr, validator.options))
    if hasattr(validator, "min_length"):
        return f"at least {validator.min_length} long"
    return ""


def _show_default(default: Any) -> str:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    return repr(plain(default))


def _argument_words(docstring: str) -> dict[str, str]:
    """Read the `Args:` section of a docstring into {name: words}."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    if not section:
        return {}
    words: dict[str, str] = {}
    name = None
    for line in section.group(1).splitlines():
        entry = re.match(r"^ {4}(\w+): (.*)$", line)
        if entry:
            name = entry.group(1)
            words[name] = entry.group(2)
        elif name and line.strip():
            words[name] += " " + line.strip()
    return words


def read_table(text: str) -> dict[str, Any]:
    """Read what a command line says of a method: its name, or a table as a recipe has it.

    >>> read_table('{ use = "evolution", population = 50 }')
    {'use': 'evolution', 'population': 50}
    >>> read_table("evolution")
    {'use': 'evolution'}

    Raises:
        RecipeError: It begins like a table and is none.
    """
    if not text.lstrip().startswith("{"):
        return {"use": text}
    table: dict[str, Any] = read_value(text, text)
    return table


def read_value(key: str, text: str) -> Any:
    """Read what a command line says for a recipe's key: a table or list as TOML has it, or a name.

    Raises:
        RecipeError: It begins like a table or list and is none.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        form = "a table" if text.lstrip().startswith("{") else "a list"
        raise RecipeError([Problem(key, f"must be {form} as TOML writes it: {error}")], text) from error
