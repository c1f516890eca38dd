"""Time networks on this device: python $name --to FILE. Needs onnxruntime and numpy alone."""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

MODELS = json.loads(r"""
$models
""")


def load(model: dict[str, Any], options: Any) -> Callable[[int], Callable[[], float]]:
    data = zlib.decompress(base64.b64decode(model["onnx"]))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: int) -> Callable[[], float]:
        images = np.zeros([batch, *model["shape"]], dtype=model["type"])
        for _ in range(5):
            session.run(None, {name: images})

        def once() -> float:
            start = time.perf_counter()
            session.run(None, {name: images})
            return 1000 * (time.perf_counter() - start)

        return once

    return run


def clock(*runs: Callable[[], float]) -> list[tuple[float, ...]]:
    """Return milliseconds of each in many rounds, in which they take turns."""
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < 10 or (len(rounds) < 300 and time.perf_counter() - start < 1.0):
        rounds.append([run() for run in runs])
    return list(zip(*rounds))


def peak_mebibytes() -> float | None:
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if platform.system() == "Darwin" else 2**10), 1)


def main() -> None:
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
    found: dict[str, Any] = {
        "unit": "ms",
        "device": f"{platform.node()}, {platform.machine()}, {platform.system()} {platform.release()}",
        "runtime": f"onnxruntime {onnxruntime.__version__}, {threads}",
        "networks": {},
        "layers": {},
    }
    call = load(MODELS[0], options)(1)
    calls: list[float] = []
    alone: dict[str, float] = {}
    wholes: list[tuple[list[str], float]] = []
    for model in MODELS[1:]:
        run = load(model, options)
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
    sums = [(sum(alone[layer] for layer in layers), t) for layers, t in wholes if set(layers) <= set(alone)]
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
        print(
            f"{hidden} of {len(alone)} layers took no longer than a call: time them again on an idle device"
        )
    found["peak_mebibytes"] = peak_mebibytes()
    with open(asked.to, "w", encoding="utf-8") as stream:
        json.dump(found, stream, indent=1)
    print(f"written: {asked.to}")


if __name__ == "__main__":
    main()
