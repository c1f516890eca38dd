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
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.exporter import Exporter
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo
from learnforge_kit.costs.layers import each_layer
from learnforge_plugins.stages.export import Deployed

BATCHES = (1, 8, 64)
"""Batches that a whole network is timed with; a layer is timed with one image."""


DESIGNS = 5
"""Random designs that are timed whole, to see what layers take in a network."""


SCRIPT = '''"""Time networks on this device: python $name --to FILE. Needs onnxruntime and numpy alone."""

import argparse
import base64
import json
import os
import platform
import statistics
import time
import zlib

import numpy as np
import onnxruntime

MODELS = json.loads(r"""
$models
""")


def load(model):
    data = zlib.decompress(base64.b64decode(model["onnx"]))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch):
        images = np.zeros([batch, *model["shape"]], dtype=model["type"])
        for _ in range(5):
            session.run(None, {name: images})

        def once():
            start = time.perf_counter()
            session.run(None, {name: images})
            return 1000 * (time.perf_counter() - start)

        return once

    return run


def clock(*runs):
    """Return milliseconds of each in many rounds, in which they take turns."""
    rounds, start = [], time.perf_counter()
    while len(rounds) < 10 or (len(rounds) < 300 and time.perf_counter() - start < 1.0):
        rounds.append([run() for run in runs])
    return list(zip(*rounds))


def peak_mebibytes():
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if platform.system() == "Darwin" else 2**10), 1)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--to", default="profile.json", help="file to write")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
asked = parser.parse_args()
if os.path.isfile(asked.to) and os.path.getsize(asked.to) and not asked.overwrite:
    parser.error(f"{asked.to} is there already; give another --to, or --overwrite it")
try:
    open(asked.to, "a", encoding="utf-8").close()  # before an hour of timing, not after it
except OSError as error:
    parser.error(f"--to {asked.to} cannot be written: {error.strerror}")
threads = f"{asked.threads} thread{'s' if asked.threads > 1 else ''}"
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = asked.threads
options.log_severity_level = 3
found = {
    "unit": "ms",
    "device": f"{platform.node()}, {platform.machine()}, {platform.system()} {platform.release()}",
    "runtime": f"onnxruntime {onnxruntime.__version__}, {threads}",
    "networks": {},
    "layers": {},
}
call = load(MODELS[0])(1)
calls, alone, wholes = [], {}, []
for model in MODELS[1:]:
    run = load(model)
    if model["kind"] == "layer":
        # what a call costs, which a network pays once and not for each layer, is taken off in every round
        own, empty = clock(run(1), call)
        calls.extend(empty)
        cost = alone[model["name"]] = max(0.0, statistics.median(a - b for a, b in zip(own, empty)))
        print(f"{model['name']}: {cost:.4g} ms by itself")
    else:
        times = {b: round(statistics.median(clock(run(b))[0]), 6) for b in model["batches"]}
        wholes.append((model["layers"], times[1]))
        if model["kind"] == "network":
            found["networks"][model["name"]] = {"latency_ms": times}
        print(f"{model['name']}: {', '.join(f'{t:.4g} ms for {b}' for b, t in times.items())}")
overhead = statistics.median(calls)
sums = [(sum(map(alone.get, layers)), t) for layers, t in wholes if set(layers) <= set(alone)]
square = sum(s * s for s, _ in sums)
# a runtime computes layers of a network together, and faster; least squares say by how much
scale = max(0.0, sum(s * (t - overhead) for s, t in sums) / square) if square else 1.0
found["overhead"], found["scale"] = round(overhead, 6), round(scale, 4)
found["layers"] = {name: round(scale * cost, 6) for name, cost in alone.items()}
print(f"a call: {overhead:.4g} ms")
if sums:
    errors = [100 * abs(overhead + scale * s - t) / t for s, t in sums]
    found["error_percent"] = round(statistics.mean(errors), 1)
    print(f"in a network layers take {scale:.2f} times that; so counted, they and a call come to what")
    mean, most = statistics.mean(errors), max(errors)
    print(f"{len(sums)} networks take within {mean:.1f} % on average, {most:.1f} % at most")
hidden = sum(cost == 0 for cost in alone.values())
if hidden > len(alone) / 2:
    print(f"{hidden} of {len(alone)} layers took no longer than a call: time them again on an idle device")
found["peak_mebibytes"] = peak_mebibytes()
with open(asked.to, "w", encoding="utf-8") as stream:
    json.dump(found, stream, indent=1)
print(f"written: {asked.to}")
'''


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
    path.write_text(Template(SCRIPT).substitute(models=text, name=path.name), encoding="utf-8")
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
