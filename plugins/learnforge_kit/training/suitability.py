"""Whether a task's inputs and targets go with how a network is to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from learnforge.kinds.form import form_of
from learnforge.spec import TaskInfo

if TYPE_CHECKING:
    from learnforge_kit.training.settings import Train


def fault_of(train: Train, task: TaskInfo) -> str:
    """Say why a task does not go with settings, or ""."""
    has_rows = train.augmentation.views > 1 or train.masks_images or train.mixes_images
    if has_rows and len(task.input_shape) != 3:
        return (
            "crop, flip, masks, mixup and cutmix are for inputs of three axes, such as images and "
            f"spectrograms; those of {task.name} have the shape {list(task.input_shape)}"
        )
    if (train.balanced or train.mixes_images) and not form_of(task.form).names_one_class:
        return f"balanced, mixup and cutmix need one class for each input; {task.name} is {task.form}"
    return ""
