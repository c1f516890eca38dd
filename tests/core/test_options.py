"""Plain data become options, or every problem at once with its TOML path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen
from attrs.validators import ge, in_, lt

from learnforge.errors import Problem, RecipeError
from learnforge.options.structure import build, plain, plugin_field, structure
from learnforge_kit.description import describe, read_value


@frozen
class Inner:
    """Inner settings.

    Args:
        rate: Learning rate, above 0.
    """

    rate: float = field(default=0.5, validator=lt(2.0))


@frozen
class Options:
    """All sorts of options.

    Args:
        size: Size in pixels,
            from 2.
        rate: Rate.
    """

    size: int = field(validator=ge(2))
    rate: float = 1.0
    on: bool = False
    word: str = "a"
    path: Path = Path("here")
    mode: Literal["max", "mean"] = "mean"
    maybe: int | None = None
    either: float | Literal["auto"] = "auto"
    many: tuple[int, ...] = ()
    table: Mapping[str, float] = field(factory=dict)
    inner: Inner = field(factory=Inner)
    inners: tuple[Inner, ...] = ()
    inner_or_word: Inner | str = "none"
    anything: Any = None


@frozen
class Odd:
    """An option that another one rules."""

    low: int = 0
    high: int = 1

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"`low` must not exceed `high` = {self.high}, got {self.low}")


@frozen
class Square:
    """What a plugin brings."""

    side: float = field(default=1.0, validator=ge(0.0))


@frozen
class Stage:
    """Settings with plugin fields."""

    shape: Any = plugin_field("shape")
    source: Any = plugin_field("model", default=None, reference=True, key="from")


def wrong(data, cls=Options, resolve=None, path="x"):
    """Return {path: message} of all that is wrong."""
    problems: list[Problem] = []
    assert structure(cls, data, path, problems, resolve) is None
    assert len({p.path for p in problems}) == len(problems)
    return {p.path: p.message for p in problems}


def resolve(kind, table, path, problems):
    """Know one shape, `square`."""
    if (kind, table["use"]) != ("shape", "square"):
        problems.append(Problem(f"{path}.use", f"there is no {kind} {table['use']!r}"))
        return None
    return structure(Square, {k: v for k, v in table.items() if k != "use"}, path, problems, resolve)


def test_values_become_an_object():
    """Every sort of value is taken; whole numbers serve as numbers, strings as paths, lists as tuples."""
    data = {
        "size": 3,
        "rate": 2,
        "on": True,
        "word": "b",
        "path": "x/y",
        "mode": "max",
        "maybe": 4,
        "either": 2,
        "many": [1, 2],
        "table": {"a": 1},
        "inner": {"rate": 1},
        "inners": [{"rate": 0.25}, {}],
        "inner_or_word": {"rate": 0.75},
        "anything": [1, "a"],
    }
    expected = Options(
        3, 2.0, True, "b", Path("x/y"), "max", 4, 2.0, (1, 2), {"a": 1.0},
        Inner(1.0), (Inner(0.25), Inner(0.5)), Inner(0.75), [1, "a"],
    )  # fmt: skip
    built = build(Options, data, "test")
    assert built == expected
    assert type(built.rate) is type(built.either) is type(built.table["a"]) is float


def test_defaults_fill_what_is_missing():
    """Only the required option must be given; objects from the API pass as they are."""
    assert build(Options, {"size": 2}, "test") == Options(2)
    inner = Inner(0.1)
    assert build(Options, {"size": 2, "inner": inner, "inner_or_word": inner}, "test").inner is inner


def test_all_problems_come_at_once_each_with_its_path():
    """Unknown, missing, ill-typed, out-of-range and nested mistakes are all reported together."""
    data = {"rat": 1, "on": 1, "inner": {"rate": 3.0, "speed": 1}, "inners": [{}, {"rate": "fast"}]}
    found = wrong(data, path="stage.search.options")
    assert set(found) == {
        "stage.search.options.rat",
        "stage.search.options.size",
        "stage.search.options.on",
        "stage.search.options.inner.rate",
        "stage.search.options.inner.speed",
        "stage.search.options.inners[1].rate",
    }
    assert found["stage.search.options.rat"].startswith("unknown option; did you mean 'rate'? There are: ")
    assert found["stage.search.options.size"] == "is missing; it must be a whole number"
    assert found["stage.search.options.on"] == "must be true or false, got 1 (int)"
    assert found["stage.search.options.inner.rate"] == "'rate' must be < 2.0: 3.0"
    assert found["stage.search.options.inner.speed"] == "unknown option; there are: rate"
    assert found["stage.search.options.inners[1].rate"] == "must be a number, got 'fast' (str)"


def test_build_raises_them_as_one_error():
    """`build` raises one RecipeError whose text has the source, the count and every problem."""
    with pytest.raises(
        RecipeError, match=r"(?s)my call: 2 problems.*size: 'size' must be >= 2: 1.*word: must"
    ):
        build(Options, {"size": 1, "word": 5}, "my call")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", 2.0, "must be a whole number, got 2.0 (float)"),
        ("size", True, "must be a whole number, got True (bool)"),
        ("size", 1, "'size' must be >= 2: 1"),
        ("rate", True, "must be a number, got True (bool)"),
        ("rate", "1", "must be a number, got '1' (str)"),
        ("rate", float("nan"), "must be a number, got nan (float)"),
        ("rate", float("inf"), "must be a number, got inf (float)"),
        ("on", "true", "must be true or false, got 'true' (str)"),
        ("word", 1, "must be a string, got 1 (int)"),
        ("path", 1, "must be a path, got 1 (int)"),
        (
            "mode",
            "maxx",
            "must be one of 'max', 'mean', got 'maxx' (str); did you mean 'max'? There are: max, mean",
        ),
        ("mode", 1, "must be one of 'max', 'mean', got 1 (int)"),
        ("maybe", "x", "must be a whole number, got 'x' (str)"),
        ("either", "aut", "must be a number or one of 'auto', got 'aut' (str)"),
        ("many", 1, "must be a list (a whole number each), got 1 (int)"),
        ("many", "12", "must be a list (a whole number each), got '12' (str)"),
        ("table", [1], "must be a table, got [1] (list)"),
        ("inner", 1, "must be a table, got 1"),
        ("inner_or_word", 1, "must be a table or a string, got 1 (int)"),
    ],
)  # fmt: skip
def test_wrong_value_says_what_must_hold_and_what_came(key, value, message):
    """One wrong value gives one problem at its path, with what must hold and what came."""
    assert wrong({"size": 2, key: value}) == {f"x.{key}": message}


def test_problems_inside_lists_tables_and_unions_have_the_inner_path():
    """The path leads to the item of a list, the key of a table, the option of a class in a union."""
    found = wrong({"size": 2, "many": [1, "a", 2.5], "table": {"a": "b"}, "inner_or_word": {"rat": 1}})
    assert set(found) == {"x.many[1]", "x.many[2]", "x.table.a", "x.inner_or_word.rat"}


def test_literal_takes_no_equal_of_another_type():
    """`True` is no `1` where a literal wants 1."""

    @frozen
    class One:
        value: Literal[1, 2] = 1

    assert build(One, {"value": 2}, "t").value == 2
    problems: list[Problem] = []
    assert structure(One, {"value": True}, "", problems) is None
    assert str(problems[0]) == "value: must be one of 1, 2, got True (bool)"


def test_data_that_is_no_table_is_one_problem():
    """A list where a table belongs is reported at its own path."""
    assert wrong([1], Inner, path="train") == {"train": "must be a table, got [1]"}


def test_rules_between_options_are_reported_at_the_table():
    """A rule of `__attrs_post_init__` is a problem of the whole table, without a Python traceback."""
    assert wrong({"low": 3}, Odd) == {"x": "`low` must not exceed `high` = 1, got 3"}


def test_rules_of_own_validators_are_reported_at_the_option():
    """A validator that a class writes itself is reported at its option, with its own sentence."""

    @frozen
    class Even:
        count: int = field(default=2, validator=in_((2, 4)))

    assert set(wrong({"count": 3}, Even)) == {"x.count"}


def test_plugin_field_takes_tables_strings_and_objects():
    """`{ use = … }` and a bare name are resolved with their options; objects and references pass."""
    problems: list[Problem] = []
    built = structure(
        Stage, {"shape": {"use": "square", "side": 2}, "from": "search"}, "s", problems, resolve
    )
    assert built == Stage(Square(2.0), "search")
    assert structure(Stage, {"shape": "square"}, "s", problems, resolve) == Stage(Square(1.0), None)
    square = Square(3.0)
    same = structure(Stage, {"shape": square}, "s", problems, resolve)
    assert same is not None
    assert same.shape is square
    assert problems == []


def test_plugin_field_problems_have_paths():
    """A wrong name, a wrong option of the plugin, a table without `use` and a missing one are all placed."""
    assert wrong({"shape": "circle"}, Stage, resolve, "s") == {"s.shape.use": "there is no shape 'circle'"}
    found = wrong({"shape": {"use": "square", "side": -1.0, "sid": 1}, "from": {}}, Stage, resolve, "s")
    assert found == {
        "s.shape.side": "'side' must be >= 0.0: -1.0",
        "s.shape.sid": "unknown option; did you mean 'side'? There are: side",
        "s.from": 'must be a table { use = "model name", … } or the name of a stage or the path of '
        "an artifact, got {}",
    }
    assert wrong({"shape": 3}, Stage, resolve, "s") == {
        "s.shape": 'must be a table { use = "shape name", … }, got 3'
    }
    assert wrong({}, Stage, resolve, "s") == {"s.shape": 'is missing; it must be { use = "shape name", … }'}


def test_describe_reads_types_defaults_and_words():
    """Each option is listed with its type in words, its default, and its line of the docstring, unwrapped."""
    found = {d.name: d for d in describe(Options)}
    assert list(found)[:2] == ["size", "rate"]
    assert (found["size"].type, found["size"].default) == ("a whole number", "required")
    assert found["size"].words == "Size in pixels, from 2."
    assert (found["mode"].type, found["mode"].default) == ("one of 'max', 'mean'", "'mean'")
    assert (found["maybe"].type, found["maybe"].default) == ("a whole number", "None")
    assert (found["inner"].type, found["inner"].default) == ("a table", "{'rate': 0.5}")
    assert found["many"].type == "a list (a whole number each)"
    assert found["word"].words == ""
    stage = {d.name: d.type for d in describe(Stage)}
    assert stage["from"] == "{ use = \"model name\", … } or a stage's name or an artifact's path"


def test_plain_writes_what_a_recipe_could_say():
    """Plain data of an object are JSON-able, have every default, TOML keys, and build the same object."""
    options = Options(2, path=Path("a/b"), many=(1, 2), inners=(Inner(0.25),), table={"a": 1.0})
    data = plain(options)
    assert data["path"] == "a/b"
    assert data["many"] == [1, 2]
    assert data["inners"] == [{"rate": 0.25}]
    assert data["rate"] == 1.0
    assert build(Options, data, "again") == options


def test_plain_names_what_plugins_bring():
    """A plugin's object becomes `{ use = name, … }` under its TOML key; without names, its options alone."""
    stage = Stage(Square(2.0), "search")
    named = plain(stage, lambda part: type(part).__name__.lower())
    assert named == {"shape": {"use": "square", "side": 2.0}, "from": "search"}
    assert plain(stage) == {"shape": {"side": 2.0}, "from": "search"}


@frozen
class Hunt:
    """How something is found.

    Args:
        tries: Tries.
    """

    tries: int = field(default=1, validator=ge(1))


@frozen
class Taught:
    """Who teaches whom.

    Args:
        teacher: One or several.
        student: One, or how it is found.
    """

    teacher: Any = plugin_field("model", default=None, reference=True, many="or one")
    student: Any = plugin_field("model", default=None, reference=True, tables={"hunt": Hunt})


def test_one_or_several_and_tables() -> None:
    """A field may take one value or a list, and a table with a key of its own in the place of a plugin's."""

    def resolve(kind: str, table: Any, path: str, problems: list[Problem]) -> Any:
        return f"{kind} {table['use']}"

    problems: list[Problem] = []
    made = structure(Taught, {"teacher": "above", "student": {"use": "small"}}, "", problems, resolve)
    assert made == Taught("above", "model small")
    made = structure(Taught, {"teacher": ["above", {"use": "large"}]}, "", problems, resolve)
    assert made == Taught(("above", "model large"))
    made = structure(Taught, {"student": {"hunt": {"tries": 3}}}, "", problems, resolve)
    assert made == Taught(None, Hunt(3))
    assert problems == []
    structure(Taught, {"teacher": ["above", 3], "student": {"hunt": {"tries": 0}}}, "x", problems, resolve)
    assert [p.path for p in problems] == ["x.teacher[1]", "x.student.hunt.tries"]
    words = {option.name: option.type for option in describe(Taught)}
    assert words["teacher"].endswith("or a list of these")
    assert words["student"].endswith("or { hunt = { … } }")


def test_values_of_a_command_line() -> None:
    """Tables and lists are read as TOML, other words are names; broken ones are refused."""
    assert read_value("task", '{ use = "digits", classes = [0, 1] }') == {"use": "digits", "classes": [0, 1]}
    assert read_value("teacher", '["a", { use = "b" }]') == ["a", {"use": "b"}]
    assert read_value("student", "mobilenet") == "mobilenet"
    with pytest.raises(RecipeError, match="train: must be a table as TOML writes it"):
        read_value("train", "{ epochs = }")
