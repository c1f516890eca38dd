"""The device's own clock: a script that times a network and its layers where they are to run.

The script needs onnxruntime and numpy alone and holds the models itself. What it writes is a table for the
cost `lookup`, so that a search's limits and objectives are in milliseconds of that device.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.files import write_text
from learnforge.kinds.exporter import Exporter
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo
from learnforge_kit.costs.layers import each_layer
from learnforge_plugins.stages.export import Deployed

BATCHES = (1, 8, 64)
"""Batches that a whole network is timed with; a layer is timed with one image."""

DESIGNS = 5
"""Random designs that are timed whole, to see what layers take in a network."""


def write_profiler(
    path: Path,
    whole: Mapping[str, tuple[nn.Module, TaskInfo]],
    others: Iterable[tuple[nn.Module, TaskInfo]],
    plugins: Plugins,
    tell: Callable[[str], None],
) -> int:
    """Write a script that times networks on a device.

    Args:
        path: The script to write.
        whole: {name: network and its task} of networks that are timed whole and by their layers.
        others: Networks that are timed by their layers, the first few whole too. Equal layers are timed once.
        plugins: Where the exporter `onnx` is looked up.
        tell: Told of what is being exported, and of layers that cannot be.

    Returns:
        How many layers the script times.

    Raises:
        StageError: ONNX is not installed, or there is nothing to time.
    """
    exporter: Exporter = plugins.load("exporter", "onnx")()
    exporter.require()
    nothing = _exported(exporter, nn.Identity(), torch.zeros(2, 1))
    models = [_entry("call", "a call", nothing, (1,), "float32", (1,))]  # layers are timed beside it
    layers: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    designs = ((f"design {number}", *other) for number, other in enumerate(others, 1))
    for place, (name, network, task) in enumerate(
        itertools.chain(((name, *own) for name, own in whole.items()), designs)
    ):
        parts = each_layer(network, task)
        for signature, layer, inputs in parts:
            if signature not in layers and len(inputs) == 1 and isinstance(inputs[0], Tensor):
                layers[signature] = _zeroed(layer), tuple(inputs[0].shape[1:])
        is_named = place < len(whole)
        if is_named or place < len(whole) + DESIGNS:
            tell(name)
            module = Deployed(network if is_named else _zeroed(network), task)
            images = torch.zeros(2, *task.input_shape, dtype=torch.uint8)
            kind, batches = ("network", BATCHES) if is_named else ("design", (1,))
            made = _entry(kind, name, _exported(exporter, module, images), task.input_shape, "uint8", batches)
            models.append(made | {"layers": [signature for signature, _, _ in parts]})
    for place, (signature, (bare, shape)) in enumerate(layers.items(), 1):
        tell(f"layer {place} of {len(layers)}: {signature}")
        try:
            onnx = _exported(exporter, bare, torch.zeros(2, *shape))
        except Exception as error:  # whatever torch's exporter cannot do
            tell(f"left out: {signature}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        models.append(_entry("layer", signature, onnx, shape, "float32", (1,)))
    if all(model["kind"] != "layer" for model in models):
        raise StageError("there is no layer to time")
    text = json.dumps(models, indent=0)
    script = resources.files("learnforge_plugins.scripts").joinpath("time_networks.py").read_text("utf-8")
    write_text(path, Template(script).substitute(models=text, name=path.name))
    return sum(model["kind"] == "layer" for model in models)


def _exported(exporter: Exporter, module: nn.Module, images: Tensor) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{exporter.suffix}"
        exporter.export(module.eval(), images, file)
        return base64.b64encode(zlib.compress(file.read_bytes(), 9)).decode()


def _entry(
    kind: str, name: str, onnx: str, shape: Sequence[int], dtype: str, batches: Sequence[int]
) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "shape": list(shape),
        "type": dtype,
        "batches": list(batches),
        "onnx": onnx,
    }


def _zeroed(layer: nn.Module) -> nn.Module:
    """Return a copy whose weights are 0, which take as long and can be compressed."""
    bare = copy.deepcopy(layer)
    for parameter in bare.parameters():
        nn.init.zeros_(parameter)
    return bare
