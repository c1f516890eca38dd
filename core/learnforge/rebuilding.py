"""The proof that an artifact builds the network that its stage made: before a stage may end."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact, load_artifact
from learnforge.errors import ArtifactError, StageError
from learnforge.files import refusal
from learnforge.plugins.registry import Plugins
from learnforge.randomness import preserved, seeded, uncompiled

WAY_OUT = (
    "Whatever edits a network for longer than a training does it by `apply_change(network, change, task)`, "
    "with a plugin of the kind `change`, so that it is written down"
)
"""What to do about a network that is not built again; the end of errors."""


def save_proved(artifact: Artifact, folder: Path, plugins: Plugins) -> None:
    """Write an artifact to a stage's folder: first as a draft, which is read back and held against what the
    stage made.

    Raises:
        StageError: It builds another network; the folder holds no artifact then.
        RunError: The disk refuses.
    """
    draft = folder / "draft"
    artifact.save(draft)
    read = load_artifact(draft, copy.deepcopy(artifact.module))
    require_rebuilt(evolve(read, made=artifact.made), plugins)
    try:
        # the description last: a kill in between leaves no artifact, never half of one
        for name in ("weights.safetensors", "metrics.json", "artifact.json"):
            (draft / name).replace(folder / name)
        draft.rmdir()
    except OSError as error:
        raise refusal(folder, error) from error


def require_rebuilt(artifact: Artifact, plugins: Plugins, is_kept: bool = True) -> None:
    """Refuse an artifact, as it was read back, that does not build what its stage made.

    Args:
        artifact: Its field `made` is the network that the stage made; without one it has only to be built.
        plugins: Where models, spaces and changes are looked up.
        is_kept: Whether it is on the disk, for others to load.

    Raises:
        StageError: It cannot be built, its weights do not fit, or it computes something else.
    """
    if artifact.weights is None or not artifact.is_buildable:
        return
    is_known = artifact.module is not None or plugins.resolve(artifact.spec.kind, artifact.spec.table, "", [])
    if not is_known and not is_kept:
        return  # a class of the caller's that no plugin brings, which nobody will look for
    with preserved():
        try:
            again = artifact.network(plugins)
        except ArtifactError as error:
            raise StageError(f"what was made cannot be loaded again: {error}. {WAY_OUT}") from error
        difference = None if artifact.made is None else _difference(artifact.made, again, artifact)
    if difference:
        raise StageError(
            f"what was made differs from what its artifact builds: all weights fit, and {difference}. "
            f"Something that it computes with is neither a parameter nor a buffer, or its forward pass was "
            f"changed. {WAY_OUT}"
        )


def _difference(made: nn.Module, again: nn.Module, artifact: Artifact) -> str:
    """Say how two networks differ on a few random images, or ""."""
    device = next((parameter.device for parameter in made.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *artifact.task.input_shape, generator=generator)
    own, repeated = (_outputs(made, images.to(device)) for _ in range(2))
    if own is None or repeated is None or not torch.equal(own, repeated):
        return ""  # it takes no such images, or draws random numbers
    theirs = _outputs(again, images)
    if theirs is None or theirs.shape != own.shape:
        return f"it takes images of shape {list(images.shape)} and the one that was built does not"
    largest = float((own - theirs).abs().max() / own.abs().max().clamp_min(1e-12))
    tolerance = 1e-4 if device.type == "cpu" else 1e-2  # other devices compute less alike
    is_equal = largest <= tolerance or not bool(own.isfinite().all())
    return "" if is_equal else f"outputs differ by {largest:.2g} of the largest"


def _outputs(network: nn.Module, images: Tensor) -> Tensor | None:
    """Return a network's outputs on the CPU, or None where it has none for such images."""
    try:
        with seeded(0), torch.no_grad(), uncompiled():
            found = network.eval()(images)
    except Exception:  # whatever a stranger's network raises about images of another sort
        return None
    return found.detach().float().cpu() if isinstance(found, Tensor) else None
