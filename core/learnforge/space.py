"""Spaces of networks, single models, and what a network costs."""

from __future__ import annotations

import statistics
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from attrs import asdict, frozen
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from learnforge.files import fingerprint
from learnforge.task import Form, TaskInfo

Choice = bool | int | float | str | None
Design = dict[str, Any]


class Pick(Protocol):
    """Makes the choices of a design. A searcher stands behind it; names identify a choice from trial to
    trial.

    Choices may depend on earlier ones: a space asks only for what the design needs.
    """

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        """Pick one of several values, in no order."""

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Pick a whole number in [low, high]."""

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        """Pick a number in [low, high]."""


class Space(ABC):
    """A family of networks: a frozen attrs class whose fields are the options in `space = { use = …, … }`.

    The search driver calls `design` once for each trial, where the search is driven, and `build` wherever
    that design is costed, trained or loaded.
    """

    smallest_image: ClassVar[int] = 8
    """Fewest pixels of height and width that all its networks take."""

    @abstractmethod
    def design(self, pick: Pick) -> Design:
        """Make the choices of one network.

        Returns:
            JSON-able data in normal form: choices that make the same network give equal designs.
        """

    @abstractmethod
    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        """Build the network of a design, freshly initialised from torch's global generator.

        Args:
            design: What `design` returned, perhaps after a round trip through JSON.
            task: Gives the input shape and the number of outputs.

        Returns:
            A module from float [batch, channel, height, width] to float [batch, outputs].
        """


class Model(ABC):
    """One network with options: a frozen attrs class, `{ use = …, … }` wherever a recipe wants a model."""

    smallest_image: ClassVar[int] = 8
    """Fewest pixels of height and width that its network takes."""

    forms: ClassVar[frozenset[Form]] = frozenset({"classification", "regression", "environment"})
    """Forms of tasks that it is for."""

    @abstractmethod
    def build(self, task: TaskInfo) -> nn.Module:
        """Build the network, initialised from torch's global generator or with its pretrained weights; see
        `Space.build`.
        """

    def require(self) -> None:
        """Raise an error that says what is missing if `build` needs files that are not there; called by the
        checks.
        """

    def without_pretrained(self) -> Model:
        """Return the same model without pretrained weights; itself, unless it has such an option."""
        return self

    def is_trained_for(self, task: TaskInfo) -> bool:
        """Tell whether its network comes with weights for a task's classes, the head included: such a one may
        teach as it is.
        """
        return False

    def changes(self, task: TaskInfo) -> list[str]:
        """Say what of its pretrained network is changed for a task; nothing by default."""
        return []

    def content(self) -> str:
        """Return a hash of the files that `build` reads, so that results depend on what is in them; "" where
        there are none.
        """
        return ""

    def family(self) -> Sequence[Model]:
        """Return this model in other sizes, from which assistants between a teacher and a student are
        chosen; none by default.
        """
        return ()


def design_key(design: Design) -> str:
    """Return a short key (16 hex digits) that equal designs share."""
    return fingerprint(design)[:16]


@frozen
class Cost:
    """What a network costs for one image in inference.

    Args:
        parameters: Trainable numbers.
        macs: Multiply-adds in convolutions and matrix products; one multiply-add is one.
        peak_activation_bytes: Most bytes of input and intermediate results alive at once in 32-bit eager
            inference.
    """

    parameters: int
    macs: int
    peak_activation_bytes: int

    def as_metrics(self) -> dict[str, float]:
        """Return {name: value}."""
        return asdict(self)


COSTS = ("parameters", "macs", "peak_activation_bytes", "latency_ms")
"""Names of the costs that limits and objectives may use."""


def measure_cost(module: nn.Module, task: TaskInfo) -> Cost:
    """Count parameters, multiply-adds and activation memory of a module on the meta device: nothing is
    computed.

    Args:
        module: A module on the meta device (built under `torch.device("meta")`).
        task: Gives the input shape.
    """
    module = getattr(module, "_orig_mod", module)  # what `torch.compile` wraps: only plain layers are counted
    was_training = module.training
    module.eval()
    image = torch.empty(1, *task.input_shape, device="meta")
    flops, memory = FlopCounterMode(display=False), _ActivationMeter(image)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), flops, memory:
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
    """Return the median milliseconds of a call: 5 warm-up calls, then 30 calls or one second, whichever ends
    first.
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
    """Follows which storages are alive while a module runs; storages that existed before (weights) do not
    count.
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
