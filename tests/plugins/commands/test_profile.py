"""`learnforge profile`: the script runs without torch and learnforge, and what it writes prices a search."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import learnforge as lf
import learnforge_kit as kit
from learnforge import Plugins, TaskInfo
from learnforge.artifact import from_model
from learnforge.cli.group import cli

NAMES = ("a", "b", "c")
INFO = TaskInfo("grey", NAMES, tuple(f"grey:{name}" for name in NAMES), (1, 8, 8), (0.5,), (0.25,))
BARE = """
import runpy, sys
for name in ("torch", "learnforge", "learnforge_plugins", "onnx"):
    sys.modules[name] = None  # importing it would fail
sys.argv = ["profile.py", "--to", sys.argv[2]]
runpy.run_path({script!r}, run_name="__main__")
"""


def device(script: Path, target: Path) -> dict[str, Any]:
    """Run a script as a device would that has onnxruntime and numpy alone."""
    command = [sys.executable, "-I", "-c", BARE.format(script=str(script)), "--to", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the script of a small network says, and where its file is."""
    folder = tmp_path_factory.mktemp("profile")
    artifact = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), INFO)
    artifact.with_state(artifact.network()).save(folder / "net")
    words = ["profile", str(folder / "net"), "--to", str(folder / "new" / "clock.py")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "1 network and 11 layers" in done.output, done.output
    return device(folder / "new" / "clock.py", folder / "phone.json"), folder / "phone.json"


@pytest.mark.slow
def test_the_network_and_its_layers_are_timed(profiled: tuple[dict[str, Any], Path]) -> None:
    """By batch, with each layer once under the signature that the cost looks up, and the device's name."""
    found, _ = profiled
    (network,) = found["networks"].values()
    assert set(network["latency_ms"]) == {"1", "8", "64"}
    assert 0 < network["latency_ms"]["1"] < network["latency_ms"]["64"]
    own = kit.layer_signatures(Plugins().load("model", "conv4")(width=4, blocks=2).build(INFO), INFO)
    assert set(found["layers"]) == set(own)
    assert all(cost >= 0 for cost in found["layers"].values())
    assert found["overhead"] > 0
    assert found["scale"] > 0
    # one network fixes the scale, so its layers and a call come to what it takes
    whole = found["overhead"] + sum(found["layers"][name] for name in own)
    assert whole == pytest.approx(network["latency_ms"]["1"], abs=1e-4)
    assert found["error_percent"] == 0.0
    assert "onnxruntime" in found["runtime"]
    assert found["unit"] == "ms"


@pytest.mark.slow
def test_what_it_wrote_is_a_cost_table(profiled: tuple[dict[str, Any], Path]) -> None:
    """The cost of the same network is the sum of its layers on the device, and what a call costs there."""
    found, file = profiled
    meter = lf.load_method("cost.lookup")(file=file)
    network = Plugins().load("model", "conv4")(width=4, blocks=2).build(INFO)
    expected = sum(found["layers"][name] for name in kit.layer_signatures(network, INFO))
    assert meter.measure(network, INFO) == pytest.approx(found["overhead"] + expected)


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    """Nothing is timed for a folder that is not there."""
    script = tmp_path / "clock.py"
    words = ["profile", "--space", '{ use = "mlp", layers = 1, max_width = 16 }', "--shape", "1x8x8"]
    CliRunner().invoke(cli, [*words, "--samples", "1", "--to", str(script)], catch_exceptions=False)
    command = [sys.executable, str(script), "--to", str(tmp_path / "nowhere" / "phone.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "phone.json cannot be written: No such file or directory" in done.stderr
    assert not done.stdout


@pytest.mark.slow
def test_a_file_that_is_there_is_kept(profiled: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """A table of another device is not lost by a second call; `--overwrite` replaces it."""
    _, file = profiled
    script, target = file.parent / "new" / "clock.py", tmp_path / "phone.json"
    target.write_text("{}")
    command = [sys.executable, str(script), "--to", str(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "phone.json is there already; give another --to, or --overwrite it" in done.stderr
    assert target.read_text() == "{}"
    done = subprocess.run([*command, "--overwrite"], check=True, capture_output=True, text=True, timeout=100)
    assert "1 networks take within 0.0 % on average" in done.stdout
    assert json.loads(target.read_text())["layers"]


@pytest.mark.slow
def test_layers_of_a_space_price_its_search(tmp_path: Path) -> None:
    """With the layers of random designs, a search is limited by the device's milliseconds."""
    script = tmp_path / "clock.py"
    space = '{ use = "mlp", layers = 1, max_width = 16 }'
    words = ["profile", "--space", space, "--shape", "1x8x8", "--classes", "3", "--samples", "3"]
    done = CliRunner().invoke(cli, [*words, "--to", str(script)], catch_exceptions=False)
    assert "0 networks and" in done.output
    found = device(script, tmp_path / "phone.json")
    assert found["networks"] == {}
    assert found["error_percent"] >= 0  # of the three designs, which are timed whole
    assert any(name.startswith("Linear 64") for name in found["layers"])
    run = lf.run(
        {
            "run": {"name": "priced"},
            "task": {"use": "digits", "classes": [0, 1, 2]},
            "stage": [
                {
                    "kind": "search",
                    "use": "random",
                    "space": {"use": "mlp", "layers": 1, "max_width": 16},
                    "costs": [
                        {
                            "use": "lookup",
                            "file": str(tmp_path / "phone.json"),
                            "label": "phone_ms",
                            "missing": 0.001,
                        }
                    ],
                    "limits": {"phone_ms": 100.0},
                    "trials": 1,
                    "train": {"epochs": 1},
                    "retrain": {"epochs": 1},
                }
            ],
        }
    )
    (trial,) = [r for r in run.artifacts["search"].metrics["history"] if r["state"] == "evaluated"]
    assert 0 <= trial["metrics"]["phone_ms"] < 100


@pytest.mark.slow
def test_a_table_of_another_space_is_refused_before_the_search(
    profiled: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """`check` asks the table about a few random designs; one that knows some of them may be used."""
    _, file = profiled

    def recipe(missing: float | None) -> dict[str, Any]:
        cost = {"use": "lookup", "file": str(file)} | ({} if missing is None else {"missing": missing})
        space = {"use": "mlp", "layers": 1, "max_width": 16}
        stage = {"kind": "search", "use": "random", "space": space, "costs": [cost], "trials": 1}
        stage |= {"train": {"epochs": 1}, "retrain": {"epochs": 1}}
        return {"run": {"name": "x"}, "task": {"use": "digits", "classes": [0, 1]}, "stage": [stage]}

    words = r"costs\[0\]: refuses each of 10 random designs of the space, .* must know the layer"
    with pytest.raises(lf.RecipeError, match=words):
        lf.run(recipe(None), tmp_path / "run")
    assert not (tmp_path / "run" / "search").exists()
    assert lf.run(recipe(0.001)).artifacts["search"].metrics["trials"] == 1


def test_something_must_be_named() -> None:
    """Neither a folder nor a space is an error of usage."""
    done = CliRunner().invoke(cli, ["profile"])
    assert done.exit_code == 2
    assert "give a run's or a stage's folder, or --space" in done.output
