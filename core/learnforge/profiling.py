"""The device's own clock: a script that times a network and its layers where they are to run.

The script needs onnxruntime and numpy alone and holds the models itself. What it writes is a table for the
cost `lookup`, so that a search's limits and objectives are in milliseconds of that device.
"""

from __future__ import annotations

import base64
import copy
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
from learnforge.meters import each_layer
from learnforge.plugins import Plugins
from learnforge.stages.export import Deployed, Exporter
from learnforge.task import TaskInfo

BATCHES = (1, 8, 64)
"""Batches that a whole network is timed with; a layer is timed with one image."""
SCRIPT = '''"""Time networks on this device: python $name --to FILE. Needs onnxruntime and numpy alone."""

import argparse
import base64
import json
import platform
import statistics
import time
import zlib

import numpy as np
import onnxruntime

MODELS = json.loads(r"""
$models
""")


def clock(session, name, images):
    for _ in range(5):
        session.run(None, {name: images})
    times = []
    while len(times) < 30 and sum(times) < 1.0:
        start = time.perf_counter()
        session.run(None, {name: images})
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times), 6)


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
asked = parser.parse_args()
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
overhead = 0.0
for model in MODELS:
    data = zlib.decompress(base64.b64decode(model["onnx"]))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    shape, dtype = model["shape"], model["type"]
    times = {b: clock(session, name, np.zeros([b, *shape], dtype=dtype)) for b in model["batches"]}
    if model["kind"] == "call":  # what a call costs, which a network pays once and not for each layer
        overhead = found["overhead"] = times[1]
    elif model["kind"] == "layer":
        found["layers"][model["name"]] = round(max(0.0, times[1] - overhead), 6)
    else:
        found["networks"][model["name"]] = {"latency_ms": times}
    print(f"{model['name']}: {', '.join(f'{t:.4g} ms for {b}' for b, t in times.items())}")
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
        others: Networks that are timed by their layers alone. Equal layers are timed once.
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
    models = [_entry("call", "a call", nothing, (1,), "float32", (1,))]
    for name, (network, task) in whole.items():
        tell(name)
        images = torch.zeros(2, *task.input_shape, dtype=torch.uint8)
        onnx = _exported(exporter, Deployed(network, task), images)
        models.append(_entry("network", name, onnx, task.input_shape, "uint8", BATCHES))
    layers: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    for network, task in (*whole.values(), *others):
        for signature, layer, inputs in each_layer(network, task):
            if signature not in layers and len(inputs) == 1 and isinstance(inputs[0], Tensor):
                layers[signature] = _zeroed(layer), tuple(inputs[0].shape[1:])
    for place, (signature, (bare, shape)) in enumerate(layers.items(), 1):
        tell(f"layer {place} of {len(layers)}: {signature}")
        try:
            onnx = _exported(exporter, bare, torch.zeros(2, *shape))
        except Exception as error:  # whatever torch's exporter cannot do
            tell(f"left out: {signature}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        models.append(_entry("layer", signature, onnx, shape, "float32", (1,)))
    if len(models) == 1:
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
