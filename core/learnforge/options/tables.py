"""Options as a command line writes them."""

from __future__ import annotations

import tomllib
from typing import Any

from learnforge.errors import Problem, nearest


def override(data: dict[str, Any], text: str) -> Problem | None:
    """Apply an override such as `stage.search.trials=50` to a recipe's data, or return what is wrong
    with it.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        return Problem(text, "must look like stage.search.trials=50")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    keys = path.strip().split(".")
    table: Any = data
    if keys[0] == "stage":
        stages = {str(s.get("name", s.get("kind"))): s for s in data.get("stage", []) if isinstance(s, dict)}
        if len(keys) < 3 or keys[1] not in stages:
            return Problem(
                text, f"must name a stage and a key; {nearest(keys[1] if len(keys) > 1 else '', stages)}"
            )
        table, keys = stages[keys[1]], keys[2:]
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            return Problem(text, f"{key} is {table!r}, not a table")
    table[keys[-1]] = parsed
    return None
