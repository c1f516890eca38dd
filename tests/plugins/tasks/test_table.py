"""Tables: columns of numbers and categories as scikit-learn's pipeline makes them, gaps, splits, refusals."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from learnforge import Plugins, Task, TaskError
from learnforge.options.structure import build
from learnforge.spec import in_units
from learnforge_plugins.tasks.table import Table
from learnforge_testing import TaskSuite

COLOURS = ("red", "green", "")


def write(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    """Write rows as a CSV file."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_rows(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Make rows with numbers, gaps in them, categories, codes, and something to predict."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        size, weight, colour = rng.normal(5, 2), rng.normal(70, 10), COLOURS[rng.integers(3)]
        rows.append(
            {
                "size": f"{size:.3f}",
                "weight": "NA" if number % 7 == 0 else f"{weight:.2f}",
                "colour": colour,
                "code": str(rng.integers(3)),
                "price": f"{3 * size + 0.1 * weight + (colour == 'red'):.4f}",
                "kind": "big" if size > 5 else "small",
            }
        )
    return rows


@pytest.fixture
def load(plugins: Plugins, tmp_path: Path) -> Any:
    """Load rows as a table."""

    def load_rows(rows: list[dict[str, Any]] | None = None, **options: Any) -> Task:
        file = write(tmp_path / "own.csv", rows or make_rows())
        cls = plugins.load("task", "table")
        return build(cls, {"file": str(file), **options}, "test").load()  # type: ignore[no-any-return]

    return load_rows


def test_it_keeps_the_duties_of_tasks(tmp_path: Path) -> None:
    """Classification and regression pass the suite."""
    file = str(write(tmp_path / "own.csv", make_rows(90)))
    for target in ("kind", "price"):
        suite = TaskSuite.of(Table, {"file": file, "target": target})
        failed = [outcome for outcome in suite.run() if outcome.state == "failed"]
        assert failed == []


def test_features_are_those_of_scikit_learn(load: Any) -> None:
    """Medians, indicators of gaps and categories are the pipeline's, fitted on the training rows."""
    rows = make_rows()
    task = load(rows, target="price", columns=["size", "weight", "colour"])
    assert task.info.form == "regression"
    assert task.info.classes == ("price",)
    assert task.info.input_shape == (6,)  # size, weight, is weight missing, "", green, red
    plan = {column["name"]: column for column in task.info.reading["columns"]}
    table = np.array([[row["size"], row["weight"], row["colour"]] for row in rows], object)
    table[table == "NA"] = np.nan
    prices = np.array([float(row["price"]) for row in rows])
    mean, std = task.info.target_mean[0], task.info.target_std[0]
    parts = {name: getattr(task, name) for name in ("train", "validation", "test")}
    places = {
        name: [int(np.abs(prices - price).argmin()) for price in (split.labels[:, 0] * std + mean).tolist()]
        for name, split in parts.items()
    }
    assert sorted(itertools.chain(*places.values())) == list(range(60))
    own = [
        ("numbers", SimpleImputer(strategy="median", add_indicator=True), [0, 1]),
        ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [2]),
    ]
    pipeline = ColumnTransformer(own).fit(table[places["train"]])
    for name, split in parts.items():
        expected = pipeline.transform(table[places[name]]).astype(np.float64)
        for place, column in enumerate(("size", "weight")):
            expected[:, place] = (expected[:, place] - plan[column]["mean"]) / plan[column]["std"]
        assert torch.equal(split.images, torch.tensor(expected.astype(np.float32)))
    numbers = pipeline.transform(table[places["train"]])[:, :2].astype(np.float64)
    assert [plan[name]["mean"] for name in ("size", "weight")] == pytest.approx(numbers.mean(0).tolist())
    assert [plan[name]["std"] for name in ("size", "weight")] == pytest.approx(numbers.std(0).tolist())
    torch.testing.assert_close(parts["train"].labels.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_the_form_follows_the_target(load: Any) -> None:
    """Texts and few whole numbers are classes, in their order; many numbers, or fractions, are numbers."""
    assert load(target="kind").info.classes == ("big", "small")
    rows = [{**row, "grade": str(place % 3 + 9)} for place, row in enumerate(make_rows())]
    graded = load(rows, target="grade")
    assert (graded.info.form, graded.info.classes) == ("classification", ("9", "10", "11"))
    assert load(rows, target="grade", form="regression").info.form == "regression"
    both = load(target=["price", "size"])
    assert (both.info.form, both.info.classes, both.info.outputs) == ("regression", ("price", "size"), 2)


def test_codes_are_categories_where_it_is_said(load: Any) -> None:
    """A number is a number, unless `categories` names its column."""
    assert load(target="kind", columns=["code"]).info.input_shape == (1,)
    assert load(target="kind", columns=["code"], categories=["code"]).info.input_shape == (3,)


def test_a_column_may_say_the_splits(load: Any) -> None:
    """Rows go where it says, and the column is not learnt from."""
    names = ("train", "validation", "test")
    rows = [{**row, "part": names[place % 3]} for place, row in enumerate(make_rows())]
    task = load(rows, target="kind", split="part")
    assert [len(getattr(task, name)) for name in names] == [20, 20, 20]
    assert "part" not in [column["name"] for column in task.info.reading["columns"]]
    rows[4]["part"] = "tset"
    with pytest.raises(TaskError, match="must say train, validation or test, got 'tset'"):
        load(rows, target="kind", split="part")


def test_new_rows_are_read_as_the_training_rows_were(load: Any, tmp_path: Path) -> None:
    """Gaps get the training rows' median, unknown categories none, in whatever order the columns are."""
    task = load(target="price", columns=["size", "weight", "colour"])
    size, weight = task.info.reading["columns"][:2]
    new = write(tmp_path / "new.csv", [{"colour": "blue", "weight": "?", "size": "4.5"}])
    ((names, inputs),) = Table.read([new], task.info, pytest.fail)
    assert names == [f"{new}:2"]
    scaled = [(4.5 - size["mean"]) / size["std"], (weight["fill"] - weight["mean"]) / weight["std"]]
    torch.testing.assert_close(inputs, torch.tensor([[*scaled, 1.0, 0.0, 0.0, 0.0]]))
    told: list[str] = []
    bad = write(tmp_path / "bad.csv", [{"colour": "red", "size": "4.5"}])
    assert list(Table.read([bad], task.info, told.append)) == []
    assert told == [f"{bad} has no column 'weight'; there are: colour, size"]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,x\n2,y\n3\n", {"target": "b"}, r"own.csv:4: must have 2 cells, as there are columns, got 1"),
        ("a,a\n1,x\n", {"target": "a"}, "must name each column once in its first line.*'a' twice"),
        ("a,b\n", {"target": "b"}, "got 0 rows below"),
        ("a,b\n1,x\n2,\n", {"target": "b"}, "own.csv:3: every row must have a target"),
        ("a,b\n1,x\n2,y\n", {"target": "c"}, "has no column 'c'; there are: a, b"),
        ("a,b\n1,x\n2,y\n", {"target": "b", "form": "regression"}, "regression needs numbers"),
        ("a,b\n" + "1,x\n1,y\n" * 5, {"target": "b"}, "no column has two different values"),
        ("a,b\n" + "1,x\n2,y\n" * 5 + "3,z\n", {"target": "b"}, "a training row of every class.*none of z"),
        ("a,y\n1,2.5\n", {"target": "y"}, "must hold 5 rows at least to be split, it holds 1"),
        (",a,b\n0,1,x\n", {"target": "b"}, "number 1 has no name; pandas writes"),
        ("a;b\n1;x\n", {"target": "b"}, "has no column 'b'; there are: a;b. Is it `delimiter"),
        ("a,b\n1,x\n2,y\n", {"target": "b", "columns": ["a", "b"]}, "must not hold what is predicted"),
        ("a,b\n1,x\n2,y\n", {"target": ["a", "b"]}, "classes stand in one column, got a, b"),
        (
            "a,b\n" + "1,x\n2,y\n" * 5,
            {"target": "b", "validation": 0.6, "test": 0.6},
            "must be below 1, got 1.2",
        ),
    ],
)
def test_what_is_no_table_is_refused(
    plugins: Plugins, tmp_path: Path, text: str, options: dict[str, Any], words: str
) -> None:
    """The file, the line and what is wrong there."""
    (tmp_path / "own.csv").write_text(text)
    source = build(plugins.load("task", "table"), {"file": str(tmp_path / "own.csv"), **options}, "test")
    with pytest.raises(TaskError, match=words):
        source.load()


def test_a_text_among_numbers_of_other_rows_is_named(load: Any) -> None:
    """A column that is of numbers in the training rows must be so in the others."""
    names = ("train", "validation", "test")
    rows = [{**row, "part": names[place % 3]} for place, row in enumerate(make_rows())]
    rows[5]["size"] = "tall"  # a test row
    with pytest.raises(TaskError, match=r"own.csv:7: column 'size' must hold numbers, got 'tall'"):
        load(rows, target="kind", split="part")


def test_names_are_no_categories(load: Any) -> None:
    """A column of texts that all differ is refused with the way out."""
    rows = [{**row, "name": f"person {place}"} for place, row in enumerate(make_rows(400))]
    with pytest.raises(TaskError, match=r"column 'name' has 240 different values.*leave it out by `columns`"):
        load(rows, target="kind")


def test_numbers_far_from_nothing_keep_their_differences(load: Any) -> None:
    """Seconds since 1970 and dates as numbers, to learn from and to predict, are told apart in 32 bits."""
    rows = [{**row, "time": str(1_700_000_000 + n)} for n, row in enumerate(make_rows())]
    task = load(rows, target="price", columns=["time"])
    everything = torch.cat([s.images for s in (task.train, task.validation, task.test)])
    assert len(everything.unique()) == 60
    predicted = load(rows, target="time", columns=["size"])
    labels = torch.cat([s.labels for s in (predicted.train, predicted.validation, predicted.test)])
    assert len(labels.unique()) == 60
    units = in_units(labels, predicted.info)
    assert sorted(units.round().long().flatten().tolist()) == [1_700_000_000 + n for n in range(60)]


def test_a_mistake_among_numbers_is_named(load: Any) -> None:
    """A text, an infinity or an underscore in a column of numbers is no category; nor is one far away."""
    for cell in ("inf", "1,5", "2_4", "tall"):
        rows = make_rows()
        rows[2]["size"] = cell
        task_of = {"target": "kind", "split_seed": 1}
        with pytest.raises(TaskError, match=rf"own.csv:4: column 'size' must hold numbers, got '{cell}'"):
            load(rows, **task_of)
    rows = [{**row, "part": ("train", "validation", "test")[n % 3]} for n, row in enumerate(make_rows())]
    rows[4]["size"] = "1e300"
    with pytest.raises(TaskError, match=r"own.csv:6: column 'size' holds 1e300, which is more than 1e\+09"):
        load(rows, target="kind", split="part")


def test_lines_are_those_of_the_file(load: Any, tmp_path: Path) -> None:
    """Empty lines and cells of several lines count; many rows come in parts."""
    task = load(target="price", columns=["size", "colour"])
    (tmp_path / "new.csv").write_text('size,colour\n\n1,red\n2,"re\nd"\n3,green\n')
    ((names, _),) = Table.read([tmp_path / "new.csv"], task.info, pytest.fail)
    assert names == [f"{tmp_path / 'new.csv'}:{line}" for line in (3, 5, 6)]
    many = write(tmp_path / "many.csv", make_rows(2500))
    assert [len(names) for names, _ in Table.read([many], task.info, pytest.fail)] == [1024, 1024, 452]


def test_rows_that_cannot_be_read_are_left_out(load: Any, tmp_path: Path) -> None:
    """Each is told with its line, and the others are read."""
    task, told = load(target="price", columns=["size", "colour"]), list[str]()
    (tmp_path / "new.csv").write_text("size,colour\n1,red\ntall,red\n2\ninf,red\n3,green\n")
    ((names, inputs),) = Table.read([tmp_path / "new.csv"], task.info, told.append)
    assert names == [f"{tmp_path / 'new.csv'}:{line}" for line in (2, 6)]
    assert len(inputs) == 2
    assert [words.partition(": ")[0].rpartition(":")[2] for words in told] == ["4", "3", "5"]
    (tmp_path / "new.csv").write_text("size,colour\ntall,red\n")
    assert list(Table.read([tmp_path / "new.csv"], task.info, told.append)) == []
