"""One vocabulary to enable and disable, in four places of which the last counts; statuses from metadata."""

from __future__ import annotations

import sys

import pytest

from learnforge import PluginChoice, PluginError, Plugins, PluginWarning
from learnforge.plugins.choice import ENVIRONMENT, Wish, survey
from learnforge.plugins.found import installed
from learnforge.plugins.sources import PluginFile
from learnforge_plugins.commands.doctor import load_all

TRACKER = """
from learnforge import hookimpl

@hookimpl
def learnforge_vet_design(design): return "tracked"
"""


def statuses(choice=None):
    """Return {distribution:name: (status, reason)} of the test plugins."""
    standings = survey(installed(), choice or PluginChoice())
    return {s.plugin.key: (s.status, s.reason) for s in standings if s.plugin.distribution != "learnforge"}


@pytest.fixture
def tracker(install):
    """A distribution with a hooks-only plugin and a method, neither imported."""
    install("lf-test-a", {"lf-test-track": "lf_test_a", "searcher.mine": "lf_test_b"},
            {"lf_test_a": TRACKER, "lf_test_b": ""})  # fmt: skip


# Words


@pytest.mark.parametrize("word", ["lf-test-track", "lf-test-a", "LF_Test_A", "lf-test-a:lf-test-track"])
def test_a_word_is_a_plugin_a_distribution_or_both(tracker, word):
    """A plugin's name, its distribution's in any spelling, and both joined mean it."""
    assert statuses(PluginChoice(disable=(word,)))["lf-test-a:lf-test-track"] == (
        "disabled",
        "by PluginChoice",
    )
    if word != "lf-test-a" and word != "LF_Test_A":
        plugins = Plugins(PluginChoice(enable=(word,)))
        assert plugins.hook.learnforge_vet_design(design={}, cost=None, stage="s") == "tracked"


def test_a_distribution_that_is_called_like_a_plugin_is_not_meant_by_it(install):
    """`searcher.random` means the plugin, not a distribution of the name searcher-random."""
    install("searcher-random", {"lf-test-track": "lf_test_a"}, {"lf_test_a": ""})
    assert (
        statuses(PluginChoice(disable=("searcher.random",)))["searcher-random:lf-test-track"][0]
        == "available"
    )


@pytest.mark.parametrize("word", ["lf-test-trak", "lf-test-a:lf-test-trak"])
def test_a_wrong_name_gets_the_nearest(tracker, word):
    """A name that means nothing installed is an error with the nearest match, in its own form."""
    near = word.replace("trak", "track")
    for choice in ({"enable": (word,)}, {"disable": (word,)}):
        with pytest.raises(
            PluginError, match=rf"'{word}' is no installed plugin .*; did you mean '{near}'\?"
        ):
            Plugins(PluginChoice(**choice))
    assert "lf_test_a" not in sys.modules


# Places


def test_the_last_place_counts(tracker):
    """The command line overrules the recipe, in both directions and for a distribution's names too."""
    recipe = PluginChoice(enable=("lf-test-track",), where="`[plugins]`")
    off = recipe.overruled(Wish("the command line", disable=("lf-test-a",)))
    assert statuses(off)["lf-test-a:lf-test-track"] == ("disabled", "by the command line")
    assert not Plugins(off).hook.learnforge_vet_design(design={}, cost=None, stage="s")
    on = PluginChoice(disable=("lf-test-a",)).overruled(Wish("the command line", enable=("lf-test-track",)))
    assert statuses(on)["lf-test-a:lf-test-track"][0] == "available"
    assert statuses(on)["lf-test-a:searcher.mine"] == ("disabled", "by PluginChoice")
    assert Plugins(on).hook.learnforge_vet_design(design={}, cost=None, stage="s") == "tracked"


def test_the_environment_has_the_last_word(tracker, monkeypatch):
    """LEARNFORGE_DISABLE_PLUGINS refuses what everything else enables, before it is imported."""
    monkeypatch.setenv(ENVIRONMENT, " lf-test-track , searcher.mine,")
    with pytest.warns(
        PluginWarning, match="is enabled by PluginChoice and disabled by LEARNFORGE_DISABLE_PLUGINS"
    ):
        plugins = Plugins(PluginChoice(enable=("lf-test-track",)))
    standings = {s.plugin.key: s for s in plugins.standings()}
    assert standings["lf-test-a:lf-test-track"].status == "disabled"
    assert str(standings["lf-test-a:searcher.mine"]).endswith("is disabled by LEARNFORGE_DISABLE_PLUGINS")
    assert "lf_test_a" not in sys.modules
    assert len(plugins.choice.with_environment({ENVIRONMENT: "other"}).overrules) == 1, (
        "a worker's choice has it"
    )


def test_a_wrong_name_in_the_environment_says_so(tracker, monkeypatch):
    """The warning names the variable, and nothing ends: the environment is for all runs."""
    monkeypatch.setenv(ENVIRONMENT, "lf-test-trak")
    with pytest.warns(
        PluginWarning, match="LEARNFORGE_DISABLE_PLUGINS: 'lf-test-trak' is no installed plugin"
    ):
        Plugins()


def test_enabling_and_disabling_the_same_in_one_place_is_an_error(tracker):
    """A place that contradicts itself is refused; disabling one of two of a name is no contradiction."""
    with pytest.raises(PluginError, match="'lf-test-track' is both enabled and disabled"):
        Plugins(PluginChoice(enable=("lf-test-track",), disable=("lf-test-a",)))


# Statuses


def test_an_installed_plugin_is_available_and_then_loaded(tracker):
    """Metadata say available; an object that imported it says loaded."""
    assert statuses()["lf-test-a:lf-test-track"] == ("available", "")
    plugins = Plugins(PluginChoice(enable=("lf-test-track",)))
    assert {s.plugin.name: s.status for s in plugins.standings()}["lf-test-track"] == "loaded"


def test_duplicates_are_told_and_one_of_them_can_be_disabled(install, tracker):
    """Two of a name are both duplicates, and name each other; disabling one frees the other."""
    install("lf-test-b", {"searcher.mine": "lf_test_b"}, {})
    status, reason = statuses()["lf-test-a:searcher.mine"]
    assert (status, reason) == ("duplicate", 'lf-test-b brings it too; choose with "lf-test-a:mine"')
    assert statuses()["lf-test-b:searcher.mine"][0] == "duplicate"
    assert statuses(PluginChoice(disable=("lf-test-a",)))["lf-test-b:searcher.mine"][0] == "available"
    chosen = Plugins(PluginChoice(enable=("lf-test-a:lf-test-track",)))
    assert chosen.find("searcher", "lf-test-b:mine").distribution == "lf-test-b"


@pytest.mark.parametrize(
    ("requirement", "incompatible"),
    [
        ("learnforge>=0.0.1", ""),
        ("Learnforge<0.0.1", "lf-test-a 1.0 is written for learnforge <0.0.1, this is "),
        ("learnforge (>=99) ; python_version >= '3'", "is written for learnforge >=99, this is "),
        ("learnforge>=99; extra == 'all'", ""),
        ("learnforge-extras>=99", ""),
    ],
)
def test_the_requirement_on_learnforge_decides_compatibility(install, requirement, incompatible):
    """A plugin whose distribution wants another learnforge is incompatible, and says which one it wants."""
    install("lf-test-a", {"searcher.mine": "lf_test_a"}, {"lf_test_a": "1 / 0"}, requires=[requirement])
    status, reason = statuses()["lf-test-a:searcher.mine"]
    assert status == ("incompatible" if incompatible else "available")
    assert incompatible in reason
    if incompatible:
        with pytest.raises(
            PluginError, match=r"'searcher.mine' of lf-test-a 1.0 is incompatible: lf-test-a 1.0 is"
        ):
            Plugins().load("searcher", "mine")
        assert "lf_test_a" not in sys.modules


def test_an_incompatible_hooks_only_plugin_is_left_out(install):
    """It is a warning with the reason, and it is never imported."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": "1 / 0"}, requires=["learnforge>99"])
    with pytest.warns(
        PluginWarning, match="is incompatible: .*written for learnforge >99.*goes on without it"
    ):
        Plugins(PluginChoice(enable=("lf-test-track",)))
    assert "lf_test_a" not in sys.modules


def test_a_missing_module_is_told_without_import(install):
    """An entry point whose package is gone, or that names no module, is failed with the reason."""
    install("lf-test-a", {"searcher.gone": "lf_test_gone.inner", "searcher.odd": "no module!"}, {})
    assert statuses()["lf-test-a:searcher.gone"] == (
        "failed", "its package 'lf_test_gone' cannot be found; install lf-test-a again",
    )  # fmt: skip
    assert statuses()["lf-test-a:searcher.odd"][0] == "failed"


def test_a_plugin_that_failed_to_load_is_told(install):
    """What raised on import is failed, with the cause."""
    install("lf-test-a", {"searcher.mine": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    failed = {s.plugin.key: s.reason for s in load_all(Plugins()) if s.status == "failed"}
    assert list(failed) == ["lf-test-a:searcher.mine"]
    assert "ZeroDivisionError: division by zero" in failed["lf-test-a:searcher.mine"]


def test_a_foreign_kind_is_told(install):
    """A kind that is not learnforge's own may be another plugin's, or misspelt: the nearest is told."""
    install("lf-test-a", {"distillr.mine": "lf_test_a"}, {"lf_test_a": ""})
    status, reason = statuses()["lf-test-a:distillr.mine"]
    assert (status, "did you mean 'distiller'?" in reason) == ("available", True)


# Files


def test_files_are_read_once(tmp_path):
    """What was read is what runs: a change of the file afterwards changes neither hash nor content."""
    path = tmp_path / "mine.py"
    path.write_text("value = 1\n")
    choice = PluginChoice(files=(path,))
    before = choice.files[0].sha256
    path.write_text("value = 2\n")
    plugins = Plugins(choice)
    assert sys.modules["learnforge_plugin_mine"].value == 1
    assert plugins.record()["files"] == [{"name": "mine.py", "path": str(path), "sha256": before}]
    assert PluginFile.read(path).sha256 != before
    del sys.modules["learnforge_plugin_mine"]


def test_files_of_one_name_are_refused(tmp_path):
    """Two files of one name would be one module."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("")
    with pytest.raises(
        PluginError, match=r"plugin files must have different names, got .*a/mine.py and .*b/"
    ):
        PluginChoice(files=(tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"))


def test_metadata_that_cannot_be_read_harm_nobody(install):
    """A malformed requirement makes its distribution incompatible, and one without a name is listed."""
    install("lf-test-a", {"searcher.mine": "lf_test_a"}, {"lf_test_a": ""}, requires=["learnforge (>=0.1"])
    install("lf-test-b", {"searcher.other": "lf_test_a"}, {})
    (install.folder / "lf_test_b-1.0.dist-info" / "METADATA").write_text("")
    found = statuses()
    status, reason = found["lf-test-a:searcher.mine"]
    assert (status, "its requirement 'learnforge (>=0.1' cannot be read" in reason) == ("incompatible", True)
    assert found["(unknown):searcher.other"][0] == "available"
    assert "evolution" in Plugins(PluginChoice(disable=("searcher.random",))).names("searcher")


def test_a_missing_package_of_hooks_is_named(install):
    """Where the word says the distribution, the error says what to install."""
    with pytest.raises(
        PluginError, match="'their-hooks:veto' is no installed plugin or distribution; pip install"
    ):
        Plugins(PluginChoice(enable=("their-hooks:veto",)))
