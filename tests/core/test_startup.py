"""Starting costs what is used: no heavy package is imported before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import learnforge
import learnforge as lf
from learnforge.artifact import from_model

HEAVY = (
    *("torch", "torch._dynamo", "torchvision", "optuna", "plotly"),
    *("sklearn", "sklearn.datasets", "pandas", "scipy"),
)


def imported_by(code):
    """Run code in a fresh interpreter and return which heavy packages it has imported, and its output."""
    sources = os.pathsep.join([str(Path(learnforge.__file__).parents[1]), *filter(None, sys.path)])
    report = f"; import sys; print('imported', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + report],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": sources, "COLUMNS": "200"},
        timeout=60,
    )
    output, _, names = done.stdout.rpartition("imported")
    return names.split(), output


def command(*words):
    """Return code that runs the command line and goes on."""
    return f"""
from learnforge.cli import main
try: main({list(words)!r})
except SystemExit as end: assert end.code == 0, end.code
pass"""


def test_import_is_light():
    """`import learnforge` imports no heavy package, nor do its errors and hook markers."""
    assert imported_by("import learnforge; learnforge.hookimpl")[0] == []
    assert imported_by("from learnforge import PluginError, Plugins; Plugins().names('searcher')")[0] == []


@pytest.mark.parametrize(
    ("words", "shown"),
    [(["--help"], "check"), (["run", "--help"], "--workers"), (["plugins"], "evolution")],
)
def test_light_commands_are_light(words, shown):
    """Help and the list of plugins import no heavy package and show what they should."""
    names, output = imported_by(command(*words))
    assert names == []
    assert shown in output


def test_checking_a_recipe_imports_no_torchvision():
    """What `learnforge check` imports before it knows the recipe holds neither torchvision nor plotly."""
    names, _ = imported_by("import learnforge.recipe")
    assert "torch" in names
    assert not {"torchvision", "plotly", "sklearn", "pandas"} & set(names)


def test_checking_a_recipe_of_small_images_imports_no_compiler():
    """`learnforge check digits` builds its networks and shows them images without torch's compiler, and reads
    its data without scikit-learn.
    """
    names, output = imported_by(command("check", "digits"))
    assert "torch" in names
    assert not {"torch._dynamo", "sklearn", "sklearn.datasets", "pandas"} & set(names)
    assert "no error" in output


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An ONNX file of a network for digits, and an image of one."""
    folder = tmp_path_factory.mktemp("exported")
    digits = lf.load_task("digits", classes=[3, 5, 9])
    network = from_model(lf.Plugins().load("model", "conv4")(width=4, blocks=2), digits.info)
    lf.export(network.with_state(network.network()), digits, "onnx", run=folder)
    Image.fromarray(digits.test.images[0, 0].numpy()).save(folder / "digit.png")
    return folder / "export" / "model.onnx", folder / "digit.png"


def test_naming_images_by_an_onnx_file_imports_no_torch(exported):
    """onnxruntime and numpy do it."""
    names, output = imported_by(command("predict", *map(str, exported)))
    assert names == []
    assert "digit.png," in output


def test_every_public_name_resolves():
    """Each name in `__all__` can be had, is listed by `dir`, and stands there once, in order."""
    assert list(learnforge.__all__) == sorted(set(learnforge.__all__))
    assert dir(learnforge) == learnforge.__all__
    for name in learnforge.__all__:
        assert getattr(learnforge, name) is not None


def test_unknown_name_is_an_attribute_error():
    """A name that does not exist fails as in any module."""
    with pytest.raises(AttributeError, match="No learnforge attribute serch"):
        _ = learnforge.serch
