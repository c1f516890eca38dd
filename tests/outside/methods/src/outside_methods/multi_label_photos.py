"""Photos with any number of labels each, which a CSV file beside them says: columns `file` and `labels`.

    file,labels
    a.jpg,cat dog
    b.jpg,

Reference:
    Everingham et al., The Pascal visual object classes challenge, 2010. doi:10.1007/s11263-009-0275-4
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from attrs import field, frozen
from attrs.validators import ge

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl
from learnforge_kit import MemorySplit, decode_image, measure_channels, permutation


@frozen
class MultiLabelPhotos(TaskSource):
    """Photos with several labels.

    Args:
        root: Folder with `labels.csv` and the photos.
        size: Height and width that photos are brought to, from 1.
        split_seed: Which random split into 60, 20 and 20 %, from 0.
    """

    root: Path
    size: int = field(default=32, validator=ge(1))
    split_seed: int = field(default=0, validator=ge(0))

    def load(self) -> Task:
        try:
            with (self.root / "labels.csv").open(encoding="utf-8", newline="") as stream:
                rows = [(row["file"], row["labels"].split()) for row in csv.DictReader(stream)]
        except (OSError, KeyError, AttributeError) as error:
            words = "must have columns `file` and `labels`"
            raise TaskError(f"{self.root / 'labels.csv'} {words}: {error}") from error
        classes = tuple(sorted({label for _, labels in rows for label in labels}))
        images = torch.stack([decode_image(self.root / file, self.size, 3) for file, _ in rows])
        targets = torch.tensor([[float(name in labels) for name in classes] for _, labels in rows])
        order = permutation(self.split_seed, len(rows))
        parts = order.split([len(rows) - 2 * (len(rows) // 5), len(rows) // 5, len(rows) // 5])
        mean, std = measure_channels(images[parts[0]])
        info = TaskInfo(
            name=self.root.name,
            classes=classes,
            origins=tuple(f"{self.root.name}:{name}" for name in classes),
            input_shape=(3, self.size, self.size),
            mean=mean,
            std=std,
            form="multi-label",
        )
        splits = [MemorySplit(images[part], targets[part]) for part in parts]
        return Task(info, splits[0], splits[1], splits[2])


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"multi-label-photos": MultiLabelPhotos}
