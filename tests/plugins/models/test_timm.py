"""timm's models: by name, for any classes and channels, and in words where weights or timm are missing."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from learnforge import ArtifactError, Plugins, TaskInfo

timm = pytest.importorskip("timm")
NAMES = tuple("abc")
INFO = TaskInfo("grey", NAMES, NAMES, (1, 32, 32), (0.5,), (0.25,))


def test_classes_and_channels_are_the_tasks(plugins: Plugins) -> None:
    """A network of timm's for one channel and three classes."""
    network = plugins.load("model", "timm")(name="mobilenetv3_small_050").build(INFO)
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_unknown_names_get_the_nearest(plugins: Plugins) -> None:
    """As everywhere."""
    with pytest.raises(ArtifactError, match="timm has no model 'resnet81'; did you mean 'resnet18'"):
        plugins.load("model", "timm")(name="resnet81").build(INFO)


def test_weights_that_cannot_be_fetched(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do, offline."""

    def refuse(*given: Any, **named: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    model = plugins.load("model", "timm")(name="resnet18.a1_in1k", pretrained=True)
    with pytest.raises(ArtifactError, match=r"cannot be fetched \(OSError: no network\).*`weights-file`"):
        model.build(INFO)
    assert not model.is_trained_for(INFO)
    names = tuple(map(str, range(1000)))
    assert model.is_trained_for(evolve(INFO, classes=names, origins=names))
    assert not model.without_pretrained().pretrained


def test_without_timm_the_extra_is_named(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm is no dependency of learnforge's own."""
    load = builtins.__import__

    def refuse(name: str, *given: Any, **named: Any) -> Any:
        if name == "timm":
            raise ImportError("no timm")
        return load(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ArtifactError, match=r"pip install 'learnforge\[timm\]'"):
        plugins.load("model", "timm")(name="resnet18").build(INFO)
