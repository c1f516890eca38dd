"""Rows of a CSV file: columns of numbers and of categories, and one or more columns to predict.

Numbers are standardised; missing ones become the column's median, and a column of its own says where one was
missing; a category becomes a number for each value that training rows have, all zero for one that they have
not. Medians, means, deviations and values are those of scikit-learn's `SimpleImputer`, `StandardScaler` and
`OneHotEncoder`, fitted on the training rows; they are plain data of the task, so that artifacts and exported
files have them.

Reference:
    Pedregosa et al., Scikit-learn: machine learning in Python, 2011. arXiv:1201.0490
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt, min_len
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl, nearest
from learnforge_kit import MemorySplit, measure_channels, permutation, stratified

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
"""Cells that count as missing, in small letters."""

MOST_VALUES = 200
"""Values of a column of categories; one with more is no category, but a name or a text."""

AT_ONCE = 1024
"""Rows that are read into inputs at a time."""

LEAST_ROWS = 5
"""Rows of a table that can be split."""

Rows = Sequence[Mapping[str, str]]


@frozen
class Table(TaskSource):
    """Rows of a CSV file, whose first line names the columns.

    Args:
        file: The file, UTF-8.
        target: The column to predict, or several of numbers.
        form: `classification` or `regression`; by default regression where all targets are numbers with more
            than 20 different values, or with a fraction.
        columns: Columns to predict from; all others than the target by default.
        categories: Columns of numbers that are categories all the same, such as codes.
        split: A column that says `train`, `validation` or `test` of each row; without one rows are split at
            random, classes evenly.
        validation: Share of the rows to validate with, in (0, 1).
        test: Share to test with, in (0, 1).
        split_seed: Which random split, from 0.
        delimiter: What parts the columns.
    """

    file: Path
    target: str | tuple[str, ...] = field(validator=min_len(1))
    form: Literal["auto", "classification", "regression"] = field(
        default="auto", validator=in_(("auto", "classification", "regression"))
    )
    columns: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    split: str | None = None
    validation: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    test: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    split_seed: int = field(default=0, validator=ge(0))
    delimiter: str = field(default=",", validator=min_len(1))

    def load(self) -> Task:
        names, rows, lines = read_rows(self.file, self.delimiter)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        chosen = self._chosen(names, targets)
        labels, classes, form = self._targets(rows, lines, targets)
        parts = self._parts(rows, labels)
        self._require_rows(parts, labels, classes, form)
        train = [rows[i] for i in parts[0]], [lines[i] for i in parts[0]]
        plan = [_plan_of(name, *train, name in self.categories, self.file) for name in chosen]
        kept = [column for column in plan if column["kind"] != "constant"]
        if not kept:
            raise TaskError(f"{self.file}: no column has two different values in the training rows")
        inputs = encode(rows, lines, kept, self.file)
        mean, std = measure_channels(inputs[parts[0]])
        centre, spread = ((), ()) if form == "classification" else measure_channels(labels[parts[0]])
        if form == "regression":
            mean_of, std_of = (torch.tensor(own, dtype=torch.float64) for own in (centre, spread))
            labels = ((labels - mean_of) / std_of).float()
        name = self.file.stem
        info = TaskInfo(
            name,
            classes,
            tuple(f"{name}:{own}" for own in classes),
            (inputs.shape[1],),
            mean,
            std,
            form,
            inputs="floats",
            target_mean=centre,
            target_std=spread,
            reading={"use": "table", "delimiter": self.delimiter, "columns": kept},
        )
        splits = [MemorySplit(inputs[part], labels[part]) for part in parts]
        return Task(info, splits[0], splits[1], splits[2])

    @classmethod
    def read(
        cls, files: Sequence[Path], task: TaskInfo, complain: Callable[[str], None]
    ) -> Iterator[tuple[list[str], Tensor]]:
        for file in files:
            try:
                names, rows, lines = read_rows(file, task.reading["delimiter"], complain)
                _require([column["name"] for column in task.reading["columns"]], names, file)
            except TaskError as error:
                complain(str(error))
                continue
            for start in range(0, len(rows), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                places, inputs = _readable(rows[part], lines[part], task.reading["columns"], file, complain)
                if places:
                    yield [f"{file}:{line}" for line in places], inputs

    def _chosen(self, names: Sequence[str], targets: Sequence[str]) -> list[str]:
        """Return the columns to predict from."""
        split = [self.split] if self.split is not None else []
        _require([*targets, *(self.columns or ()), *self.categories, *split], names, self.file)
        both = sorted({*targets, *split} & {*(self.columns or ())})
        if both:
            raise TaskError(f"task.columns: must not hold what is predicted or splits rows, {both[0]!r} does")
        return list(self.columns or (name for name in names if name not in (*targets, *split)))

    def _targets(
        self, rows: Rows, lines: Sequence[int], targets: Sequence[str]
    ) -> tuple[Tensor, tuple[str, ...], str]:
        """Return the targets, the classes or the names of columns, and the form."""
        cells = [[row[name].strip() for name in targets] for row in rows]
        for line, own in zip(lines, cells, strict=True):
            if any(is_missing(cell) for cell in own):
                raise TaskError(f"{self.file}:{line}: every row must have a target; remove the row")
        numbers = [[_number(cell) for cell in own] for own in cells]
        are_numbers = all(value is not None for own in numbers for value in own)
        if self.form == "regression" and not are_numbers:
            raise TaskError(f"task.target: regression needs numbers, {', '.join(targets)} holds others")
        values = {own[0] for own in numbers}
        looks_continuous = len(values) > 20 or any(v is not None and v != int(v) for v in values)
        is_regression = self.form == "regression" or (
            self.form == "auto" and are_numbers and (len(targets) > 1 or looks_continuous)
        )
        if is_regression:
            return torch.tensor(numbers, dtype=torch.float64), tuple(targets), "regression"
        if len(targets) > 1:
            raise TaskError(f"task.target: classes stand in one column, got {', '.join(targets)}")
        classes = sorted({own[0] for own in cells}, key=lambda cell: (_number(cell) or 0.0, cell))
        places = {name: place for place, name in enumerate(classes)}
        return torch.tensor([places[own[0]] for own in cells]), tuple(classes), "classification"

    def _parts(self, rows: Rows, labels: Tensor) -> list[Tensor]:
        """Return the places of training, validation and test rows."""
        if len(rows) < LEAST_ROWS:
            words = f"must hold {LEAST_ROWS} rows at least to be split, it holds {len(rows)}"
            raise TaskError(f"{self.file} {words}")
        if self.split is not None:
            said = [row[self.split].strip().lower() for row in rows]
            odd = sorted(set(said) - {"train", "validation", "test"})
            if odd:
                raise TaskError(
                    f"task.split: {self.split!r} must say train, validation or test, got {odd[0]!r}"
                )
            return [
                torch.tensor([i for i, own in enumerate(said) if own == name], dtype=torch.int64)
                for name in ("train", "validation", "test")
            ]
        if self.validation + self.test >= 1:
            total = self.validation + self.test
            raise TaskError(f"task: validation + test must be below 1, got {total:g}")
        if labels.is_floating_point():
            order = permutation(self.split_seed, len(rows))
            sizes = [max(1, round(share * len(rows))) for share in (self.validation, self.test)]
            cut = [*sizes, max(0, len(rows) - sum(sizes))]
            validation, test, train = (part.sort().values for part in order.split(cut))
        else:
            validation, test, train = stratified(labels, (self.validation, self.test), self.split_seed)
        return [train, validation, test]

    def _require_rows(
        self, parts: Sequence[Tensor], labels: Tensor, classes: Sequence[str], form: str
    ) -> None:
        """Refuse splits without rows, and classes that no training row is of."""
        names = ("train", "validation", "test")
        empty = [name for name, part in zip(names, parts, strict=True) if not len(part)]
        if empty:
            raise TaskError(f"{self.file} must have rows for every split, there is none for {empty[0]}")
        if form == "classification":
            known = set(labels[parts[0]].tolist())
            bare = [name for place, name in enumerate(classes) if place not in known]
            if bare:
                raise TaskError(
                    f"{self.file} must have a training row of every class, there is none of "
                    f"{', '.join(bare)}; leave out rows of rare classes, or say the splits by a column, "
                    "`split`"
                )


def _readable(
    rows: Rows,
    lines: Sequence[int],
    plan: Sequence[Mapping[str, Any]],
    file: Path,
    complain: Callable[[str], None],
) -> tuple[list[int], Tensor]:
    """Return the lines and numbers of the rows that can be read; the others are told."""
    try:
        return list(lines), encode(rows, lines, plan, file)
    except TaskError:
        found: list[tuple[int, Tensor]] = []
    for row, line in zip(rows, lines, strict=True):
        try:
            found.append((line, encode([row], [line], plan, file)))
        except TaskError as error:
            complain(str(error))
    return [line for line, _ in found], torch.cat([own for _, own in found] or [torch.empty(0)])


def read_rows(
    file: Path, delimiter: str, complain: Callable[[str], None] | None = None
) -> tuple[list[str], list[dict[str, str]], list[int]]:
    """Read a CSV file: the names of its columns, its rows, and the lines on which these end.

    Args:
        file: The file.
        delimiter: What parts the columns.
        complain: Told of rows with more or fewer cells than there are names, which are left out; without it
            they are an error.

    Raises:
        TaskError: It is not there, no UTF-8, or a row has more or fewer cells than there are names.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            names = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise TaskError(f"{file} must be in UTF-8, which it is not; save it so: {error}") from error
    except (OSError, csv.Error, TypeError) as error:
        raise TaskError(f"{file} cannot be read as a table: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if "" in names and rows:
        raise TaskError(
            f"{file} must name each column in its first line, number {names.index('') + 1} has no name; "
            "pandas writes such a column unless it is told `index=False`"
        )
    if not rows or twice:
        reason = f"{twice[0]!r} twice" if twice else f"{len(rows)} rows below {names[:5]}"
        raise TaskError(f"{file} must name each column once in its first line, with rows below; got {reason}")
    for line, cells in [own for own in rows if len(own[1]) != len(names)]:
        words = f"{file}:{line}: must have {len(names)} cells, as there are columns, got {len(cells)}"
        if complain is None:
            raise TaskError(words)
        complain(words)
    rows = [own for own in rows if len(own[1]) == len(names)]
    lines = [line for line, _ in rows]
    return names, [dict(zip(names, cells, strict=True)) for _, cells in rows], lines


def encode(rows: Rows, lines: Sequence[int], plan: Sequence[Mapping[str, Any]], file: Path) -> Tensor:
    """Turn rows into numbers, float32 [row, feature], as a plan of columns says.

    Raises:
        TaskError: A cell of a column of numbers is none, or too far from the training rows; the text has its
            file and line.
    """
    features: list[np.ndarray] = []
    for column in plan:
        cells = [row[column["name"]].strip() for row in rows]
        if column["kind"] == "category":
            known = {value: place for place, value in enumerate(column["values"])}
            one_hot = np.zeros((len(cells), len(known)), np.float32)
            for number, cell in enumerate(cells):
                place = known.get("" if is_missing(cell) else cell)
                if place is not None:
                    one_hot[number, place] = 1.0
            features.append(one_hot)
            continue
        found = [math.nan if is_missing(cell) else _number(cell) for cell in cells]
        if None in found:
            raise _no_number(file, lines[found.index(None)], column["name"], cells[found.index(None)])
        values = np.array(found, np.float64)
        gaps = np.isnan(values)
        scaled = (np.where(gaps, column["fill"], values) - column["mean"]) / column["std"]
        if not (np.abs(scaled) < MOST_DEVIATIONS).all():
            place = int((~(np.abs(scaled) < MOST_DEVIATIONS)).argmax())
            raise TaskError(
                f"{file}:{lines[place]}: column {column['name']!r} holds {cells[place]}, which is more than "
                f"{MOST_DEVIATIONS:g} deviations from the mean of the training rows; mend or remove it"
            )
        features.append(scaled[:, None].astype(np.float32))
        if column["has_gaps"]:
            features.append(gaps[:, None].astype(np.float32))
    return torch.from_numpy(np.concatenate(features, 1))


MOST_DEVIATIONS = 1e9
"""Deviations from the mean beyond which a number is taken for a mistake."""


def _no_number(file: Path, line: int, name: str, cell: str) -> TaskError:
    return TaskError(
        f"{file}:{line}: column {name!r} must hold numbers, got {cell!r}; mend it, or name the column in "
        "`categories`"
    )


def _plan_of(name: str, rows: Rows, lines: Sequence[int], is_category: bool, file: Path) -> dict[str, Any]:
    """Fit how a column becomes numbers to the training rows."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    cells = [row[name].strip() for row in rows]
    numbers = [math.nan if is_missing(cell) else _number(cell) for cell in cells]
    there = {cell for cell in cells if not is_missing(cell)}
    if len(there) < 2 and not (there and len(there) < len(set(cells))):
        return {"name": name, "kind": "constant"}
    if not is_category and None not in numbers:
        values = np.array(numbers, np.float64)[:, None]
        imputer = SimpleImputer(strategy="median").fit(values)
        scaler = StandardScaler().fit(imputer.transform(values))
        return {
            "name": name,
            "kind": "number",
            "fill": float(imputer.statistics_[0]),
            "mean": float(scaler.mean_[0]),
            "std": float(scaler.scale_[0]),
            "has_gaps": bool(np.isnan(values).any()),
        }
    odd = [place for place, number in enumerate(numbers) if number is None]
    if not is_category and len(odd) < len(numbers) / 2:  # a mistake among numbers, and no column of texts
        raise _no_number(file, lines[odd[0]], name, cells[odd[0]])
    if len(there) > MOST_VALUES:
        raise TaskError(
            f"column {name!r} has {len(there)} different values in the training rows, and {MOST_VALUES} are "
            "the most that categories may have; leave it out by `columns`, or make numbers of it"
        )
    texts = np.array([["" if is_missing(cell) else cell] for cell in cells], object)
    return {"name": name, "kind": "category", "values": list(OneHotEncoder().fit(texts).categories_[0])}


def is_missing(cell: str) -> bool:
    """Tell whether a cell says that nothing is known."""
    return cell.strip().lower() in MISSING


def _number(cell: str) -> float | None:
    try:
        value = float(cell) if "_" not in cell else math.nan  # which Python takes for a separator
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _require(wanted: Sequence[str], names: Sequence[str], file: Path) -> None:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        hint = ". Is it `delimiter` that parts them?" if len(names) == 1 else ""
        raise TaskError(f"{file} has no column {unknown[0]!r}; {nearest(unknown[0], names)}{hint}")


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"table": Table}
