"""Forms: losses and measures against numbers by hand and scikit-learn's, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score
from torch import Tensor

from learnforge import Form, PluginChoice, Plugins, StageError, Task, TaskError, form_of
from learnforge.kinds.task import check_task
from learnforge_kit import MemorySplit
from learnforge_testing.network import make_info
from learnforge_testing.toys import make_task

INFO = make_info((1, 8, 8), 2)


def of(form: str, labels: Tensor, **info: Any) -> Task:
    """Make a task of a form whose splits all have the same labels."""
    images = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    split = MemorySplit(images, labels)
    return Task(evolve(INFO, form=form, **info), split, split, split)


def test_a_form_is_found_by_its_name() -> None:
    """Of those that plugins bring; a name that none has is refused with the nearest."""
    assert {form_of(name).measured[0] for name in ("classification", "multi-label", "regression")} == {
        "accuracy",
        "map",
        "r2",
    }
    with pytest.raises(Exception, match="there is no form 'regresion'; did you mean 'regression'"):
        form_of("regresion")


def test_numbers_by_hand() -> None:
    """R2, the root of the mean squared error and the mean absolute error, in the targets' own units."""
    targets = torch.tensor([[0.0, 1.0], [1.0, -1.0], [2.0, 0.0]])
    outputs = torch.tensor([[0.5, 1.0], [1.0, -0.5], [1.0, 0.0]])
    info = evolve(INFO, target_mean=(3.0, 5.0), target_std=(2.0, 10.0))
    found = form_of("regression").measures(outputs, targets, info)
    own, true = (t.numpy() * np.array([2.0, 10.0]) for t in (outputs, targets))
    assert found["r2"] == pytest.approx(r2_score(true, own))
    assert found["rmse"] == pytest.approx(math.sqrt(((own - true) ** 2).mean()))
    assert found["mae"] == pytest.approx(mean_absolute_error(true, own))
    assert float(form_of("regression").loss(outputs, targets)) == pytest.approx(1.5 / 6)
    same = form_of("regression").measures(outputs, torch.ones(3, 2), INFO)
    assert same["r2"] == 0.0  # no column has any spread to explain
    half = torch.cat([targets[:, :1], torch.ones(3, 1)], 1)
    assert form_of("regression").measures(outputs, half, INFO)["r2"] == pytest.approx(
        r2_score(targets[:, 0], outputs[:, 0])
    )


def test_several_labels_as_scikit_learn_measures_them() -> None:
    """Mean average precision and F1 over classes that a split tells apart; smoothing moves targets to 1/2."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 3, generator=generator)
    targets = (outputs + torch.randn(40, 3, generator=generator) > 0.5).float()
    form = form_of("multi-label")
    found = form.measures(outputs, targets, INFO)
    assert found["map"] == pytest.approx(average_precision_score(targets, outputs))
    assert found["f1"] == pytest.approx(f1_score(targets, outputs > 0, average="macro"))
    with_constant = torch.cat([targets, torch.ones(40, 1)], 1)
    wide = torch.cat([outputs, torch.zeros(40, 1)], 1)
    assert form.measures(wide, with_constant, INFO) == pytest.approx(found)
    assert form.measures(outputs, torch.zeros(40, 3), INFO) == {"map": 0.0, "f1": 0.0}
    one = form.measures(outputs[:, :1], targets[:, :1], INFO)
    assert one["f1"] == pytest.approx(f1_score(targets[:, 0], outputs[:, 0] > 0))
    smoothed = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets * 0.8 + 0.1)
    assert float(form.loss(outputs, targets, 0.2)) == pytest.approx(float(smoothed))
    assert torch.equal(form.answers(outputs), (outputs > 0).float())
    torch.testing.assert_close(form.shown(outputs), outputs.sigmoid())


@pytest.mark.parametrize(
    ("form", "labels", "words"),
    [
        (
            "classification",
            torch.zeros(4, 2),
            "must be whole numbers .*, places in its classes, got torch.float32",
        ),
        ("classification", torch.zeros(4, 1, dtype=torch.int64), "must be whole numbers"),
        ("classification", torch.tensor([1, -1, 0, 1]), r"must be in \[0, 2\), .*, got -1 to 1"),
        ("classification", torch.tensor([1, 2, 0, 1]), r"must be in \[0, 2\), .*, got 0 to 2"),
        ("environment", torch.zeros(4, 2), "an environment brings episodes of its own"),
        ("regression", torch.zeros(4, 1), r"targets of the train split must be float \[input, 2\]"),
        ("regression", torch.zeros(4, 2, dtype=torch.int64), "must be float"),
        ("regression", torch.full((4, 2), math.nan), "must be finite"),
        ("multi-label", torch.zeros(4, dtype=torch.int64), r"labels of the train split must be float"),
        ("multi-label", torch.full((4, 2), 0.5), "must be 0 or 1 for each class"),
    ],
)
def test_other_targets_are_refused(form: str, labels: Tensor, words: str) -> None:
    """Labels that are none of a form are told before anything is trained."""
    with pytest.raises(TaskError, match=words):
        check_task(of(form, labels), "own")


def test_right_targets_pass() -> None:
    """Each form takes what its answers look like."""
    check_task(of("regression", torch.randn(4, 2)), "own")
    check_task(of("multi-label", torch.eye(4, 2)), "own")
    check_task(make_task(), "own")


def test_an_environment_has_no_targets() -> None:
    """Whoever asks for a loss is told what judges it."""
    form = form_of("environment")
    assert not form.has_targets
    with pytest.raises(StageError, match="no targets that a loss could compare"):
        form.loss(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(StageError, match="judged by rollouts"):
        form.measures(torch.zeros(2, 2), torch.zeros(2, 2), INFO)


def test_a_form_out_of_a_file_is_used(tmp_path: Any) -> None:
    """What a plugin file brings is found by its name from then on, in this process."""
    (tmp_path / "mine.py").write_text(
        "from attrs import frozen\n"
        "from learnforge import Form, hookimpl\n"
        "from learnforge_plugins.forms.regression import Regression\n"
        "@frozen\n"
        "class Mine(Regression):\n"
        "    measured = ('mine',)\n"
        "@hookimpl\n"
        "def learnforge_forms():\n"
        "    return {'mine-alone': Mine}\n"
    )

    plugins = Plugins(PluginChoice(files=(tmp_path / "mine.py",)))
    assert issubclass(plugins.load("form", "mine-alone"), Form)
    assert form_of("mine-alone").measured == ("mine",)
