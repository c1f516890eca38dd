"""What every test may ask for: small tasks made here, plugins, and contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learnforge import Context, MemorySplit, Plugins, Task, TaskInfo


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run each test with one thread, so that results do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """All installed plugins."""
    return Plugins()


@pytest.fixture
def make_context(plugins: Plugins, tmp_path: Path) -> Callable[..., Context]:
    """Make a context on the CPU; `folder=None` keeps nothing."""

    def make(folder: Path | None = tmp_path, seed: int = 0, **changes: object) -> Context:
        executor = plugins.load("executor", "serial")()
        fields = {"executor": executor, **changes}
        return Context("stage", seed, torch.device("cpu"), plugins, folder, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def task() -> Task:
    """Three classes of 8 × 8 images, each with a bright stripe elsewhere, that a small network learns in
    seconds.
    """
    return make_task()


def make_task(classes: int = 3, count: int = 60, size: int = 8, seed: int = 0) -> Task:
    """Make a task whose class is the row of a bright stripe in noise."""
    names = tuple(f"stripe {i}" for i in range(classes))
    origins = tuple(f"stripes:{i}" for i in range(classes))
    info = TaskInfo("stripes", names, origins, (1, size, size), (0.3,), (0.25,))
    splits = [MemorySplit(*_stripes(classes, count, size, seed + part)) for part in range(3)]
    return Task(info, splits[0], splits[1], splits[2])


def _stripes(classes: int, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 120, (count, 1, size, size), generator=generator)
    rows = labels * (size // classes)
    images[torch.arange(count), 0, rows] += 100
    return images.to(torch.uint8), labels
