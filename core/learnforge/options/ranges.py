"""Options that a stage searches: `{ low = 1.0, high = 8.0, log = true }` or `{ choices = [...] }` in
their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen
from attrs.validators import deep_mapping, ge, gt, instance_of, optional

from learnforge.errors import Problem
from learnforge.options.structure import plugin_field

if TYPE_CHECKING:
    from learnforge.kinds.space import Pick

_FIXED = ("name", "kind", "use", "task", "source_task", "tune")
"""Keys of a stage's table that cannot hold ranges: what it is, and its data."""


@frozen
class Range:
    """Values that an option may take.

    Args:
        low: Least value, for a number.
        high: Greatest value.
        log: Search in the logarithm; `low` must be above 0.
        choices: Values in no order, in place of `low` and `high`.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None:
                raise ValueError("a range is `{ low, high }` or `{ choices }` with at least one choice")
            if not all(isinstance(c, (bool, int, float, str)) for c in self.choices):
                raise ValueError(f"choices must be numbers, strings, true or false, got {list(self.choices)}")
            return
        if not _is_number(self.low) or not _is_number(self.high):
            raise ValueError(f"low and high must be numbers, got {self.low!r} and {self.high!r}")
        assert self.low is not None
        assert self.high is not None
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log = true, got {self.low}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every value that must be possible for all to be: the ends, or all choices."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def with_ends(self, ends: Sequence[Any]) -> Range:
        """Return the same range with other ends or choices."""
        if self.choices is not None:
            return evolve(self, choices=tuple(ends))
        return evolve(self, low=ends[0], high=ends[1])

    def pick(self, name: str, pick: Pick) -> Any:
        """Make the choice."""
        if self.choices is not None:
            return pick.choice(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return pick.integer(name, self.low, self.high, log=self.log)
        assert self.low is not None
        assert self.high is not None
        return pick.number(name, float(self.low), float(self.high), log=self.log)


@frozen
class Tune:
    """How a stage searches the options that are given as ranges; each trial is the stage, judged on
    validation data.

    Args:
        searcher: Any searcher.
        trials: Distinct settings to try, from 1.
        objectives: `accuracy` on validation data, or what else the task's form measures, or a cost with a
            minus before it; the best by the first one is taken. By default what the form measures first.
        limits: Largest allowed costs.
        batch: Trials asked at a time; with it the search is the same for any number of workers.
        threads: CPU threads of a trial.
        executor: Where trials run; by default `processes` for more than one worker.
    """

    searcher: Any = plugin_field("searcher")
    trials: int = field(default=20, validator=ge(1))
    objectives: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(factory=dict, validator=deep_mapping(instance_of(str), gt(0)))
    batch: int | None = field(default=None, validator=optional(ge(1)))
    threads: int = field(default=1, validator=ge(1))
    executor: Any = plugin_field("executor", default=None, placement=True)


def take_ranges(
    table: Mapping[str, Any], path: str, problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, Range]]:
    """Split a stage's table into one without ranges, their first values in place, and {path of an
    option: range}.
    """
    ranges: dict[str, Range] = {}
    searched = {key: value for key, value in table.items() if key not in _FIXED}
    plain = {**table, **_without_ranges(searched, "", path, ranges, problems)}
    for key in ("task", "source_task"):
        inner: dict[str, Range] = {}
        if isinstance(table.get(key), Mapping):
            plain[key] = _without_ranges(table[key], key, path, inner, [])
        problems += [Problem(f"{path}.{name}", "the data of a stage cannot be a range") for name in inner]
        for name in inner:
            plain[key].pop(name.partition(".")[2], None)
    return plain, ranges


def _without_ranges(
    table: Mapping[str, Any], name: str, path: str, ranges: dict[str, Range], problems: list[Problem]
) -> dict[str, Any]:
    """Return a table with the first value of each range in its place; wrong ranges are reported
    and left out.
    """
    plain: dict[str, Any] = {}
    for key, value in table.items():
        own = f"{name}.{key}" if name else str(key)
        if not isinstance(value, Mapping):
            plain[key] = value
        elif not _looks_like_a_range(value):
            plain[key] = _without_ranges(value, own, path, ranges, problems)
        else:
            try:
                ranges[own] = _read_range(value)
                plain[key] = ranges[own].ends[0]
            except ValueError as error:
                problems.append(Problem(f"{path}.{own}", str(error)))
    return plain


def _looks_like_a_range(value: Mapping[str, Any]) -> bool:
    return set(value) == {"choices"} or {"low", "high"} <= set(value) <= {"low", "high", "log"}


def _read_range(value: Mapping[str, Any]) -> Range:
    choices = value.get("choices")
    if choices is not None and not isinstance(choices, (list, tuple)):
        raise ValueError(f"choices must be a list, got {choices!r}")
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    return Range(low, high, log, tuple(choices) if choices is not None else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
