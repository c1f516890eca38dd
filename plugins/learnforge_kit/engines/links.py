"""The links of a chain: layers with hand-derived derivatives, for many tasks at once.

Activations are [task, image, height, width, channel], or [task, image, feature] behind the flattening.
Parameters are [task, …], or without the task axis while all tasks share them. Each link has four passes:

    forward             y = f(x, theta)
    backward            from dL/dy to dL/dx and dL/dtheta
    tangent             the change of y along a change of x and v of theta
    backward_tangent    the change of what `backward` gave, along the same

The last two are forward-mode differentiation over the first two, so that in the end the change of dL/dtheta
along v is the product of the Hessian with v. A pass keeps what later ones need in `Kept`.

Reference:
    Pearlmutter, Fast exact multiplication by the Hessian, 1994. doi:10.1162/neco.1994.6.1.147
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge_kit.engines.normalisation import EpisodeNorm

Parameters = Mapping[str, Tensor]


Gradients = dict[str, Tensor]


_backward = torch.ops.aten.convolution_backward


FEW_PIXELS = 64
"""Up to so many output pixels a task, over all of its images, a convolution with weights of each task's own
is a batched product of matrices; above it is a grouped convolution."""


class Kept(dict[str, Any]):
    """What the passes of one link keep for each other."""


class Link(ABC):
    """One layer of a chain.

    Args:
        name: Name of the module, of which its parameters have theirs; "" for functions.
    """

    def __init__(self, name: str = ""):
        self.name = name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return ()

    @abstractmethod
    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        """Return the output.

        Args:
            x: The input.
            theta: All parameters of the network.
            kept: Filled for later passes.
            reference: How many images at the start give the batch statistics; None: all.
        """

    @abstractmethod
    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        """Return dL/dx, which the first link of a chain leaves out, and the gradients of its parameters."""

    @abstractmethod
    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        """Return the change of the output; None stands for zero, also for the change of the input."""

    @abstractmethod
    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        """Return the changes of what `backward` gave."""


class Laid:
    """An activation or its gradient, with the other layouts that convolutions read it in, made once."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self._patches: Tensor | None = None

    @cached_property
    def side_by_side(self) -> Tensor:
        """[image, task * channel, height, width], channels last."""
        tasks, images, height, width, channels = self.tensor.shape
        flat = self.tensor.permute(1, 2, 3, 0, 4).reshape(images, height, width, tasks * channels)
        return flat.permute(0, 3, 1, 2)

    def patches(self, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what each output pixel of the one convolution that reads this sees."""
        if self._patches is None:
            self._patches = make(self.tensor)
        return self._patches


class _Weighted(Link):
    """A link that is linear in its input and in its weight, with a bias."""

    def __init__(self, name: str, has_bias: bool):
        super().__init__(name)
        self.weight = f"{name}.weight"
        self.bias = f"{name}.bias" if has_bias else None

    @property
    def parameters(self) -> tuple[str, ...]:
        return (self.weight, self.bias) if self.bias else (self.weight,)

    @abstractmethod
    def apply(self, x: Laid, weight: Tensor) -> Tensor:
        """Return the output without bias."""

    @abstractmethod
    def to_input(self, dy: Laid, weight: Tensor, x: Laid) -> Tensor:
        """Return the gradient of the input x."""

    @abstractmethod
    def to_weight(self, dy: Laid, x: Laid, weight: Tensor) -> Tensor:
        """Return the gradient of each task's weight, [task, …]; the weight gives the shape alone."""

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        kept["x"] = laid = Laid(x)
        y = self._add_bias(self.apply(laid, theta[self.weight]), theta)
        kept["shape"] = y.shape
        return y

    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        kept["dy"] = laid = Laid(dy)
        gradients = {self.weight: self.to_weight(laid, kept["x"], theta[self.weight]), **self._of_bias(dy)}
        return None if is_first else self.to_input(laid, theta[self.weight], kept["x"]), gradients

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        kept["xt"] = laid = None if xt is None else Laid(xt)
        parts = [self.apply(laid, theta[self.weight])] if laid is not None else []
        parts += [self.apply(kept["x"], v[self.weight])] if self.weight in v else []
        if not parts:
            moves = self.bias is not None and self.bias in v
            return self._add_bias(kept["x"].tensor.new_zeros(kept["shape"]), v) if moves else None
        return self._add_bias(parts[0] if len(parts) == 1 else parts[0].add_(parts[1]), v)

    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        x, xt, dy, weight = kept["x"], kept["xt"], kept["dy"], theta[self.weight]
        laid = Laid(dyt)
        change = self.to_weight(laid, x, weight)
        if xt is not None:
            change = change + self.to_weight(dy, xt, weight)
        dxt = None
        if not is_first:
            dxt = self.to_input(laid, weight, x)
            if self.weight in v:
                dxt = dxt.add_(self.to_input(dy, v[self.weight], x))
        return dxt, {self.weight: change, **self._of_bias(dyt)}

    def _add_bias(self, y: Tensor, theta: Parameters) -> Tensor:
        if self.bias is None or self.bias not in theta:
            return y
        bias = theta[self.bias]
        return y.add_(bias if bias.ndim == 1 else bias.view(len(bias), *[1] * (y.ndim - 2), -1))

    def _of_bias(self, dy: Tensor) -> Gradients:
        return {self.bias: dy.sum(tuple(range(1, dy.ndim - 1)))} if self.bias else {}


class Dense(_Weighted):
    """A linear layer, [task, image, feature]."""

    def apply(self, x: Laid, weight: Tensor) -> Tensor:
        return x.tensor @ weight.mT

    def to_input(self, dy: Laid, weight: Tensor, x: Laid) -> Tensor:
        return dy.tensor @ weight

    def to_weight(self, dy: Laid, x: Laid, weight: Tensor) -> Tensor:
        return dy.tensor.mT @ x.tensor


class Convolution(_Weighted):
    """A two-dimensional convolution without groups or dilation.

    With shared weights all images of all tasks are one batch. With weights of each task's own it is a grouped
    convolution over [image, task * channel], or, where a task has few output pixels, a product of matrices.

    Args:
        name: Name of the module.
        layer: Its shape.
    """

    def __init__(self, name: str, layer: nn.Conv2d):
        super().__init__(name, layer.bias is not None)
        self.kernel = layer.kernel_size
        self.stride, self.padding = list(layer.stride), [int(p) for p in layer.padding]

    def apply(self, x: Laid, weight: Tensor) -> Tensor:
        shape = x.tensor.shape
        if weight.ndim == 4:
            y = F.conv2d(_stacked(x.tensor), weight, None, self.stride, self.padding)
            return _unstacked(y, shape[0])
        if self._is_small(shape):
            flat = torch.bmm(x.patches(self._patches), self._matrix(weight).mT)
            return flat.view(*shape[:2], *self._size(shape), -1)
        y = F.conv2d(x.side_by_side, weight.flatten(0, 1), None, self.stride, self.padding, 1, shape[0])
        return _apart(y, shape[0])

    def to_input(self, dy: Laid, weight: Tensor, x: Laid) -> Tensor:
        tasks = len(x.tensor)
        if weight.ndim == 4:
            found = self._back(_stacked(dy.tensor), _stacked(x.tensor), weight, 1, True)
            return _unstacked(found, tasks)
        found = self._back(dy.side_by_side, _empty_side_by_side(x.tensor), weight.flatten(0, 1), tasks, True)
        return _apart(found, tasks)

    def to_weight(self, dy: Laid, x: Laid, weight: Tensor) -> Tensor:
        tasks, shape = len(x.tensor), weight.shape[-4:]
        if self._is_small(x.tensor.shape):
            found = torch.bmm(_positions(dy.tensor).mT, x.patches(self._patches))
            return found.view(tasks, shape[0], *self.kernel, shape[1]).permute(0, 1, 4, 2, 3)
        like = dy.tensor.new_empty(1).expand(tasks * shape[0], *shape[1:])
        return self._back(dy.side_by_side, x.side_by_side, like, tasks, False).view(tasks, *shape)

    def _back(self, dy: Tensor, x: Tensor, weight: Tensor, groups: int, of_input: bool) -> Tensor:
        mask = [of_input, not of_input, False]
        found: Tensor = _backward(
            dy, x, weight, None, self.stride, self.padding, [1, 1], False, [0, 0], groups, mask
        )[0 if of_input else 1]
        return found

    def _size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return height and width of the output for an input of a shape."""
        height, width = (
            (extent + 2 * pad - kernel) // stride + 1
            for extent, pad, kernel, stride in zip(
                shape[2:4], self.padding, self.kernel, self.stride, strict=True
            )
        )
        return height, width

    def _is_small(self, shape: Sequence[int]) -> bool:
        height, width = self._size(shape)
        return shape[4] == 1 or shape[1] * height * width <= FEW_PIXELS

    def _patches(self, x: Tensor) -> Tensor:
        """Return what each output pixel sees: [task, output pixel, kernel height * width * channel]."""
        tasks, images, _, _, channels = x.shape
        height, width = self._size(x.shape)
        (up, left), (down, right) = self.padding, self.stride
        padded = F.pad(x, (0, 0, left, left, up, up))
        a, b, row, column, c = padded.stride()
        shape = (tasks, images, height, width, *self.kernel, channels)
        seen = padded.as_strided(shape, (a, b, down * row, right * column, row, column, c))
        return seen.reshape(tasks, images * height * width, -1)

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return weights in the order of patches: [task, output channel, kernel height * width * channel]."""
        return weight.permute(0, 1, 3, 4, 2).flatten(2)


class Normalisation(Link):
    """Batch normalisation by the statistics of the first images of each task.

    With q = r gamma, r = 1 / sqrt(variance + eps) and sums over all M positions of the images that give the
    statistics: dx = q (dy - (sum dy + xhat sum dy xhat) / M), the second part for those images alone.

    Args:
        name: Name of the module.
        layer: Gives eps, and whether there are weights.
    """

    def __init__(self, name: str, layer: EpisodeNorm):
        super().__init__(name)
        self.eps, self.is_affine = layer.eps, layer.weight is not None

    @property
    def parameters(self) -> tuple[str, ...]:
        return (f"{self.name}.weight", f"{self.name}.bias") if self.is_affine else ()

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        flat = _positions(x)
        own = flat if reference is None else flat[:, : reference * (flat.shape[1] // x.shape[1])]
        xhat = flat - own.mean(1, keepdim=True)
        variance = xhat[:, : own.shape[1]].square().mean(1, keepdim=True)  # faster than torch's own
        scale = torch.rsqrt(variance + self.eps)
        xhat.mul_(scale)
        kept.update(xhat=xhat, scale=scale, count=own.shape[1], shape=x.shape)
        y = torch.addcmul(self._of(theta, 1, 0.0), xhat, self._of(theta, 0, 1.0)) if self.is_affine else xhat
        return y.view(x.shape)

    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        flat, xhat, count = _positions(dy), kept["xhat"], kept["count"]
        total = flat.sum(1, keepdim=True)
        along = (flat * xhat).sum(1, keepdim=True)
        q = kept["scale"] * self._of(theta, 0, 1.0)
        kept.update(dy=flat, total=total, along=along)
        if count == flat.shape[1]:
            dx = torch.addcmul(-q * total / count, flat, q).addcmul_(xhat, -q * along / count)
        else:
            dx = flat * q
            dx[:, :count] -= torch.addcmul(q * total / count, xhat[:, :count], q * along / count)
        return dx.view(dy.shape), self._named(along, total)

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        xhat, r = kept["xhat"], kept["scale"]
        if xt is None:
            kept.update(xhat_t=None, scale_t=None)
            if not self._moves(v):
                return None
            moved = torch.addcmul(self._of(v, 1, 0.0), xhat, self._of(v, 0, 0.0))
        else:
            flat = _positions(xt)
            along = (flat * xhat).mean(1, keepdim=True)
            centre = flat.mean(1, keepdim=True)
            xhat_t = torch.addcmul(-r * centre, flat, r).addcmul_(xhat, -r * along)
            kept.update(xhat_t=xhat_t, scale_t=-r * r * along)
            moved = xhat_t * self._of(theta, 0, 1.0)
            if self._moves(v):
                moved.addcmul_(xhat, self._of(v, 0, 0.0)).add_(self._of(v, 1, 0.0))
        return moved.view(kept["shape"])

    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        flat, xhat, xhat_t, dy = _positions(dyt), kept["xhat"], kept["xhat_t"], kept["dy"]
        r, total, along, count = kept["scale"], kept["total"], kept["along"], kept["count"]
        gamma = self._of(theta, 0, 1.0)
        total_t = flat.sum(1, keepdim=True)
        along_t = (flat * xhat).sum(1, keepdim=True)
        q, q_t = r * gamma, r * self._of(v, 0, 0.0)
        if xhat_t is not None:
            along_t = along_t + (dy * xhat_t).sum(1, keepdim=True)
            q_t = q_t + kept["scale_t"] * gamma
        dxt = torch.addcmul(-(q_t * total + q * total_t) / count, dy, q_t).addcmul_(flat, q)
        dxt.addcmul_(xhat, -(q_t * along + q * along_t) / count)
        if xhat_t is not None:
            dxt.addcmul_(xhat_t, -q * along / count)
        return dxt.view(dyt.shape), self._named(along_t, total_t)

    def _moves(self, v: Parameters) -> bool:
        return any(name in v for name in self.parameters)

    def _of(self, theta: Parameters, number: int, default: float) -> Any:
        """Return weight (0) or bias (1) as [task or 1, 1, channel], or the default where there is none."""
        name = self.parameters[number] if self.is_affine else ""
        if name not in theta:
            return torch.tensor(default)
        return theta[name].view(-1, 1, theta[name].shape[-1])

    def _named(self, along: Tensor, total: Tensor) -> Gradients:
        """Name the gradients of weight and bias."""
        return dict(zip(self.parameters, (along.squeeze(1), total.squeeze(1)), strict=False))


class Rectifier(Link):
    """max(x, 0)."""

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        kept["y"] = y = x.clamp_min(0)
        return y

    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        return torch.ops.aten.threshold_backward(dy, kept["y"], 0), {}

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        return None if xt is None else torch.ops.aten.threshold_backward(xt, kept["y"], 0)

    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        return torch.ops.aten.threshold_backward(dyt, kept["y"], 0), {}


class HyperbolicTangent(Link):
    """tanh x, whose slope is 1 - y^2."""

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        kept["y"] = y = x.tanh()
        return y

    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        kept["dy"] = dy
        return dy * (1 - kept["y"].square()), {}

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        kept["yt"] = yt = None if xt is None else xt * (1 - kept["y"].square())
        return yt

    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        dxt = dyt * (1 - kept["y"].square())
        return (dxt if kept["yt"] is None else dxt - 2 * kept["dy"] * kept["y"] * kept["yt"]), {}


class _Linear(Link):
    """A link without parameters that is linear in its input: a gradient and its change go back alike."""

    @abstractmethod
    def back(self, dy: Tensor, kept: Kept) -> Tensor:
        """Return the gradient of the input."""

    def backward(self, dy: Tensor, theta: Parameters, kept: Kept, is_first: bool) -> tuple[Any, Gradients]:
        return self.back(dy, kept), {}

    def backward_tangent(
        self, dyt: Tensor, theta: Parameters, v: Parameters, kept: Kept, is_first: bool
    ) -> tuple[Any, Gradients]:
        return self.back(dyt, kept), {}


class MaxPool(_Linear):
    """Max-pooling, linear once it is known which pixels are largest.

    Args:
        layer: Kernel and stride; without padding.
    """

    def __init__(self, layer: nn.MaxPool2d):
        super().__init__()
        self.kernel, self.stride = _pair(layer.kernel_size), _pair(layer.stride)

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        y, where = F.max_pool2d(_stacked(x), self.kernel, self.stride, return_indices=True)
        kept.update(x=x, where=where)
        return _unstacked(y, len(x))

    def back(self, dy: Tensor, kept: Kept) -> Tensor:
        x, where = kept["x"], kept["where"]
        found = torch.ops.aten.max_pool2d_with_indices_backward(
            _stacked(dy), _stacked(x), self.kernel, self.stride, [0, 0], [1, 1], False, where
        )
        return _unstacked(found, len(x))

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        if xt is None:
            return None
        where = kept["where"].permute(0, 2, 3, 1)  # [task * image, height, width, channel]
        flat = xt.reshape(len(where), -1, xt.shape[-1])
        moved = flat.gather(1, where.flatten(1, 2))
        return moved.view(*xt.shape[:2], *where.shape[1:])


class Mean(_Linear):
    """The mean over height and width.

    Args:
        keeps_place: Leave [task, image, 1, 1, channel] instead of [task, image, channel].
    """

    def __init__(self, keeps_place: bool):
        super().__init__()
        self.keeps_place = keeps_place

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        kept["shape"] = x.shape
        return x.mean((2, 3), keepdim=self.keeps_place)

    def back(self, dy: Tensor, kept: Kept) -> Tensor:
        tasks, images, height, width, channels = kept["shape"]
        spread: Tensor = dy.reshape(tasks, images, 1, 1, channels) / (height * width)
        return spread.expand(tasks, images, height, width, channels)

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        return None if xt is None else xt.mean((2, 3), keepdim=self.keeps_place)


class Flatten(_Linear):
    """[task, image, feature], features ordered as torch does: by channel, height, width."""

    def forward(self, x: Tensor, theta: Parameters, kept: Kept, reference: int | None) -> Tensor:
        kept["shape"] = x.shape
        return x.permute(0, 1, 4, 2, 3).flatten(2)

    def back(self, dy: Tensor, kept: Kept) -> Tensor:
        tasks, images, height, width, channels = kept["shape"]
        return dy.view(tasks, images, channels, height, width).permute(0, 1, 3, 4, 2).contiguous()

    def tangent(self, xt: Tensor | None, theta: Parameters, v: Parameters, kept: Kept) -> Tensor | None:
        return None if xt is None else xt.permute(0, 1, 4, 2, 3).flatten(2)


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def _positions(x: Tensor) -> Tensor:
    """[task, image, …, channel] as [task, position, channel]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _stacked(x: Tensor) -> Tensor:
    """[task, image, height, width, channel] as one batch in channels-last layout: no copy."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _unstacked(y: Tensor, tasks: int) -> Tensor:
    """One batch as [task, image, height, width, channel]."""
    flat = y.permute(0, 2, 3, 1).contiguous()
    return flat.view(tasks, -1, *flat.shape[1:])


def _empty_side_by_side(x: Tensor) -> Tensor:
    """An empty tensor of the shape and layout of `Laid.side_by_side`."""
    tasks, images, height, width, channels = x.shape
    return x.new_empty(images, height, width, tasks * channels).permute(0, 3, 1, 2)


def _apart(y: Tensor, tasks: int) -> Tensor:
    """[image, task * channel, height, width] as [task, image, height, width, channel]."""
    images, channels, height, width = y.shape
    flat = y.permute(0, 2, 3, 1).reshape(images, height, width, tasks, channels // tasks)
    return flat.permute(3, 0, 1, 2, 4).contiguous()
