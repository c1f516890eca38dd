"""What every test may ask for: small tasks made here, plugins, and contexts."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from learnforge import Context, Plugins, Task
from learnforge_testing.toys import make_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run each test with one thread, so that results do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decoded images of tests apart from those of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEARNFORGE_CACHE", str(tmp_path_factory.mktemp("store")))
        yield


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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution in `install.folder`: `install(name, {entry point: module}, {module: text})`."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(distribution, points, sources, version="1.0", requires=()):
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        header = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(header + needs)
        lines = [f"{point} = {module}" for point, module in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[learnforge]", *lines]) + "\n")
        for module, source in sources.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    write.folder = folder
    yield write
    # also those that an earlier test had left: the same content under the same name is not run again
    for name in [*sys.modules]:
        if name.startswith(("lf_test_", "learnforge_plugin_")):
            del sys.modules[name]


@pytest.fixture
def write_plugin(tmp_path, install):
    """Write a plugin file and return its path."""

    def write(name, source):
        path = tmp_path / name
        path.write_text("from learnforge import hookimpl\n" + textwrap.dedent(source))
        return path

    return write
