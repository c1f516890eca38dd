"""Compares the engines of meta-learning with a plain loop over tasks.

    python tests/benchmarks/meta_iteration.py [--rounds 9] [--threads 2] [--width 64]

The networks of the literature on Omniglot, four convolutions with batch normalisation on 1 × 28 × 28, with
strides as in MAML (`stride`) or with pooling (`pool`), and a MobileNet; 32 tasks of five ways. In every round
each way computes one meta-gradient, after one to warm up; ratios are medians over rounds of what the plain
loop takes to what the engine takes. The share is of the speed of a large product of matrices, counting what
the plain loop computes.

plain    `functional_call`, `torch.autograd.grad(create_graph=True)` and `backward()`, a task at a time, as in
         a tutorial
auto     the engine that a stage would choose
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from learnforge import Labelled, MetaLearner, Plugins, StageError, TaskInfo
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines.choice import ENGINES, time_engines

WAYS, RATE = 5, 0.4
CASES: list[tuple[str, str, int, int, dict[str, Any]]] = [
    ("stride", "maml", 1, 1, {"inner_steps": 1}),
    ("stride", "maml", 1, 1, {"inner_steps": 5}),
    ("stride", "maml", 5, 5, {"inner_steps": 1}),
    ("stride", "maml", 1, 15, {"inner_steps": 1}),
    ("stride", "maml", 1, 1, {"inner_steps": 1, "first_order": True}),
    ("stride", "reptile", 5, 1, {"inner_steps": 5, "batch_size": 10}),
    ("pool", "maml", 1, 1, {"inner_steps": 1}),
    ("pool", "maml", 5, 5, {"inner_steps": 1}),
    ("mobilenet", "maml", 1, 1, {"inner_steps": 1}),
    ("mobilenet", "maml", 1, 15, {"inner_steps": 1}),
]


def make_network(kind: str, width: int, plugins: Plugins) -> nn.Module:
    """Make a network with batch normalisation."""
    torch.manual_seed(0)
    names = tuple(map(str, range(WAYS)))
    info = TaskInfo("random pixels", names, names, (1, 28, 28), (0.5,), (0.5,))
    if kind == "mobilenet":
        return plugins.load("model", "mobilenet")(width=0.35).build(info)  # type: ignore[no-any-return]
    if kind == "pool":
        return plugins.load("model", "conv4")(width=width).build(info)  # type: ignore[no-any-return]
    layers: list[nn.Module] = []
    for inside in (1, width, width, width):
        layers += [nn.Conv2d(inside, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, WAYS))


def make_episodes(tasks: int, shots: int, queries: int) -> ImageEpisodes:
    """Random pixels."""
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Labelled:
        images = torch.randn(tasks, WAYS * count, 1, 28, 28, generator=generator)
        return Labelled(images, torch.arange(WAYS).repeat_interleave(count).expand(tasks, -1))

    return ImageEpisodes(draw(shots), draw(queries), torch.zeros(tasks, WAYS, dtype=torch.int64))


def plain(network: nn.Module, method: Any, episodes: ImageEpisodes) -> Callable[[], Any]:
    """Return the loop of a tutorial, for MAML or Reptile."""
    theta = dict(network.named_parameters())
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None

    def loss(at: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, at, (images,)), labels)

    def maml() -> None:
        network.zero_grad()
        for task in range(len(episodes.support.labels)):
            at = theta
            for _ in range(method.inner_steps):
                own = loss(at, episodes.support.images[task], episodes.support.labels[task])
                found = torch.autograd.grad(own, list(at.values()), create_graph=not method.first_order)
                at = {n: t - RATE * g for (n, t), g in zip(at.items(), found, strict=True)}
            loss(at, episodes.queries.images[task], episodes.queries.labels[task]).backward()

    def reptile() -> None:
        for task in range(len(episodes.support.labels)):
            own = {n: t.detach().clone().requires_grad_() for n, t in theta.items()}
            optimizer = torch.optim.Adam(own.values(), 1e-3, betas=(0.0, 0.999))
            order = torch.randperm(episodes.support.labels.shape[1])
            for k in range(method.inner_steps):
                batch = order.roll(-k * method.batch_size)[: method.batch_size]
                optimizer.zero_grad()
                loss(
                    own, episodes.support.images[task, batch], episodes.support.labels[task, batch]
                ).backward()
                optimizer.step()
            with torch.no_grad():
                loss(own, episodes.queries.images[task], episodes.queries.labels[task])

    return maml if hasattr(method, "first_order") else reptile


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul_peak() -> float:
    """Return floating-point operations a second of a large product of matrices."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: a @ a) for _ in range(20))


def check(network: nn.Module, method: MetaLearner, episodes: ImageEpisodes) -> None:
    """Compare the gradients of all engines with the plain loop's, in double precision."""
    own = copy.deepcopy(network).double()
    theta = {n: p.detach().clone() for n, p in own.named_parameters()}
    support, query = (Labelled(e.images.double(), e.labels) for e in (episodes.support, episodes.queries))
    double = ImageEpisodes(support, query, episodes.classes)
    reference = copy.deepcopy(own)
    plain(reference, method, double)()
    for kind in ENGINES.values():
        try:
            engine = kind(own, "transductive", method)
        except StageError:  # a MobileNet is no chain
            continue
        found = method.gradient(engine, theta, double).gradients
        for n, p in reference.named_parameters():
            assert p.grad is not None
            assert torch.allclose(p.grad / len(support.labels), found[n], rtol=1e-6, atol=1e-9), n


def compare(case: tuple[str, str, int, int, dict[str, Any]], plugins: Plugins, args: Any) -> str:
    """Return the row of one case."""
    kind, name, shots, queries, options = case
    rate = {} if name == "reptile" else {"inner_rate": RATE}
    method: MetaLearner = plugins.load("meta-learner", name)(**options, **rate)
    network, episodes = make_network(kind, args.width, plugins), make_episodes(args.tasks, shots, queries)
    theta = {n: p.detach().clone() for n, p in network.named_parameters()}
    theta |= method.carried_state(theta)
    policy: Any = "transductive"
    if name == "maml":  # Reptile's mini-batches come in another order
        check(network, method, make_episodes(2, shots, queries))
    times = time_engines(network, policy, method, lambda engine: method.gradient(engine, theta, episodes))
    chosen = min(times, key=times.__getitem__)
    engine = ENGINES[chosen](network, policy, method)
    reference = plain(network, method, episodes)
    ways = {"plain": reference, "auto": lambda: method.gradient(engine, theta, episodes)}
    for work in ways.values():
        work()
    rounds = [{way: seconds(work) for way, work in ways.items()} for _ in range(args.rounds)]
    ratios = sorted(r["plain"] / r["auto"] for r in rounds)
    with FlopCounterMode(display=False) as counter:
        reference()
    speed = counter.get_total_flops() / statistics.median(r["auto"] for r in rounds)
    words = ", ".join(f"{k}={v}" for k, v in options.items())
    return (
        f"{kind:10} {name:8} {words:32} {shots} shot {queries:2} query  {chosen:6} "
        f"{statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})   {speed / args.peak:4.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.peak, plugins = matmul_peak(), Plugins()
    print(f"{args.tasks} tasks, {args.threads} threads, peak {args.peak / 1e9:.0f} Gflop/s")
    for case in CASES:
        print(compare(case, plugins, args), flush=True)


if __name__ == "__main__":
    main()
