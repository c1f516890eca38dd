"""What the documentation calls data runs nothing, and what it calls code runs only where its user says so."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

import learnforge as lf
from learnforge.cli import main
from learnforge.context import Checkpoint
from learnforge_kit import decode_once, open_predictor
from tests.core.recipes import DISTILL

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "security.md"
ROWS = dict(re.findall(r"^\| ([^|]+?) \| (code|data) \|", PAGE.read_text("utf-8"), re.MULTILINE))
"""{what: `code` or `data`}, as the page's table has it."""
PYTHON = """
from pathlib import Path
from learnforge import hookimpl

Path("EXECUTED").touch()

@hookimpl
def learnforge_run_started(run): pass
"""
PLACES: tuple[tuple[Any, ...], ...] = (
    *(("run", "name"), ("run", "device"), ("task", "use"), ("task", "classes"), ("plugins", "enable")),
    *(("stage", 0, key) for key in ("kind", "use", "name", "teacher", "student", "cache")),
    *(("stage", 0, "student", "use"), ("stage", 0, "train", "epochs"), ("stage", 0, "files")),
)
"""Where in a recipe somebody might name code."""
TOUCH = "__import__('pathlib').Path('EXECUTED').touch()"


class Harm:
    """Is a call where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (TOUCH,)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an export beside it."""
    folder = tmp_path_factory.mktemp("secure")
    transfer = {**DISTILL["stage"][1], "name": "net", "from": {"use": "conv4", "width": 4, "blocks": 1}}
    space = {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8}
    trained = {"trials": 1, "train": {"epochs": 0}, "retrain": {"epochs": 0}}
    search = {"kind": "search", "use": "random", "space": space, **trained}
    lf.run({**DISTILL, "stage": [search, transfer]}, folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in the working folder, with an image beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "run"


def call(*words: object) -> object:
    """Call a command, whatever it makes of what it is given; return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return ended.value.code


def harmful() -> bytes:
    return pickle.dumps(Harm())


def a_recipe(run: Path) -> None:
    Path("mine.py").write_text(PYTHON)
    for path, word in itertools.product(PLACES, (TOUCH, "mine:Harm", "./mine.py")):
        recipe: Any = copy.deepcopy({**DISTILL, "plugins": {"enable": []}})
        holder = recipe
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = [word] if path[0] == "plugins" else word
        Path("r.toml").write_text(tomli_w.dumps(recipe))
        call("check", "r.toml")


def a_runs_folder(run: Path) -> None:
    for file in (run / "run.json", run / "recipe.toml", run / "search/study.db", *(run / "net").iterdir()):
        whole = file.read_bytes()
        file.write_bytes(harmful())
        for words in (("check", run), ("report", run), ("predict", run, "a.png")):
            call(*words)
        file.write_bytes(whole)


def an_artifact(run: Path) -> None:
    for name in ("weights.safetensors", "artifact.json", "metrics.json"):
        (run / "net" / name).write_bytes(harmful())
        with pytest.raises(lf.ArtifactError):
            lf.load(run / "net")


def a_training_state(run: Path) -> None:
    torch.save({"epoch": Harm()}, "student.pt")
    with pytest.warns(lf.DamageWarning):
        assert Checkpoint(Path("student.pt")).load(torch.device("cpu")) is None


def weights(run: Path) -> None:
    for name in ("w.pt", "w.pth", "w.safetensors"):
        torch.save({"weight": Harm()}, name)
        model = f'{{ use = "weights-file", file = "{name}", model = {{ use = "conv4" }} }}'
        Path("r.toml").write_text(
            '[task]\nuse = "digits"\n[run]\nname = "w"\n[[stage]]\nkind = "transfer"\nuse = "fine-tune"\n'
            f"from = {model}\n"
        )
        call("run", "r.toml")


def an_onnx_file(run: Path) -> None:
    call("export", run, "--to", "out")
    (file,) = Path("out").rglob("*.onnx")
    for content in (harmful(), b"\x08\x08\x72\x1a\x0a\x08exporter\x12\x0ctorch-export" + harmful()):
        file.write_bytes(content)
        call("predict", file, "a.png")
        call("predict", file, "a.png", "--trust")


def an_image(run: Path) -> None:
    for name, content in (
        ("a.png", harmful()),
        ("b.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch EXECUTED) (w) file\n"),
    ):
        Path(name).write_bytes(content)
        call("predict", run, name)


def the_store(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEARNFORGE_CACHE", "store")
        decode_once([Path("a.png")], Path(), 8, 1)
        (index,) = Path("store").rglob("index.npz")
        harm = np.array([Harm()], dtype=object)
        np.savez(index, names=harm, facts=harm)
        assert decode_once([Path("a.png")], Path(), 8, 1).facts["is_grey"].all()


def a_list_of_files(run: Path) -> None:
    lines = ("$(touch EXECUTED)", "`touch EXECUTED`", TOUCH, "| touch EXECUTED", "a.png; touch EXECUTED")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        call("predict", run, "-")


def a_report(run: Path) -> None:
    script = "<script>fetch('EXECUTED')"
    for name in (script, "other"):
        Path("photos", name).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (8, 8), 30 * number).save(Path("photos", name, f"{number}.png"))
    task = {"use": "image-folder", "root": "photos", "size": 8, "channels": 1}
    stage = {**DISTILL["stage"][1], "task": task, "from": {"use": "conv4", "width": 4, "blocks": 1}}
    lf.run({**DISTILL, "task": task, "stage": [stage]}, "named")
    call("report", "named")
    page = Path("named/report.html").read_text("utf-8")
    assert script not in page
    assert "&lt;script&gt;fetch" in page
    assert not re.search(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""", page)


def an_installed_plugin(run: Path) -> None:
    assert "lf-test-mine" in [plugin.name for plugin in lf.Plugins().found], "the fixture installs it"
    for words in (("check", run), ("plugins",), ("hooks", "--no-plugin", "lf-test-mine")):
        call(*words)
    assert not Path("EXECUTED").exists(), "nobody enabled it"
    call("hooks", "--plugin", "lf-test-mine")
    assert Path("EXECUTED").exists()


def a_plugin_file(run: Path) -> None:
    Path("mine.py").write_text(PYTHON)
    for words in (("--help",), ("check", run), ("report", run), ("predict", run, "a.png")):
        call(*words)
    assert not Path("EXECUTED").exists(), "nobody named it"
    call("hooks", "--plugin", "./mine.py")
    assert Path("EXECUTED").exists()


def a_project_file(run: Path) -> None:
    Path("mine.py").write_text(PYTHON)
    Path("learnforge.toml").write_text('[plugins]\nfiles = ["mine.py"]\n')
    call("--help")
    assert not Path("EXECUTED").exists(), "help runs nothing"
    assert call("hooks") in (0, None)
    assert Path("EXECUTED").exists()


def an_exported_program(run: Path) -> None:
    call("export", run, "--use", "torch-export", "--to", "out")
    (file,) = Path("out").rglob("*.pt2")
    with pytest.raises(lf.ArtifactError, match="--trust"):
        open_predictor(file, lf.Plugins())
    for name in (file.name, "model.onnx"):
        file.with_name(name).write_bytes(harmful())
        call("predict", file.with_name(name), "a.png")
    assert not Path("EXECUTED").exists(), "nobody trusts it"


CASES: dict[str, Callable[[Path], None]] = {
    "an installed plugin": an_installed_plugin,
    "a plugin file, `--plugin FILE.py`": a_plugin_file,
    "`learnforge.toml`": a_project_file,
    "an exported `.pt2`": an_exported_program,
    "a recipe": a_recipe,
    "a run's folder": a_runs_folder,
    "an artifact": an_artifact,
    "a training state, `checkpoint/*.pt`": a_training_state,
    "weights, `.safetensors`, `.pt` or `.pth`": weights,
    "an exported `.onnx`": an_onnx_file,
    "an image": an_image,
    "the store of decoded images": the_store,
    "a list of files on standard input": a_list_of_files,
    "a report": a_report,
}


def test_the_page_and_the_cases_name_the_same() -> None:
    """Nothing stands in the table that no case holds learnforge to."""
    assert list(CASES) == list(ROWS)
    assert set(ROWS.values()) == {"code", "data"}


@pytest.mark.parametrize("what", [what for what, sort in ROWS.items() if sort == "data"])
def test_data_run_nothing(what: str, run: Path, tmp_path: Path) -> None:
    """Whatever somebody put there."""
    CASES[what](run)
    assert list(tmp_path.rglob("EXECUTED")) == []


@pytest.mark.parametrize("what", [what for what, sort in ROWS.items() if sort == "code"])
def test_code_runs_where_its_user_says_so_and_not_before(
    what: str, run: Path, install: Callable[..., None]
) -> None:
    """By naming, enabling or trusting it."""
    install("lf-test-a", {"lf-test-mine": "lf_test_mine"}, {"lf_test_mine": PYTHON})
    CASES[what](run)
