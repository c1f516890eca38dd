"""Artifacts survive the disk, notice damage, and say what does not fit."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import nn

import learnforge as lf
from learnforge.artifact import FORMAT, Artifact, from_model, from_module, load_artifact
from learnforge.errors import ArtifactError
from learnforge.files import read_record, write_record
from learnforge.kinds.task import Task
from learnforge.spec import NetworkSpec, Provenance, copy_weights, load_weights, trained_on
from learnforge_kit.networks.layers import count_parameters


class Mine(nn.Module):
    """A caller's own network."""

    def __init__(self, outputs=3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture
def artifact(plugins, task):
    """A trained-looking conv4 with an adapter, metrics and provenance."""
    model = plugins.load("model", "conv4")(width=4, blocks=2)
    start = from_model(model, task.info)
    provenance = Provenance(
        "meta", "meta", {"use": "maml", "steps": 2}, {"version": "1"}, 7, "f" * 64, ("p",),
        (trained_on("stripes", ["s:1", "s:0"], task.train), {"task": "x", "origins": ["d:4"], "samples": 1}),
    )  # fmt: skip
    return start.with_state(
        start.network(plugins, seed=3),
        adapter={"rates": torch.tensor([0.1, 0.2])},
        adapter_options={"steps": 2},
        metrics={"accuracy": 0.75, "history": [1, 2]},
        provenance=provenance,
    )


def test_round_trip(artifact, plugins, tmp_path):
    """What is saved comes back: spec, task, weights, adapter, metrics, provenance, predictions."""
    artifact.save(tmp_path / "a")
    back = load_artifact(tmp_path / "a")
    assert back.spec == artifact.spec
    assert back.task == artifact.task
    assert back.provenance == artifact.provenance
    assert back.metrics == artifact.metrics
    assert back.adapter_options == {"steps": 2}
    assert list(back.adapter) == ["rates"]
    assert torch.equal(back.adapter["rates"], artifact.adapter["rates"])
    assert set(back.weights) == set(artifact.weights)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in artifact.weights.items())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(back.predict(images, plugins), artifact.predict(images, plugins))


def test_folder_holds_plain_files_only(artifact, tmp_path):
    """A folder has JSON and safetensors, no pickle and no temporary file."""
    artifact.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"artifact.json", "metrics.json", "weights.safetensors"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"accuracy": 0.75, "history": [1, 2]}


def test_untrained_artifact_has_no_weights(plugins, task, tmp_path):
    """A network that nobody trained is saved without weights; its seed says how it starts."""
    model = plugins.load("model", "conv4")(width=4, blocks=1)
    from_model(model, task.info).save(tmp_path)
    back = load_artifact(tmp_path)
    assert back.weights is None
    states = [copy_weights(back.network(plugins, seed))["0.weight"] for seed in (1, 1, 2)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_building_leaves_the_global_generator_alone(artifact, plugins):
    """Initialising a network by a seed does not move torch's global generator."""
    before = torch.get_rng_state()
    artifact.network(plugins, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_for_another_task_has_fresh_weights(artifact, plugins):
    """Built for a task with other classes, the network fits that task and has none of the old weights."""
    other = evolve(artifact.task, classes=("a",) * 7, origins=("a:0",) * 7)
    network = artifact.network(plugins, 0, other)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert not torch.equal(network.state_dict()["0.weight"], artifact.weights["0.weight"])


def test_changed_weights_are_noticed(artifact, tmp_path):
    """Weights that are not those of artifact.json, by one byte or another training, are refused."""
    artifact.save(tmp_path)
    file = tmp_path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        ArtifactError, match=r"weights.safetensors is not the file that artifact.json was written for"
    ):
        load_artifact(tmp_path)


@pytest.mark.parametrize("name", ["artifact.json", "metrics.json", "weights.safetensors"])
def test_missing_file_is_named(artifact, tmp_path, name):
    """A folder without one of the files is no artifact; the file is named."""
    artifact.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"holds no artifact: {name} is missing"):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "its checksum is none"),
        ("\xff", "UnicodeDecodeError"),
    ],
)
def test_damaged_description_is_an_artifact_error(artifact, tmp_path, text, cause):
    """A description that cannot be read is called damaged, with the cause and what to do."""
    artifact.save(tmp_path)
    (tmp_path / "artifact.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ArtifactError, match=rf"artifact.json is damaged, {cause}.*. Put a copy of it back"):
        load_artifact(tmp_path)


def test_newer_format_asks_for_an_upgrade(artifact, tmp_path):
    """A format of the future is refused before anything else is read from it."""
    artifact.save(tmp_path)
    data = read_record(tmp_path / "artifact.json")
    write_record(tmp_path / "artifact.json", {**data, "format": FORMAT + 1})
    with pytest.raises(
        ArtifactError, match=rf"the learnforge that wrote it \(format {FORMAT + 1}\) is newer; upgrade"
    ):
        load_artifact(tmp_path)


def test_interrupted_save_is_no_artifact(artifact, tmp_path, monkeypatch):
    """The description is written last: a save that is cut off before it leaves nothing that loads."""
    monkeypatch.setattr("learnforge.artifact.write_json", lambda path, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        artifact.save(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no artifact: artifact.json is missing"):
        load_artifact(tmp_path)


def test_origins_of_all_ancestors_are_known(artifact, task):
    """An artifact's origins are those of every training in its line."""
    assert artifact.provenance.origins == {"s:0", "s:1", "d:4"}
    assert artifact.provenance.trained_on[0] == {
        "task": "stripes", "origins": ["s:1", "s:0"], "samples": 60, "content": task.train.content,
    }  # fmt: skip


# Weights that fit


def test_loading_weights_lists_every_fault():
    """Missing, unexpected and ill-shaped tensors are all listed by name and shape, and nothing is loaded."""
    module = nn.Linear(2, 3)
    before = copy_weights(module)
    weights = {"weight": torch.zeros(4, 2), "scale": torch.zeros(1)}
    with pytest.raises(
        ArtifactError,
        match=r"the weights do not fit Linear: missing bias; unexpected scale; "
        r"weight is \[4, 2\], the network wants \[3, 2\]",
    ):
        load_weights(module, weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_long_lists_of_faults_are_cut():
    """After eight faults the rest are counted."""
    with pytest.raises(ArtifactError, match=r"unexpected 7; and 3 more$"):
        load_weights(nn.Identity(), {str(i): torch.zeros(1) for i in range(11)})


def test_copied_weights_are_detached_copies():
    """A copy does not follow the module, nor carry gradients; buffers are in it."""
    module = nn.BatchNorm1d(2)
    weights = copy_weights(module)
    module.weight.data.fill_(5)
    assert weights["weight"].tolist() == [1, 1]
    assert not weights["weight"].requires_grad
    assert "running_mean" in weights


def test_spec_that_cannot_be_built_says_why(task, plugins):
    """A model that is no longer installed, or whose options changed, is named with its problems."""
    spec = NetworkSpec("model", {"use": "conv5"})
    with pytest.raises(
        ArtifactError,
        match=r"the model of this artifact cannot be built: there is no model 'conv5'",
    ):
        spec.build(task.info, plugins)
    spec = NetworkSpec("model", {"use": "conv4", "widht": 3})
    with pytest.raises(ArtifactError, match=r"model.widht: unknown option; did you mean 'width'"):
        spec.build(task.info, plugins)


# A caller's own module


def test_own_module_round_trip(task, tmp_path):
    """A caller's module is saved by its weights and loads into a new one of the same class."""
    module = Mine().eval()
    artifact = from_module(module, task.info)
    artifact.save(tmp_path)
    images = torch.rand(2, 1, 8, 8)
    back = load_artifact(tmp_path, Mine())
    assert torch.equal(back.predict(images), module(artifact.normalise(images)))
    assert artifact.spec == NetworkSpec("module", {"use": "Mine"})


def test_own_module_is_copied(task):
    """The artifact keeps the weights of the moment; what is done to its networks leaves the module alone."""
    module = Mine()
    artifact = from_module(module, task.info)
    before = module.head.bias.detach().clone()
    network = artifact.network()
    network.head.bias.data += 1
    assert torch.equal(module.head.bias, before)
    module.head.bias.data += 1
    assert torch.equal(artifact.network().head.bias, before)


def test_own_module_must_be_brought_again(task, tmp_path, plugins):
    """Without the module its artifact loads, but cannot build; another module is refused tensor by tensor."""
    from_module(Mine(), task.info).save(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"weights of the module 'Mine', .*`learnforge.load\(path, module="
    ):
        load_artifact(tmp_path).network(plugins)
    with pytest.raises(
        ArtifactError, match=r"do not fit Mine: head.weight is \[3, 4\], the network wants \[5, 4\]"
    ):
        load_artifact(tmp_path, Mine(5))


def test_others_can_read_its_files(artifact, tmp_path):
    """Every file has the mode that a new file has."""
    artifact.save(tmp_path / "net")
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "net").iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_what_is_no_folder_is_said(tmp_path):
    """A file, such as an exported one, and a path that is not there."""
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model.onnx is a file; `learnforge predict` runs"):
        lf.load(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"an artifact is a folder, .*nope is not there"):
        lf.load(tmp_path / "nope")


# Predictions


def test_bytes_and_unit_floats_are_normalised(task):
    """Bytes b become (b / 255 - mean) / std, channel by channel, as floats in [0, 1] do; floats x of a task
    that has such become (x - mean) / std, and what it gives is told in the targets' units.
    """
    info = evolve(task.info, input_shape=(2, 1, 1), mean=(0.2, 0.5), std=(0.4, 0.25))
    artifact = Artifact(NetworkSpec("module", {}), info, module=nn.Flatten())
    images = torch.tensor([[[[51]], [[255]]], [[[153]], [[0]]]], dtype=torch.uint8)
    expected = torch.tensor([[0.0, 2.0], [1.0, -2.0]])
    assert torch.allclose(artifact.predict(images), expected, atol=1e-6)
    assert torch.allclose(artifact.predict(images / 255), expected, atol=1e-6)
    units = {"target_mean": (1.0, 0.0), "target_std": (10.0, 2.0)}
    numbers = evolve(artifact, task=evolve(info, form="regression", inputs="floats", **units))
    told = expected.double() * torch.tensor([10.0, 2.0]) + torch.tensor([1.0, 0.0])
    assert torch.allclose(numbers.predict(images / 255), told)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 4, 8, 8), (2, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_shape_is_checked_first(task, shape, dtype):
    """Colours last, RGBA, and a missing axis: the words name the shape, for prediction and adaptation."""
    info = evolve(task.info, input_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    artifact = Artifact(NetworkSpec("module", {}), info, module=nn.Flatten())
    with pytest.raises(ArtifactError, match=r"images must be \['image', 3, 8, 8\]"):
        artifact.predict(torch.ones(shape, dtype=dtype))
    with pytest.raises(ArtifactError, match=r"images must be \['image', 3, 8, 8\]"):
        lf.adapt(artifact, torch.ones(shape, dtype=dtype), torch.zeros(2, dtype=torch.int64))


def test_half_precision_is_not_rounded_twice(task):
    """Its values are normalised in single precision."""
    artifact = from_module(Mine(), task.info)
    images = torch.rand(2, 1, 8, 8).half()
    assert torch.equal(artifact.normalise(images), artifact.normalise(images.float()))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            torch.full((2, 1, 8, 8), 255.0),
            r"in \[0, 1\], got values from 255 to 255. Pass bytes as uint8",
        ),
        (
            torch.full((2, 1, 8, 8), -0.5),
            r"from -0.5 to -0.5.*go to `artifact.network\(\)`",
        ),
        (torch.full((2, 1, 8, 8), torch.nan), r"got values from nan to nan"),
        (torch.ones((2, 1, 8, 8), dtype=torch.int64), r"uint8, or float in \[0, 1\], got torch.int64"),
        (
            np.zeros((2, 1, 8, 8), dtype=np.uint8),
            r"numpy.ndarray; an array becomes one by torch.from_numpy",
        ),
    ],
)
def test_images_of_another_kind_are_refused(task, images, words):
    """Floats of bytes, normalised floats, other integers and arrays would be named wrongly, or not at all."""
    with pytest.raises(ArtifactError, match=words):
        from_module(Mine(), task.info).predict(images)


def test_images_of_another_shape_are_refused(task):
    """A network that would take any size is not asked about images of another size than it learnt from."""
    with pytest.raises(ArtifactError, match=r"images must be \['image', 1, 8, 8\].*, got \[2, 1, 9, 9\]"):
        from_module(Mine(), task.info).predict(torch.rand(2, 1, 9, 9))
    with pytest.raises(ArtifactError, match=r"got \[1, 8, 8\]"):
        from_module(Mine(), task.info).predict(torch.rand(1, 8, 8))


def test_predictions_are_made_in_eval_mode(task):
    """Running statistics are used, not those of the batch: one image alone scores as among others."""
    artifact = from_module(Mine().train(), task.info)
    images = torch.rand(4, 1, 8, 8)
    assert torch.allclose(artifact.predict(images)[:1], artifact.predict(images[:1]), atol=1e-6)
    assert not artifact.predict(images).requires_grad


def test_the_network_that_predicts_is_built_once(artifact, monkeypatch):
    """Further calls take the same one, and give the same scores; it goes with its artifact."""
    built, build = [], NetworkSpec.build

    def note(*arguments):
        network = build(*arguments)
        built.append(weakref.ref(network))
        return network

    monkeypatch.setattr(NetworkSpec, "build", note)
    artifact = evolve(artifact)  # one that nobody else holds
    images = torch.rand(2, 1, 8, 8)
    first, second = artifact.predict(images), artifact.predict(images)
    assert torch.equal(first, second)
    assert len(built) == 1
    assert built[0]() is not None
    del artifact
    gc.collect()
    assert built[0]() is None


def test_what_is_written_over_is_predicted_with(artifact):
    """Weights that somebody changes in place, or puts in the place of others, count in the next call."""
    artifact = evolve(artifact, weights=dict(artifact.weights))
    images = torch.rand(2, 1, 8, 8)
    name = next(name for name in artifact.weights if name.endswith("bias"))
    for change in (
        lambda: artifact.weights[name].add_(1),
        lambda: artifact.weights.update({name: artifact.weights[name] + 1}),
        lambda: artifact.weights[name].data.add_(1),
        lambda: artifact.weights[name].numpy().__iadd__(3),
    ):
        before = artifact.predict(images)
        change()
        found = artifact.predict(images)
        assert not torch.equal(found, before)
        assert torch.equal(found, evolve(artifact).predict(images))
    torch.set_default_dtype(torch.float64)
    with contextlib.suppress(RuntimeError):  # a network of doubles takes no floats
        (fresh := evolve(artifact)).predict(images)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(fresh.predict(images), found)
    module = Mine().eval()
    wrapped = from_module(module, artifact.task)
    before = wrapped.predict(images)
    module.body.append(nn.Tanh())
    assert not torch.equal(wrapped.predict(images), before)


# Heads


def test_count_parameters():
    """Linear 64 → 4, normalisation of 4, linear 4 → 3: 260 + 8 + 15."""
    assert count_parameters(Mine()) == 283


def test_pictures_among_metrics_are_not_printed(task: Task) -> None:
    """Metrics are shown in a few lines, and are all there."""
    picture = "iVBORw0KGgo" * 100
    spec = NetworkSpec("model", {"use": "conv4"})
    artifact = Artifact(spec, task.info, metrics={"most_wrong": [{"image": picture}], "accuracy": 0.5})
    assert str(artifact.metrics) == "{'most_wrong': [{'image': '<1,100 characters>'}], 'accuracy': 0.5}"
    assert artifact.metrics["most_wrong"][0]["image"] == picture
    assert json.loads(json.dumps(artifact.metrics)) == dict(artifact.metrics)


NET = """
from attrs import frozen
from torch import nn
from learnforge import Model, hookimpl

@frozen
class Net(Model):
    def build(self, task): return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))

@hookimpl
def learnforge_models(): return {"net": Net}
"""


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("lf-test-alpha", "it is from a package that is not installed: pip install lf-test-alpha"),
        ("(file)", "model 'net' is another one here; a plugin file brought it; pass that"),
    ],
)
def test_an_artifact_is_built_by_who_brought_its_model(install, owner, words):
    """Another package's model of the same name is not taken for it, whether or not weights would fit."""
    install("lf-test-beta", {"model.net": "lf_test_beta"}, {"lf_test_beta": NET})
    info = lf.load_task("digits", classes=[0, 1]).info
    assert NetworkSpec("model", {"use": "net"}, owners={"model.net": "lf-test-beta"}).build(
        info, lf.Plugins()
    )
    spec = NetworkSpec("model", {"use": "net"}, owners={"model.net": owner})
    with pytest.raises(ArtifactError) as caught:
        spec.build(info, lf.Plugins())
    assert words in str(caught.value)


def test_a_model_of_a_file_is_built_from_the_file(tmp_path):
    """Its owner is written down, and it is found among the plugin files."""
    (tmp_path / "mine.py").write_text(NET)
    plugins = lf.Plugins(lf.PluginChoice(files=[tmp_path / "mine.py"]))
    info = lf.load_task("digits", classes=[0, 1]).info
    spec = NetworkSpec.of_model(plugins.load("model", "net")())
    assert spec.owners == {"model.net": "(file)"}
    assert spec.build(info, plugins)
    with pytest.raises(ArtifactError, match=r"there is no model 'net'.*a plugin file brought it; pass that"):
        spec.build(info, lf.Plugins())
