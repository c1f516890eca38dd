"""Plugins are found without import, loaded when used, named when at fault, and kept from harming the run."""

from __future__ import annotations

import sys
import textwrap
import warnings

import pytest
import torch
from attrs import frozen

from learnforge import PluginError, PluginWarning
from learnforge.errors import InstallError
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.found import installed
from learnforge.plugins.identity import identify, spell
from learnforge.plugins.registry import Plugins

DISTILLER = """
from attrs import frozen
from learnforge import hookimpl

@frozen
class Soft:
    temperature: float = 4.0

@hookimpl
def learnforge_distillers():
    return {"soft": Soft}
"""


HEARS = "from learnforge import hookimpl\n@hookimpl\ndef learnforge_stage_started(): pass\n"


def from_files(*files):
    """Return plugins with some files."""
    return Plugins(PluginChoice(files=files))


def enabled(*names, **choice):
    """Return plugins with some hooks-only ones enabled."""
    return Plugins(PluginChoice(enable=names, **choice))


# Found and loaded


def test_built_ins_are_found_by_their_entry_points():
    """The built-in methods are listed by kind, sorted, under the distribution learnforge."""
    found = {p.name: p for p in installed()}
    assert found["distiller.kd"].distribution == "learnforge"
    assert (found["distiller.kd"].kind, found["distiller.kd"].method) == ("distiller", "kd")
    assert list(found) == sorted(found)
    assert {"random", "evolution"} <= set(Plugins().names("searcher"))


def test_found_without_import(install):
    """A plugin is listed by its metadata, and its module is imported by the look-up only."""
    install(
        "lf-test-a", {"distiller.soft": "lf_test_a", "lf-test-track": "lf_test_a"}, {"lf_test_a": DISTILLER}
    )
    plugins = Plugins()
    assert "soft" in plugins.names("distiller")
    found = {p.name: p for p in plugins.found}
    assert str(found["distiller.soft"]) == "plugin 'distiller.soft' of lf-test-a 1.0"
    assert found["lf-test-track"].kind == "hooks"
    assert "lf_test_a" not in sys.modules
    cls = plugins.load("distiller", "soft")
    assert cls is sys.modules["lf_test_a"].Soft
    assert plugins.load("distiller", "soft") is cls


def test_identity_and_spelling_of_a_loaded_method(install):
    """An installed method is known by kind, name, distribution and version; its table is a recipe's."""
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": DISTILLER}, version="2.3")
    method = Plugins().load("distiller", "soft")(temperature=2.0)
    identity = identify(method)
    assert (identity.kind, identity.name, identity.distribution, identity.version) == (
        "distiller", "soft", "lf-test-a", "2.3",
    )  # fmt: skip
    assert len(identity.source) == 64
    assert spell(method) == {"use": "soft", "temperature": 2.0}


def test_identity_of_an_editable_install_hashes_the_source():
    """Where the version does not pin the code, the identity has a hash of its source."""

    @frozen
    class Mine:
        """A method that was never loaded by name."""

    identity = identify(Mine())
    assert identity.kind == "local"
    assert identity.name.endswith("Mine")
    assert len(identity.source) == 64


def test_load_checks_the_base(install):
    """A class of another family is refused by name."""
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": DISTILLER})
    assert Plugins().load("distiller", "soft", object).__name__ == "Soft"
    with pytest.raises(PluginError, match=r"lf-test-a 1.0: 'soft' must be a subclass of int, got <class"):
        Plugins().load("distiller", "soft", int)


def test_unknown_name_gets_the_nearest():
    """A misspelt method gets the nearest name and the list."""
    with pytest.raises(
        PluginError,
        match=r"there is no searcher 'evolutoin'; did you mean 'evolution'\? There are: .*random",
    ):
        Plugins().load("searcher", "evolutoin")


def test_unknown_kind_gets_the_nearest(install):
    """An entry point of a kind that does not exist is named with the nearest kind."""
    install("lf-test-a", {"distillr.soft": "lf_test_a"}, {"lf_test_a": DISTILLER})
    with pytest.raises(
        PluginError, match=r"lf-test-a 1.0: unknown kind 'distillr', .*; did you mean 'distiller'"
    ):
        Plugins().load("distillr", "soft")


def test_entry_point_must_offer_what_it_names(install):
    """A module whose hook does not offer the entry point's name is refused, with what it does offer."""
    install("lf-test-a", {"distiller.sof": "lf_test_a"}, {"lf_test_a": DISTILLER})
    with pytest.raises(
        PluginError, match=r"its `learnforge_distillers` must offer 'sof'; did you mean 'soft'\?"
    ):
        Plugins().load("distiller", "sof")


def test_resolve_places_every_problem(install):
    """A table is built with its options; unknown names and wrong options are placed in the recipe."""
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": DISTILLER})
    plugins, problems = Plugins(), []
    assert plugins.resolve("distiller", {"use": "soft", "temperature": 2}, "p", problems).temperature == 2.0
    assert problems == []
    assert plugins.resolve("distiller", {"use": "sfot"}, "p", problems) is None
    assert plugins.resolve("distiller", {"use": "soft", "temprature": 2}, "p", problems) is None
    assert [p.path for p in problems] == ["p.use", "p.temprature"]
    assert "did you mean 'soft'?" in problems[0].message
    assert "did you mean 'temperature'?" in problems[1].message


def test_bare_checkout_says_how_to_install(monkeypatch, tmp_path):
    """Without learnforge's own entry points the error says from where it is imported and what to run."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InstallError, match=r"learnforge, but it is not installed, .*Run `pip install -e \.`"):
        Plugins()


# Refused


@pytest.mark.parametrize("name", ["distiller.soft", "lf-test-a"])
def test_disabled_by_plugin_or_distribution_is_never_imported(install, name):
    """A plugin that is disabled by its own name or its distribution's is not listed, loaded or imported."""
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": DISTILLER})
    plugins = Plugins(PluginChoice(disable=(name,)))
    assert "soft" not in plugins.names("distiller")
    with pytest.raises(
        PluginError, match=r"plugin 'distiller.soft' of lf-test-a 1.0 is disabled by PluginChoice"
    ):
        plugins.load("distiller", "soft")
    assert "lf_test_a" not in sys.modules


def test_disabled_distribution_is_not_imported_by_enabling_its_plugin(install):
    """Enabling a hooks-only plugin of a disabled distribution is refused, before its module is imported."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": ""})
    with pytest.raises(PluginError, match=r"PluginChoice: 'lf-test-track' is both enabled and disabled"):
        enabled("lf-test-track", disable=("lf-test-a",))
    assert "lf_test_a" not in sys.modules


def test_unknown_names_in_the_choice_get_the_nearest(install):
    """Names to enable or disable that do not exist are refused with the nearest ones."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": ""})
    with pytest.raises(PluginError, match=r"PluginChoice: 'searcher.randon' is no installed plugin or.*"
                                          r"did you mean 'searcher.random'\? `.*lists all"):  # fmt: skip
        Plugins(PluginChoice(disable=("searcher.randon",)))
    with pytest.raises(PluginError, match=r"PluginChoice: 'lf-test-trak' is no installed plugin or .*"
                                          r"did you mean 'lf-test-track'\?"):  # fmt: skip
        enabled("lf-test-trak")
    with pytest.raises(
        PluginError, match=r"'lf-test-track' is both enabled and disabled; take it out of one"
    ):
        enabled("lf-test-track", disable=("lf-test-track",))


def test_duplicates_name_both_distributions_and_disabling_one_helps(install):
    """Two distributions with one name are both named; when one is disabled, the other serves."""
    points = {"distiller.soft": "lf_test_a"}
    install("lf-test-a", points, {"lf_test_a": DISTILLER})
    install("lf-test-b", {"distiller.soft": "lf_test_b"}, {"lf_test_b": DISTILLER}, "2.0")
    with pytest.raises(
        PluginError,
        match=r"'soft' is brought by lf-test-a 1.0 and lf-test-b 2.0; write .lf-test-a:soft. or .lf-",
    ):
        Plugins().load("distiller", "soft")
    assert not {"lf_test_a", "lf_test_b"} & set(sys.modules)
    cls = Plugins(PluginChoice(disable=("lf-test-a",))).load("distiller", "soft")
    assert cls.__module__ == "lf_test_b"


def test_duplicate_hooks_only_plugins_name_both_distributions(install):
    """Two distributions with one hooks-only name are both named, and neither is imported."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": ""})
    install("lf-test-b", {"lf-test-track": "lf_test_b"}, {"lf_test_b": HEARS})
    with pytest.raises(PluginError, match=r"'lf-test-track' is brought by lf-test-a 1.0 and lf-test-b 1.0"):
        enabled("lf-test-track")
    assert not {"lf_test_a", "lf_test_b"} & set(sys.modules)
    assert enabled("lf-test-b:lf-test-track").manager.has_plugin("lf-test-b:lf-test-track")


# Broken


def test_broken_import_names_plugin_distribution_and_cause(install):
    """A method whose module cannot be imported is named with its distribution, the cause, and a way out."""
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    with pytest.raises(
        PluginError,
        match=r"plugin 'distiller.soft' of lf-test-a 1.0: its import fails with ZeroDivisionError: division "
        r"by zero\. Mend or uninstall it, or refuse it with `--no-plugin distiller.soft` or .*disable",
    ):
        Plugins().load("distiller", "soft")


def test_broken_offer_names_plugin_and_cause(install):
    """A collecting hook that raises is named with its plugin."""
    source = DISTILLER.replace('return {"soft": Soft}', "raise KeyError('x')")
    install("lf-test-a", {"distiller.soft": "lf_test_a"}, {"lf_test_a": source})
    with pytest.raises(
        PluginError, match=r"of lf-test-a 1.0: `learnforge_distillers` fails with KeyError: 'x'"
    ):
        Plugins().load("distiller", "soft")


def test_broken_hooks_only_plugin_is_left_out(install):
    """An enabled hooks-only plugin that cannot be imported is a warning, and the others are loaded."""
    source = """
        from learnforge import hookimpl
        @hookimpl
        def learnforge_vet_design(): return "good"
    """
    install("lf-test-a", {"lf-test-bad": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    install("lf-test-b", {"lf-test-good": "lf_test_b"}, {"lf_test_b": source})
    with pytest.warns(
        PluginWarning, match=r"'lf-test-bad' of lf-test-a 1.0: its import fails.*The run goes on without it"
    ):
        plugins = enabled("lf-test-bad", "lf-test-good")
    assert plugins.hook.learnforge_vet_design(design={}, cost=None, stage="s") == "good"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "@hookimpl\ndef learnforge_stage_startd(stage): pass",
            r"implements an unknown hook `learnforge_stage_startd`; did you mean 'learnforge_stage_started'",
        ),
        (
            "def learnforge_stage_started(stage): pass",
            r"`learnforge_stage_started` must be marked with `@learnforge.hookimpl`",
        ),
        (
            "@hookimpl\ndef learnforge_stage_started(stage, kid): pass",
            r"`learnforge_stage_started` has no argument 'kid'; did you mean 'kind'",
        ),
    ],
)
def test_hooks_that_fit_no_specification_are_refused(write_plugin, source, message):
    """An unknown hook, a missing mark and a wrong argument are each refused with the plugin's name."""
    with pytest.raises(PluginError, match=r"plugin file mine\.py.*" + message):
        Plugins(PluginChoice(files=(write_plugin("mine.py", source),)))


def test_fault_in_a_notification_stops_nobody(write_plugin):
    """A notification that raises is a warning with plugin and hook; the others are called all the same."""
    heard = "heard = []\n@hookimpl\ndef learnforge_stage_started(stage): heard.append(stage)\n"
    files = (
        write_plugin("first.py", heard),
        write_plugin("bad.py", "@hookimpl\ndef learnforge_stage_started(kind): raise OSError('full')\n"),
        write_plugin("last.py", heard),
    )
    plugins = Plugins(PluginChoice(files=files))
    with pytest.warns(
        PluginWarning,
        match=r"plugin file bad\.py: `learnforge_stage_started` fails with OSError: full. Mend it, or leave",
    ):
        plugins.hook.learnforge_stage_started(stage="search", kind="search")
    for name in ("first", "last"):
        assert sys.modules[f"learnforge_plugin_{name}"].heard == ["search"]


def test_fault_in_a_hook_that_changes_results_is_fatal(write_plugin):
    """What a result depends on is not guarded: its error goes up."""
    file = write_plugin("bad.py", "@hookimpl\ndef learnforge_vet_design(design): raise OSError('full')\n")
    with pytest.raises(PluginError, match="fails with OSError: full"):
        Plugins(PluginChoice(files=(file,))).hook.learnforge_vet_design(design={}, cost=None, stage="s")


# Files


def test_file_brings_methods_and_hooks(write_plugin):
    """A file's methods are loaded by name, their identity is the hash of what it says, wherever it lies."""
    file = write_plugin("mine.py", DISTILLER)
    plugins = Plugins(PluginChoice(files=(file,)))
    assert "soft" in plugins.names("distiller")
    first = identify(plugins.load("distiller", "soft")())
    assert (first.kind, first.name, first.distribution) == ("distiller", "soft", "(file)")
    again = identify(Plugins(PluginChoice(files=(file,))).load("distiller", "soft")())
    assert again == first


def test_identity_of_a_file_changes_when_it_is_edited(write_plugin):
    """An edited file is other code: its source hash changes."""
    first = identify(from_files(write_plugin("mine.py", DISTILLER)).load("distiller", "soft")())
    edited = from_files(write_plugin("mine.py", DISTILLER.replace("4.0", "5.0")))
    second_class = edited.load("distiller", "soft")
    assert second_class().temperature == 5.0
    second = identify(second_class())
    assert len(first.source) == len(second.source) == 64
    assert first.source != second.source


def test_file_does_not_shadow_an_installed_method(write_plugin):
    """A file's method of an installed one's name is a duplicate: one says which, or disables the other."""
    file = write_plugin("mine.py", DISTILLER.replace('"soft"', '"kd"'))
    plugins = from_files(file)
    with pytest.raises(
        PluginError, match=r"'kd' is brought by learnforge [\d.]+ and mine.py; write .*mine.py:kd"
    ):
        plugins.load("distiller", "kd")
    assert {"learnforge:kd", "mine.py:kd"} <= set(plugins.names("distiller"))
    doubled = {p.plugin.key: p.reason for p in plugins.standings() if p.status == "duplicate"}
    assert doubled == {
        "learnforge:distiller.kd": 'mine.py brings it too; choose with "learnforge:kd"',
        "mine.py:distiller.kd": 'learnforge brings it too; choose with "mine.py:kd"',
    }
    assert plugins.load("distiller", "mine.py:kd").__module__ == "learnforge_plugin_mine"
    assert plugins.load("distiller", "learnforge:kd").__module__ == "learnforge_plugins.distillers.kd"
    alone = Plugins(PluginChoice(files=(file,), disable=("distiller.kd",)))
    assert alone.load("distiller", "kd").__module__ == "learnforge_plugin_mine"


def test_file_that_cannot_be_loaded_is_named(write_plugin, tmp_path):
    """A missing file, a file that is no Python, and a file that raises are each refused by name."""
    with pytest.raises(PluginError, match=r"the plugin file .*none.py cannot be read: No such file"):
        Plugins(PluginChoice(files=(tmp_path / "none.py",)))
    with pytest.raises(PluginError, match=r"mine.txt must be a Python file that ends in .py"):
        Plugins(PluginChoice(files=(write_plugin("mine.txt", ""),)))
    with pytest.raises(PluginError, match=r"plugin file .*mine.py: its import fails with ZeroDivisionError"):
        Plugins(PluginChoice(files=(write_plugin("mine.py", "1 / 0"),)))
    assert "learnforge_plugin_mine" not in sys.modules


# Changing results


class Batch(list):
    """Stands for a batch."""

    images = torch.zeros(1, 1, 2, 2)
    labels = indices = torch.zeros(1)


def test_batch_transforms_are_chained_in_the_stated_order(write_plugin):
    """Each transform gets what the one before returned, files as they are listed; None changes nothing."""
    body = "@hookimpl\ndef learnforge_batch(batch, stage): return type(batch)([*batch, stage + '{}'])\n"
    files = (
        write_plugin("one.py", body.format(1)),
        write_plugin("quiet.py", "@hookimpl\ndef learnforge_batch(batch): return None\n"),
        write_plugin("two.py", body.format(2)),
        write_plugin("late.py", body.format(3).replace("@hookimpl", "@hookimpl(trylast=True)")),
    )
    transforms = Plugins(PluginChoice(files=files)).batch_transforms(stage="s", part="p", task=None)
    assert len(transforms) == 4
    batch = Batch()
    for transform in transforms:
        batch = transform(batch, None)
    assert batch == ["s1", "s2", "s3"]
    assert Plugins().batch_transforms(stage="s", part="p", task=None) == []


def test_changing_lists_those_whose_hooks_change_results(install, write_plugin):
    """Plugins that vet or batch are listed with a hash of their source; listeners are not."""
    vet = "from learnforge import hookimpl\n@hookimpl\ndef learnforge_vet_design(design): return None\n"
    listen = "from learnforge import hookimpl\n@hookimpl\ndef learnforge_stage_started(stage): pass\n"
    install("lf-test-a", {"lf-test-vet": "lf_test_a", "lf-test-ear": "lf_test_b"},
            {"lf_test_a": vet, "lf_test_b": listen})  # fmt: skip
    file = write_plugin("mine.py", "@hookimpl\ndef learnforge_batch(batch): return None\n")
    changing = enabled("lf-test-vet", "lf-test-ear", files=(file,)).changing()
    assert [(i.name, i.distribution, i.version) for i in changing] == [
        ("lf-test-vet", "lf-test-a", "1.0"),
        ("mine", "(file)", ""),
    ]
    assert all(len(i.source) == 64 for i in changing)
    before = changing[1].source
    write_plugin("mine.py", "@hookimpl\ndef learnforge_batch(batch): return batch\n")
    assert Plugins(PluginChoice(files=(file,))).changing()[0].source != before
    assert Plugins().changing() == []


# Growing

OWN_HOOKS = """
    import pluggy
    class Specs:
        @pluggy.HookspecMarker("learnforge")
        def learnforge_test_greet(self, name): "Greet."
    @hookimpl
    def learnforge_add_hooks(manager): manager.add_hookspecs(Specs)
"""
GREETER = "@hookimpl\ndef learnforge_test_greet(name): return 'hello ' + name\n"


def test_plugin_brings_hooks_of_its_own(write_plugin):
    """A plugin may specify hooks that it and others implement."""
    own = write_plugin("own.py", textwrap.dedent(OWN_HOOKS) + GREETER)
    plugins = Plugins(PluginChoice(files=(own, write_plugin("greeter.py", GREETER))))
    assert plugins.hook.learnforge_test_greet(name="you") == ["hello you", "hello you"]
    with pytest.raises(PluginError, match="implements an unknown hook `learnforge_test_greet`"):
        Plugins(PluginChoice(files=(write_plugin("greeter.py", GREETER),)))


def test_order_of_plugins_that_bring_and_use_a_hook_is_free(write_plugin):
    """A plugin may implement another's hook whichever of them is named first."""
    files = (write_plugin("greeter.py", GREETER), write_plugin("own.py", OWN_HOOKS))
    plugins = Plugins(PluginChoice(files=files))
    assert plugins.hook.learnforge_test_greet(name="you") == ["hello you"]


def test_good_plugins_load_without_a_warning(install):
    """Loading everything that is found and in order warns of nothing."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": HEARS})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert enabled("lf-test-track").manager.has_plugin("lf-test-a:lf-test-track")
