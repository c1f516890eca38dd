"""The ordinary training loop, written once.

Batch order and augmentation are pure functions of (seed, epoch, index), and each epoch seeds torch anew, so a
training that goes on from a checkpoint ends with the same bits as one that was never cut off. Nothing inside
a step waits for the device, unless its optimizer does: losses stay there and are read once an epoch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from learnforge.context import Checkpoint, Context
from learnforge.errors import DivergedError, StageError
from learnforge.kinds.form import form_of
from learnforge.kinds.task import Batch, Split, Task
from learnforge.randomness import derive, seeded
from learnforge.spec import TaskInfo
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.drawing import permutation
from learnforge_kit.networks.layout import channels_last
from learnforge_kit.training.evaluation import evaluate
from learnforge_kit.training.losses import supervised_loss
from learnforge_kit.training.optimization import generator_states, make_optimizer, take_step
from learnforge_kit.training.settings import Train

if TYPE_CHECKING:
    from learnforge.kinds.seen.turns import Turn
    from learnforge_kit.training.averaging import Average


@frozen(eq=False)
class Trainee:
    """What `fit` trains.

    Args:
        network: The network; it is what is averaged, kept and handed on.
        loss: From a batch, and the companion's batch where there is one, to a scalar loss. Reads the network.
        groups: torch parameter groups, `{"params": […], "scale": factor on the learning rate}`; None trains
            all of the network, and of `extra`, at the full rate.
        extra: A module that is trained and checkpointed with the network and dropped afterwards.
        set_mode: Puts the network into training mode, frozen parts excepted.
        counts: Numbers that the loss keeps count of; checkpointed, and restored in place.
        prepare: Called before each epoch with the images that it will show: indices int64 [image] and views
            int64 [image], on the CPU.
        turns: Steps on parts of `extra`, taken in this order before each step of the network.
    """

    network: nn.Module
    loss: Callable[..., Tensor]
    groups: Sequence[Mapping[str, Any]] | None = None
    extra: nn.Module | None = None
    set_mode: Callable[[], Any] | None = None
    counts: dict[str, int] = field(factory=dict)
    prepare: Callable[[Tensor, Tensor], None] | None = None
    turns: Sequence[Turn] = ()

    def parameter_groups(self) -> list[Mapping[str, Any]]:
        """Return the groups that are trained, `extra` included but for what has turns of its own."""
        everything: Mapping[str, Any] = {"params": list(self.network.parameters())}
        own = list(self.groups) if self.groups is not None else [everything]
        elsewhere = {id(p) for turn in self.turns for p in turn.module.parameters()}
        parts = self.extra.parameters() if self.extra is not None else ()
        extra = [p for p in parts if id(p) not in elsewhere]
        return [*own, {"params": extra}] if extra else own


Validate = Callable[[], float]
"""Returns how good the network is, higher is better: validation accuracy, in [0, 1], unless `fit` is told
another `measure`."""


@frozen(eq=False)
class Companion:
    """Further images for every step's loss.

    Args:
        split: The images, loaded on the device.
        task: Their normalisation.
        is_labelled: Hand out their labels too, as for a bilevel step on a second split.
    """

    split: Split
    task: TaskInfo
    is_labelled: bool = False


def fit(
    trainee: Trainee,
    split: Split,
    task: TaskInfo,
    settings: Train,
    context: Context,
    part: str,
    validate: Validate | None = None,
    companion: Companion | None = None,
    until: int | None = None,
    checkpoint: Checkpoint | None = None,
    measure: str = "accuracy",
) -> list[dict[str, Any]]:
    """Train a network, going on from the checkpoint of this part of the stage if there is one.

    Args:
        trainee: The network and its loss; changed in place, and left in eval mode.
        split: Training images, loaded on the device.
        task: Their normalisation.
        settings: How to train.
        context: Seed, device, folder and hooks.
        part: Name of this training within the stage, such as `student`.
        validate: Measures validation accuracy after each epoch; needed for `patience` and `weights = "best"`.
        companion: Further images; every step's loss also gets a batch of them.
        until: Epoch to stop at, for now: another call goes on from there, with the same bits in the end as
            without the stop. All of `settings.epochs` by default.
        checkpoint: Where the state is kept; that of this part of the stage by default.
        measure: Name of what `validate` measures, in the history.

    Returns:
        One entry an epoch: epoch (from 1), loss, learning_rate, and accuracy (or `measure`) where it was
        validated.

    Raises:
        DivergedError: The loss or a weight is not finite; the checkpoint of the last good epoch stays.
    """
    run = _Training(trainee, split, task, settings, context, part, companion, measure)
    checkpoint = checkpoint or context.checkpoint(part)
    until = settings.epochs if until is None else min(until, settings.epochs)
    state = checkpoint.load(context.device)
    if state is not None:
        run.restore(state)
    progress = context.progress.track(f"{context.stage}: {part}", until, run.epoch)
    with channels_last(trainee.network, task.input_shape, context.device), progress as tracker:
        while run.epoch < until and not run.is_stalled():
            entry = run.train_epoch(validate)
            context.emit(
                "epoch_finished",
                stage=context.stage,
                metrics={"part": part, "epochs": settings.epochs, **entry},
            )
            checkpoint.save(run.state, final=run.epoch == until or run.is_stalled())
            tracker.advance(_words(entry))
    run.finish()
    return run.history


def train_on_labels(
    network: nn.Module,
    task: Task,
    settings: Train,
    context: Context,
    part: str,
    is_validated: bool = True,
    until: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, Any]]:
    """Train a network on the labels of a task by the loss of the task's form; see `fit`.

    Args:
        network: The network, on the device; changed in place, and left in eval mode.
        task: The task, loaded on the device.
        settings: How to train.
        context: Seed, device, folder and hooks.
        part: Name of this training within the stage.
        is_validated: Measure after each epoch what the form measures first, such as accuracy, on
            validation data.
        until: See `fit`.
        checkpoint: See `fit`.
    """

    def validate() -> float:
        return evaluate(network, task.validation, task.info, settings.eval_batch_size).value

    return fit(
        Trainee(network, supervised_loss(network)),
        task.train,
        task.info,
        settings,
        context,
        part,
        validate if is_validated else None,
        until=until,
        checkpoint=checkpoint,
        measure=form_of(task.info.form).measured[0],
    )


class _Training:
    """The moving parts of one `fit`."""

    def __init__(
        self,
        trainee: Trainee,
        split: Split,
        task: TaskInfo,
        settings: Train,
        context: Context,
        part: str,
        companion: Companion | None,
        measure: str,
    ):
        if fault := settings.fault(task):
            raise StageError(fault)
        self.trainee, self.split, self.settings, self.context = trainee, split, settings, context
        self.companion, self.measure = companion, measure
        self.groups = trainee.parameter_groups()
        self.parameters = [p for group in self.groups for p in group["params"]]
        self.optimizer = make_optimizer(self.groups, settings)
        self.all = nn.ModuleList([trainee.network, *([trainee.extra] if trainee.extra is not None else [])])
        self.turns = _with_optimizers(trainee, settings)
        self.scales = [[group["lr"] for group in own.param_groups] for own in self._optimizers()]
        self.average = _average(trainee.network, settings)
        self.task = task
        self.mix = _mixer(settings, task)
        self.transforms = context.plugins.batch_transforms(task=task, stage=context.stage, part=part)
        self.steps = math.ceil(self._usable(split) / settings.batch_size)
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.best_extra: dict[str, Tensor] = {}
        self.best_value, self.best_epoch = -math.inf, 0

    def train_epoch(self, validate: Validate | None) -> dict[str, Any]:
        """Train one epoch and return its entry in the history."""
        if self.trainee.prepare is not None:
            self.trainee.prepare(*self._plan(self.split, "order"))
        set_mode = self.trainee.set_mode or self.trainee.network.train
        set_mode()
        if self.trainee.extra is not None:
            self.trainee.extra.train()
        # the variance of one image is zero, so layers normalise by their running statistics
        if self.settings.batch_size == 1:
            from learnforge_kit.networks.normalisation import find_normalisations

            for layer in find_normalisations(self.all):
                layer.eval()
        with seeded(derive(self.context.seed, "epoch", self.epoch)):
            losses = self._steps()
        entry = {
            "epoch": self.epoch + 1,
            "loss": self._finite_mean(losses),
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
        }
        self.epoch += 1
        if validate is not None:
            average = self.average
            with average.shown(self.trainee.network) if average else contextlib.nullcontext():
                entry[self.measure] = validate()
            self._remember_best(entry[self.measure])
        self.history.append(entry)
        return entry

    def _steps(self) -> list[Tensor]:
        settings, total = self.settings, self.steps * self.settings.epochs
        losses: list[Tensor] = []
        for step, batches in enumerate(self._batches()):
            factor = settings.rate(self.epoch * self.steps + step, total, self.steps)
            # schedules scale each group's own rate, so that layers may learn at different ones
            for each, scales in zip(self._optimizers(), self.scales, strict=True):
                for group, scale in zip(each.param_groups, scales, strict=True):
                    group["lr"] = scale * factor
            for turn, optimizer in self.turns:
                trained = list(turn.module.parameters())
                for _ in range(turn.steps):
                    self._take(optimizer, turn.loss, trained, batches, turn.module)
            losses.append(self._take(self.optimizer, self.trainee.loss, self.parameters, batches))
            if self.average is not None:
                self.average.update_parameters(self.trainee.network)
        return losses

    def _take(
        self,
        optimizer: torch.optim.Optimizer,
        loss_of: Callable[..., Tensor],
        parameters: Sequence[Tensor],
        batches: tuple[Batch, ...],
        module: nn.Module | None = None,
    ) -> Tensor:
        """Take a step of the network, or of a turn's module, and return the loss before it.

        An optimizer's further evaluations draw what its first one drew, and leave nothing but gradients. A
        turn leaves the running statistics of all others alone.
        """
        device, counts = self.context.device.type, self.trainee.counts
        drawn, counted = generator_states(device), dict(counts)

        def evaluate(is_first: bool) -> Tensor:
            quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if not is_first or module is not None:
                from learnforge_kit.training import turns  # most trainings need none of it

                quiet = (
                    turns.kept_statistics(self.all, module)
                    if is_first
                    else turns.undone(self.all, counts, counted, device, drawn)
                )
            with quiet:
                with torch.autocast(device, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                    loss = loss_of(*batches)
                _require_trainable(loss)
                loss.backward()
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
            return loss

        return take_step(optimizer, evaluate)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *(optimizer for _, optimizer in self.turns)]

    def _batches(self) -> Iterator[tuple[Batch, ...]]:
        own = self._stream(self.split, self.task, "order", True)
        if self.companion is None:
            return ((batch,) for batch in own)
        return zip(own, self._endless(self.companion), strict=False)

    def _usable(self, split: Split) -> int:
        """Return how many images an epoch shows: all, but for a last batch of a single one."""
        # batch normalisation cannot learn from a batch of one
        return len(split) - (len(split) > 1 and len(split) % self.settings.batch_size == 1)

    def _plan(self, split: Split, purpose: str, lap: int = 0) -> tuple[Tensor, Tensor]:
        """Return which images an epoch shows, in order, and in which views: int64 [image] each, on the CPU; a
        pure function of (seed, epoch).
        """
        seed, usable = derive(self.context.seed, purpose, self.epoch, lap), self._usable(split)
        if self.settings.balanced and purpose == "order":
            from learnforge_kit.training.batches import balance  # most trainings need none of it

            order, turns = balance(split.labels.cpu(), seed)
        else:
            order = permutation(seed, len(split))
            turns = torch.zeros_like(order)
        order, turns = order[:usable], turns[:usable]
        # an image that comes up again gets another view
        views = self.settings.augmentation.draw(self.context.seed, self.epoch, order + turns * len(split))
        return order, views

    def _stream(
        self, split: Split, task: TaskInfo, purpose: str, has_labels: bool, lap: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of this epoch, a pure function of (seed, epoch)."""
        settings, normalise = self.settings, Normaliser(task, self.context.device)
        order, all_views = self._plan(split, purpose, lap)
        views_of_batches = all_views.to(self.context.device).split(settings.batch_size)
        total = self.steps * settings.epochs
        seed = derive(self.context.seed, purpose, self.epoch, lap, "masks")
        found = zip(split.batches(order, settings.batch_size), views_of_batches, strict=True)
        for step, ((images, labels, indices), views) in enumerate(found):
            shown = self._show(images, views, indices, normalise, seed)
            # a method that reads labels that are withheld sees -1, which cross-entropy refuses
            known = labels if has_labels else torch.full_like(labels, -1)
            progress = (self.epoch * self.steps + step) / total
            batch = Batch(shown, known, indices, views, progress, settings.label_smoothing, form=task.form)
            if purpose == "order" and self.mix is not None:
                batch = self.mix(batch)
            for number, transform in enumerate(self.transforms):
                drawn = derive(self.context.seed, purpose, self.epoch, lap, "hook", step, number)
                batch = transform(batch, torch.Generator().manual_seed(drawn))
            yield batch

    def _show(
        self, images: Tensor, views: Tensor, indices: Tensor, normalise: Normaliser, seed: int
    ) -> Tensor:
        """Return images in their views, normalised; padding is black for bytes, the mean for floats."""
        settings = self.settings
        if images.dtype == torch.uint8:
            shown = normalise(settings.augmentation.show(images, views))
        else:
            shown = settings.augmentation.show(normalise(images), views)
        if settings.masks_images:
            from learnforge_kit.training.masks import mask_stretches  # most trainings need none of it

            shown = mask_stretches(shown, indices, seed, settings.time_mask, settings.frequency_mask)
        return shown

    def _endless(self, companion: Companion) -> Iterator[Batch]:
        """Yield the companion's batches, lap after lap."""
        lap = 0
        while True:
            yield from self._stream(companion.split, companion.task, "companion", companion.is_labelled, lap)
            lap += 1

    def _finite_mean(self, losses: list[Tensor]) -> float:
        """Return the mean loss; the only time in an epoch that the device is waited for."""
        values = torch.stack(losses).float()
        is_bad = ~values.isfinite()
        if bool(is_bad.any()):
            raise DivergedError(self.epoch + 1, int(is_bad.int().argmax()) + 1, self.steps)
        # the last step may have spoilt the weights after its loss was read
        others = [p for turn, _ in self.turns for p in turn.module.parameters()]
        if not bool(nn.utils.get_total_norm([*self.parameters, *others]).isfinite()):
            raise DivergedError(self.epoch + 1, self.steps, self.steps)
        return float(values.mean())

    def _remember_best(self, value: float) -> None:
        # a tie keeps the earlier epoch
        if value > self.best_value:
            self.best_value, self.best_epoch = value, self.epoch
            if self.settings.weights == "best":
                source = self.average.module if self.average is not None else self.trainee.network
                self.best = _copied(source)
                self.best_extra = _copied(self.trainee.extra) if self.trainee.extra is not None else {}

    def is_stalled(self) -> bool:
        """Tell whether validation accuracy has not risen for `patience` epochs."""
        patience = self.settings.patience
        return patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience

    def finish(self) -> None:
        """Leave the weights that were asked for in the network."""
        network = self.trainee.network
        if self.settings.weights == "best" and self.best is not None:
            network.load_state_dict(self.best)
            if self.trainee.extra is not None:
                self.trainee.extra.load_state_dict(self.best_extra)
        elif self.average is not None:
            network.load_state_dict(self.average.module.state_dict())
        network.eval()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs: tensors and plain data."""
        return {
            "epoch": self.epoch,
            "network": self.trainee.network.state_dict(),
            "extra": self.trainee.extra.state_dict() if self.trainee.extra is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "turns": [optimizer.state_dict() for _, optimizer in self.turns],
            "average": self.average.state_dict() if self.average is not None else {},
            "history": self.history,
            "counts": dict(self.trainee.counts),
            "best": self.best,
            "best_extra": self.best_extra,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.trainee.network.load_state_dict(state["network"])
        if self.trainee.extra is not None:
            self.trainee.extra.load_state_dict(state["extra"])
        self.optimizer.load_state_dict(state["optimizer"])
        for (_, optimizer), own in zip(self.turns, state["turns"], strict=True):
            optimizer.load_state_dict(own)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.trainee.counts.update(state["counts"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.best, self.best_extra = state["best"], state["best_extra"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]


def _average(network: nn.Module, settings: Train) -> Average | None:
    """Return the average of the weights, or None where there is to be none."""
    if not settings.ema:
        return None
    from learnforge_kit.training.averaging import Average  # most trainings need none of it

    return Average(network, settings.ema)


def _mixer(settings: Train, task: TaskInfo) -> Callable[[Batch], Batch] | None:
    """Return what mixes the images of a batch and their labels, or None where nothing is to be mixed."""
    if not settings.mixes_images:
        return None
    from learnforge_kit.training.batches import make_mixer  # most trainings need none of it

    return make_mixer(settings, task.outputs)


def _with_optimizers(trainee: Trainee, settings: Train) -> list[tuple[Turn, torch.optim.Optimizer]]:
    """Pair the turns of a training with their optimizers."""
    if not trainee.turns:
        return []
    from learnforge_kit.training.turns import own_optimizer  # most trainings need none of it

    return [(turn, own_optimizer(turn, trainee, settings)) for turn in trainee.turns]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _require_trainable(loss: Any) -> None:
    """Refuse what cannot be followed downhill, in words that say what a method's loss must be."""
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        is_tensor = isinstance(loss, Tensor)
        shape = f"a tensor of shape {list(loss.shape)}" if is_tensor else type(loss).__name__
        what = "a tensor without gradient" if is_tensor and not loss.ndim else shape
        raise StageError(f"a loss must be a scalar tensor that depends on what is trained, got {what}")


def _words(entry: Mapping[str, Any]) -> str:
    words = f"loss {entry['loss']:.3f}"
    words += f", validation {entry['accuracy']:.1%}" if "accuracy" in entry else ""
    known = ("epoch", "loss", "learning_rate", "accuracy")
    return words + "".join(f", {name} {value:.4f}" for name, value in entry.items() if name not in known)
