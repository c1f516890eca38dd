"""Weights from a file: every form of it, what does not fit, and other classes and channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from safetensors.torch import save_file
from torch import nn

from learnforge import ArtifactError, LearnforgeWarning, Model, Plugins, TaskInfo
from learnforge.options.structure import build

NAMES = tuple("abcde")
INFO = TaskInfo("colours", NAMES, NAMES, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def network(plugins: Plugins) -> nn.Module:
    """A trained network for five classes and three channels, or what stands for one."""
    torch.manual_seed(1)
    found: nn.Module = plugins.load("model", "resnet")(depth=8).build(INFO)
    return found


@pytest.fixture
def model_of(plugins: Plugins) -> Callable[..., Any]:
    """Make the model, a ResNet of eight layers with a file."""

    def make(file: Path | None, **options: Any) -> Any:
        table = {"model": {"use": "resnet", "depth": 8}, "file": str(file), **options}
        if file is None:
            del table["file"]
        return build(plugins.load("model", "weights-file"), table, "test", plugins.resolve)

    return make


def test_every_form_of_a_file_is_read(network: nn.Module, model_of: Any, tmp_path: Path) -> None:
    """safetensors, a state dict, one inside a checkpoint, and names as wrappers make them."""
    state = network.state_dict()
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pt")
    torch.save({f"module._orig_mod.{n}": t for n, t in state.items()}, tmp_path / "wrapped.pt")
    for name in ("net.safetensors", "net.pt", "checkpoint.pt", "wrapped.pt"):
        built = model_of(tmp_path / name).build(INFO)
        assert all(torch.equal(tensor, state[n]) for n, tensor in built.state_dict().items()), name


def test_other_classes_and_channels(network: nn.Module, model_of: Any, tmp_path: Path) -> None:
    """The head is new, the stem averaged, all else from the file; with equal classes the head stays."""
    file = tmp_path / "net.pt"
    torch.save(network.state_dict(), file)
    model = model_of(file)
    assert model.is_trained_for(INFO)
    grey = evolve(INFO, classes=NAMES[:2], origins=NAMES[:2], input_shape=(1, 32, 32))
    assert not model.is_trained_for(grey)
    built, state = model.build(grey).state_dict(), network.state_dict()
    changed = {name for name in state if built[name].shape != state[name].shape}
    assert len(changed) == 3
    assert all(torch.equal(built[name], state[name]) for name in state if name not in changed)
    (stem,) = [name for name in changed if state[name].ndim == 4]
    torch.testing.assert_close(built[stem].sum(1), state[stem].sum(1))
    assert model.without_pretrained().build(grey)(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


def test_what_does_not_fit_is_listed(network: nn.Module, model_of: Any, tmp_path: Path) -> None:
    """Missing, unexpected and misshapen tensors are named; `strict = false` loads the rest and warns."""
    state = network.state_dict()
    names = [name for name in state if name.endswith("weight") and state[name].ndim == 4]
    wrong = {**state, names[1]: torch.zeros(2, 2), "extra": torch.zeros(1)}
    del wrong[names[2]]
    file = tmp_path / "net.pt"
    torch.save(wrong, file)
    with pytest.raises(ArtifactError) as caught:
        model_of(file).build(INFO)
    for words in (
        f"missing {names[2]}",
        "unexpected extra",
        f"{names[1]} is [2, 2]",
        "`strict = false` loads",
    ):
        assert words in str(caught.value)
    with pytest.warns(LearnforgeWarning, match=rf"{len(state) - 2} of {len(state)} tensors loaded; missing"):
        built = model_of(file, strict=False).build(INFO)
    fitting = [name for name in state if name not in (names[1], names[2])]
    assert all(torch.equal(built.state_dict()[name], state[name]) for name in fitting)


def test_a_file_of_another_network_is_refused_even_if_not_strict(model_of: Any, tmp_path: Path) -> None:
    """Nothing fits, so nothing would be carried over."""
    file = tmp_path / "net.pt"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(ArtifactError, match="the weights do not fit"):
        model_of(file, strict=False).build(INFO)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "must hold the weights, and is not there"),
        (lambda file: file.write_bytes(b"no weights"), "cannot be read"),
        (lambda file: torch.save([1, 2], file), "must hold a state dict of tensors, it holds list"),
        (lambda file: torch.save(nn.Linear(1, 1), file), "must hold a state dict of tensors alone"),
    ],
)
def test_other_files_are_refused(
    write: Callable[[Path], Any], message: str, model_of: Any, tmp_path: Path
) -> None:
    """A missing file, no file of tensors, and one with code in it, which is not run; before any training."""
    file = tmp_path / "net.pt"
    write(file)
    with pytest.raises(ArtifactError, match=message):
        model_of(file).require()


def test_results_depend_on_what_is_in_the_file(model_of: Any, tmp_path: Path) -> None:
    """Another file under the same name is another model."""
    file = tmp_path / "net.pt"
    torch.save({"a": torch.zeros(1)}, file)
    before = model_of(file).content()
    torch.save({"a": torch.ones(1)}, file)
    assert model_of(file).content() != before
    assert model_of(None).content() == ""
    file.unlink()
    with pytest.raises(ArtifactError, match="is not there"):
        model_of(file).content()


def test_without_a_file_it_is_the_model_itself(model_of: Any, plugins: Plugins) -> None:
    """Random weights, as the inner model draws them."""
    inner: Model = plugins.load("model", "resnet")(depth=8)
    torch.manual_seed(0)
    own = model_of(None).build(INFO).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(tensor, own[name]) for name, tensor in inner.build(INFO).state_dict().items())
    assert not model_of(None).is_trained_for(INFO)
