"""Which code a result comes from: every file of a distribution, and hooks in the order in which they act."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.recipes import DISTILL

from learnforge import PluginChoice, Plugins, PluginWarning, identify
from learnforge.check import Tasks
from learnforge.fingerprints import fingerprints
from learnforge.recipe import parse_recipe

METHOD = """
from attrs import frozen
from learnforge import hookimpl
from lf_test_pack.helper import VALUE

@frozen
class Soft:
    '''Soft.'''

@hookimpl
def learnforge_distillers():
    return {"soft": Soft, "kd": Soft}
"""


def pack(folder: Path, helper: str) -> None:
    """Write a package with a helper module."""
    (folder / "lf_test_pack").mkdir(exist_ok=True)
    (folder / "lf_test_pack" / "__init__.py").write_text("")
    (folder / "lf_test_pack" / "helper.py").write_text(helper)
    (folder / "lf_test_pack" / "method.py").write_text(METHOD)


def write_record(folder: Path) -> None:
    """Write what pip writes of a wheel."""
    lines = []
    for file in sorted((folder / "lf_test_pack").glob("*.py")):
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
        lines.append(f"{file.relative_to(folder).as_posix()},sha256={digest},{file.stat().st_size}")
    lines += ["lf_test_a-1.0.dist-info/RECORD,,", "../../../bin/lf-test,sha256=other,10"]
    (folder / "lf_test_a-1.0.dist-info" / "RECORD").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("is_wheel", [True, False])
def test_a_helper_module_counts(install: Any, is_wheel: bool) -> None:
    """Of an editable install as it is now, of a wheel as its RECORD says: under the same version."""
    pack(install.folder, "VALUE = 1\n")
    install("lf-test-a", {"distiller.soft": "lf_test_pack.method"}, {})
    sources = []
    for helper in ("VALUE = 1\n", "VALUE = 22\n"):
        pack(install.folder, helper)
        if is_wheel:
            write_record(install.folder)
        sources.append(identify(Plugins().load("distiller", "soft")()).source)
    assert sources[0] != sources[1]
    code = Plugins()
    code.load("distiller", "soft")
    files = code.record()["code"]["lf-test-a"]
    assert set(files) == {f"lf_test_pack/{name}.py" for name in ("__init__", "helper", "method")}


def test_a_package_with_a_built_in_name_breaks_nobodys_recipe(install: Any) -> None:
    """The bare name is learnforge's, with a warning; the other is had by its distribution."""
    pack(install.folder, "VALUE = 1\n")
    before = Plugins().load("distiller", "kd")
    install("lf-test-a", {"distiller.kd": "lf_test_pack.method"}, {})
    plugins = Plugins()
    with pytest.warns(PluginWarning, match="distiller 'kd' is learnforge's own, not lf-test-a:distiller.kd"):
        assert plugins.load("distiller", "kd") is before
    assert identify(before()).name == "kd"
    assert plugins.load("distiller", "lf-test-a:kd").__name__ == "Soft"


def prints(files: list[Path]) -> dict[str, str]:
    """Fingerprints of a small recipe with plugin files."""
    plugins = Plugins(PluginChoice(files=tuple(files)))
    return fingerprints(parse_recipe(DISTILL, plugins, "recipe"), plugins, Tasks())


def test_the_order_of_hooks_that_change_results_is_in_the_fingerprint(write_plugin: Any) -> None:
    """Batches that are changed in another order are others; who only listens does not count."""
    body = "@hookimpl\ndef learnforge_batch(batch): return {}\n"
    one = write_plugin("one.py", body.format("batch"))
    two = write_plugin("two.py", body.format("None"))
    ear = write_plugin("ear.py", "@hookimpl\ndef learnforge_stage_started(stage): pass\n")
    assert prints([one, two]) != prints([two, one])
    assert prints([one, two]) == prints([ear, one, two]) == prints([one, two, ear])


class Batch(list[str]):
    """Stands for a batch."""

    images = torch.zeros(1, 1, 2, 2)
    labels = indices = torch.zeros(1)


def test_installed_plugins_act_after_files_in_the_order_of_their_names(
    install: Any, write_plugin: Any
) -> None:
    """Files first, then what is enabled as it is listed, whatever was loaded when."""
    head = "from learnforge import hookimpl\n@hookimpl\n"
    body = head + "def learnforge_batch(batch): return type(batch)([*batch, '{}'])\n"
    for name in ("a", "b", "c"):
        install(
            f"lf-test-{name}", {f"lf-test-{name}": f"lf_test_{name}"}, {f"lf_test_{name}": body.format(name)}
        )
    file = write_plugin(
        "mine.py", "@hookimpl\ndef learnforge_batch(batch): return type(batch)([*batch, 'file'])\n"
    )
    choice = PluginChoice(files=(file,), enable=("lf-test-c", "lf-test-a", "lf-test-b"))
    batch: Any = Batch()
    for transform in Plugins(choice).batch_transforms(stage="s"):
        batch = transform(batch, torch.Generator())
    assert batch == ["file", "c", "a", "b"]
