"""Ranges held against the options that they stand for, and values put in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import evolve

from learnforge.errors import Problem, nearest
from learnforge.options.ranges import Range
from learnforge.options.structure import convert_option, option_key


def check_ranges(
    owner: Any, ranges: Mapping[str, Range], path: str, problems: list[Problem]
) -> dict[str, Range]:
    """Hold both ends, or every choice, against the option's type and validators; return ranges of the
    option's type.

    Rules between options are not checked here: a design that breaks one is refused when it comes up.
    """
    checked = {}
    for name, found in ranges.items():
        if name.startswith("options.") and owner.method is None:
            continue  # the method cannot be made as it is, which is reported
        checked[name] = _checked(owner, name.split("."), found, f"{path}.{name}", problems)
    return checked


def _checked(owner: Any, keys: Sequence[str], found: Range, path: str, problems: list[Problem]) -> Range:
    try:
        part, key = _descend(owner, keys)
    except KeyError as error:
        problems.append(Problem(path, str(error.args[0])))
        return found
    if isinstance(part, Mapping):
        return found
    if key == "options":
        problems.append(Problem(path, "a range must stand for one option, not for the table of them"))
        return found
    if _field(part, key).metadata.get("plugin"):
        problems.append(Problem(path, "what a plugin brings cannot be a range; an option of it can"))
        return found
    return found.with_ends([convert_option(type(part), key, end, path, problems) for end in found.ends])


def _descend(owner: Any, keys: Sequence[str]) -> tuple[Any, str]:
    """Return the object or table that holds an option, and the option's key in it."""
    for key in keys[:-1]:
        owner = owner[key] if isinstance(owner, Mapping) else getattr(owner, _field(owner, key).name)
    if not isinstance(owner, Mapping):
        _field(owner, keys[-1])
    return owner, keys[-1]


def set_options(owner: Any, values: Mapping[str, Any]) -> Any:
    """Return an attrs object, or table, with options changed, however deep, each object made anew once.

    Args:
        owner: A stage, a method, settings.
        values: {path: value}, such as `{"options.temperature": 2.0}`.

    Raises:
        ValueError: A validator refuses a value, or a rule between options is broken.
    """
    inner: dict[str, dict[str, Any]] = {}
    own: dict[str, Any] = {}
    for path, value in values.items():
        key, _, rest = path.partition(".")
        if rest:
            inner.setdefault(key, {})[rest] = value
        else:
            own[key] = value
    if isinstance(owner, Mapping):
        return {**owner, **own, **{key: set_options(owner[key], deeper) for key, deeper in inner.items()}}
    fields = {key: _field(owner, key) for key in (*own, *inner)}
    new = own | {key: set_options(getattr(owner, fields[key].name), deeper) for key, deeper in inner.items()}
    return evolve(owner, **{fields[key].alias or fields[key].name: value for key, value in new.items()})


def _field(owner: Any, key: str) -> attrs.Attribute[Any]:
    """Find an attrs field by its TOML key; `options` are the fields of a stage's method."""
    fields: dict[str, attrs.Attribute[Any]] = {}
    if attrs.has(type(owner)):
        fields = {option_key(f): f for f in attrs.fields(type(owner))}
    if key == "options" and "method" in fields:
        return fields["method"]
    if key not in fields:
        raise KeyError(f"a range must stand for an option; {nearest(key, fields)}")
    return fields[key]
