"""What a stage hands on is built again before it ends; callers' modules are held against the task first."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

import learnforge as lf
from learnforge_kit import Train
from learnforge_kit.networks.modules import module_fault
from learnforge_testing.toys import make_network, make_task

QUICK = Train(epochs=1)


def linear(outputs: int = 3) -> nn.Module:
    """A network for the stripes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


class Viewing(nn.Module):
    """Views what a convolution gives as rows, which needs the ordinary memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        scores: Tensor = self.head(features.view(len(features), -1).relu())
        return scores


class Auxiliary(nn.Module):
    """Gives further scores in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.aux = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Any:
        x = images.flatten(1)
        return namedtuple("Both", "scores aux")(self.head(x), self.aux(x)) if self.training else self.head(x)


class Unregistered(nn.Module):
    """Computes with a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.head = torch.rand(3), nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(images.flatten(1)) + self.shift
        return scores


def old_weight_norm() -> nn.Module:
    """A layer whose weight is computed from others and kept as an attribute, once it has run."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        network = nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 3)))
    network(torch.zeros(1, 1, 8, 8))
    return network


FAULTS: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: linear(10), r"must give class scores \[batch, 3\], it gives \[batch, 10\] in training mode"),
    (lambda: linear(2), r"must give class scores \[batch, 3\], it gives \[batch, 2\]"),
    (
        Auxiliary,
        r"must give one tensor of class scores \[batch, 3\], it gives a Both; wrap it .* in training",
    ),
    (lambda: nn.Flatten(), "has no parameters, so nothing can be trained"),
    (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "has lazy layers.* run a batch through it first"),
    (lambda: linear().half(), r"must have parameters of type float32, it has torch\.float16; call `\.float"),
    (lambda: linear().double(), r"must have parameters of type float32, it has torch\.float64"),
    (old_weight_norm, r"cannot be copied: .*torch\.nn\.utils\.parametrizations\.weight_norm"),
    (
        lambda: nn.Linear(9, 3),
        r"must take images of shape \[1, 8, 8\], in training mode it fails with Runtime",
    ),
]


@pytest.mark.parametrize(("make", "words"), FAULTS)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_unfit_module_is_refused_before_the_training(
    make: Callable[[], nn.Module], words: str, role: str
) -> None:
    """By `check`, in words, for each role."""
    modules = {"student": linear(), "teacher": linear(), role: make()}
    with pytest.raises(lf.RecipeError, match=words):
        lf.distill(modules["teacher"], modules["student"], "kd", make_task(), train=QUICK)


@pytest.mark.parametrize("make", [linear, Viewing, Unregistered, lambda: make_network(make_task().info)])
def test_a_fit_module_has_no_fault(make: Callable[[], nn.Module]) -> None:
    """Nor is it changed by the look at it."""
    module = make()
    before = lf.copy_weights(module)
    assert module_fault(module, make_task().info) == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training


def test_a_module_with_other_outputs_may_be_carried_over() -> None:
    """It gets a new head anyway; the artifact remembers it, and is loaded with the module as it was."""
    artifact = lf.transfer(linear(10), make_task(), "fine-tune", train=QUICK)
    assert artifact.spec.changes == ({"use": "head"},)
    assert artifact.predict(make_task().test.images).shape == (60, 3)  # type: ignore[attr-defined]


def test_an_artifact_of_a_changed_module_is_loaded_with_the_module(tmp_path: Path) -> None:
    """The changes are made again on the module that the caller brings."""
    task = make_task()
    artifact = lf.transfer(linear(10), task, "fine-tune", train=QUICK, run=tmp_path / "run")
    loaded = lf.load(tmp_path / "run", module=linear(10))
    images = task.test.images  # type: ignore[attr-defined]
    assert torch.equal(loaded.predict(images), artifact.predict(images))


def test_a_teacher_may_view_what_a_convolution_gives() -> None:
    """Its memory layout is its own."""
    assert "teacher_test_accuracy" in lf.distill(Viewing(), linear(), "kd", make_task(), train=QUICK).metrics


def test_a_tensor_that_is_no_buffer_is_the_modules_own() -> None:
    """The caller brings it with the module."""
    artifact = lf.distill(linear(), Unregistered(), "kd", make_task(), train=QUICK)
    assert artifact.module is not None


STAGE = """
import torch
from attrs import evolve, frozen
from torch import nn
import learnforge as lf

class Shifted(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        {what}

    def forward(self, images):
        return self.body(images) + self.shift

@frozen(kw_only=True)
class Shift(lf.Stage):
    \"\"\"Shifts scores.\"\"\"
    source: lf.Reference = lf.plugin_field("model", default=None, reference=True, key="from")
    kind = "shift"

    def run(self, task, inputs, context):
        network = inputs["source"].network(context.plugins)
        {how}
        return evolve(inputs["source"], metrics={{}}).with_state(network)

@lf.hookimpl
def learnforge_stages():
    return {{"shift": Shift}}
"""
UNRECORDED = [
    (
        "self.shift = nn.Parameter(torch.ones(3))",
        "network = Shifted(network)",
        r"cannot be loaded again: the weights do not fit .*missing.*apply_change",
    ),
    (
        "",
        "network.register_forward_hook(lambda m, i, o: o + 1)",
        r"all weights fit, and outputs differ by .*neither a parameter nor a buffer",
    ),
    ("", "network = nn.Sequential(network, nn.Dropout(0.5))", r"cannot be loaded again: .*apply_change"),
]


@pytest.mark.parametrize(("what", "how", "words"), UNRECORDED)
def test_a_stage_that_hands_on_something_else_fails(tmp_path: Path, what: str, how: str, words: str) -> None:
    """A run never finishes with an artifact that builds another network; none is left."""
    file = tmp_path / "shift.py"
    file.write_text(STAGE.format(what=what, how=how))
    recipe = {
        "run": {"name": "shifted", "device": "cpu"},
        "task": {"use": "digits", "classes": [0, 1, 2]},
        "stage": [
            {
                "kind": "distill",
                "use": "kd",
                "teacher": {"use": "conv4", "width": 4, "blocks": 2},
                "teacher_train": {"epochs": 1},
                "student": {"use": "conv4", "width": 4, "blocks": 2},
                "train": {"epochs": 1},
            },
            {"kind": "shift"},
        ],
    }
    with pytest.raises(lf.StageError, match=words):
        lf.run(recipe, tmp_path / "run", plugins=lf.PluginChoice(files=(file,)))
    assert (tmp_path / "run" / "distill" / "artifact.json").exists()
    assert not (tmp_path / "run" / "shift" / "artifact.json").exists()


def test_what_is_not_kept_is_compared_too() -> None:
    """A module of the caller's, in a call that keeps nothing, must be what the artifact builds of it."""
    artifact = lf.from_module(linear(), make_task().info)
    made = nn.Sequential(*linear(), nn.ReLU())  # type: ignore[arg-type]  # a sequence of its layers
    made.load_state_dict(dict(artifact.weights or {}))
    with pytest.raises(lf.StageError, match="all weights fit, and outputs differ by"):
        lf.require_rebuilt(artifact.with_state(made), lf.Plugins(), is_kept=False)


def test_an_unrecorded_layer_is_refused_before_the_training(tmp_path: Path) -> None:
    """A transfer that wraps the network: nothing has been trained when it is refused."""
    file = tmp_path / "wrap.py"
    file.write_text(
        "from attrs import frozen\nfrom torch import nn\nimport learnforge as lf\n"
        "@frozen\nclass Wrap(lf.PhasedTransfer):\n    '''Wraps.'''\n"
        "    def prepare(self, network, old, new):\n"
        "        return nn.Sequential(network, nn.Linear(old.outputs, new.outputs))\n"
        "    def phases(self, network, old, new):\n        raise AssertionError('too late')\n"
        "@lf.hookimpl\ndef learnforge_transfers():\n    return {'wrap': Wrap}\n"
    )
    plugins = lf.Plugins(lf.PluginChoice(files=(file,)))
    source = plugins.load("model", "conv4")(width=4, blocks=2)
    with pytest.raises(lf.StageError, match=r"Wrap makes a network that its artifact does not build again"):
        lf.transfer(source, make_task(), "wrap", train=QUICK, plugins=plugins)
