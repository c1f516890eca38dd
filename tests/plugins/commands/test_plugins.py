"""`learnforge plugins`, `doctor` and `conformance`: what they print, import and return."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest

from learnforge import Plugins
from learnforge.cli import main
from learnforge_plugins.commands.doctor import _dependencies

SOFT = '''
"""Soft labels.

Reference:
    https://arxiv.org/abs/1503.02531
"""
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import gt
from learnforge import Distiller, hookimpl

@frozen
class Soft(Distiller):
    """Soft labels only.

    Args:
        temperature: Softens both sides, above 0.
    """

    temperature: float = field(default=4.0, validator=gt(0.0))

    def loss(self, student, teacher, batch):
        t = self.temperature
        told, known = (F.log_softmax(o.logits / t, 1) for o in (student, teacher))
        return F.kl_div(told, known, log_target=True, reduction="batchmean") * t * t

@hookimpl
def learnforge_distillers():
    return {"soft": Soft}
'''


@pytest.fixture
def run(capsys):
    """Run the command line, `run(*words)`, and return exit status, output and error output."""

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def soft(tmp_path):
    """A plugin file."""
    path = tmp_path / "mine.py"
    path.write_text(SOFT)
    yield path
    sys.modules.pop("learnforge_plugin_mine", None)


# The list


def test_listing_imports_no_plugin_and_no_torch(install):
    """Every status is told from metadata alone, in a process that imports no method and no torch."""
    install(
        "lf-test-a", {"searcher.mine": "lf_test_a", "searcher.gone": "lf_test_gone"}, {"lf_test_a": "1 / 0"}
    )
    install("lf-test-b", {"searcher.mine": "lf_test_a"}, {})
    install("lf-test-c", {"distiller.old": "lf_test_a"}, {}, requires=["learnforge<0.0.1"])
    script = (
        "import sys\nfrom learnforge.cli import main\n"
        "try: main(['plugins', '--json', '--no-plugin', 'searcher.random'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'numpy', 'optuna', 'lf_test_a')\n"
        "print('imported', *[m for m in heavy if m in sys.modules])"
    )
    path = os.pathsep.join([str(install.folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    listed, _, imported = done.stdout.rpartition("imported")
    assert imported.split() == []
    rows = {f"{r['distribution']}:{r['kind']}.{r['name']}": r for r in json.loads(listed)}
    assert rows["learnforge:distiller.kd"]["status"] == "available"
    assert rows["learnforge:searcher.random"]["reason"] == "by the command line"
    assert {key: row["status"] for key, row in rows.items() if "lf-test" in key} == {
        "lf-test-a:searcher.mine": "duplicate",
        "lf-test-b:searcher.mine": "duplicate",
        "lf-test-a:searcher.gone": "failed",
        "lf-test-c:distiller.old": "incompatible",
    }


def test_the_table_lines_up(run):
    """One line for each plugin, its columns under their headings; a kind can be asked for."""
    names = ["bayesian", "evolution", "local", "nsga2", "optuna", "predictor", "random", "rl"]
    code, out, _ = run("plugins", "--kind", "searcher")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[:2] for line in lines] == [
        ["kind", "name"],
        *(["searcher", name] for name in names),
    ]
    assert {line.index("learnforge") for line in lines[1:]} == {lines[0].index("distribution")}


def test_a_wrong_kind_or_name_gets_the_nearest(run):
    """Both are errors with exit status 2."""
    code, listed, _ = run("plugins", "--kind", "hooks")
    assert (code, [line.split()[1] for line in listed.splitlines()]) == (
        0,
        ["name", "csv", "progress", "report", "tensorboard"],
    )
    assert run("plugins", "--kind", "sercher")[::2] == (
        2,
        "learnforge: no plugin is of the kind 'sercher'; did you mean 'searcher'? There are: change, "
        "command, cost, distiller, evaluator, executor, exporter, form, hooks, meta-learner, model, "
        "optimizer, recipe, score, searcher, space, stage, table, task, transfer, tuner, validator\n",
    )  # fmt: skip
    code, _, err = run("plugins", "evolutoin")
    assert (code, "there is no plugin 'evolutoin'; did you mean 'evolution'?" in err) == (2, True)


# One plugin


def test_a_name_shows_its_card(run):
    """Docstring, reference, options with type, range and default, hooks and import time are shown."""
    code, out, _ = run("plugins", "distiller.kd")
    assert code == 0
    words = " ".join(out.split())
    for text in (
        "distiller.kd learnforge", "imported in", "hooks: learnforge_distillers", "arXiv:1503.02531",
        "Knowledge distillation of Hinton et al.", "alpha a number >= 0.0, <= 1.0 0.9 Weight of the teacher",
    ):  # fmt: skip
        assert text in words


def test_the_card_as_json(run):
    """The same as data, by the method's name alone."""
    card = json.loads(run("plugins", "kd", "--json")[1])
    assert (card["name"], card["hooks"]) == ("distiller.kd", ["learnforge_distillers"])
    option = card["options"][0]
    assert option["words"].startswith("T, above 0")
    assert {k: option[k] for k in ("name", "type", "range", "default")} == {
        "name": "temperature", "type": "a number", "range": "> 0.0", "default": "4.0",
    }  # fmt: skip
    assert card["import_seconds"] >= 0


def test_a_name_of_several_must_be_said_whole(run):
    """torchvision is a task and a model."""
    code, _, err = run("plugins", "torchvision")
    assert (code, "2 plugins; say model.torchvision or task.torchvision" in err) == (2, True)
    assert run("plugins", "torchvision", "--kind", "task")[0] == 0


def test_a_file_and_its_methods_are_listed_and_shown(run, soft):
    """`--plugin FILE` lists what the file brings as loaded, and shows it by name."""
    rows = json.loads(run("plugins", "--json", "--plugin", soft)[1])
    own = [(r["kind"], r["name"], r["status"]) for r in rows if r["distribution"] == "mine.py"]
    assert sorted(own) == [("distiller", "soft", "loaded"), ("hooks", "mine", "loaded")]
    assert "Soft labels only." in run("plugins", "soft", "--plugin", soft)[1]
    namesake = soft.with_name("soft.py")
    namesake.write_text(SOFT)
    assert "distiller.soft" in run("plugins", "soft", "--plugin", namesake)[1]
    sys.modules.pop("learnforge_plugin_soft")


def test_a_disabled_plugin_is_not_shown(run):
    """A card imports its plugin, so a refused one has none."""
    code, _, err = run("plugins", "distiller.kd", "--no-plugin", "learnforge:distiller.kd")
    assert (code, err) == (2, f"learnforge: {_kd()} is disabled by the command line\n")


def _kd() -> str:
    import importlib.metadata

    return f"plugin 'distiller.kd' of learnforge {importlib.metadata.version('learnforge')}"


# The doctor


def test_the_doctor_finds_nothing(run):
    """In good order it shows versions and devices, loads everything and ends with 0."""
    code, out, _ = run("doctor")
    assert code in (0, None)
    assert "nothing is wrong" in out
    for text in ("Python 3", "torch ", "CPU: ", "LEARNFORGE_DISABLE_PLUGINS = (not set)"):
        assert text in out


def test_the_doctor_lives_without_metadata(monkeypatch):
    """An import from a checkout that is not installed is diagnosed all the same."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert "torch" in _dependencies()
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert _dependencies() == []


def test_the_doctor_names_what_fails(run, install, monkeypatch):
    """Each plugin that cannot be used is named with the reason and what to do; the exit status is 1."""
    install("lf-test-a", {"searcher.mine": "lf_test_a", "lf-test-track": "lf_test_b"}, {"lf_test_a": "1 / 0"})
    monkeypatch.setenv("LEARNFORGE_DISABLE_PLUGINS", "searcher.random")
    code, out, _ = run("doctor")
    assert code == 1
    assert (
        "its import fails with ZeroDivisionError: division by zero. Mend or uninstall it, or refuse it" in out
    )
    assert "its package 'lf_test_b' cannot be found; install lf-test-a again" in out
    assert "disabled by LEARNFORGE_DISABLE_PLUGINS" in out
    assert "2 of them cannot be used as they are; the others are not affected" in out


# Warnings and strictness


@pytest.mark.filterwarnings("default")
def test_a_fault_is_one_line_and_strictly_an_error(run, install, tmp_path, monkeypatch):
    """A broken plugin that a recipe enables is a line on standard error; `--strict-plugins` ends with 2."""
    monkeypatch.chdir(tmp_path)
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    code, _, err = run("check", "digits", "--plugin", "lf-test-track")
    assert code in (0, None)
    fault = "plugin 'lf-test-track' of lf-test-a 1.0: its import fails with ZeroDivisionError"
    assert err.startswith(f"learnforge: warning: {fault}")
    assert err.count("\n") == 1
    for words in (("check", "digits", "--strict-plugins"), ("--strict-plugins", "check", "digits")):
        code, _, err = run(*words, "--plugin", "lf-test-track")
        assert (code, err.startswith(f"learnforge: {fault}")) == (2, True)


# Commands of plugins


def test_a_broken_command_plugin_harms_no_other_command(run, install):
    """It is listed in the help, named when it is called, and nowhere else."""
    install("lf-test-a", {"command.broken": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    assert "broken" in run("--help")[1]
    assert run("plugins", "--kind", "searcher")[0] == 0
    code, _, err = run("broken")
    assert (code, "'command.broken' of lf-test-a 1.0: its import fails with" in err) == (2, True)


def test_help_stands_what_the_file_of_a_command_says(run, install):
    """Its own `short_help`, not that of another call; a file that is no Python is listed without words."""
    source = """
        @click.group("other", short_help="Of another.")
        def other(): ...
        @click.command("wordy", short_help="Says much.")
        def wordy(): ...
    """
    install("lf-test-a", {"command.wordy": "lf_test_a"}, {"lf_test_a": source})
    install("lf-test-b", {"command.halved": "lf_test_b"}, {"lf_test_b": "def ("})
    code, out, _ = run("--help")
    assert code == 0
    assert re.search(r"wordy +Says much\.", out)
    assert "halved" in out


def test_the_name_of_a_method_is_not_that_of_a_command_or_recipe(run, install):
    """A short name means the method; the others go by their whole names."""
    install(
        "lf-test-a", {"command.evolution": "lf_test_a", "recipe.evolution": "lf_test_a"}, {"lf_test_a": ""}
    )
    code, out, _ = run("plugins", "evolution", "--json")
    assert (code, json.loads(out)["name"]) == (0, "searcher.evolution")


def test_no_built_in_plugin_has_a_fault():
    """Each is available or loaded, and nothing has to be said of it."""
    ours = [s for s in Plugins().standings() if s.plugin.distribution == "learnforge"]
    assert len(ours) > 80
    assert [(s.plugin.name, s.reason) for s in ours if s.reason] == []


def test_commands_import_torch_when_they_are_called():
    """Reading what a command offers imports no torch, so that help comes at once; nor does a report."""
    script = """
import json, sys
from importlib.metadata import entry_points
for point in entry_points(group="learnforge"):
    if point.name.startswith("command."):
        point.load()
import learnforge_plugins.reports.compare, learnforge_plugins.reports.sections
print(json.dumps(sorted({"torch", "optuna", "torchvision"} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


# Conformance


def test_conformance_counts_and_ends_with_0(run, soft):
    """Each check has its line, the counts stand at the end."""
    code, out, _ = run("conformance", "distiller.soft", "--plugin", soft, "--set", "temperature=2")
    assert code in (0, None)
    assert out.splitlines()[0].split() == ["passed", "suite_checks_something"]
    assert " ran, 0 failed, 4 skipped, 0 expected to fail" in out.splitlines()[-1]


def test_conformance_names_what_fails(run, soft):
    """A method that breaks a duty ends with 1, with the check and its words; JSON has the same."""
    soft.write_text(SOFT.replace("Reference:", "From:"))
    code, out, _ = run("conformance", "soft", "--plugin", soft)
    assert code == 1
    assert (
        "failed            docstring_cites_a_reference: the docstring of learnforge_plugin_mine must" in out
    )
    sys.modules.pop("learnforge_plugin_mine")
    code, out, _ = run("conformance", "soft", "--plugin", soft, "--json")
    report = json.loads(out)
    assert (code, report["failed"], report["ran"]) == (1, 1, report["passed"])


def test_conformance_refuses_bad_words(run, soft):
    """An option without a value and one out of range are errors, not failed checks."""
    assert "temperature: must look like option=value" in run("conformance", "kd", "--set", "temperature")[2]


HOOKS = """
from attrs import field, frozen
from attrs.validators import ge
from learnforge import hookimpl

@frozen
class Rows:
    '''Counts rows.

    Args:
        rows: How many, from 0.
    '''

    rows: int = field({default}validator=ge(0))

    @hookimpl
    def learnforge_run_started(self): pass
"""


def test_a_plugin_that_needs_options_does_not_stop_doctor(run, install):
    """It is one that cannot be used as it is; the others are not affected."""
    install("lf-test-a", {"rows": "lf_test_a:Rows"}, {"lf_test_a": HOOKS.format(default="")})
    code, out, _ = run("doctor")
    assert code == 1
    assert "plugin 'rows' of lf-test-a 1.0: failed" in out
    assert "plugins.rows.rows: is missing" in out


def test_the_card_of_hooks_shows_their_options(run, install):
    """Hooks with options are a class: its docstring, its options and their ranges."""
    install("lf-test-a", {"rows": "lf_test_a:Rows"}, {"lf_test_a": HOOKS.format(default="default=1, ")})
    code, out, _ = run("plugins", "rows", "--json")
    card = json.loads(out)
    assert not code
    assert card["module"] == "lf_test_a"
    assert [(o["name"], o["range"], o["words"]) for o in card["options"]] == [
        ("rows", ">= 0", "How many, from 0.")
    ]
    assert card["hooks"] == ["learnforge_run_started"]


def test_doctor_works_where_a_choice_is_at_fault(run):
    """Versions and devices are shown, then what is wrong."""
    code, out, _ = run("doctor", "--plugin", "nobody")
    assert code == 1
    assert "torch " in out
    assert "'nobody' is no installed plugin" in out


def test_conformance_of_a_package_goes_on_after_what_cannot_be_used(run, install, soft):
    """One that needs options fails, the rest is checked; with `--set` a name means the plugin."""
    sources = {"lf_test_a": HOOKS.format(default=""), "lf_test_b": soft.read_text()}
    install("rows", {"rows": "lf_test_a:Rows", "distiller.soft": "lf_test_b"}, sources)
    code, out, _ = run("conformance", "rows")
    assert code == 1
    assert out.splitlines()[-1] == "rows: 1 of 2 plugins are conformant; not rows"
    assert "failed            can_be_used: options of plugin 'rows' of rows 1.0: 1 problem" in out
    assert "distiller.soft: " in out
    code, out, _ = run("conformance", "rows", "--set", "rows=2")
    assert code in (0, None)
    assert "rows: 4 ran, 0 failed" in out


def test_a_hook_that_says_one_difference_may_say_it_plainly(run, tmp_path, write_plugin):
    """A text of `learnforge_check_run` is one difference, not one for each letter."""
    import learnforge as lf

    lf.run({"task": {"use": "digits", "classes": [0, 1]}, "stage": [STAGE]}, tmp_path / "run")
    file = write_plugin("mine.py", "@hookimpl\ndef learnforge_check_run(): return 'no gpu'\n")
    code, out, _ = run("check", tmp_path / "run", "--plugin", file)
    assert code == 1
    assert out.splitlines() == [
        "  no gpu",
        f"{tmp_path / 'run'}: cannot be reproduced bit for bit here, 1 difference",
    ]


STAGE = {
    "kind": "transfer",
    "use": "fine-tune",
    "from": {"use": "mlp", "hidden": [4]},
    "options": {"head_epochs": 0},
    "train": {"epochs": 0},
}


@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
def test_a_broken_neighbour_stops_nothing(run, install, file):
    """A distribution whose files are no UTF-8 is passed over, whoever it belongs to; doctor names it."""
    install("lf-test-a", {"searcher.mine": "lf_test_a"}, {"lf_test_a": ""})
    install("lf-test-b", {"searcher.other": "lf_test_b"}, {"lf_test_b": ""})
    broken = install.folder / "lf_test_b-1.0.dist-info" / file
    broken.write_bytes(broken.read_bytes() + b"\xff\xfe\n")
    code, out, _ = run("plugins", "--kind", "searcher")
    assert not code
    assert "mine" in out
    assert "other" not in out
    assert run("--help")[0] in (0, None)
    assert f"{broken.parent}: its metadata or entry points are no UTF-8" in run("doctor")[1]


def test_a_method_of_a_folder_is_conformant(run, tmp_path):
    """What it imports from the file beside it is found in the suites' other process, too."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "scale.py").write_text("SCALE = 1.0\n")
    source = SOFT.replace("import torch.nn", "from .scale import SCALE\nimport torch.nn")
    (folder / "soft.py").write_text(source.replace("* t * t", "* t * t * SCALE"))
    code, out, _ = run("conformance", "distiller.soft", "--plugin", f"{folder}{os.sep}")
    assert code in (0, None), out


def test_what_files_bring_is_not_enabled(run, soft, tmp_path, monkeypatch):
    """The error says so; and of a folder how it is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    _, _, told = run("plugins", "--plugin", soft, "--plugin", "Soft")
    assert "what plugin files bring takes part without being enabled" in told
    assert "for the folder, write ./methods" in run("plugins", "--plugin", "methods")[2]


def test_doctor_works_where_an_option_is_wrong(run, tmp_path, monkeypatch):
    """It shows where the option is from, and then what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    source = HOOKS.format(default="default=1, ").replace("@frozen", "@hookimpl\n@frozen")
    (tmp_path / "rows.py").write_text(source)
    (tmp_path / "learnforge.toml").write_text('[plugins]\nfiles = ["rows.py"]\n[plugins.Rows]\nrow = 2\n')
    code, out, _ = run("doctor")
    assert code == 1
    assert f"Rows.row = 2 (from {tmp_path / 'learnforge.toml'})" in out
    assert "plugins.Rows.row: unknown option; did you mean 'rows'?" in out
