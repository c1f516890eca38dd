"""Options as a command line writes them."""

from __future__ import annotations

import tomllib
from typing import Any

from learnforge.errors import Problem, RecipeError


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
