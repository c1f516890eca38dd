"""`learnforge new` writes, for every kind, a package that is complete, tidy and passes its own tests."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from learnforge import PluginError
from learnforge.cli import main
from learnforge.plugins.kinds import KINDS
from learnforge_testing.conformance import SUITES, WITHOUT_SUITE
from learnforge_testing.scaffold.package import TEMPLATES, write_package

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of every kind, each beside the metadata that installing it would write."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in TEMPLATES:
        package = write_package(kind, f"my-{kind}", folder)
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        info = folder / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        requires = "".join(f"Requires-Dist: {text}\n" for text in project["dependencies"])
        (info / "METADATA").write_text(header + requires)
        ((point, module),) = project["entry-points"]["learnforge"].items()
        (info / "entry_points.txt").write_text(f"[learnforge]\n{point} = {module}\n")
    return folder


def run(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where all packages are installed."""
    sources = [
        str(packages / "site"),
        *(str(path) for path in packages.glob("*/src")),
        *filter(None, sys.path),
    ]
    return subprocess.run(
        [sys.executable, *words],
        cwd=packages,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sources), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
    )


def test_every_kind_has_template_and_suite() -> None:
    """Whatever a plugin can bring can be scaffolded and held to its duties."""
    assert set(TEMPLATES) == {*KINDS, "hooks"} - WITHOUT_SUITE == set(SUITES)


@pytest.mark.slow
def test_packages_pass_their_own_tests(packages: Path) -> None:
    """Untouched, each package's tests pass, with warnings as errors."""
    tests = sorted(str(path) for path in packages.glob("*/tests"))
    assert len(tests) == len(TEMPLATES)
    done = run(packages, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
               "-W", "ignore::DeprecationWarning:torch", *tests)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert "xfailed" not in done.stdout


def test_packages_are_listed(packages: Path) -> None:
    """Every package's plugin is found by its metadata, and fits this version of learnforge."""
    done = run(packages, "-m", "learnforge", "plugins")
    for kind in TEMPLATES:
        line = next(line for line in done.stdout.splitlines() if f" learnforge-my-{kind} " in line)
        assert line.split()[:2] == [kind, f"my-{kind}"]
        assert "available" in line


def test_packages_are_tidy(packages: Path) -> None:
    """They pass the linter and the formatter with learnforge's own settings."""
    settings = str(ROOT / "pyproject.toml")
    for words in (["check"], ["format", "--check"]):
        done = run(packages, "-m", "ruff", *words, "--config", settings, "--no-cache", str(packages))
        assert done.returncode == 0, done.stdout


def test_no_placeholder_is_left(packages: Path) -> None:
    """Every name was filled in, and GitHub's own braces are whole."""
    for path in packages.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        if path.name == "tests.yml":
            assert "${{ matrix.python }}" in text
            text = text.replace("${{", "")
        assert "$" not in text, path


def test_the_package_wants_this_core(packages: Path) -> None:
    """It declares the range of learnforge that it was written for, so another one calls it incompatible."""
    text = (packages / "learnforge-my-task" / "pyproject.toml").read_text()
    major, minor = importlib.metadata.version("learnforge").split(".")[:2]
    assert f'"learnforge>={major}.{minor},<{major}.{int(minor) + 1}"' in text


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("distillr", "mine", "there is no kind of plugin 'distillr'; did you mean 'distiller'"),
        (
            "distiller",
            "My Method",
            "must be lower-case words and digits joined by -, such as my-method, got 'My",
        ),
        ("distiller", "../mine", "must be lower-case words"),
        ("distiller", "class", "'class' means something else in Python or in learnforge"),
        ("distiller", "none", "means something else"),
        ("task", "task", "means something else"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, kind: str, name: str, message: str) -> None:
    """An unknown kind and a name that cannot be one are refused, and nothing is written."""
    with pytest.raises(PluginError, match=message):
        write_package(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    """What is there is never overwritten."""
    package = write_package("distiller", "mine", tmp_path)
    (package / "README.md").write_text("mine")
    with pytest.raises(PluginError, match="learnforge-mine exists; choose another name"):
        write_package("distiller", "mine", tmp_path)
    assert (package / "README.md").read_text() == "mine"


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the folder and the next commands."""
    with pytest.raises(SystemExit) as ended:
        main(["new", "distiller", "mine", "--to", str(tmp_path)])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"cd {tmp_path}/learnforge-mine" in shown
    assert "learnforge plugins distiller.mine" in shown


def test_a_package_may_bring_several_kinds(tmp_path: Path) -> None:
    """One name, and a file, a suite and an entry point for each kind; twice the same is refused."""
    package = write_package("form,model", "visits", tmp_path)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["learnforge"] == {
        "form.visits": "learnforge_visits.form",
        "model.visits": "learnforge_visits.model",
    }
    names = sorted(path.name for path in package.rglob("*.py"))
    assert names == ["__init__.py", "form.py", "model.py", "test_form.py", "test_model.py"]
    text = (package / "README.md").read_text()
    assert "- `form.visits` in a task of yours" in text
    assert "- `model.visits` in a stage" in text
    for kinds, words in (("form,form", "one plugin of a kind"), ("form,modl", "no kind of plugin 'modl'")):
        with pytest.raises(PluginError, match=words):
            write_package(kinds, "other", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["learnforge-visits"]


@pytest.mark.slow
def test_a_package_of_several_kinds_passes_its_tests(tmp_path: Path) -> None:
    """Its suites, each of its own file."""
    package = write_package("form,model", "visits", tmp_path)
    tests = [str(path) for path in sorted((package / "tests").glob("*.py"))]
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
               "-W", "ignore::DeprecationWarning:torch", "-k", "not registered", *tests)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
