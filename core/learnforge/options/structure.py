"""Plain data in, frozen attrs objects out: every wrong option at once, each with its TOML path.

A class's attrs fields are its options: the annotation is the type, the validators the range, the `Args:`
section of its docstring the words. Types may be `bool`, `int`, `float`, `str`, `Path`, `Literal[...]`, `X |
None`, unions of these, `tuple[X, ...]`, `Mapping[str, X]`, another attrs class, or what a plugin brings
(see `plugin_field`).
"""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import NOTHING, Attribute

from learnforge.errors import Problem, RecipeError, nearest
from learnforge.files import home_path

T = TypeVar("T")


Resolve = Callable[[str, Any, str, list[Problem]], Any]
"""Turns a `{ use = … }` table of a kind at a path into an instance, or appends problems and returns None."""

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


_FAILED = object()


def plugin_field(
    kind: str,
    *,
    default: Any = NOTHING,
    reference: bool = False,
    placement: bool = False,
    many: bool | Literal["or one"] = False,
    tables: Mapping[str, type] | None = None,
    key: str | None = None,
) -> Any:
    """Declare an attrs field whose value is something that a plugin brings, written `{ use = "name", … }`.

    Args:
        kind: The kind of plugin, such as `space`.
        default: Value where the key is missing.
        reference: Also allow a string, which names a stage or an artifact's folder.
        placement: The value says where work runs; results don't depend on it, so fingerprints leave it out.
        many: The value is a tuple of such, a list in TOML; `or one`: a list or a single one.
        tables: {key: attrs class}: also allow a table with this one key, `{ search = { … } }`, whose value
            is built as the class.
        key: TOML key, where the field's name cannot serve (`from` is a keyword).
    """
    metadata = {
        "plugin": kind,
        "reference": reference,
        "placement": placement,
        "many": many,
        "tables": tables or {},
    }
    return attrs.field(default=default, metadata=metadata | ({"key": key} if key else {}))


def structure(
    cls: type[T], data: Any, path: str, problems: list[Problem], resolve: Resolve | None = None
) -> T | None:
    """Build `cls` from a table, or append all that is wrong to `problems` and return None.

    Args:
        cls: A frozen attrs class.
        data: The table, keys as in TOML.
        path: TOML path of the table.
        problems: Grows by one entry for each thing wrong.
        resolve: Builds the values of plugin fields.
    """
    if not isinstance(data, Mapping):
        problems.append(Problem(path, f"must be a table, got {data!r}"))
        return None
    before = len(problems)
    hints = option_types(cls)
    fields = {option_key(f): f for f in attrs.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            problems.append(Problem(_join(path, key), f"unknown option; {nearest(str(key), fields)}"))
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key not in data:
            if field.default is NOTHING:
                problems.append(
                    Problem(
                        _join(path, key), f"is missing; it must be {expected_words(hints[field.name], field)}"
                    )
                )
            continue
        value = _value(data[key], hints[field.name], field, _join(path, key), problems, resolve)
        if value is not _FAILED and _is_valid(field, value, _join(path, key), problems):
            values[field.alias] = value
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # rules between fields, written in __attrs_post_init__
        problems.append(Problem(path, str(error)))
        return None


def convert_option(cls: type, key: str, value: Any, path: str, problems: list[Problem]) -> Any:
    """Return a value as an option of `cls` takes it, or append what is wrong with it to `problems`.

    Args:
        cls: A frozen attrs class.
        key: TOML key of the option, which must exist.
        value: Plain data.
        path: TOML path, for the problems.
        problems: Grows by one entry for each thing wrong.
    """
    declared = next(f for f in attrs.fields(cls) if option_key(f) == key)
    converted = _value(value, option_types(cls)[declared.name], declared, path, problems, None)
    if converted is not _FAILED:
        _is_valid(declared, converted, path, problems)
    return value if converted is _FAILED else converted


def build(cls: type[T], data: Mapping[str, Any], source: str, resolve: Resolve | None = None) -> T:
    """Build `cls` from a table or raise every problem at once; see `structure`.

    Raises:
        RecipeError: Something in `data` is wrong.
    """
    problems: list[Problem] = []
    built = structure(cls, data, "", problems, resolve)
    if built is None:
        raise RecipeError(problems, source)
    return built


def plain(value: Any, name_of: Callable[[object], str] | None = None) -> Any:
    """Return options as JSON-able data: what a recipe could say, every default written out.

    Args:
        value: An attrs object, a container, or a plain value.
        name_of: Gives the name of what a plugin brings, for fields declared with `plugin_field`.
    """
    if attrs.has(type(value)):
        # where work runs is no part of what it gives
        fields = [
            f for f in attrs.fields(type(value)) if f.init and f.repr and not f.metadata.get("placement")
        ]
        return {option_key(f): _plain_field(f, getattr(value, f.name), name_of) for f in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item, name_of) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, name_of) for item in value]
    return str(value) if isinstance(value, Path) else value


def _plain_field(field: Attribute[Any], value: Any, name_of: Callable[[object], str] | None) -> Any:
    if field.metadata.get("many") and isinstance(value, tuple):
        return [_plain_part(item, name_of) for item in value]
    return _plain_part(value, name_of) if field.metadata.get("plugin") else plain(value, name_of)


def _plain_part(value: Any, name_of: Callable[[object], str] | None) -> Any:
    if name_of is not None and attrs.has(type(value)):
        return {"use": name_of(value), **plain(value, name_of)}
    return plain(value, name_of)


def option_key(field: Attribute[Any]) -> str:
    """Return the TOML key of an attrs field: its name, unless its metadata give another (`from` is
    a keyword).
    """
    return str(field.metadata.get("key", field.name))


def option_types(cls: type) -> dict[str, Any]:
    """Return {name of a field: its annotated type}."""
    return get_type_hints(cls)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _value(
    data: Any, hint: Any, field: Attribute[Any], path: str, problems: list[Problem], resolve: Resolve | None
) -> Any:
    kind = field.metadata.get("plugin")
    if kind is None:
        return _convert(data, hint, path, problems, resolve)
    if field.metadata.get("many") and isinstance(data, (list, tuple)):
        one = field.evolve(metadata={**field.metadata, "many": False})
        items = [_value(item, hint, one, f"{path}[{i}]", problems, resolve) for i, item in enumerate(data)]
        return _FAILED if any(item is _FAILED for item in items) else tuple(items)
    if field.metadata.get("many") is True:
        problems.append(Problem(path, f"must be {expected_words(hint, field)}, got {data!r}"))
        return _FAILED
    for key, cls in field.metadata.get("tables", {}).items():
        if isinstance(data, Mapping) and set(data) == {key}:
            inner = structure(cls, data[key], _join(path, key), problems, resolve)
            return _FAILED if inner is None else inner
    if field.metadata.get("reference") and isinstance(data, str):
        return data
    if data is None or not isinstance(data, (str, int, float, list, Mapping, datetime.date, datetime.time)):
        return data  # an object, from the API
    if isinstance(data, str):
        data = {"use": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        named = (
            " or the name of a stage or the path of an artifact" if field.metadata.get("reference") else ""
        )
        problems.append(Problem(path, f'must be a table {{ use = "{kind} name", … }}{named}, got {data!r}'))
        return _FAILED
    assert resolve is not None, "a class with plugin fields is structured with a resolver"
    built = resolve(kind, data, path, problems)
    return _FAILED if built is None else built


def _convert(data: Any, hint: Any, path: str, problems: list[Problem], resolve: Resolve | None) -> Any:
    """Convert one value to its annotated type; whole numbers serve as numbers, nothing else is coerced."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(data, hint, path, problems, resolve)
    if attrs.has(hint):
        if isinstance(data, hint):
            return data
        built = structure(hint, data, path, problems, resolve)
        return _FAILED if built is None else built
    if origin is tuple and isinstance(data, (list, tuple)):
        inner = get_args(hint)[0]
        items = [_convert(item, inner, f"{path}[{i}]", problems, resolve) for i, item in enumerate(data)]
        return _FAILED if any(item is _FAILED for item in items) else tuple(items)
    if origin is not None and _is_subclass(origin, Mapping) and isinstance(data, Mapping):
        inner = get_args(hint)[1]
        table = {k: _convert(v, inner, _join(path, k), problems, resolve) for k, v in data.items()}
        return _FAILED if any(item is _FAILED for item in table.values()) else table
    if _fits(data, hint):
        return home_path(data) if hint is Path else float(data) if hint is float else data
    hint_text = ""
    if origin is Literal and isinstance(data, str):
        hint_text = f"; {nearest(data, [str(a) for a in get_args(hint)])}"
    problems.append(
        Problem(path, f"must be {_type_words(hint)}, got {data!r} ({type(data).__name__}){hint_text}")
    )
    return _FAILED


def _is_subclass(candidate: Any, parent: type) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, parent)


def _convert_union(data: Any, hint: Any, path: str, problems: list[Problem], resolve: Resolve | None) -> Any:
    for member in get_args(hint):
        if isinstance(data, Mapping) and attrs.has(member):
            return _convert(data, member, path, problems, resolve)
        if attrs.has(member) and isinstance(data, member):
            return data
        attempt: list[Problem] = []
        value = _convert(data, member, path, attempt, resolve)
        if not attempt:
            return value
    problems.append(Problem(path, f"must be {_type_words(hint)}, got {data!r} ({type(data).__name__})"))
    return _FAILED


def _fits(data: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return data is None
    if get_origin(hint) is Literal:
        return any(data == choice and type(data) is type(choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(data, (int, float)) and not isinstance(data, bool) and math.isfinite(data)
    if hint is int:
        return isinstance(data, int) and not isinstance(data, bool)
    if hint is Path:
        return isinstance(data, (str, Path))
    return isinstance(hint, type) and isinstance(data, hint)


def _is_valid(field: Attribute[Any], value: Any, path: str, problems: list[Problem]) -> bool:
    if field.validator is None:
        return True
    try:
        field.validator(None, field, value)
    except (TypeError, ValueError) as error:
        # attrs' validators put further values (attribute, bound) into args; the sentence comes first
        problems.append(Problem(path, str(error.args[0]) if error.args else str(error)))
        return False
    return True


def expected_words(hint: Any, field: Attribute[Any]) -> str:
    """Say in words what the value of a field must be."""
    kind = field.metadata.get("plugin")
    if kind:
        reference = " or a stage's name or an artifact's path" if field.metadata.get("reference") else ""
        tables = "".join(f" or {{ {key} = {{ … }} }}" for key in field.metadata.get("tables", {}))
        table = f'{{ use = "{kind} name", … }}{reference}{tables}'
        words = {True: f"a list ({table} each)", "or one": f"{table}, or a list of these"}
        return words.get(field.metadata.get("many", False), table)
    return _type_words(hint)


def _type_words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_words(member) for member in get_args(hint) if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if origin is tuple:
        return f"a list ({_type_words(get_args(hint)[0])} each)"
    if attrs.has(hint) or _is_subclass(origin, Mapping):
        return "a table"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
