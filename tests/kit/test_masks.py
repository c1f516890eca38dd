"""Masks: stretches of rows and columns, a pure function of seed and image, the same after a kill."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from learnforge import Task
from learnforge_kit import train_on_labels
from learnforge_kit.data.pictures import as_png
from learnforge_kit.training.masks import mask_stretches
from learnforge_kit.training.settings import Train
from learnforge_testing.toys import make_network, make_task


def hidden(shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows and which columns of each image are hidden, bool [image, row] and [image, column]."""
    return (shown == 0).all(3)[:, 0], (shown == 0).all(2)[:, 0]


def test_stretches_are_hidden_and_no_more() -> None:
    """One stretch along each axis, of at most its share, in other places for other images and seeds."""
    images, indices = torch.ones(200, 2, 20, 30), torch.arange(200)
    shown = mask_stretches(images, indices, 1, 0.4, 0.3)
    rows, columns = hidden(shown)
    assert bool((shown == (~rows[:, None, :, None] & ~columns[:, None, None, :])).all())
    for found, share, size in ((rows, 0.3, 20), (columns, 0.4, 30)):
        counts = found.sum(1)
        assert int(counts.max()) <= share * size + 1
        assert len(counts.unique()) > 4
        starts = found.int().diff(dim=1, prepend=torch.zeros(200, 1, dtype=torch.int32))
        assert bool(((starts == 1).sum(1) <= 1).all())  # it is one stretch
    assert torch.equal(shown[7:9], mask_stretches(images[7:9], indices[7:9], 1, 0.4, 0.3))
    assert not torch.equal(shown, mask_stretches(images, indices, 2, 0.4, 0.3))
    assert torch.equal(mask_stretches(images, indices, 1, 0.0, 0.0), images)
    only, none = hidden(mask_stretches(images, indices, 1, 0.4, 0.0))[::-1]
    assert bool(only.any())
    assert not bool(none.any())


class Watched(nn.Module):
    """Keeps the images that it is shown in training."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.seen = network, list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        if self.training:
            self.seen.append(images.clone())
        found: Tensor = self.network(images)
        return found


def test_a_training_hides_other_stretches_in_each_epoch(make_context: Any) -> None:
    """The training images alone, and the same again with the same seed."""
    task, seen = make_task(), []
    for seed in (1, 1, 2):
        network = Watched(make_network(task.info))
        settings = Train(epochs=2, batch_size=60, time_mask=0.5, frequency_mask=0.5)
        train_on_labels(network, task, settings, make_context(None, seed=seed), "mine")
        seen.append(network.seen)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    first, second = (hidden(images)[1].float().mean(0) for images in seen[0])
    assert not torch.equal(first, second)
    assert any(not torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


@pytest.mark.parametrize("moment", [1, 2])
def test_a_cut_off_training_ends_with_the_same_bits(make_context: Any, tmp_path: Any, moment: int) -> None:
    """Masks of later epochs are those of an uninterrupted training."""
    task: Task = make_task()
    settings = Train(epochs=3, batch_size=16, time_mask=0.4, frequency_mask=0.4, crop=1)
    whole = make_network(task.info)
    train_on_labels(whole, task, settings, make_context(None), "mine")
    context = make_context(folder=tmp_path)
    train_on_labels(make_network(task.info), task, settings, context, "mine", until=moment)
    again = make_network(task.info)
    train_on_labels(again, task, settings, context, "mine")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_floats_are_shown_from_black_to_white() -> None:
    """Whatever their range; what has no rows and columns is no picture."""
    pixels = torch.tensor([[[-3.0, 1.0], [0.0, -1.0]]])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(as_png(pixels)))))
    assert shown.tolist() == [[0, 255], [191, 128]]
    assert as_png(torch.zeros(5)) == ""
    assert as_png(torch.full((1, 4, 4), 2.0)) != ""
