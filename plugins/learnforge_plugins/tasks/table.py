"""Rows of a CSV file: columns of numbers and of categories, and one or more columns to predict.

Missing numbers become the column's median, and a column of its own says where one was missing; a category
becomes a number for each value that training rows have, all zero for one that they have not. Medians and
values are those of scikit-learn's `SimpleImputer` and `OneHotEncoder`, fitted on the training rows; they are
plain data of the task, so that artifacts and exported files have them.

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
        names, rows = read_rows(self.file, self.delimiter)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        chosen = self._chosen(names, targets)
        labels, classes, form = self._targets(rows, targets)
        parts = self._parts(rows, labels)
        plan = [_plan_of(name, [rows[i] for i in parts[0]], name in self.categories) for name in chosen]
        kept = [column for column in plan if column["kind"] != "constant"]
        if not kept:
            raise TaskError(f"{self.file}: no column has two different values in the training rows")
        inputs = encode(rows, kept, str(self.file))
        mean, std = measure_channels(inputs[parts[0]])
        centre, spread = ((), ()) if form == "classification" else measure_channels(labels[parts[0]])
        if form == "regression":
            labels = ((labels.double() - torch.tensor(centre)) / torch.tensor(spread)).float()
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
                names, rows = read_rows(file, task.reading["delimiter"])
                _require([column["name"] for column in task.reading["columns"]], names, file)
                yield (
                    [f"{file}:{number}" for number in range(2, len(rows) + 2)],
                    encode(rows, task.reading["columns"], str(file)),
                )
            except TaskError as error:
                complain(str(error))

    def _chosen(self, names: Sequence[str], targets: Sequence[str]) -> list[str]:
        """Return the columns to predict from."""
        split = [self.split] if self.split is not None else []
        _require([*targets, *(self.columns or ()), *self.categories, *split], names, self.file)
        both = sorted({*targets, *split} & {*(self.columns or ())})
        if both:
            raise TaskError(f"task.columns: must not hold what is predicted or splits rows, {both[0]!r} does")
        return list(self.columns or (name for name in names if name not in (*targets, *split)))

    def _targets(self, rows: Rows, targets: Sequence[str]) -> tuple[Tensor, tuple[str, ...], str]:
        """Return the targets, the classes or the names of columns, and the form."""
        cells = [[row[name].strip() for name in targets] for row in rows]
        for number, own in enumerate(cells, 2):
            if any(is_missing(cell) for cell in own):
                raise TaskError(f"{self.file}:{number}: every row must have a target; remove the row")
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
            return torch.tensor(numbers, dtype=torch.float32), tuple(targets), "regression"
        if len(targets) > 1:
            raise TaskError(f"task.target: classes stand in one column, got {', '.join(targets)}")
        classes = sorted({own[0] for own in cells}, key=lambda cell: (_number(cell) or 0.0, cell))
        places = {name: place for place, name in enumerate(classes)}
        return torch.tensor([places[own[0]] for own in cells]), tuple(classes), "classification"

    def _parts(self, rows: Rows, labels: Tensor) -> list[Tensor]:
        """Return the places of training, validation and test rows."""
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


def read_rows(file: Path, delimiter: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file: the names of its columns and its rows.

    Raises:
        TaskError: It is not there, no UTF-8, or a row has more or fewer cells than there are names.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            names = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise TaskError(f"{file} cannot be read as a table: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if not rows or not all(names) or twice:
        reason = f"{twice[0]!r} twice" if twice else f"{len(rows)} rows below {names[:5]}"
        raise TaskError(f"{file} must name each column once in its first line, with rows below; got {reason}")
    for line, cells in rows:
        if len(cells) != len(names):
            raise TaskError(
                f"{file}:{line}: must have {len(names)} cells, as there are columns, got {len(cells)}"
            )
    return names, [dict(zip(names, cells, strict=True)) for _, cells in rows]


def encode(rows: Rows, plan: Sequence[Mapping[str, Any]], where: str) -> Tensor:
    """Turn rows into numbers, float32 [row, feature], as a plan of columns says.

    Raises:
        TaskError: A cell of a column of numbers is none; the text begins with `where`.
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
            number = found.index(None)
            raise TaskError(
                f"{where}:{number + 2}: column {column['name']!r} must hold numbers, got {cells[number]!r}; "
                "name it in `categories` if it is none"
            )
        values = np.array(found, np.float64)
        gaps = np.isnan(values)
        features.append(np.where(gaps, column["fill"], values)[:, None].astype(np.float32))
        if column["has_gaps"]:
            features.append(gaps[:, None].astype(np.float32))
    return torch.from_numpy(np.concatenate(features, 1))


def _plan_of(name: str, rows: Rows, is_category: bool) -> dict[str, Any]:
    """Fit how a column becomes numbers to the training rows."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    cells = [row[name].strip() for row in rows]
    numbers = [math.nan if is_missing(cell) else _number(cell) for cell in cells]
    there = {cell for cell in cells if not is_missing(cell)}
    if len(there) < 2 and not (there and len(there) < len(set(cells))):
        return {"name": name, "kind": "constant"}
    if not is_category and None not in numbers:
        values = np.array(numbers, np.float64)[:, None]
        median = float(SimpleImputer(strategy="median").fit(values).statistics_[0])
        return {"name": name, "kind": "number", "fill": median, "has_gaps": bool(np.isnan(values).any())}
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
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _require(wanted: Sequence[str], names: Sequence[str], file: Path) -> None:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise TaskError(f"{file} has no column {unknown[0]!r}; {nearest(unknown[0], names)}")


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"table": Table}
