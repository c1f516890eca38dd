"""Features: what a layer puts out for every image of a split, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from learnforge.changes import apply_change
from learnforge.errors import StageError
from learnforge.files import make_folder, refusal
from learnforge.kinds.seen.network import EMBEDDING, INPUT
from learnforge.kinds.task import Split
from learnforge.spec import TaskInfo
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.disk import reserve
from learnforge_kit.networks.cut import Cut, CutNetwork, pool
from learnforge_kit.networks.layers import read_layers
from learnforge_kit.networks.taps import Tapped

IN_MEMORY_BYTES = 2**30
"""Features that need more are kept in a memory-mapped file, where there is a folder for it."""


def extract_features(
    network: nn.Module,
    split: Split,
    task: TaskInfo,
    layer: str = EMBEDDING,
    folder: Path | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Return what a layer puts out for the images of a split, in order and in eval mode: float32 [image,
    feature], on the CPU.

    Args:
        network: The network, on the split's device.
        split: The images.
        task: Their normalisation.
        layer: A layer as `Layers.find` takes it; height and width are averaged.
        folder: Where a file is mapped if the features need more than a gibibyte; None keeps all in memory.
        batch_size: Images in a pass.

    Raises:
        StageError: There is no such layer; stages and layers are listed.
    """
    network.eval()
    batches = split.batches(torch.arange(len(split)), batch_size)
    found: Tensor | None = None
    tapped: Tapped | None = None
    start = 0
    try:
        for images, _, _ in batches:
            shown = Normaliser(task, images.device)(images)
            if tapped is None:
                tapped = Tapped(read_layers(network, shown[:2]), [layer])
            with torch.inference_mode():
                features = pool(tapped(shown).taps[layer]).float().cpu()
            if found is None:
                found = _allocate(len(split), features.shape[1], folder)
            found[start : start + len(features)] = features
            start += len(features)
    finally:
        if tapped is not None:
            tapped.close()
    return found if found is not None else torch.empty(0, 0)


def cut_at(network: nn.Module, layer: str, task: TaskInfo) -> nn.Module:
    """End a network at a layer, with a fresh linear head for a task's classes.

    Args:
        network: The network; one that was cut before ends at an earlier layer then, `body.NAME`.
        layer: A layer as `Layers.find` takes it, but for inputs of layers.
        task: Gives input shape and number of classes.

    Raises:
        StageError: There is no such layer; stages and layers are listed.
        ArtifactError: torch.fx cannot trace the network.
    """
    shown = torch.zeros(2, *task.input_shape, device=next(network.parameters()).device)
    name = read_layers(network.eval(), shown).find(layer)
    if name.endswith(INPUT):
        raise StageError(f"a network ends at what a layer puts out; {layer!r} is what goes into one")
    own = name.removeprefix("body.") if isinstance(network, CutNetwork) else name
    return apply_change(network, Cut(own), task)


def _allocate(images: int, width: int, folder: Path | None) -> Tensor:
    """Return room for features: in memory, or in a file that is gone as soon as nobody uses it."""
    if folder is None or 4 * images * width <= IN_MEMORY_BYTES:
        return torch.empty(images, width)
    make_folder(folder)
    file = folder / "features.f32"
    try:
        with file.open("wb") as stream:
            reserve(stream, 4 * images * width)
        mapped = np.memmap(file, np.float32, "r+", shape=(images, width))
    except OSError as error:
        raise refusal(file, error) from error
    finally:
        file.unlink(missing_ok=True)  # the mapping lives on
    return torch.from_numpy(mapped)
