"""What a network costs: counted on the meta device, and timed."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from learnforge.kinds.cost import Cost
from learnforge.randomness import uncompiled
from learnforge.spec import TaskInfo


def measure_cost(module: nn.Module, task: TaskInfo) -> Cost:
    """Count parameters, multiply-adds and activation memory of a module.

    Args:
        module: A module, on the meta device (built under `torch.device("meta")`) for nothing to be computed.
        task: Gives the input shape.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    module = getattr(module, "_orig_mod", module)  # what `torch.compile` wraps: only plain layers are counted
    was_training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("meta"))
    image = torch.zeros(1, *task.input_shape, device=device)
    flops, memory = FlopCounterMode(display=False), _ActivationMeter(image)
    with torch.no_grad(), uncompiled(), flops, memory:
        module(image)
    module.train(was_training)
    parameters = sum(p.numel() for p in module.parameters())
    return Cost(parameters, flops.get_total_flops() // 2, memory.peak)


def measure_latency(module: nn.Module, task: TaskInfo, batch_size: int = 1, threads: int = 1) -> float:
    """Measure the median time of one inference pass, in milliseconds, after warming up.

    Args:
        module: The network; runs in eval mode on its own device.
        task: Gives the input shape.
        batch_size: Images in a pass.
        threads: CPU threads that torch may use meanwhile.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    images = torch.zeros(batch_size, *task.input_shape, device=device)
    return time_call(lambda: module(images), module, device, threads)


def time_call(call: Any, module: nn.Module | None, device: torch.device, threads: int) -> float:
    """Return the median milliseconds of a call: 5 warm-up calls, then 30 calls or one second, whichever
    ends first.
    """
    before, was_training = torch.get_num_threads(), module is not None and module.training
    torch.set_num_threads(threads)
    if module is not None:
        module.eval()
    try:
        with torch.inference_mode():
            for _ in range(5):
                call()
            return statistics.median(_timings(call, device))
    finally:
        torch.set_num_threads(before)
        if module is not None:
            module.train(was_training)


def _timings(call: Any, device: torch.device) -> list[float]:
    timings: list[float] = []
    while len(timings) < 30 and sum(timings) < 1000:
        _synchronise(device)
        start = time.perf_counter()
        call()
        _synchronise(device)
        timings.append((time.perf_counter() - start) * 1e3)
    return timings


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class _ActivationMeter(TorchDispatchMode):
    """Follows which storages are alive while a module runs; storages that existed before (weights) do
    not count.
    """

    def __init__(self, image: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, int] = {}
        self.peak = 0
        self._born(image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {
            t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)
        }  # views of weights among them
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._born(tensor)
        return result

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.peak = max(self.peak, sum(self._alive.values()))
            weakref.finalize(storage, self._alive.pop, key, None)
