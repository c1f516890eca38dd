"""The teacher of a distillation: one network or several, frozen, asked batch by batch, its scores cached."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.plugins.identity import hash_source
from learnforge.spec import copy_weights, hash_tensor
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.networks.taps import Tapped
from learnforge_kit.training.settings import Train

if TYPE_CHECKING:
    from learnforge_plugins.stages.distill.cache import ViewCache

LARGEST_EPOCH = 1 << 28
"""Bytes of an epoch's scores that are held on the device; more are read batch by batch."""


@frozen
class TeacherSettings:
    """How a teacher is asked.

    Args:
        ensemble: What is averaged over several teachers.
        weights: Share of each teacher, above 0; scaled to a sum of 1.
        precision: Of the teacher's arithmetic.
    """

    ensemble: Literal["logits", "probabilities"] = "logits"
    weights: tuple[float, ...] = ()
    precision: Literal["32", "bf16"] = "32"


class Teacher(nn.Module):
    """Frozen networks that answer as one.

    They are in eval mode, in the memory layout that they came in, and get no gradient. A batch is always
    padded to the full batch size, since a kernel's result may depend on it: so the scores of a view are the
    same bits in any batch.

    Args:
        networks: One network or several; copies that nobody else uses.
        settings: How they are asked.
        batch_size: Images in a full batch.
        tapped: Listens to the layers of a single network.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: TeacherSettings,
        batch_size: int,
        tapped: Tapped | None = None,
    ):
        super().__init__()
        for network in networks:
            network.eval().requires_grad_(False)
        self.networks = nn.ModuleList(networks)
        self.settings, self.batch_size = settings, batch_size
        self.counts = {"asked": 0, "computed": 0}
        weights = settings.weights or (1.0,) * len(networks)
        self.shares = [weight / sum(weights) for weight in weights]
        self._tapped = tapped
        self._start = [copy_weights(network) for network in networks]

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, outputs] for normalised images, of any number."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Outputs:
        """Return class scores, and taps where layers are listened to, for at most a full batch."""
        self.counts["computed"] += len(images)
        missing = self.batch_size - len(images)
        shown = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing > 0 else images
        device = images.device.type
        with (
            torch.no_grad(),
            torch.autocast(device, torch.bfloat16, enabled=self.settings.precision == "bf16"),
        ):
            outputs = self._tapped(shown) if self._tapped is not None else Outputs(self._average(shown))
        outputs = evolve(outputs, logits=outputs.logits.float())  # as the cache gives them back
        if missing <= 0:
            return outputs
        taps = {name: tensor[: len(images)] for name, tensor in outputs.taps.items()}
        return Outputs(outputs.logits[: len(images)], taps, outputs.layers)

    def explore(self, images: Tensor) -> Outputs:
        """Return the same with gradients to the images, for any number; these are not counted."""
        device, is_half = images.device.type, self.settings.precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=is_half):
            shown = images if is_half else images.float()  # whatever precision the student learns in
            outputs = self._tapped(shown) if self._tapped is not None else Outputs(self._average(shown))
        return evolve(outputs, logits=outputs.logits.float(), run=self.explore)

    def _average(self, images: Tensor) -> Tensor:
        """Average scores, or average probabilities and return their logarithms, which are scores as well."""
        logits: list[Tensor] = [network(images) for network in self.networks]
        if len(logits) == 1:
            return logits[0]
        if self.settings.ensemble == "logits":
            parts = [share * scores.float() for share, scores in zip(self.shares, logits, strict=True)]
            return torch.stack(parts).sum(0)
        logs = [scores.float().log_softmax(1) for scores in logits]
        shares = torch.tensor(self.shares, device=logs[0].device).log()
        return torch.logsumexp(torch.stack(logs) + shares[:, None, None], 0)

    def require_unchanged(self, who: str) -> None:
        """Refuse what a training did to the teacher.

        Raises:
            StageError: A weight or a batch statistic is not what it was, bit for bit.
        """
        for network, before in zip(self.networks, self._start, strict=True):
            if not _is_equal(before, copy_weights(network)):
                raise StageError(f"the distiller {who} changed its teacher, which must stay as it is")

    def close(self) -> None:
        """Stop listening."""
        if self._tapped is not None:
            self._tapped.close()

    @property
    def identity(self) -> list[Any]:
        """What its scores depend on, apart from data and device: weights, structure, code, settings."""
        weights = [{name: hash_tensor(t) for name, t in state.items()} for state in self._start]
        settings = [self.settings.ensemble, self.shares, self.settings.precision]
        return [weights, [repr(network) for network in self.networks], _sources(self.networks), settings]


@define(eq=False)
class CachedTeacher:
    """Where a student asks: the teacher, its cache before it.

    Args:
        teacher: The teacher.
        task: The task, loaded on the device.
        train: Views and batch size of the training.
        device: Where the teacher is.
        cache: Keeps scores; None asks the teacher for every batch.
    """

    teacher: Teacher
    task: Task
    train: Train
    device: torch.device
    cache: ViewCache | None = None
    learns: ClassVar[None] = None
    _normalise: Callable[[Tensor], Tensor] = field(init=False)
    _epoch: Tensor | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._normalise = Normaliser(self.task.info, self.device)

    @property
    def counts(self) -> dict[str, int]:
        """How many images it was asked about, and how many of these were computed."""
        return self.teacher.counts

    @property
    def run(self) -> Callable[[Tensor], Outputs]:
        """Runs the teacher on any images, with gradients to them."""
        return self.teacher.explore

    def show(self, images: Tensor) -> Outputs:
        """Return what it says of a few images, for shapes."""
        return self.teacher.answer(images)

    @property
    def preparation(self) -> Callable[[Tensor, Tensor], None] | None:
        """What is to be called before each epoch; None without a cache."""
        return self.prepare if self.cache is not None else None

    def prepare(self, indices: Tensor, views: Tensor) -> None:
        """Fill the cache with what an epoch will ask for, in full batches.

        Args:
            indices: int64 [image], all images of the epoch.
            views: int64 [image], their views.
        """
        if self.cache is None:
            return
        missing = ~self.cache.read(indices, views)[1]
        order, shown = indices.cpu()[missing], views.cpu()[missing]
        start = 0
        for images, _, found in self.task.train.batches(order[: self.cache.room], self.train.batch_size):
            here = shown[start : start + len(found)]
            start += len(found)
            pictures = self.train.augmentation.show(images, here.to(images.device))
            self.cache.write(found.cpu(), here, self.teacher.answer(self._normalise(pictures)).logits)
        self._epoch = self._read_epoch(self.cache, indices.cpu(), views.cpu())

    def _read_epoch(self, cache: ViewCache, indices: Tensor, views: Tensor) -> Tensor | None:
        """Return the epoch's scores [image of the split, outputs] on the device, so that no step waits for
        them; None where some are missing or they are many.
        """
        if len(self.task.train) * cache.outputs * 4 > LARGEST_EPOCH:
            return None
        scores, is_known = cache.read(indices, views)
        if not bool(is_known.all()):
            return None
        table = torch.zeros(len(self.task.train), cache.outputs)
        table[indices] = scores
        return table.to(self.device)

    def answer(self, batch: Batch) -> Outputs:
        """Return what the teacher says of a batch."""
        self.teacher.counts["asked"] += len(batch.indices)
        if self._epoch is not None:
            return Outputs(self._epoch[batch.indices], run=self.teacher.explore)
        if self.cache is not None:
            scores, is_known = self.cache.read(batch.indices, batch.views)
            if bool(is_known.all()):
                return Outputs(scores.to(batch.images.device, non_blocking=True), run=self.teacher.explore)
        return evolve(self.teacher.answer(batch.images), run=self.teacher.explore)

    def finish(self, who: str) -> None:
        """End a training by a method.

        Raises:
            StageError: The method changed the teacher.
        """
        self.teacher.require_unchanged(who)

    def close(self) -> None:
        """Let go of teacher and cache."""
        self.teacher.close()
        if self.cache is not None:
            self.cache.close()


def full_batch(train: Train, task: Task) -> int:
    """Return how many images the largest batch of a training has."""
    return min(train.batch_size, len(task.train))


def _sources(networks: nn.ModuleList) -> dict[str, str]:
    """Hash the files that the networks' own classes are from."""
    modules = {inspect.getmodule(type(layer)) for layer in networks.modules()}
    own = {m for m in modules if m is not None and m.__name__.split(".")[0] not in ("torch", "torchvision")}
    return {module.__name__: hash_source(module) for module in sorted(own, key=lambda m: m.__name__)}


def _is_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Compare bit for bit; NaNs are equal to themselves."""
    return all(torch.equal(_bytes(tensor), _bytes(second[name])) for name, tensor in first.items())


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, whatever its layout: uint8 [byte]."""
    return tensor.contiguous().flatten().view(torch.uint8)
