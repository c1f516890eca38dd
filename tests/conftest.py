"""What every test may ask for: small tasks made here, plugins, and contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from learnforge import Context, Plugins, Task
from learnforge.testing.toys import make_task


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
