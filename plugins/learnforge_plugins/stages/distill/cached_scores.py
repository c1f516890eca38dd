"""What a teacher's cached scores depend on, and whether they may be cached."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from learnforge.kinds.task import Task
from learnforge.spec import hash_tensor
from learnforge_kit.errors import PlaceError
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.distill.teacher import Teacher, full_batch


def describe_scores(teacher: Teacher, task: Task, train: Train, probe: Tensor) -> dict[str, Any]:
    """Return what cached scores depend on: the key of a cache.

    Args:
        teacher: The teacher.
        task: Its images.
        train: Views and batch size.
        probe: Its scores for a few images, which know what weights and code do not say, such as attributes.
    """
    device = probe.device
    return {
        "teacher": teacher.identity,
        "probe": hash_tensor(probe),
        "images": task.train.content,
        "normalisation": [list(task.info.mean), list(task.info.std)],
        "crop": train.crop,
        "flip": train.flip,
        "batch size": full_batch(train, task),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
        "threads": torch.get_num_threads(),
        "arithmetic": [
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.version(),
        ],
        "torch": [torch.__version__, version("torchvision")],
    }


def probe_scores(teacher: Teacher, images: Tensor, is_exact: bool) -> Tensor:
    """Return the teacher's scores for a few images; refuse one whose scores depend on where in a batch an
    image stands.

    Args:
        teacher: The teacher.
        images: Normalised images, at most a full batch.
        is_exact: Whether the cache must give every bit back.

    Raises:
        PlaceError: They do, on this device.
    """
    order = torch.arange(len(images) - 1, -1, -1, device=images.device)
    first, second = (teacher.answer(shown).logits for shown in (images, images[order]))
    if is_exact and not torch.equal(first, second[order]):
        raise PlaceError(
            f"on {images.device} the teacher's scores depend on where in its batch an image stands, so "
            'cached ones would not be the same bits; set `cache = "off"`, or `cache_precision = "16"` for '
            "approximate ones"
        )
    return first
