"""The Python API: each call is a stage, with plain data, names or objects as settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import learnforge as lf
import learnforge_kit as kit


@pytest.fixture
def digits() -> lf.Task:
    return lf.load_task("digits", classes=[0, 1, 2])


def test_the_whole_road(digits: lf.Task, tmp_path: Path) -> None:
    """Search, distil, transfer, meta-learn, adapt and export, each from what the call before returned."""
    space = lf.load_method("space.residual")(stages=1, blocks=1, max_width=8)
    found = lf.search(digits, space=space, method="random", trials=2, train=kit.Train(epochs=1))
    small = lf.distill(found, student="conv4", train={"epochs": 1}, baseline=False)
    tuned = lf.transfer(small, lf.load_task("digits", classes=[6, 8]), train={"epochs": 1}, baseline=False)
    known = lf.load_task("digits", classes=[0, 1, 2, 3], test_classes=[4, 7], rotations=2)
    quick = lf.meta_train(
        tuned, task=known, ways=2, shots=1, queries=2, iterations=2, tasks=2, test_episodes=400
    )
    unseen = lf.load_task("digits", classes=[4, 7])
    first = [int((unseen.train.labels == label).nonzero()[0]) for label in (0, 1)]
    support = unseen.train.select(torch.tensor(first))
    adapted = lf.adapt(quick, support.images, support.labels)
    assert adapted.predict(unseen.test.images).shape == (len(unseen.test), 2)
    exported = lf.export(tuned, lf.load_task("digits", classes=[6, 8]), run=tmp_path)
    assert exported.metrics["is_equal"]
    assert (tmp_path / "export" / "model.pt2").exists()


def test_a_task_may_have_an_option_called_name(tmp_path: Path) -> None:
    """As torchvision's data sets have."""
    with pytest.raises(lf.TaskError, match="MNIST must be in"):
        lf.load_task("torchvision", name="MNIST", root=str(tmp_path))


def test_a_call_with_a_folder_resumes(digits: lf.Task, tmp_path: Path) -> None:
    """`run=` keeps the stage: the same call again loads it, another one is refused without `overwrite`."""
    model = lf.load_method("model.conv4")(width=4, blocks=1)
    first = lf.transfer(model, digits, train={"epochs": 1}, run=tmp_path)
    again = lf.transfer(model, digits, train={"epochs": 1}, run=tmp_path)
    assert again.provenance == first.provenance
    with pytest.raises(lf.RunError, match="overwrite=True"):
        lf.transfer(model, digits, train={"epochs": 2}, run=tmp_path)
    other = lf.transfer(model, digits, train={"epochs": 2}, run=tmp_path, overwrite=True)
    assert other.provenance.fingerprint != first.provenance.fingerprint


def test_the_seed_decides(digits: lf.Task) -> None:
    """Equal seeds give equal weights, another seed others."""
    model = lf.load_method("model.conv4")(width=4, blocks=1)
    made = [lf.transfer(model, digits, train={"epochs": 1}, baseline=False, seed=seed) for seed in (3, 3, 4)]
    weights = [torch.cat([t.flatten().float() for t in (a.weights or {}).values()]) for a in made]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(images)
        return result


def test_a_module_of_ones_own_is_student_and_teacher(digits: lf.Task, tmp_path: Path) -> None:
    """A bare module serves wherever a model does, is not changed, and its artifact loads with `module=`."""
    module = Own()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    made = lf.distill(Own(), student=module, task=digits, train={"epochs": 1}, run=tmp_path)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert not torch.equal((made.weights or {})["body.1.weight"], before["body.1.weight"])
    with pytest.raises(lf.ArtifactError, match=r"weights of the module 'Own'.*load\(path, module=...\)"):
        lf.load(tmp_path / "distill").network()
    loaded = lf.load(tmp_path / "distill", module=Own())
    assert torch.equal(loaded.predict(digits.test.images), made.predict(digits.test.images))


def test_errors_say_what_is_wrong(digits: lf.Task) -> None:
    """Wrong settings, names and missing tasks are errors with paths and nearest names."""
    with pytest.raises(lf.RecipeError, match="did you mean 'trials'"):
        lf.search(digits, space="residual", trails=3)
    with pytest.raises(lf.RecipeError, match="did you mean 'evolution'"):
        lf.search(digits, space="residual", method="evolutoin")
    with pytest.raises(lf.RecipeError, match="did you mean 'classes'"):
        lf.load_task("digits", clases=[1])
    with pytest.raises(lf.PluginError, match="did you mean 'kd'"):
        lf.load_method("distiller.kdd")
    with pytest.raises(lf.PluginError, match="no kind of plugin 'distiler'; did you mean 'distiller'"):
        lf.load_method("distiler.kd")
    with pytest.raises(lf.RecipeError, match="pass task="):
        lf.distill(Own(), student=Own())
    with pytest.raises(AttributeError, match="No learnforge attribute nothing"):
        _ = lf.nothing  # type: ignore[attr-defined]


def test_what_is_made_from_a_learner_is_an_ordinary_network(tmp_path: Path) -> None:
    """A meta-learnt network that is transferred loses its adapter, so export takes it as it is."""
    known = lf.load_task("digits", classes=[0, 1, 2, 3], test_classes=[4, 7], rotations=2)
    model = lf.load_method("model.conv4")(width=4, blocks=1)
    episode = {"ways": 2, "shots": 1, "queries": 2}
    quick = lf.meta_train(model, task=known, iterations=1, test_episodes=400, **episode)
    digits = lf.load_task("digits", classes=[6, 8])
    tuned = lf.transfer(quick, digits, train={"epochs": 1}, baseline=False)
    assert tuned.adapter_options == {}
    assert lf.export(tuned, digits, run=tmp_path).metrics["classes"] == ["6", "8"]


def test_episodes_are_checked_before_training(digits: lf.Task) -> None:
    """Splits that are too small for the episodes are refused before any meta-training."""
    known = lf.load_task("digits", classes=[0, 1, 2, 3], test_classes=[4, 7])
    model = lf.load_method("model.conv4")(width=4, blocks=1)
    with pytest.raises(lf.RecipeError, match="the test split must have at least ways = 5 classes, it has 2"):
        lf.meta_train(model, task=known)


def test_a_source_task_may_be_given_as_a_task():
    """As `task=` may: the data that are there, without a source that reads them."""
    own, other = (lf.load_task("digits", classes=classes) for classes in ([0, 1], [0, 1]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    settings = {"train": {"epochs": 1}, "seed": 0}
    given = lf.transfer(network, other, "coral", source_task=own, **settings)
    named = lf.transfer(network, other, "coral", source_task={"use": "digits", "classes": [0, 1]}, **settings)
    assert given.weights.keys() == named.weights.keys()
    assert all(torch.equal(tensor, named.weights[key]) for key, tensor in given.weights.items())
