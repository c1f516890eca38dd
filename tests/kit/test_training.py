"""The training loop: rates, steps, resume, divergence, what is kept, and the scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from learnforge import Batch, Context, DivergedError, Optimizer, PluginChoice, Plugins, Task
from learnforge import context as context_module
from learnforge_kit import MemorySplit, Train
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.training.batches import balance, make_mixer
from learnforge_kit.training.evaluation import Scores, confusion, evaluate, predict, score
from learnforge_kit.training.loop import Companion, Trainee, _Training, fit
from learnforge_kit.training.losses import supervised_loss
from learnforge_plugins.optimizers.torch import SGD, Adam

MakeContext = Callable[..., Context]


class CutError(Exception):
    """Stands for a kill."""


def small_network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """Make a network with everything that has a state: convolution, batch statistics, dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(36, 3),
    )


def train_on(
    network: nn.Module, task: Task, settings: Train, context: Context, validate: bool = False, **more: Any
) -> list[dict[str, Any]]:
    """Train a network as the stages do."""
    return fit(
        Trainee(network, supervised_loss(network)),
        task.train,
        task.info,
        settings,
        context,
        "student",
        (lambda: evaluate(network, task.validation, task.info).accuracy) if validate else None,
        **more,
    )


def assert_equal_state(first: nn.Module, second: nn.Module) -> None:
    """Compare two networks bit for bit, buffers included."""
    for (name, own), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(own, other), name


def rates_of(scheduler: type, steps: int, **options: Any) -> list[float]:
    """Return what a torch scheduler makes of a rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    course = scheduler(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    return rates


def test_cosine_is_that_of_torch() -> None:
    """`cosine` follows torch's CosineAnnealingLR to 0."""
    expected = rates_of(torch.optim.lr_scheduler.CosineAnnealingLR, 12, T_max=12)
    assert [Train().rate(step, 12, 4) for step in range(12)] == pytest.approx(expected, abs=1e-12)


def test_one_cycle_is_that_of_torch() -> None:
    """`one-cycle` passes through the values of torch's OneCycleLR at its start, its peak and its end."""
    settings = Train(schedule="one-cycle")
    course = torch.optim.lr_scheduler.OneCycleLR
    # torch's own course ends at step steps - 1 and peaks at 0.3 * steps - 1: both counted from there
    expected = rates_of(course, 101, max_lr=1.0, total_steps=101, cycle_momentum=False, pct_start=31 / 101)
    found = [settings.rate(step, 100, 10) for step in range(101)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[0] == pytest.approx(1 / 25)
    assert max(found) == found[30] == 1.0


def test_linear_falls_evenly() -> None:
    """`linear` is 1 at the start and would be 0 one step after the last."""
    found = [Train(schedule="linear").rate(step, 4, 2) for step in range(4)]
    assert found == [1, 0.75, 0.5, 0.25]


def test_step_falls_by_a_tenth_twice() -> None:
    """`step` gives 1, then 0.1 from a half on, then 0.01 from three quarters on."""
    found = [Train(schedule="step").rate(step, 8, 2) for step in range(8)]
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_milestones_say_when_step_falls() -> None:
    """The recipe of the literature: a tenth from the epochs 150, 180 and 210 of 240 on."""
    settings = Train(schedule="step", epochs=240, milestones=(0.625, 0.75, 0.875))
    found = [settings.rate(epoch, 240, 1) for epoch in (149, 150, 179, 180, 209, 210)]
    assert found == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_plain_momentum_and_decay_of_everything(task: Task, make_context: MakeContext) -> None:
    """Without Nesterov the first step is -rate · gradient; `decay_all` decays biases as well."""
    settings = Train(
        epochs=1,
        batch_size=99,
        optimizer=SGD(nesterov=False),
        learning_rate=0.1,
        weight_decay=0.5,
        decay_all=True,
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    bias = network[1].bias.detach().clone()  # type: ignore[union-attr]
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    loss = F.cross_entropy(network(images), task.train.labels)
    _, by_bias = torch.autograd.grad(loss, list(network.parameters()))
    train_on(network, task, settings, make_context(None))
    torch.testing.assert_close(network[1].bias.detach(), bias - 0.1 * (by_bias + 0.5 * bias))  # type: ignore[union-attr]


def test_an_epoch_is_announced_before_it_is_shown(task: Task, make_context: MakeContext) -> None:
    """`prepare` hears of exactly the images and views, in their order, that the epoch then shows."""
    network, told, shown = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), [], []  # type: ignore[var-annotated]
    settings = Train(epochs=2, batch_size=7, crop=1, flip=True)

    def loss(batch: Any) -> Any:
        shown.extend(zip(batch.indices.tolist(), batch.views.tolist(), strict=True))
        return F.cross_entropy(network(batch.images), batch.labels)

    def prepare(indices: Any, views: Any) -> None:
        assert len(told) == len(shown)
        told.extend(zip(indices.tolist(), views.tolist(), strict=True))

    trainee = Trainee(network, loss, prepare=prepare)
    fit(trainee, task.train, task.info, settings, make_context(None), "part")
    assert told == shown
    assert len(told) == 2 * len(task.train)


def test_warmup_rises_linearly_to_one_and_the_schedule_follows() -> None:
    """One and a half epochs of 4 steps rise in sixths; the cosine then starts at its peak."""
    found = [Train(warmup_epochs=1.5).rate(step, 16, 4) for step in range(16)]
    assert found[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert found[6:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 10)) for k in range(10)])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "step", "one-cycle"])
def test_rates_are_positive_and_at_most_one(schedule: Any) -> None:
    """Every factor lies in (0, 1], also where the warm-up is longer than the training."""
    for warmup in (0.0, 0.5, 9.0):
        settings = Train(schedule=schedule, warmup_epochs=warmup)
        assert all(0 < settings.rate(step, 20, 5) <= 1 for step in range(20))


def test_a_step_of_sgd_is_what_the_formula_says(task: Task, make_context: MakeContext) -> None:
    """One step moves the weights by -rate * (gradient + decay * weight), with Nesterov's (1 + momentum)."""
    settings = Train(epochs=1, batch_size=99, optimizer=SGD(), learning_rate=0.1, weight_decay=0.5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    weight, bias = (p.detach().clone() for p in network.parameters())
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    loss = F.cross_entropy(network(images), task.train.labels)
    by_weight, by_bias = torch.autograd.grad(loss, list(network.parameters()))
    history = train_on(network, task, settings, make_context(None))
    # on the first step torch's momentum buffer is the gradient g, so Nesterov's direction is g + 0.9 g
    moved = [p.detach() for p in network.parameters()]
    torch.testing.assert_close(moved[0], weight - 0.1 * 1.9 * (by_weight + 0.5 * weight))
    torch.testing.assert_close(moved[1], bias - 0.1 * 1.9 * by_bias)
    assert history == [{"epoch": 1, "loss": pytest.approx(float(loss.detach())), "learning_rate": 0.1}]


SETTINGS = {
    "sgd": Train(epochs=4, batch_size=16, optimizer=SGD(), learning_rate=0.05),
    "adam with everything": Train(
        epochs=4, batch_size=16, optimizer=Adam(), ema=0.8, clip_norm=0.5, crop=1, flip=True, warmup_epochs=1
    ),
    "best average": Train(epochs=4, batch_size=16, ema=0.9, weights="best", learning_rate=0.05),
    "best, impatient": Train(epochs=6, batch_size=16, patience=1, weights="best", learning_rate=0.03),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resume_after_any_epoch_is_bit_exact(
    name: str, task: Task, make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training cut off in any epoch, or after its last, ends with the same bits as one left alone."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    settings = SETTINGS[name]
    whole = small_network(dropout=0.3)
    expected = train_on(whole, task, settings, make_context(None), validate=True)
    for cut in range(1, len(expected) + 2):
        folder = tmp_path / str(cut)

        def stop(event: str, metrics: dict[str, Any], cut: int = cut, **data: Any) -> None:
            if metrics["epoch"] == cut:
                raise CutError

        first = small_network(dropout=0.3)
        try:
            train_on(first, task, settings, make_context(folder, emit=stop), validate=True)
        except CutError:
            assert cut <= len(expected)
        torch.manual_seed(cut)  # the state of the global generator must not matter
        again = small_network(seed=99, dropout=0.3)  # its own weights come from the checkpoint,
        if cut == 1:  # which an interrupted first epoch never wrote
            again = small_network(dropout=0.3)
        torch.manual_seed(1000 + cut)
        history = train_on(again, task, settings, make_context(folder), validate=True)
        assert history == expected
        assert_equal_state(again, whole)
        assert not again.training


def test_a_resumed_extra_module_goes_on_too(
    task: Task, make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`extra` is trained, checkpointed with the network and the same after a resume."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    settings = Train(epochs=3, batch_size=20)

    def run(folder: Path | None, cut: int | None = None) -> tuple[nn.Module, nn.Module]:
        network, extra = small_network(), nn.Linear(3, 3)
        nn.init.eye_(extra.weight)

        def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
            if metrics["epoch"] == cut:
                raise CutError

        trainee = Trainee(
            network, lambda batch: F.cross_entropy(extra(network(batch.images)), batch.labels), extra=extra
        )
        torch.manual_seed(5)
        nn.init.zeros_(extra.bias)
        fit(trainee, task.train, task.info, settings, make_context(folder, emit=stop), "student")
        return network, extra

    network, extra = run(None)
    with pytest.raises(CutError):
        run(tmp_path, cut=3)
    again, extra_again = run(tmp_path)
    assert_equal_state(again, network)
    assert_equal_state(extra_again, extra)
    assert not torch.equal(extra.weight, torch.eye(3))


def test_checkpoints_are_not_written_more_often_than_said(
    task: Task, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs shorter than CHECKPOINT_SECONDS leave one file, the final one."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 1e9)
    saved: list[Path] = []
    write = context_module.write_atomically
    monkeypatch.setattr(
        context_module, "write_atomically", lambda path, fill: (saved.append(path), write(path, fill))
    )
    train_on(small_network(), task, Train(epochs=3), make_context())
    assert [path.name for path in saved] == ["student.pt"]


def test_a_loss_that_is_not_finite_names_epoch_and_step(
    task: Task, make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bad step is named, and the checkpoint of the last good epoch stays."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    network, calls = small_network(), []

    def loss(batch: Batch) -> Tensor:
        calls.append(1)
        plain = F.cross_entropy(network(batch.images), batch.labels)
        return plain * float("nan") if len(calls) == 3 + 2 else plain

    settings, context = Train(epochs=4, batch_size=20), make_context()
    words = r"must be finite, but it was not in epoch 2, step 2 of 3\..*`learning_rate`"
    with pytest.raises(DivergedError, match=words) as caught:
        fit(Trainee(network, loss), task.train, task.info, settings, context, "student")
    assert (caught.value.epoch, caught.value.step, caught.value.steps) == (2, 2, 3)
    kept = context.checkpoint("student").load(context.device)
    assert kept is not None
    assert kept["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in kept["network"].values())


def test_weights_that_are_not_finite_diverge_too(task: Task, make_context: MakeContext) -> None:
    """An infinite weight after the last step is found in that epoch, though every loss was finite."""
    network = small_network()

    def loss(batch: Batch) -> Tensor:
        found = F.cross_entropy(network(batch.images), batch.labels)
        network[5].bias.register_hook(lambda gradient: gradient * float("inf"))
        return found

    with pytest.raises(DivergedError, match="epoch 1, step 1 of 1"):
        fit(
            Trainee(network, loss),
            task.train,
            task.info,
            Train(epochs=1, batch_size=60),
            make_context(None),
            "a",
        )


@pytest.mark.parametrize("weights", ["last", "best"])
def test_best_or_last_weights_are_kept(weights: Any, task: Task, make_context: MakeContext) -> None:
    """`best` keeps the weights of the first epoch with the highest validation accuracy, `last` the last."""
    network, seen = small_network(), []
    accuracies = iter([0.2, 0.8, 0.8, 0.5])

    def validate() -> float:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(accuracies)

    settings = Train(epochs=4, batch_size=20, weights=weights)
    trainee = Trainee(network, supervised_loss(network))
    fit(trainee, task.train, task.info, settings, make_context(None), "a", validate)
    kept = seen[1 if weights == "best" else 3]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
    assert not torch.equal(seen[1]["0.weight"], seen[3]["0.weight"])


def test_patience_counts_epochs_without_a_better_accuracy(task: Task, make_context: MakeContext) -> None:
    """With patience 2, accuracies 0.5, 0.6, 0.6, 0.4 end the training after the fourth epoch."""
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 1.0, 1.0])
    network, settings = small_network(), Train(epochs=6, patience=2)
    trainee = Trainee(network, supervised_loss(network))
    history = fit(trainee, task.train, task.info, settings, make_context(None), "a", lambda: next(accuracies))
    assert [entry["accuracy"] for entry in history] == [0.5, 0.6, 0.6, 0.4]


def test_the_average_replaces_the_weights(task: Task, make_context: MakeContext) -> None:
    """With `ema`, the network ends as decay * average + (1 - decay) * weights, from the first step's on."""
    settings = Train(epochs=2, batch_size=20, ema=0.7, learning_rate=0.1)
    network, trace = small_network(), []

    class Recording(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            trace.append(network[0].weight.detach().clone())

    @frozen
    class Recorded(Optimizer):
        def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            return Recording(groups, lr=0.1)

    train_on(network, task, evolve(settings, optimizer=Recorded()), make_context(None))
    average = trace[0]
    for weight in trace[1:]:
        average = 0.7 * average + 0.3 * weight
    assert len(trace) == 6
    torch.testing.assert_close(network[0].weight.detach(), average)
    assert not torch.allclose(network[0].weight, trace[-1])


def test_validation_judges_the_average_and_training_goes_on_with_the_weights(
    task: Task, make_context: MakeContext
) -> None:
    """Validation sees the averaged weights, and does not disturb the training."""
    settings = Train(epochs=3, batch_size=20, ema=0.9)
    watched, alone = small_network(), small_network()
    seen = []

    def validate() -> float:
        seen.append(watched[0].weight.detach().clone())
        return 0.0

    trainee = Trainee(watched, supervised_loss(watched))
    fit(trainee, task.train, task.info, settings, make_context(None), "a", validate)
    train_on(alone, task, settings, make_context(None))
    assert_equal_state(watched, alone)
    assert torch.equal(seen[-1], watched[0].weight)


@pytest.mark.parametrize(("count", "sizes"), [(41, [20, 20]), (42, [20, 20, 2]), (1, [1]), (20, [20])])
def test_a_last_batch_of_one_image_is_left_out(
    count: int, sizes: list[int], task: Task, make_context: MakeContext
) -> None:
    """Batch statistics need two images, so a single last one is left out, unless there is no other."""
    found: list[int] = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def loss(batch: Batch) -> Tensor:
        found.append(len(batch.labels))
        return F.cross_entropy(network(batch.images), batch.labels)

    split, settings = task.train.select(torch.arange(count)), Train(epochs=1, batch_size=20)
    fit(Trainee(network, loss), split, task.info, settings, make_context(None), "a")
    assert found == sizes


def test_epochs_are_permutations_that_seed_and_epoch_decide(task: Task, make_context: MakeContext) -> None:
    """Each epoch shows every image once, in an order of its own that only (seed, epoch) decide."""

    def orders(seed: int) -> list[list[int]]:
        network, seen = small_network(), []

        def loss(batch: Batch) -> Tensor:
            seen.append(batch.indices.tolist())
            return F.cross_entropy(network(batch.images), batch.labels)

        settings = Train(epochs=2, batch_size=60)
        fit(Trainee(network, loss), task.train, task.info, settings, make_context(None, seed=seed), str(seed))
        return seen

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1) != [first, second]


def test_balanced_epochs_show_every_class_equally_often() -> None:
    """Of 2, 3 and 7 images four each are drawn, all of a class before any of it comes again."""
    labels = torch.tensor([0] * 2 + [4] * 3 + [9] * 7)
    order, turns = balance(labels, 0)
    assert labels[order].bincount().tolist() == [4, 0, 0, 0, 4, 0, 0, 0, 0, 4]
    assert (order * 10 + turns).unique().shape == (12,)  # no image twice in the same turn
    counts = order.bincount(minlength=12)
    assert counts[:2].tolist() == [2, 2]
    assert sorted(counts[2:5].tolist()) == [1, 1, 2]
    assert sorted(counts[5:].tolist()) == [0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(order, balance(labels, 0)[0])
    assert not torch.equal(order, balance(labels, 1)[0])


def test_balanced_training_repeats_rare_images_in_other_views(task: Task, make_context: MakeContext) -> None:
    """An epoch keeps its length; an image that comes up again is cropped anew."""
    rare = torch.cat([(task.train.labels == 0).nonzero()[:1, 0], (task.train.labels > 0).nonzero()[:, 0]])
    split = task.train.select(rare)
    seen: list[Batch] = []
    network = small_network()

    def loss(batch: Batch) -> Tensor:
        seen.append(batch)
        return supervised_loss(network)(batch)

    settings = Train(epochs=1, batch_size=7, crop=2, balanced=True)
    fit(Trainee(network, loss), split, task.info, settings, make_context(None), "student")
    labels, views = torch.cat([b.labels for b in seen]), torch.cat([b.views for b in seen])
    assert len(labels) == len(split)
    assert labels.bincount().max() - labels.bincount().min() <= 1
    assert len(views[labels == 0].unique()) > 1


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixed_images_have_shares_of_their_classes(option: str, task: Task) -> None:
    """mixup blends a batch with a shifted copy of itself, cutmix pastes; the labels are mixed in the same
    share.
    """
    mix = make_mixer(Train(**{option: 1.0}), 3)
    assert mix is not None
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    labels = torch.tensor([0, 1, 2, 2])
    torch.manual_seed(0)
    mixed = mix(Batch(images, labels, labels, labels))
    assert mixed.soft_labels is not None
    share = mixed.soft_labels[1, 1]
    assert 0 < share < 1
    other = [labels[i - 1] for i in range(4)]
    for row, (own, partner) in enumerate(zip(labels, other, strict=True)):
        expected = torch.zeros(3)
        expected[own] += share
        expected[partner] += 1 - share
        assert torch.allclose(mixed.soft_labels[row], expected)
    assert float(mixed.images[1].mean()) == pytest.approx(float(share * 1 + (1 - share) * 0))
    assert torch.equal(mixed.targets, mixed.soft_labels)
    assert torch.equal(mixed.labels, labels)
    network = small_network().eval()
    scores = network(mixed.images)
    expected_loss = -(mixed.soft_labels * scores.log_softmax(1)).sum(1).mean()
    assert torch.allclose(supervised_loss(network)(mixed), expected_loss)


def test_mixup_and_cutmix_take_turns() -> None:
    """With both, a batch gets one of them."""
    mix = make_mixer(Train(mixup=1.0, cutmix=1.0), 2)
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8), torch.tensor([0, 1])
    torch.manual_seed(0)
    pasted = [len(mix(Batch(images, labels, labels, labels)).images[0].unique()) == 2 for _ in range(20)]
    assert 0 < sum(pasted) < 20


def test_progress_runs_from_zero_to_one(task: Task, make_context: MakeContext) -> None:
    """A batch knows the share of the training that is done: step / steps, over all epochs."""
    network, seen = small_network(), []

    def loss(batch: Batch) -> Tensor:
        seen.append(batch.progress)
        return F.cross_entropy(network(batch.images), batch.labels)

    settings = Train(epochs=2, batch_size=20)
    fit(Trainee(network, loss), task.train, task.info, settings, make_context(None), "a")
    assert seen == pytest.approx([k / 6 for k in range(6)])


FILE = """
import torch
from attrs import evolve, frozen
from learnforge import hookimpl

seen = []

@hookimpl
def learnforge_batch(batch, task, stage, part, generator):
    drawn = int(torch.randint(1000, (), generator=generator))
    seen.append((task.outputs, stage, part, len(batch.labels), drawn))
    return evolve(batch, images=batch.images * 0)
"""


def test_batch_hooks_are_used(task: Task, make_context: MakeContext, tmp_path: Path) -> None:
    """Every batch is what the plugin returned; it is told where it stands and what to draw from."""
    file = tmp_path / "changing.py"
    file.write_text(FILE)
    plugins = Plugins(PluginChoice(files=(file,)))
    module = next(m for m in plugins.manager.get_plugins() if hasattr(m, "seen"))
    network, shown = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), []

    def loss(batch: Batch) -> Tensor:
        shown.append(float(batch.images.abs().sum()))
        return F.cross_entropy(network(batch.images), batch.labels)

    settings = Train(epochs=2, batch_size=30)
    draws = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        module.seen.clear()
        context = evolve(make_context(folder), plugins=plugins)
        until = 1 if not draws else None
        fit(Trainee(network, loss), task.train, task.info, settings, context, "pupil", until=until)
        assert {seen[:4] for seen in module.seen} == {(3, "stage", "pupil", 30)}
        draws.append([drawn for *_, drawn in module.seen])
    assert set(shown) == {0.0}
    first_epoch, second_epoch, whole = draws
    assert first_epoch + second_epoch == whole  # the same where a training was cut off
    assert len(set(whole)) == 4


def test_companion_batches_withhold_their_labels(
    task: Task, make_context: MakeContext, tmp_path: Path
) -> None:
    """Every step gets a companion batch, laps over a short split, labels -1, also towards batch hooks."""
    file = tmp_path / "watching.py"
    file.write_text(
        "from learnforge import hookimpl\nseen = []\n\n@hookimpl\ndef learnforge_batch(batch, stage):\n"
        "    seen.append(set(batch.labels.tolist()))\n"
    )
    plugins = Plugins(PluginChoice(files=(file,)))
    module = next(m for m in plugins.manager.get_plugins() if hasattr(m, "seen"))
    network, pairs = small_network(), []

    def loss(batch: Batch, other: Batch) -> Tensor:
        pairs.append((len(batch.labels), other.labels.tolist(), other.indices.tolist()))
        return F.cross_entropy(network(batch.images), batch.labels)

    companion = task.validation.select(torch.arange(24))
    settings = Train(epochs=1, batch_size=12)
    context = evolve(make_context(None), plugins=plugins)
    fit(
        Trainee(network, loss),
        task.train,
        task.info,
        settings,
        context,
        "a",
        companion=Companion(companion, task.info),
    )
    assert [own for own, _, _ in pairs] == [12] * 5
    assert all(labels == [-1] * 12 for _, labels, _ in pairs)
    laps = [pairs[k][2] + pairs[k + 1][2] for k in (0, 2)]
    assert sorted(laps[0]) == sorted(laps[1]) == list(range(24))
    assert laps[0] != laps[1]
    assert sum(labels == {-1} for labels in module.seen) == 5


def test_a_companion_batch_of_one_image_is_left_out(task: Task, make_context: MakeContext) -> None:
    """Batch statistics of the companion need two images as well."""
    network, sizes = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)), []

    def loss(batch: Batch, other: Batch) -> Tensor:
        sizes.append(len(other.labels))
        return F.cross_entropy(network(batch.images), batch.labels) + network(other.images).square().mean()

    companion = task.validation.select(torch.arange(21))
    settings = Train(epochs=1, batch_size=20)
    fit(
        Trainee(network, loss),
        task.train,
        task.info,
        settings,
        make_context(None),
        "a",
        companion=Companion(companion, task.info),
    )
    assert sizes == [20, 20, 20]


class _Reads(TorchDispatchMode):
    """Counts operators whose result the host waits for: item(), bool(), nonzero()."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if any(
            word in name for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "::equal", "masked_s")
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", [SGD(), Adam(), None])
def test_no_step_waits_for_the_device(
    optimizer: Any, task: Task, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor is read by the host inside the steps of an epoch."""
    settings = Train(epochs=1, batch_size=20, optimizer=optimizer, clip_norm=1.0, crop=1, flip=True)
    network = small_network(dropout=0.1)
    trainee = Trainee(network, supervised_loss(network))
    run = _Training(trainee, task.train, task.info, settings, make_context(None), "a", None, "accuracy")
    lists: list[int] = []
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: lists.append(1))
    with _Reads() as reads:
        losses = run._steps()
    assert len(losses) == 3
    assert reads.found == lists == []


def test_predict_score_and_confusion_by_hand(task: Task) -> None:
    """Four images with known scores: accuracy 3/4, the mean cross-entropy, and counts by true class."""
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1, 2, 2])
    found = score(logits, labels, task.info)
    e = math.e
    losses = [math.log(e**2 + 2) - 2, math.log(e + 2) - 1, math.log(e**3 + 2), math.log(e + 2) - 1]
    assert found == Scores({"accuracy": 0.75}, pytest.approx(sum(losses) / 4), 4)
    assert confusion(logits, labels).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_predict_runs_in_eval_mode_in_order_and_in_parts(task: Task) -> None:
    """Scores come in the order of the split, whatever the size of a pass, from a network in eval mode."""
    network = small_network(dropout=0.5)
    whole = predict(network, task.test, task.info)
    images = Normaliser(task.info, torch.device("cpu"))(task.test.images)  # type: ignore[attr-defined]
    assert not network.training
    torch.testing.assert_close(predict(network, task.test, task.info, batch_size=7), whole)
    with torch.no_grad():
        torch.testing.assert_close(network(images), whole)
    assert not whole.requires_grad


def test_normaliser_gives_mean_zero_and_deviation_one() -> None:
    """A byte x becomes (x / 255 - mean) / std, channel by channel."""
    from learnforge import TaskInfo

    info = TaskInfo("two", ("a", "b"), ("d:0", "d:1"), (2, 1, 1), (0.5, 0.0), (0.25, 1.0))
    images = torch.tensor([[[[255]], [[51]]]], dtype=torch.uint8)
    found = Normaliser(info, torch.device("cpu"))(images)
    torch.testing.assert_close(found, torch.tensor([[[[2.0]], [[0.2]]]]))
    assert int(images[0, 0, 0, 0]) == 255


def test_evaluate_learns_the_stripes(task: Task, make_context: MakeContext) -> None:
    """A few epochs teach the small network the small task, so the loop does train."""
    network = small_network()
    train_on(network, task, Train(epochs=12, batch_size=16, learning_rate=1e-2), make_context(None))
    assert evaluate(network, task.test, task.info).accuracy > 0.8


def test_no_epochs_leave_the_network_as_it_is(task: Task, make_context: MakeContext) -> None:
    """`epochs = 0` trains nothing and gives an empty history."""
    network = small_network()
    assert train_on(network, task, Train(epochs=0), make_context(None)) == []
    assert_equal_state(network, small_network().eval())


def test_label_smoothing_enters_the_loss(task: Task) -> None:
    """With smoothing e the loss is (1 - e) * CE(y) + e * mean of CE over all classes."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images, labels = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    batch = Batch(images, labels, torch.arange(5), torch.zeros(5, dtype=torch.int64), label_smoothing=0.3)
    plain = F.log_softmax(network(images), 1)
    expected = -(0.7 * plain[torch.arange(5), labels] + 0.3 * plain.mean(1)).mean()
    torch.testing.assert_close(supervised_loss(network)(batch), expected)


def test_clip_norm_scales_large_gradients_down(task: Task, make_context: MakeContext) -> None:
    """With plain SGD at rate 1 and clip_norm c, one step moves the weights by exactly c."""
    settings = Train(
        epochs=1,
        batch_size=60,
        optimizer=SGD(momentum=0.0),
        learning_rate=1.0,
        weight_decay=0.0,
        clip_norm=0.01,
        schedule="constant",
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    train_on(network, task, settings, make_context(None))
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_stream_and_memory_agree_on_what_a_batch_is(task: Task) -> None:
    """`MemorySplit.batches` yields images, labels and indices in the order asked for."""
    split = MemorySplit(task.train.images, task.train.labels)  # type: ignore[attr-defined]
    order = torch.tensor([5, 3, 8])
    (first, second) = list(split.batches(order, 2))
    assert first[2].tolist() == [5, 3]
    assert torch.equal(second[0], split.images[8:9])
    assert torch.equal(first[1], split.labels[[5, 3]])
