"""What is compared: methods by name, or as tables that a recipe would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import asdict, frozen

from learnforge.errors import Problem, RecipeError
from learnforge.files import fingerprint
from learnforge.options.structure import structure
from learnforge.plugins.identity import identify, spell
from learnforge.plugins.registry import Plugins
from learnforge_kit.description import read_table


@frozen(eq=False)
class Entry:
    """One method that is compared.

    Args:
        name: As the table of results shows it.
        method: The method; None for the baseline.
        key: Equal for equal methods: options and code.
        extra: What it brings beside the method: a searcher's warm start, a meta-learner's stage.
    """

    name: str
    method: Any
    key: str = ""
    extra: Any = None

    @classmethod
    def baseline(cls, name: str) -> Entry:
        """Return the entry that the others are compared with."""
        return cls(name, None, name)


Lineup = tuple[list[Entry], dict[str, str]]
"""Entries, and {name: reason} of installed methods that were left out of them."""


def read_entries(
    kind: str, texts: Sequence[str], plugins: Plugins, extras: Mapping[str, type] | None = None
) -> Lineup:
    """Read what is to be compared: methods of a kind by name, or tables as a recipe has them.

    Args:
        kind: Their kind.
        texts: Names and tables; none for all that are installed.
        plugins: The plugins in use.
        extras: {key of a table that is no option of the method: class of its value}, at most one.

    Returns:
        The entries, and {name: reason} of installed methods that were left out because they need options.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    left_out: dict[str, str] = {}
    if not texts:
        names = plugins.names(kind)
        left_out = {n: "it needs options" for n in names if _needs_options(plugins.load(kind, n))}
        texts = [name for name in names if name not in left_out]
    problems: list[Problem] = []
    entries = []
    for text in texts:
        try:
            table = read_table(text)
        except RecipeError as error:
            problems += error.problems
            continue
        given = {key: table.pop(key, None) for key in extras or ()}
        made = [
            structure((extras or {})[key], value, f"{text}.{key}", problems)
            for key, value in given.items()
            if value is not None
        ]
        method = plugins.resolve(kind, table, text, problems)
        if method is not None:
            key = fingerprint([spell(method), asdict(identify(method)), *given.values()])[:16]
            entries.append(Entry(name_with_options(table), method, key, *made))
    if problems:
        raise RecipeError(problems, f"{kind}s")
    return entries, left_out


def name_with_options(table: Mapping[str, Any]) -> str:
    """Spell a method's table as a table of results shows it: `kd, temperature=2.0`."""
    return ", ".join([table["use"], *(f"{key}={value}" for key, value in table.items() if key != "use")])


def _needs_options(cls: type) -> bool:
    return any(f.default is attrs.NOTHING for f in attrs.fields(cls))
