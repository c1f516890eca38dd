"""Recipes: every error at once with its path, overrides, references."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import learnforge as lf
from learnforge.check import Tasks, check_recipe
from learnforge.context import choose_device
from learnforge.plugins.registry import Plugins
from learnforge.recipe import find_recipe, parse_recipe, plugin_choice, read_recipe
from learnforge.record import write_toml
from tests.core.recipes import DISTILL, ROAD


def problems_of(data: dict[str, Any], plugins: Plugins) -> dict[str, str]:
    """Return {TOML path: message} of everything wrong."""
    with pytest.raises(lf.RecipeError) as caught:
        check_recipe(parse_recipe(data, plugins), plugins, Tasks())
    return {problem.path: problem.message for problem in caught.value.problems}


def edited(*changes: tuple[list[Any], Any]) -> dict[str, Any]:
    data = copy.deepcopy(DISTILL)
    for path, value in changes:
        table: Any = data
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value
    return data


def test_packages_bring_recipes(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point `recipe.NAME` names the package of `NAME.toml`: a module at the top or further down, be
    it a folder of recipes alone. One without its file, one that is disabled and one whose package is missing
    are left out.
    """
    points = {"recipe.lone": "lf_test_a", "recipe.absent": "lf_test_a", "recipe.digits": "lf_test_a"}
    install("lf-test-a", points, {"lf_test_a": ""})
    install("lf-test-b", {"recipe.deep": "lf_test_b.recipes", "recipe.gone": "lf_test_c"}, {})
    package = install.folder / "lf_test_b" / "recipes"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    lone, deep = install.folder / "lone.toml", package / "deep.toml"
    for file in (lone, deep):
        file.write_text("")
    assert [find_recipe("lone"), find_recipe("deep")] == [lone, deep]
    assert find_recipe("digits").parent.name == "recipes"  # there is one file of that name
    for name in ("absent", "gone"):
        with pytest.raises(lf.RecipeError, match=name):
            find_recipe(name)
    monkeypatch.setenv("LEARNFORGE_DISABLE_PLUGINS", "recipe.deep")
    with pytest.raises(lf.RecipeError, match="deep"):
        find_recipe("deep")


def test_recipes_of_one_name_go_by_their_distributions(install: Any) -> None:
    """Neither is taken for the other; learnforge's own keep their names, as its methods do."""
    for name in ("a", "b"):
        points = {"recipe.digits": f"lf_test_{name}", "recipe.mine": f"lf_test_{name}"}
        install(f"lf-test-{name}", points, {f"lf_test_{name}": ""})
    for name in ("digits", "mine"):
        (install.folder / f"{name}.toml").write_text("")
    assert find_recipe("lf-test-a:digits") == install.folder / "digits.toml"
    assert find_recipe("digits").parent.name == "recipes"
    assert find_recipe("lf-test-b:mine") == install.folder / "mine.toml"
    with pytest.raises(lf.RecipeError, match="lf-test-a:mine"):
        find_recipe("mine")


def test_a_run_without_a_name_gets_that_of_the_file(tmp_path: Path) -> None:
    """Two recipes without names do not share a folder; a name that is given stays."""
    for text, name in (("", "mine"), ('[run]\nname = "other"\n', "other"), ("[run]\nseed = 1\n", "mine")):
        (tmp_path / "mine.toml").write_text(text)
        assert read_recipe(tmp_path / "mine.toml")["run"]["name"] == name
    assert read_recipe(tmp_path / "mine.toml", ["run.name=third"])["run"]["name"] == "third"


def test_every_error_comes_at_once(plugins: Plugins) -> None:
    """Unknown names, wrong types and ranges in different places are all reported, each with its path."""
    data = edited(
        (["run", "sed"], 1),
        (["task", "clases"], [1]),
        (["stage", 0, "use"], "kdd"),
        (["stage", 0, "train", "epochs"], -1),
        (["stage", 0, "student"], {"use": "conv4", "width": "wide"}),
        (["stage", 1, "options"], {"head_epoch": 2}),
        (["stage", 1, "train", "optimizer"], "adamm"),
        (["stages"], []),
    )
    found = problems_of(data, plugins)
    assert found["stages"].startswith("unknown table; did you mean 'stage'?")
    assert found["run.sed"].startswith("unknown option; did you mean 'seed'?")
    assert "did you mean 'classes'?" in found["task.clases"]
    assert "did you mean 'kd'?" in found["stage.first.use"]
    assert found["stage.first.train.epochs"] == "'epochs' must be >= 0: -1"
    assert found["stage.first.student.width"] == "must be a whole number, got 'wide' (str)"
    assert "did you mean 'head_epochs'?" in found["stage.second.options.head_epoch"]
    assert "there is no optimizer 'adamm'; did you mean 'adam" in found["stage.second.train.optimizer.use"]
    assert len(found) == 8


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (
            (["stage", 0, "kind"], "distil"),
            "stage.first.kind",
            "there is no stage 'distil'; did you mean 'distill'?",
        ),
        (
            (["stage", 0, "teacher"], "nowhere"),
            "stage.first.teacher",
            "'nowhere' is no earlier stage and no folder; no stage comes before",
        ),
        (
            (["stage", 0, "teacher"], "resnt"),
            "stage.first.teacher",
            """no stage comes before; for a model, { use = "resnet" }""",
        ),
        ((["stage", 1, "from"], "frist"), "stage.second.from", "did you mean 'first'?"),
        ((["stage", 1, "name"], "first"), "stage.first.name", "stage names must differ"),
        ((["stage", 1, "name"], "a/b"), "stage.a/b.name", "must be letters, digits, - and _"),
        ((["stage", 0, "method"], "kd"), "stage.first.method", "did you mean `use`?"),
        ((["stage", 0, "student"], 3), "stage.first.student", "must be a table"),
        ((["task"], 3), "task", 'must be a table with use = "task name"'),
        ((["stage"], []), "stage", "a recipe needs at least one [[stage]] table"),
    ],
)
def test_structure_errors(change: tuple[list[Any], Any], path: str, message: str, plugins: Plugins) -> None:
    """Each structural mistake is named at its path."""
    assert message in problems_of(edited(change), plugins)[path]


def test_a_first_stage_needs_its_input(plugins: Plugins) -> None:
    """A stage that takes the stage above cannot stand first."""
    data = copy.deepcopy(DISTILL)
    data["stage"] = data["stage"][1:]
    assert "there is no stage above" in problems_of(data, plugins)["stage.second.from"]


def test_a_stage_needs_a_task(plugins: Plugins) -> None:
    """Without [task] every stage must have its own."""
    data = copy.deepcopy(DISTILL)
    del data["task"]
    assert set(problems_of(data, plugins)) == {"stage.first.task"}


def test_a_model_that_cannot_take_the_images_is_found_before_training(plugins: Plugins) -> None:
    """A network is shown one image of its task on the meta device."""
    data = edited((["stage", 0, "student"], {"use": "torchvision", "name": "alexnet"}))
    message = problems_of(data, plugins)["stage.first.student"]
    assert message.startswith("the model must take images of shape [1, 8, 8], but it fails with")


def test_seen_test_classes_are_refused_before_training(plugins: Plugins, tmp_path: Path) -> None:
    """A meta stage whose test classes an earlier stage is trained on is refused by the check."""
    file = tmp_path / "road.toml"
    file.write_text(ROAD.replace("classes = [0, 1, 2]\n", "classes = [0, 1, 4]\n"))
    found = problems_of(read_recipe(file), plugins)
    assert "digits:4 were trained on upstream" in found["stage.meta.task"]


def test_plugin_choices_are_checked(plugins: Plugins) -> None:
    """`[plugins]` refuses unknown keys and wrong types."""
    with pytest.raises(lf.RecipeError, match=r"plugins.enabled: unknown option; did you mean 'enable'\?"):
        plugin_choice({"plugins": {"enabled": []}})
    with pytest.raises(lf.RecipeError, match=r"plugins.disable\[0\]: must be a string, got 3"):
        plugin_choice({"plugins": {"disable": [3]}})


def test_a_disabled_method_is_refused(plugins: Plugins) -> None:
    """A method whose plugin is disabled cannot be used, and the message says why."""
    choice = plugin_choice({"plugins": {"disable": ["distiller.kd"]}})
    with pytest.raises(lf.RecipeError, match=r"'distiller.kd' of learnforge .* is disabled by `\[plugins\]`"):
        parse_recipe(DISTILL, Plugins(choice))


def test_overrides(tmp_path: Path) -> None:
    """`--set` reaches tables, stages by name and nested tables, and reads values as TOML."""
    file = tmp_path / "road.toml"
    file.write_text(ROAD)
    data = read_recipe(
        file, ["run.seed=3", "stage.search.trials=50", "stage.search.train.epochs=9", "task.use=mnist"]
    )
    assert data["run"]["seed"] == 3
    assert data["task"]["use"] == "mnist"
    assert data["stage"][0]["trials"] == 50
    assert data["stage"][0]["train"]["epochs"] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials", "must look like stage.search.trials=50"),
        ("stage.serch.trials=5", "must name a stage and a key; did you mean 'search'?"),
        ("run.name.x=5", "name is 'small', not a table"),
    ],
)
def test_wrong_overrides(text: str, message: str, tmp_path: Path) -> None:
    """An override that cannot be applied says why."""
    file = tmp_path / "road.toml"
    file.write_text(ROAD)
    with pytest.raises(lf.RecipeError) as caught:
        read_recipe(file, [text])
    assert message in str(caught.value)


def test_finding_recipes(tmp_path: Path) -> None:
    """A built-in recipe is found by name; unknown names and missing files are named."""
    assert find_recipe("digits").name == "digits.toml"
    with pytest.raises(lf.RecipeError, match="did you mean 'digits'"):
        find_recipe("digit")
    with pytest.raises(lf.RecipeError, match="there is no such file"):
        find_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[run")
    with pytest.raises(lf.RecipeError, match="must be valid TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_objects_are_written_as_a_recipe_names_them() -> None:
    """Paths, tuples, methods and missing values of a call from Python make valid TOML."""
    method = lf.load_method("distiller.kd")(temperature=2.0)
    data = {"task": {"root": Path("photos"), "classes": (1, 2), "size": None}, "stage": [{"use": method}]}
    written = tomllib.loads(write_toml(data))
    assert written["task"] == {"root": "photos", "classes": [1, 2]}
    assert written["stage"][0]["use"]["use"] == "kd"
    assert written["stage"][0]["use"]["temperature"] == 2.0


def test_the_written_recipe_reads_back(tmp_path: Path) -> None:
    """What a run writes as recipe.toml is the recipe again."""
    data = copy.deepcopy(DISTILL)
    data["run"]["name"] = 'quotes " and \\ and\nlines'
    data["stage"][0]["options"] = {"pairs": {"stage 1": "stage 2", 'a "key"': "b"}, "empty": {}}
    (tmp_path / "recipe.toml").write_text(write_toml(data))
    assert read_recipe(tmp_path / "recipe.toml") == data


def test_a_recipe_can_name_no_code(plugins: Plugins) -> None:
    """A recipe is data: there is no key that loads a file."""
    with pytest.raises(lf.RecipeError, match=r"plugins\.files: unknown option"):
        plugin_choice({"plugins": {"files": ["evil.py"]}})


def test_the_example_is_the_packaged_recipe() -> None:
    """examples/recipes/digits.toml is the recipe that `learnforge run digits` runs."""
    examples = Path(__file__).parents[2] / "examples" / "recipes" / "digits.toml"
    assert examples.read_text() == find_recipe("digits").read_text()


def test_stages_are_frozen(plugins: Plugins) -> None:
    """A recipe's objects are values: changed by evolve, equal by content."""
    first, again = parse_recipe(DISTILL, plugins), parse_recipe(DISTILL, plugins)
    assert first.stages == again.stages
    assert evolve(first.stages[0], baseline=True) != first.stages[0]


def test_several_methods_at_once(plugins: Plugins) -> None:
    """`use = [...]` is the method of many, with the list as its methods; options must leave them alone."""
    data = copy.deepcopy(DISTILL)
    stage = next(table for table in data["stage"] if table["kind"] == "distill")
    stage["use"] = ["kd", {"use": "dist", "beta": 1.0}]
    stage["options"] = {"weights": [1.0, 0.5]}
    made = next(s for s in parse_recipe(data, plugins).stages if s.kind == "distill")
    assert [type(method).__name__ for method in made.method.methods] == ["KD", "DIST"]
    assert made.method.weights == (1.0, 0.5)
    for wrong in ("x", {"methods": ["dkd"]}):
        stage["options"] = wrong
        with pytest.raises(lf.RecipeError, match="must be a table without `methods`, which are in `use`"):
            parse_recipe(data, plugins)


def test_folders_are_no_recipes_and_hide_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is told apart from a missing file; a built-in recipe is found beside a folder of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "photos").mkdir()
    assert find_recipe("digits").name == "digits.toml"
    with pytest.raises(lf.RecipeError, match="is a folder; a recipe is a TOML file"):
        find_recipe("photos")


def test_problems_name_the_recipes_file(tmp_path: Path) -> None:
    """Also those that only the data show."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '[task]\nuse = "digits"\n[[stage]]\nkind = "transfer"\nuse = "fine-tune"\nfrom = "nowhere/x"\n'
    )
    with pytest.raises(lf.RecipeError, match=r"mine\.toml: 1 problem"):
        lf.run(path)


def test_a_key_of_the_stage_among_options_is_told_its_place() -> None:
    """`calibration` is the export stage's, not the exporter's; a name that both have is the method's."""
    data = copy.deepcopy(DISTILL)
    data["stage"].append({"kind": "export", "use": "torch-export", "options": {"calibration": 8, "speed": 1}})
    with pytest.raises(lf.RecipeError) as caught:
        lf.run(data)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert (
        found["stage.export.options.calibration"] == "is a key of the stage itself; take it out of `options`"
    )
    assert found["stage.export.options.speed"].startswith("unknown option")


def test_a_mark_of_notepad_is_no_part_of_the_recipe(tmp_path):
    """Editors on Windows put a byte order mark before UTF-8."""
    file = tmp_path / "marked.toml"
    file.write_text('[run]\nname = "größer"\n', encoding="utf-8-sig")
    assert read_recipe(file)["run"] == {"name": "größer"}


def test_a_recipe_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """With what the system says."""
    file = tmp_path / "secret.toml"
    file.write_text("")

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(lf.RecipeError, match=r"secret\.toml: 1 problem\n.*cannot be read: Permission denied"):
        read_recipe(file)


def test_names_that_no_folder_can_have_are_refused(plugins):
    """File systems take names of 255 bytes; the error does not repeat all of a long one."""
    stage = {"kind": "transfer", "name": "s" * 300, "use": "fine-tune", "from": {"use": "mlp"}}
    with pytest.raises(lf.RecipeError) as caught:
        parse_recipe({"run": {"name": "r" * 300}, "task": {"use": "digits"}, "stage": [stage]}, plugins)
    told = {problem.path: problem.message for problem in caught.value.problems}
    assert "at most 100 bytes" in told["stage.ssssssssssssssssssss….name"]
    assert "at most 100" in told["run.name"]


@pytest.mark.parametrize(
    "method", ["build", "require", "changes", "content", "without_pretrained", "is_trained_for"]
)
@pytest.mark.parametrize("kind", ["transfer", "distill"])
def test_a_model_at_fault_is_told_by_check(tmp_path, method, kind):
    """Whatever its code raises, in whichever of its methods, is a problem with its place in the recipe."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from attrs import frozen\nfrom torch import nn\nfrom learnforge import Model, hookimpl\n\n"
        "@frozen\nclass Odd(Model):\n"
        "    def build(self, task): return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))\n\n"
        "def boom(self, *arguments): raise KeyError('boom')\n\n"
        f"Odd.{method} = boom\n\n"
        "@hookimpl\ndef learnforge_models(): return {'odd': Odd}\n"
    )
    odd, mlp = {"use": "odd"}, {"use": "mlp", "hidden": [4]}
    stages = {
        "transfer": {"kind": "transfer", "use": "fine-tune", "from": odd},
        "distill": {"kind": "distill", "use": "kd", "teacher": odd, "teacher_train": {}, "student": mlp},
    }
    plugins = lf.Plugins(lf.PluginChoice(files=[file]))
    recipe = parse_recipe({"task": {"use": "digits"}, "stage": [stages[kind]]}, plugins)
    with pytest.raises(lf.RecipeError, match="it fails with KeyError: 'boom'") as caught:
        check_recipe(recipe, plugins, Tasks())
    where = {"transfer": "stage.transfer.from", "distill": "stage.distill.teacher"}
    assert [problem.path for problem in caught.value.problems] == [where[kind]]


def test_a_stages_task_follows_its_input(plugins):
    """A stage without a task learns that of the stage above, or of the one that it names as its input;
    with a model, or a folder, for an input it learns the recipe's.
    """
    own, other = {"use": "digits", "classes": [0, 1, 2]}, {"use": "digits", "classes": [3, 4]}
    model = {"use": "mlp", "hidden": [4]}
    stages = [
        {"kind": "transfer", "name": "first", "use": "fine-tune", "from": model},
        {"kind": "transfer", "name": "second", "use": "fine-tune", "task": other},
        {"kind": "export", "name": "above", "use": "torch-export"},
        {"kind": "export", "name": "named", "use": "torch-export", "from": "first"},
        {"kind": "distill", "name": "taught", "use": "kd", "teacher": "second", "student": model},
        {"kind": "distill", "name": "fresh", "use": "kd", "teacher": model, "student": model},
    ]
    recipe = parse_recipe({"task": own, "stage": stages}, plugins)
    learnt = {stage.name: list(recipe.task_of(stage).classes) for stage in recipe.stages}
    assert learnt == {
        "first": [0, 1, 2],
        "second": [3, 4],
        "above": [3, 4],
        "named": [0, 1, 2],
        "taught": [3, 4],
        "fresh": [0, 1, 2],
    }


def test_a_task_may_stand_in_the_first_stage_alone(plugins):
    """Stages after it follow; one that cannot is named."""
    model = {"use": "mlp", "hidden": [4]}
    first = {"kind": "transfer", "use": "fine-tune", "from": model, "task": {"use": "digits"}}
    export = {"kind": "export", "use": "torch-export"}
    assert len(parse_recipe({"stage": [first, export]}, plugins).stages) == 2
    alone = {"kind": "export", "use": "torch-export", "from": model}
    with pytest.raises(lf.RecipeError, match=r"stage\.export\.task: is missing, and there is no \[task\]"):
        parse_recipe({"stage": [first, alone]}, plugins)


NETWORK = {"use": "mlp", "hidden": [4]}
EPISODES = {"ways": 10**18, "shots": 1}


@pytest.mark.parametrize(
    ("stage", "path", "words"),
    [
        ({"options": {"low": 1, "high": 2}}, "stage.transfer.options", "a range must stand for one option"),
        ({"name": "a\nb"}, "stage.a\nb.name", "must be letters, digits, - and _"),
        (
            {"kind": "meta", "use": "maml", "episodes": EPISODES},
            "stage.meta.episodes.ways",
            "must be <= 10000",
        ),
        (
            {"kind": "search", "use": "random", "space": {"use": "residual", "stages": 10**9}},
            "stage.search.space.stages",
            "must be <= 64",
        ),
    ],
)
def test_values_beyond_all_bounds_are_problems(plugins, stage, path, words):
    """None of them hangs, takes all memory or ends in a traceback."""
    whole = {"kind": "transfer", "use": "fine-tune", **stage}
    if whole["kind"] != "search":
        whole["from"] = NETWORK
    with pytest.raises(lf.RecipeError) as caught:
        parse_recipe({"task": {"use": "digits"}, "stage": [whole]}, plugins)
    told = {problem.path: problem.message for problem in caught.value.problems}
    assert words in told[path]
    assert len(str(caught.value).splitlines()) == 1 + len(caught.value.problems)


def test_a_recipe_that_is_nested_too_deep_is_told(tmp_path):
    """TOML's reader gives up."""
    (tmp_path / "deep.toml").write_text("x = " + "[" * 600 + "]" * 600 + "\n")
    with pytest.raises(lf.RecipeError, match="must be valid TOML: maximum recursion depth"):
        read_recipe(tmp_path / "deep.toml")


def test_a_thousand_problems_are_counted(plugins):
    """All are there, and the text shows the first."""
    stages = [{"kind": "nope", "name": f"s{number}"} for number in range(1000)]
    with pytest.raises(lf.RecipeError) as caught:
        parse_recipe({"task": {"use": "digits"}, "stage": stages}, plugins)
    assert len(caught.value.problems) == 1000
    assert str(caught.value).endswith("\n  and 950 more")
    assert len(str(caught.value)) < 20_000


def test_there_is_one_cpu(plugins):
    """torch takes any number for it, and fails later."""
    with pytest.raises(lf.RecipeError, match="got 'cpu:7': there is one CPU, `cpu`"):
        choose_device("cpu:7")
    assert str(choose_device("cpu:0")) == "cpu:0"
