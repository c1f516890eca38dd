"""Hooks with options: `[plugins.NAME]` in recipes and project files."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
from tests.core.recipes import DISTILL

import learnforge as lf
from learnforge import PluginChoice, PluginError, Plugins, RecipeError
from learnforge.plugins.choice import Wish
from learnforge.recipe import plugin_choice

HIDE = '''
from attrs import evolve, field, frozen
from attrs.validators import ge
from learnforge import hookimpl

@hookimpl
@frozen
class Hide:
    """Hides rows of training images.

    Args:
        rows: Rows that are black, from 0.
    """

    rows: int = field(default=1, validator=ge(0))

    @hookimpl
    def learnforge_batch(self, batch):
        images = batch.images.clone()
        images[:, :, : self.rows] = 0
        return evolve(batch, images=images)
'''


@pytest.fixture
def hide(tmp_path):
    """A plugin file with hooks as a class."""
    file = tmp_path / "hide_rows.py"
    file.write_text(HIDE)
    return file


def rows_hidden(plugins):
    """Return how many rows of a batch the hooks make black."""
    (transform,) = plugins.batch_transforms(stage="distill")
    numbers = torch.zeros(2, dtype=torch.int64)
    batch = lf.Batch(torch.ones(2, 1, 8, 8), numbers, numbers, numbers)
    return int((transform(batch, torch.Generator()).images[0, 0, :, 0] == 0).sum())


def test_hooks_of_a_file_take_options(hide):
    """A class with hooks is made with the options of its name; without any, with its defaults."""
    assert rows_hidden(Plugins(PluginChoice(files=[hide]))) == 1
    assert rows_hidden(Plugins(PluginChoice(files=[hide], settings={"Hide": {"rows": 3}}))) == 3


def test_hooks_of_a_package_take_options(install):
    """An entry point that names the class; the plugin's name is the entry point's."""
    install("lf-test-a", {"hide-rows": "lf_test_a:Hide"}, {"lf_test_a": HIDE})
    choice = PluginChoice(enable=["hide-rows"], settings={"hide-rows": {"rows": 2}})
    assert rows_hidden(Plugins(choice)) == 2


def test_a_later_place_overrules_an_option_and_keeps_the_rest(hide):
    """Options are merged one by one: the recipe overrules the project file, the caller the recipe."""
    hide.write_text(HIDE.replace("rows: int =", "more: int = 0\n    rows: int ="))
    project = Wish("learnforge.toml", settings={"Hide": {"rows": 5, "more": 7}}, is_general=True)
    choice = PluginChoice(files=[hide], settings={"Hide": {"rows": 2}}, beneath=(project,))
    assert choice.options_of("Hide") == {"rows": 2, "more": 7}
    assert choice.overruled(Wish("me", settings={"Hide": {"rows": 4}})).options_of("Hide")["rows"] == 4


def test_wrong_options_are_refused_with_their_path(hide):
    """All at once, as in every table."""
    choice = PluginChoice(files=[hide], settings={"Hide": {"rows": -1, "colour": 3}})
    with pytest.raises(RecipeError) as caught:
        Plugins(choice)
    assert sorted(problem.path for problem in caught.value.problems) == [
        "plugins.Hide.colour",
        "plugins.Hide.rows",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"Hid": {}},
            "`[plugins]`: options of 'Hid', which is no loaded plugin; did you mean",
        ),
        ({"csv": {}}, "options of 'csv', which is no loaded plugin; add \"csv\" to `enable`"),
    ],
)
def test_options_of_nothing_are_refused(hide, settings, words):
    """A table for a plugin that does not take part would be passed over in silence."""
    with pytest.raises(PluginError) as caught:
        Plugins(PluginChoice(files=[hide], settings=settings, where="`[plugins]`"))
    assert words in str(caught.value)


def test_a_project_file_may_set_up_what_a_run_does_not_use(hide):
    """An installed plugin that is not enabled is passed over; a name that nobody knows is told."""
    Plugins(PluginChoice(beneath=(Wish("learnforge.toml", settings={"csv": {"x": 1}}, is_general=True),)))
    unknown = Wish("learnforge.toml", settings={"nobody": {}}, is_general=True)
    with pytest.warns(lf.PluginWarning, match="learnforge.toml: options of 'nobody'"):
        Plugins(PluginChoice(beneath=(unknown,)))


def test_hooks_that_are_no_attrs_class_are_refused(hide):
    """Options need fields, and what can be written to the record."""
    hide.write_text(HIDE.replace("@frozen\n", ""))
    with pytest.raises(PluginError, match=r"Hide must be decorated with `@attrs\.frozen`"):
        Plugins(PluginChoice(files=[hide]))


def test_hooks_that_cannot_be_hashed_are_refused(hide):
    """They are told apart by their hash."""
    hide.write_text(HIDE.replace("@frozen", "@define").replace("import evolve", "import define, evolve"))
    with pytest.raises(PluginError, match=r"Hide must be hashable, as by `frozen\(eq=False\)`"):
        Plugins(PluginChoice(files=[hide]))


def test_options_change_the_fingerprint_and_stand_in_the_record(hide, tmp_path):
    """Another value gives another stage; a run goes on with the same one, and its record says which."""
    recipe = {**DISTILL, "stage": DISTILL["stage"][:1], "plugins": {"Hide": {"rows": 2}}}
    choice = PluginChoice(files=[hide])
    lf.run(recipe, tmp_path / "run", plugins=choice)
    assert lf.run(recipe, tmp_path / "run", plugins=choice).stages[0].state == "kept"
    other = {**recipe, "plugins": {"Hide": {"rows": 3}}}
    with pytest.raises(lf.RunError, match="changed"):
        lf.run(other, tmp_path / "run", plugins=choice)
    text = (tmp_path / "run" / "recipe.toml").read_text()
    assert "[plugins.Hide]\nrows = 2" in text


def test_traced_hooks_are_printed_with_their_seconds(hide, capsys):
    """Each call of a plugin's hook: which one, whose, and how long it took."""
    rows_hidden(Plugins(PluginChoice(files=[hide], is_tracing=True)))
    assert capsys.readouterr().err.startswith("learnforge_batch  plugin file hide_rows.py  0.0")


def test_a_class_that_is_not_marked_is_no_plugin(hide):
    """A file may hold a listener that is added in Python, beside what it brings itself."""
    hide.write_text(HIDE.replace("@hookimpl\n@frozen", "@frozen"))
    assert Plugins(PluginChoice(files=[hide])).batch_transforms(stage="distill") == []


def test_the_example_of_the_guide_runs():
    """`docs/hook_with_options.py` hides as many rows as it is told."""
    file = Path(__file__).parents[3] / "docs" / "hook_with_options.py"
    assert rows_hidden(Plugins(PluginChoice(files=[file], settings={"HideRows": {"rows": 4}}))) == 4


@pytest.mark.parametrize("is_general", [False, True])
def test_options_of_a_loaded_plugin_that_takes_none_are_refused(is_general):
    """In a recipe and in a project file: they would do nothing."""
    wish = Wish("there", enable=("csv",), settings={"csv": {"every": 10}}, is_general=is_general)
    with pytest.raises(PluginError, match="there: options of 'csv', which takes none; take them out"):
        Plugins(PluginChoice(beneath=(wish,)))


def test_values_that_are_no_options_are_refused(hide):
    """TOML has dates, which no record can hold."""
    recipe = {"plugins": {"Hide": {"rows": datetime.date(2026, 1, 1)}}}
    with pytest.raises(RecipeError, match=r"plugins\.Hide: must hold numbers, texts, lists and tables"):
        plugin_choice(recipe, PluginChoice(files=[hide]))
