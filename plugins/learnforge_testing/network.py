"""What every network must keep to, whether a space or a model built it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from learnforge.kinds.form import form_of
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo
from learnforge_kit.costs.measuring import measure_cost
from learnforge_testing.suite import require

Build = Callable[[TaskInfo], nn.Module]


Shape = tuple[int, int, int]


BATCHES = (1, 2, 7)


CLASSES = (2, 11)


TOLERANCE = 1e-4
"""Largest difference between the scores of an image alone and in a batch, relative to the largest one."""


def usual_shapes(smallest: int) -> Sequence[Shape]:
    """Return input shapes of one and of three channels: small, wide, and large."""
    large = max(32, 2 * smallest)
    return (1, smallest, smallest), (3, smallest, 2 * smallest), (3, large, large)


def make_info(shape: Shape, classes: int = 3, form: str = "classification") -> TaskInfo:
    """Describe a task with images of a shape, or with observations."""
    names = tuple(f"class {i}" for i in range(classes))
    origins = tuple(f"noise:{i}" for i in range(classes))
    per_class = 2 if form == "environment" else 1
    return TaskInfo(
        "noise",
        names,
        origins,
        shape,
        (0.5,) * shape[0],
        (0.25,) * shape[0],
        form,
        outputs_per_class=per_class,
    )


def make_images(info: TaskInfo, count: int) -> Tensor:
    """Make normalised images: float [batch, channel, height, width], always the same ones."""
    return torch.randn(count, *info.input_shape, generator=torch.Generator().manual_seed(0))


def build_seeded(build: Build, info: TaskInfo, seed: int = 0) -> nn.Module:
    """Build a network with the weights of a seed."""
    with seeded(seed):
        return build(info)


def score_images(network: nn.Module, images: Tensor) -> Tensor:
    """Return the scores in eval mode, whatever the mode is."""
    with seeded(0), torch.inference_mode():
        scores: Tensor = network.eval()(images)
    return scores


def parameter_shapes(network: nn.Module) -> Mapping[str, list[int]]:
    """Return {name of a parameter: its shape}."""
    return {name: list(parameter.shape) for name, parameter in network.named_parameters()}


def require_scores(network: nn.Module, info: TaskInfo, count: int, words: str) -> None:
    """Fail unless there is one finite score for each image and class, or what else the task's form wants.

    Args:
        network: Any network.
        info: The task that it was built for.
        count: Images in the batch.
        words: What was built, for messages.
    """
    wanted = [count, *form_of(info.form).outputs(info)]
    where = f"{words}, {count} images {list(info.input_shape)}, {info.outputs} outputs"
    try:
        scores = score_images(network, make_images(info, count))
    except Exception as error:
        raise AssertionError(f"{where}: must be scored, got {type(error).__name__}: {error}") from error
    require(
        isinstance(scores, Tensor) and scores.is_floating_point(),
        f"{where}: scores must be a float tensor, got {type(scores).__name__}",
    )
    require(list(scores.shape) == wanted, f"{where}: scores must be {wanted}, got {list(scores.shape)}")
    require(_is_finite(scores), f"{where}: scores must be finite")


def require_scores_everywhere(
    build: Build, shapes: Sequence[Shape], words: str, form: str = "classification"
) -> None:
    """Fail unless there are right scores for all shapes, and for several batches and numbers of classes."""
    for shape, classes, counts in _cases(shapes):
        info = make_info(shape, classes, form)
        network = build_seeded(build, info)
        for count in counts:
            require_scores(network, info, count, words)


def require_step(build: Build, shape: Shape, words: str, form: str = "classification") -> None:
    """Fail unless one training step gives a finite loss, and every parameter that asks for one a gradient."""
    info = make_info(shape, form=form)
    network = build_seeded(build, info).train()
    where = f"{words}, images {list(shape)}"
    with seeded(0):
        scores = network(make_images(info, 6))
    require(
        isinstance(scores, Tensor),
        f"{where}: scores must be one tensor in training too, got {type(scores).__name__}",
    )
    judging = form_of(form)
    targets = judging.answers(torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)))
    loss = judging.loss(scores, targets) if judging.has_targets else scores.square().mean()
    require(bool(loss.isfinite()), f"{where}: the loss of a training step must be finite, got {loss.item()}")
    require(loss.requires_grad, f"{where}: some parameter must ask for a gradient")
    loss.backward()
    asking = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    idle = [name for name, gradient in asking.items() if gradient is None]
    require(not idle, f"{where}: every parameter must get a gradient, not so {', '.join(idle)}")
    wild = [name for name, gradient in asking.items() if gradient is not None and not _is_finite(gradient)]
    require(not wild, f"{where}: gradients must be finite, not so {', '.join(wild)}")


def require_cost(build: Build, shape: Shape, words: str, form: str = "classification") -> None:
    """Fail unless the network is built and costed on the meta device, with its real parameters."""
    info = make_info(shape, form=form)
    try:
        with seeded(0), torch.device("meta"):
            sketch = build(info)
        cost = measure_cost(sketch, info)
    except Exception as error:
        raise AssertionError(
            f"{words}: must be built and run under `torch.device('meta')`, where tensors have no values; got "
            f"{type(error).__name__}: {error}"
        ) from error
    real = sum(parameter.numel() for parameter in build_seeded(build, info).parameters())
    require(
        cost.parameters == real,
        f"{words}: the parameters on the meta device must be the network's {real}, got {cost.parameters}",
    )


def require_seeded(build: Build, shape: Shape, words: str, form: str = "classification") -> None:
    """Fail unless the initial weights are a function of torch's global generator."""
    info = make_info(shape, form=form)
    first, second, other = (build_seeded(build, info, seed).state_dict() for seed in (0, 0, 1))
    changed = [name for name in first if name not in second or not torch.equal(first[name], second[name])]
    require(
        not changed,
        f"{words}: one state of torch's generator must give the same weights, {', '.join(changed)} differ",
    )
    require(
        any(not torch.equal(first[name], other[name]) for name in first if name in other),
        f"{words}: weights must be drawn from torch's global generator, they are the same for two seeds",
    )


def require_independence(build: Build, shape: Shape, words: str, form: str = "classification") -> None:
    """Fail unless scores in eval mode depend on the image alone: not on chance or its batch."""
    info = make_info(shape, form=form)
    network, images = build_seeded(build, info).eval(), make_images(info, 5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        found = [_score_after(network, images, seed) for seed in (0, 1)]
    require(
        torch.equal(*found), f"{words}: scores in eval mode must be the same again, off by {_off(*found):.2g}"
    )
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)]
    require(not changed, f"{words}: eval mode must change no weight or buffer, {', '.join(changed)} changed")
    alone = torch.cat([score_images(network, image[None]) for image in images])
    off = _off(alone, found[0])
    require(off <= TOLERANCE, f"{words}: an image must score the same alone as in a batch, off by {off:.2g}")


def _cases(shapes: Sequence[Shape]) -> Iterator[tuple[Shape, int, Sequence[int]]]:
    """Yield shapes, numbers of classes and sizes of batches; larger images come one by one."""
    yield shapes[0], 3, BATCHES
    yield from ((shapes[0], classes, (2,)) for classes in CLASSES)
    yield from ((shape, 3, (1,)) for shape in shapes[1:])


def _score_after(network: nn.Module, images: Tensor, seed: int) -> Tensor:
    with seeded(seed):
        scores: Tensor = network(images)
    return scores


def _off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest score; NaN never fits."""
    off = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return float(off.nan_to_num(nan=float("inf")))


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
