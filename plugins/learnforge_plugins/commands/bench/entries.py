"""What is compared with a baseline: methods by name or as tables, and how far ahead of it they come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import asdict, frozen

from learnforge.errors import Problem, RecipeError
from learnforge.files import fingerprint
from learnforge.options.tables import read_table
from learnforge.plugins.identity import identify, spell
from learnforge.plugins.registry import Plugins
from learnforge_plugins.commands.bench.jobs import deviation, mean


@frozen
class Entry:
    """One method that is compared.

    Args:
        name: As the table of results shows it.
        method: The method; None for the baseline.
        key: Equal for equal methods: options and code.
    """

    name: str
    method: Any
    key: str

    @classmethod
    def baseline(cls, name: str) -> Entry:
        """Return the entry that the others are compared with."""
        return cls(name, None, name)


def read_entries(kind: str, texts: Sequence[str], plugins: Plugins) -> tuple[list[Entry], list[str]]:
    """Read what is to be compared: methods of a kind by name, or tables as a recipe has them.

    Returns:
        The entries, and the names of installed methods that were left out because they need options; only
        where `texts` are empty, which means all that are installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    left_out: list[str] = []
    if not texts:
        names = plugins.names(kind)
        left_out = [name for name in names if _needs_options(plugins.load(kind, name))]
        texts = [name for name in names if name not in left_out]
    problems: list[Problem] = []
    entries = []
    for text in texts:
        table = read_table(text)
        method = plugins.resolve(kind, table, text, problems)
        if method is not None:
            key = fingerprint([spell(method), asdict(identify(method))])[:16]
            options = [f"{name}={value}" for name, value in table.items() if name != "use"]
            entries.append(Entry(", ".join([table["use"], *options]), method, key))
    if problems:
        raise RecipeError(problems, f"{kind}s")
    return entries, left_out


def spell_out(table: Mapping[str, Any], kinds: Mapping[str, str], plugins: Plugins) -> dict[str, Any]:
    """Return a table in which names of methods stand as tables of their own, `conv4` as `{ use = "conv4" }`.

    Args:
        table: A recipe's table.
        kinds: {key: kind of method that it takes}.
        plugins: Know the names; what is no name of its kind stays, such as an artifact's folder.
    """
    names = {
        key: {"use": table[key]}
        for key, kind in kinds.items()
        if isinstance(table.get(key), str) and table[key] in plugins.names(kind)
    }
    return {**table, **names}


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference to the baseline of the same seed, and its standard error."""
    gains = [own - other for own, other in zip(values, baseline, strict=True)]
    return mean(gains), deviation(gains) / math.sqrt(len(gains))


def spread(values: Sequence[float], scale: float = 100) -> str:
    """Spell mean and standard deviation, of shares in per cent."""
    return f"{scale * mean(values):.2f} ± {scale * deviation(values):.2f}"


def _needs_options(cls: type) -> bool:
    return any(f.default is attrs.NOTHING for f in attrs.fields(cls))
