"""Compares distillation with what it cannot do without, and with torchdistill: same networks, data and
batches.

    python tests/benchmarks/distillation.py [--rounds 7] [--threads 1]

resnet20 teaches resnet8 by `kd` on random pixels, 3 × 32 × 32, batches of 64. In every round each loop
trains one epoch, after one to warm up; ratios are medians over rounds, so noise of the machine meets all of
them.

bare          a hand-written loop: teacher forward without gradient, student forward and backward, optimizer
kd            the stage's loop on the same images without augmentation
plain         `fit` on labels with crop and flip, no teacher
cached        `kd` with crop and flip, the teacher's scores read from a warm cache
torchdistill  its own box and data loader with crop and flip; needs `pip install torchdistill`
kd augmented  `kd` with crop and flip, the teacher asked for every batch
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import learnforge as lf
import learnforge_kit as kit
from learnforge import Artifact, Context, Plugins, Task, TaskInfo
from learnforge.randomness import derive
from learnforge.spec import NetworkSpec
from learnforge_kit import MemorySplit, Train
from learnforge_kit.drawing import permutation
from learnforge_kit.training.loop import Trainee, fit
from learnforge_kit.training.losses import supervised_loss
from learnforge_plugins.stages.distill.stage import DistillStage

IMAGES, BATCH = 1280, 64
AUGMENTED = {"crop": 4, "flip": True}


def make_task() -> Task:
    """Random pixels; validation and test have a few images, so that judging takes no time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    names = tuple(map(str, range(10)))
    info = TaskInfo("random pixels", names, names, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    train = MemorySplit(pixels, labels)
    few = train.select(torch.arange(2))
    return Task(info, train, few, few)


def bare_epochs(student: nn.Module, teacher: nn.Module, task: Task) -> float:
    """Train two epochs as one would by hand; return the seconds of the second."""
    images = (task.train.images.float() / 255 - 0.5) / 0.25  # type: ignore[attr-defined]
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
    student.train()
    for epoch in range(2):
        start = time.perf_counter()
        for indices in permutation(derive(0, "order", epoch), IMAGES).split(BATCH):
            shown = images[indices]
            with torch.no_grad():
                known = teacher(shown)
            scores = student(shown)
            own, target = (F.log_softmax(outputs / 4, 1) for outputs in (scores, known))
            soft = F.kl_div(own, target, log_target=True, reduction="batchmean")
            loss = 0.1 * F.cross_entropy(scores, task.train.labels[indices]) + 0.9 * 16 * soft
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
    return time.perf_counter() - start


class Clock:
    """Notes when epochs end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def emit(self, event: str, **data: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def last(self) -> float:
        return self.ends[-1] - self.ends[-2]


def stage_epochs(
    inputs: dict[str, Artifact], task: Task, plugins: Plugins, cache: Path | None, **train: Any
) -> float:
    """Train two epochs in a distill stage; return the seconds of the second."""
    settings = Train(epochs=2, batch_size=BATCH, schedule="constant", **train)
    clock = Clock()
    stage = DistillStage(
        name="kd",
        method=lf.load_method("distiller.kd", plugins)(),
        student="student",
        train=settings,
        baseline=False,
        cache="views" if cache else "off",
    )
    context = Context("kd", 0, torch.device("cpu"), plugins, cache_folder=cache, emit=clock.emit)
    stage.run(task, inputs, context)
    return clock.last


def plain_epochs(student: nn.Module, task: Task, plugins: Plugins) -> float:
    """Train two epochs on labels; return the seconds of the second, judged as in the stage."""
    settings = Train(epochs=2, batch_size=BATCH, schedule="constant", **AUGMENTED)
    clock, network = Clock(), copy.deepcopy(student)
    context = Context("plain", 0, torch.device("cpu"), plugins, emit=clock.emit)
    judge = lambda: kit.evaluate(network, task.validation, task.info).accuracy  # noqa: E731
    alone = Trainee(network, supervised_loss(network))
    fit(alone, task.train, task.info, settings, context, "", judge)
    return clock.last


def torchdistill_epochs(student: nn.Module, teacher: nn.Module, task: Task) -> float:
    """Train two epochs in torchdistill's box, its configuration as its examples have it."""
    from torchdistill.core.distillation import get_distillation_box
    from torchvision import transforms

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        images = task.train.images.permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]
        show = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, index: int) -> Any:
            return self.show(self.images[index]), int(task.train.labels[index])

    config = {
        "num_epochs": 2,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": False},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 3e-3, "weight_decay": 1e-2}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": ".",
                                "student_module_io": "output",
                                "teacher_module_path": ".",
                                "teacher_module_io": "output",
                                "temperature": 4.0,
                                "alpha": 0.9,
                                "reduction": "batchmean",
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
    logging.disable(logging.INFO)
    own, known = copy.deepcopy(student), copy.deepcopy(teacher)
    data = {"train": Pictures()}
    box = get_distillation_box(known, own, data, config, torch.device("cpu"), None, False, 1)
    for epoch in range(2):
        start = time.perf_counter()
        own.train()
        known.eval()
        box.pre_epoch_process(epoch=epoch)
        for images, labels, more in box.train_data_loader:
            loss = box.forward_process(images, labels, more)
            box.post_forward_process(loss=loss)
            loss.item()  # as its example scripts do, for their log
    return time.perf_counter() - start


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    plugins, task = Plugins(), make_task()
    depths = {"teacher": 20, "student": 8}
    inputs = {
        role: Artifact(NetworkSpec("model", {"use": "resnet", "depth": depth}), task.info)
        for role, depth in depths.items()
    }
    teacher, student = (inputs[role].network(plugins) for role in depths)
    inputs["teacher"] = inputs["teacher"].with_state(teacher)
    with tempfile.TemporaryDirectory() as folder:
        loops: dict[str, Callable[[], float]] = {
            "bare": lambda: bare_epochs(student, teacher, task),
            "kd": lambda: stage_epochs(inputs, task, plugins, None),
            "plain": lambda: plain_epochs(student, task, plugins),
            "cached": lambda: stage_epochs(inputs, task, plugins, Path(folder), **AUGMENTED),
            "kd augmented": lambda: stage_epochs(inputs, task, plugins, None, **AUGMENTED),
            "torchdistill": lambda: torchdistill_epochs(student, teacher, task),
        }
        try:
            import torchdistill  # noqa: F401
        except ImportError as error:
            print(f"torchdistill does not run here: {error}")
            del loops["torchdistill"]
        loops["cached"]()  # fills the cache
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(given.rounds):
            for name, loop in loops.items():
                with contextlib.redirect_stdout(io.StringIO()):
                    seconds[name].append(loop())
    show(seconds, given)


def show(seconds: dict[str, list[float]], given: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {given.threads} threads, {given.rounds} rounds, resnet20 -> resnet8")
    for name, values in seconds.items():
        print(f"{name:<14}{statistics.median(values) * 1e3 * BATCH / IMAGES:>10.1f} ms a step")
    pairs = [
        ("kd", "bare"),
        ("cached", "plain"),
        ("torchdistill", "kd augmented"),
        ("torchdistill", "cached"),
    ]
    print(f"\n{'ratio':<30}{'median':>8}{'least':>8}{'most':>8}")
    for one, other in pairs:
        if one in seconds:
            ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
            spread = f"{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
            print(f"{f'{one} / {other}':<30}{spread}")


if __name__ == "__main__":
    main()
