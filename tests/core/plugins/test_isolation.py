"""A plugin at fault never stops the host, other plugins, or changes a run; held strictly, its faults are
errors.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from tests.core.recipes import DISTILL

import learnforge as lf
from learnforge import PluginChoice, PluginError, Plugins, PluginWarning
from learnforge.randomness import read_settings
from learnforge_plugins.reports.plugin import report_sections


@pytest.fixture
def load(tmp_path):
    """Load sources as plugin files, `load({name: source}, strict=…)`."""

    def make(sources, strict=False):
        files = []
        for name, source in sources.items():
            files.append(tmp_path / f"{name}.py")
            files[-1].write_text("from learnforge import hookimpl\n" + textwrap.dedent(source))
        return Plugins(PluginChoice(files=files, strict=strict))

    yield make
    for name in [name for name in sys.modules if name.startswith("learnforge_plugin_")]:
        del sys.modules[name]


GOOD = "heard = []\n@hookimpl\ndef learnforge_stage_started(stage): heard.append(stage)\n"
WRAPPER = "@hookimpl(wrapper=True)\ndef learnforge_stage_started():"
WRAPPERS = {
    "raises before": WRAPPER + "\n    raise OSError('full')\n    yield",
    "raises after": WRAPPER + "\n    yield\n    raise OSError('full')",
    "yields twice": WRAPPER + "\n    yield\n    yield",
    "never yields": WRAPPER + "\n    if False: yield",
    "old style": WRAPPER.replace("w", "hookw", 1) + "\n    yield\n    raise OSError('full')",
    "exits": "@hookimpl\ndef learnforge_stage_started(): raise SystemExit(3)",
}


@pytest.mark.parametrize("fault", WRAPPERS)
def test_faults_around_notifications_stop_nobody(load, fault):
    """Wrappers that raise or yield wrongly, and plugins that exit: a warning, and the others hear it."""
    plugins = load({"first": GOOD, "bad": WRAPPERS[fault], "last": GOOD})
    with pytest.warns(PluginWarning, match=r"plugin file bad.py: `learnforge_stage_started` fails with"):
        plugins.hook.learnforge_stage_started(stage="search", kind="search")
    assert sys.modules["learnforge_plugin_first"].heard == ["search"]
    assert sys.modules["learnforge_plugin_last"].heard == ["search"]


def test_good_wrappers_wrap(load):
    """A wrapper that is in order runs around the others and is not reported."""
    wrapper = """
        order = []
        @hookimpl(wrapper=True)
        def learnforge_stage_started(stage):
            order.append("before")
            result = yield
            order.append("after")
            return result
        """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load({"outer": wrapper}).hook.learnforge_stage_started(stage="s", kind="search")
    assert sys.modules["learnforge_plugin_outer"].order == ["before", "after"]


@pytest.mark.parametrize("fault", [fault for fault in WRAPPERS if fault != "old style"])  # pluggy warns there
def test_strict_makes_faults_in_notifications_errors(load, fault):
    """With strict plugins the same faults are errors of the same words."""
    plugins = load({"bad": WRAPPERS[fault]}, strict=True)
    with pytest.raises(PluginError, match=r"plugin file bad.py: `learnforge_stage_started` fails with"):
        plugins.hook.learnforge_stage_started(stage="search", kind="search")


def test_strict_makes_a_broken_hooks_only_plugin_an_error(install):
    """What would have been left out is an error, named with its distribution."""
    install("lf-test-a", {"lf-test-bad": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    with pytest.raises(
        PluginError, match=r"'lf-test-bad' of lf-test-a 1.0: its import fails with ZeroDivisionError"
    ):
        Plugins(PluginChoice(enable=("lf-test-bad",), strict=True))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; sys.exit('bye')", "its import fails with SystemExit: bye"),
        ("from learnforge import hookimpl\n@hookimpl\ndef learnforge_stage_startd(): pass", "unknown hook"),
        (
            "from learnforge import hookimpl\n@hookimpl\ndef learnforge_stage_started(kid): pass",
            "has no argument",
        ),
        ("def learnforge_stage_started(): pass", "must be marked"),
        (
            "from learnforge import hookimpl\n@hookimpl\nasync def learnforge_stage_started(): pass",
            "not async",
        ),
    ],
)
def test_faults_on_loading_leave_the_plugin_out(install, source, words):
    """Whatever is wrong with an enabled plugin is a warning with plugin, distribution and a way out."""
    install("lf-test-a", {"lf-test-bad": "lf_test_a"}, {"lf_test_a": source})
    with pytest.warns(
        PluginWarning,
        match=rf"'lf-test-bad' of lf-test-a 1.0(?s:.*){words}(?s:.*)`--no-plugin lf-test-bad`.*without",
    ):
        plugins = Plugins(PluginChoice(enable=("lf-test-bad",)))
    standing = next(s for s in plugins.standings() if s.plugin.name == "lf-test-bad")
    assert (standing.status, words in standing.reason) == ("failed", True)
    plugins.hook.learnforge_stage_started(stage="s", kind="search")


def test_deprecated_hook_arguments_warn_with_the_plugins_name(load):
    """A plugin that takes an argument which is going away is named; strictly it is an error."""
    specs = """
        import pluggy
        class Specs:
            @pluggy.HookspecMarker("learnforge")(
                warn_on_impl_args={"old": FutureWarning("`old` goes away in 2.0; take `new`")}
            )
            def learnforge_test_hook(self, old, new): "A hook."
        @hookimpl
        def learnforge_add_hooks(manager): manager.add_hookspecs(Specs)
        """
    uses = "@hookimpl\ndef learnforge_test_hook(old): return old\n"
    with pytest.warns(PluginWarning, match="`old` goes away in 2"):
        load({"specs": specs, "uses": uses})
    with pytest.raises(PluginError, match="`old` goes away in 2"):
        load({"specs": specs, "uses": uses}, strict=True)


BROKEN = {
    "lf_test_broken": "1 / 0",
    "lf_test_noisy": """
        import random
        import numpy, torch
        from learnforge import hookimpl

        @hookimpl
        def learnforge_epoch_finished(stage, metrics):
            random.random(), numpy.random.rand(), torch.rand(1), torch.manual_seed(7)
            metrics["loss"] = -1.0
            raise OSError("full")

        @hookimpl
        def learnforge_stage_started(stage):
            torch.manual_seed(3)
            torch.set_grad_enabled(False)
            torch.set_default_dtype(torch.float64)

        @hookimpl
        def learnforge_stage_finished(artifact):
            for tensor in artifact.weights.values():
                tensor.zero_()
            artifact.metrics.clear()

        @hookimpl
        def learnforge_run_started(run): run.stages.clear()
        """,
}


def test_a_broken_plugin_changes_no_bit_of_a_run(install, tmp_path):
    """A run with plugins that fail, draw random numbers and change what they are shown gives equal bits."""
    points = {"distiller.broken": "lf_test_broken", "lf-test-track": "lf_test_broken"}
    points["lf-test-noisy"] = "lf_test_noisy"
    plain = lf.run(DISTILL, tmp_path / "plain")
    install("lf-test-a", points, BROKEN)
    installed = lf.run(DISTILL, tmp_path / "installed")
    choice = PluginChoice(enable=("lf-test-track", "lf-test-noisy"))
    with pytest.warns(PluginWarning) as heard:
        enabled = lf.run(DISTILL, tmp_path / "enabled", plugins=choice)
    assert {str(w.message).split(":")[0] for w in heard} == {
        "plugin 'lf-test-track' of lf-test-a 1.0",
        "plugin 'lf-test-noisy' of lf-test-a 1.0",
    }
    for other in (installed, enabled):
        for name, artifact in plain.artifacts.items():
            same = other.artifacts[name]
            assert same.provenance == artifact.provenance
            assert all(torch.equal(t, same.weights[key]) for key, t in artifact.weights.items())
            assert _without_times(same.metrics) == _without_times(artifact.metrics)


def _without_times(metrics):
    timed = ("seconds", "latency_ms", "teacher_latency_ms", "history")
    return {k: v for k, v in metrics.items() if k not in timed}


def test_a_fault_in_the_selected_method_names_it(tmp_path):
    """What a stage's own method raises ends the run, with the stage, the method and who brings it."""
    file = tmp_path / "hasty.py"
    file.write_text(
        textwrap.dedent(
            """
            from attrs import frozen
            from learnforge import Distiller, hookimpl

            @frozen
            class Hasty(Distiller):
                def loss(self, student, teacher, batch): raise KeyError("hint")

            @hookimpl
            def learnforge_distillers(): return {"hasty": Hasty}
            """
        )
    )
    recipe = {**DISTILL, "stage": [{**DISTILL["stage"][0], "use": "hasty"}]}
    with pytest.raises(KeyError) as caught:
        lf.run(recipe, plugins=PluginChoice(files=(file,)))
    assert caught.value.__notes__ == ["in stage 'first', which uses distiller.hasty of hasty.py"]


def test_a_fault_in_a_hook_that_changes_results_names_it(load):
    """What is not guarded says whose it is."""
    plugins = load({"veto": "@hookimpl\ndef learnforge_vet_design(): raise OSError('full')\n"})
    words = "plugin file veto.py: `learnforge_vet_design` fails with OSError: full. Mend it, or leave it out."
    with pytest.raises(PluginError) as caught:
        plugins.hook.learnforge_vet_design(design={}, cost=None, stage="s")
    assert str(caught.value) == words
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [("learnforge_vet_design", "str"), ("learnforge_batch", "Batch")],
)
def test_a_hook_that_returns_something_else_is_named(load, hook, wanted):
    """What changes results returns its kind of result, or None."""
    plugins = load({"odd": f"@hookimpl\ndef {hook}(): return 3\n"})
    arguments = dict.fromkeys(getattr(plugins.hook, hook).spec.argnames)
    words = (
        f"plugin file odd.py: `{hook}` must return {wanted} or None, it returned 3. Mend it, or leave it out."
    )
    with pytest.raises(PluginError) as caught:
        getattr(plugins.hook, hook)(**arguments)
    assert str(caught.value) == words


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["distill", "search"])
def test_a_fault_in_a_hook_is_not_blamed_on_the_method(write_plugin, kind, workers):
    """A run ends with the plugin's name; in a search it is no result of a design."""
    file = write_plugin("mine.py", "@hookimpl\ndef learnforge_batch(): raise OSError('full')\n")
    search = {
        "kind": "search",
        "use": "random",
        "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8},
        "trials": 2,
        "train": {"epochs": 1},
    }
    stage = search if kind == "search" else DISTILL["stage"][0]
    with pytest.raises(
        PluginError, match=r"plugin file mine.py: `learnforge_batch` fails with OSError: full"
    ) as caught:
        lf.run({**DISTILL, "stage": [stage]}, plugins=PluginChoice(files=(file,)), workers=workers)
    assert caught.value.__notes__ == [f"in stage {stage.get('name', 'search')!r}"]


def test_an_error_without_a_text_is_reported(load):
    """An exception whose own text fails is reported by its type."""
    source = """
        class Silent(Exception):
            def __str__(self): raise KeyError("no text")
        @hookimpl
        def learnforge_stage_started(): raise Silent
        """
    with pytest.warns(PluginWarning, match="fails with Silent: whose text cannot be had"):
        load({"silent": source}).hook.learnforge_stage_started(stage="s", kind="search")


def test_sections_that_are_none_are_left_out(load):
    """A plugin that gives something else than sections is named; the others' sections are shown."""
    good = "from learnforge import Section\n@hookimpl\n"
    good += "def learnforge_report_sections(): return [Section(1, rows=[(2,)])]\n"
    bad = "@hookimpl\ndef learnforge_report_sections(): return ['Hello']\n"
    plugins = load({"bad": bad, "good": good})
    with pytest.warns(PluginWarning, match=r"bad.py: .* it must give objects of Section, gave 'Hello'"):
        (section,) = plugins.gather("learnforge_report_sections", lf.Section, run=None)
    assert (section.title, section.rows) == ("1", (("2",),))


def test_optional_hooks_may_be_unknown(load):
    """A plugin may listen to another's hook where that one is installed, and load where it is not."""
    source = "@hookimpl(optionalhook=True)\ndef learnforge_nobodys(x): pass\n"
    assert len(load({"listens": source}).loaded) == 1


def test_a_worker_does_not_tell_it_again(install):
    """Plugins that are unpickled, as in a worker, load the same and repeat no warning."""
    install("lf-test-a", {"lf-test-bad": "lf_test_a"}, {"lf_test_a": "1 / 0"})
    with pytest.warns(PluginWarning, match="its import fails"):
        plugins = Plugins(PluginChoice(enable=("lf-test-bad",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(pickle.dumps(plugins))
    assert again.choice == plugins.choice
    assert {s.plugin.name: s.status for s in again.standings()}["lf-test-bad"] == "failed"


def test_a_text_for_a_list_is_one_result() -> None:
    """A plugin that says what it misses in one text is not read letter by letter."""

    class Own:
        @lf.hookimpl
        def learnforge_missing(self) -> str:
            return "pip install x"

    plugins = lf.Plugins()
    plugins.add(Own())
    assert plugins.gather("learnforge_missing", str) == ["pip install x"]


def test_a_method_of_a_file_is_the_same_in_another_process(write_plugin):
    """Unpickled with its plugins, it has the identity that it has here, whether or not it was looked up."""
    file = write_plugin(
        "mine.py",
        """
        from attrs import frozen
        from learnforge import Score

        @frozen
        class Fixed(Score):
            def score(self, network, images, labels): return 1.0

        @hookimpl
        def learnforge_scores(): return {"fixed": Fixed}
        """,
    )
    script = (
        "import pickle, sys\n"
        "plugins, method = (pickle.loads(bytes.fromhex(word)) for word in sys.argv[1:])\n"
        "from learnforge import identify\n"
        "print(identify(method))\n"
    )
    plugins = Plugins(PluginChoice(files=(file,)))
    method = plugins.load("score", "fixed")()
    pickled = [pickle.dumps(part).hex() for part in (plugins, method)]
    done = subprocess.run(
        [sys.executable, "-c", script, *pickled], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(lf.identify(method)) == "score.fixed of (file)"


SETTINGS = {
    "the default type": "torch.set_default_dtype(torch.float64)",
    "the default device": "torch.set_default_device('meta')",
    "the gradient mode": "torch.set_grad_enabled(False)",
    "the number of threads": "torch.set_num_threads(3)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "anomaly detection": "torch.autograd.set_detect_anomaly(True)",
    "the flushing of denormals": "torch.set_flush_denormal(True)",
    "hooks of all modules": "torch.nn.modules.module.register_module_forward_hook(print)",
    "autocast on the CPU": "torch.set_autocast_enabled('cpu', True)",
    "the precision of matmul": "torch.set_float32_matmul_precision('medium')",
    "torch.backends.mkldnn.enabled": "torch.backends.mkldnn.enabled = False",
    "torch.backends.mkldnn.fp32_precision": "torch.backends.mkldnn.fp32_precision = 'bf16'",
    "torch.backends.cudnn.benchmark": "torch.backends.cudnn.benchmark = True",
    "flash attention": "torch.backends.cuda.enable_flash_sdp(False)",
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("place", ["hook", "import"])
def test_what_a_plugin_changes_of_torch_is_put_back_and_told(load, name, place):
    """At its import and in its hooks."""
    before = read_settings()
    change = f"import torch\n{SETTINGS[name]}\n"
    hook = "@hookimpl\ndef learnforge_stage_started():\n    " + change.replace("\n", "\n    ")
    with pytest.warns(PluginWarning, match=rf"bad.* changes .*{name}.* of torch, and must not"):
        _hear(load, change if place == "import" else hook)
    assert read_settings() == before


def _hear(load, source):
    load({"bad": source}).hook.learnforge_stage_started(stage="s", kind="search")


def test_who_brings_torch_may_not_change_it_either(tmp_path):
    """Also where nobody had imported it before the plugin."""
    (tmp_path / "first.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\n")
    script = (
        "import sys, learnforge as lf\nassert 'torch' not in sys.modules\n"
        "lf.Plugins(lf.PluginChoice(files=['first.py']))\nprint(sys.modules['torch'].get_default_dtype())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
    )
    assert done.stdout == "torch.float32\n"
    assert "changes the default type of torch" in done.stderr


def test_what_a_method_changes_of_torch_is_put_back_and_told(tmp_path):
    """After its stage, with the stage's name."""
    file = tmp_path / "careless.py"
    file.write_text(
        textwrap.dedent(
            """
            import torch
            from attrs import frozen
            from learnforge import hookimpl
            from learnforge_plugins.distillers.kd import KD

            @frozen
            class Careless(KD):
                def loss(self, student, teacher, batch):
                    torch.set_flush_denormal(True)
                    return super().loss(student, teacher, batch)

            @hookimpl
            def learnforge_distillers(): return {"careless": Careless}
            """
        )
    )
    recipe = {**DISTILL, "stage": [{**DISTILL["stage"][0], "use": "careless"}]}
    words = r"stage 'first': a plugin changes the flushing of denormals of torch, and must not"
    with pytest.warns(PluginWarning, match=words):
        lf.run(recipe, plugins=PluginChoice(files=(file,)))
    assert "the flushing of denormals" in read_settings()
    assert not read_settings()["the flushing of denormals"]


def test_what_a_space_changes_of_torch_does_not_reach_the_next_trial(tmp_path):
    """It is put back after each trial, in whatever process that was."""
    file = tmp_path / "careless.py"
    file.write_text(
        textwrap.dedent(
            """
            import torch
            from attrs import frozen
            from learnforge import hookimpl
            from learnforge_plugins.spaces.residual import Residual

            @frozen
            class Careless(Residual):
                def build(self, design, task):
                    network = super().build(design, task)
                    network.register_forward_pre_hook(change)
                    return network

            def change(network, given):
                if network.training:
                    torch.backends.cudnn.benchmark = True

            @hookimpl
            def learnforge_spaces(): return {"careless": Careless}
            """
        )
    )
    stage = {
        "kind": "search",
        "use": "random",
        "space": {"use": "careless", "stages": 1, "blocks": 1, "max_width": 8},
        "trials": 2,
        "train": {"epochs": 1},
        "retrain": {"epochs": 0},
    }
    with pytest.warns(PluginWarning) as heard:
        lf.run({**DISTILL, "stage": [stage]}, plugins=PluginChoice(files=(file,)))
    told = [str(warning.message) for warning in heard]
    assert sum("trial" in words and "torch.backends.cudnn.benchmark of torch" in words for words in told) == 2
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("images=batch.images.double()", r"must return images of torch\.float32 on cpu"),
        ("images=None", "must return images of"),
        ("images=batch.images[:, 0]", r"must return images as \[batch, 1, height, width\], got \[4, 8, 8\]"),
        ("images=batch.images[:1]", r"must return as many labels and indices as images, got \[1, 4, 4\]"),
        ("labels=batch.labels[:0]", r"must return as many labels and indices as images, got \[4, 0, 4\]"),
    ],
)
def test_a_batch_that_no_step_can_be_made_with_is_named(load, change, words):
    """Before the network meets it, which would be blamed on the method."""
    source = f"import attrs\n@hookimpl\ndef learnforge_batch(batch): return attrs.evolve(batch, {change})\n"
    (transform,) = load({"bad": source}).batch_transforms(stage="s")
    numbers = torch.arange(4)
    with pytest.raises(PluginError, match=rf"plugin file bad.py: `learnforge_batch` {words}"):
        transform(lf.Batch(torch.ones(4, 1, 8, 8), numbers, numbers, numbers), torch.Generator())


def test_any_error_of_a_listener_is_told_but_for_ctrl_c(load):
    """One that is no `Exception` too."""
    source = "@hookimpl\ndef learnforge_stage_started(stage): raise {}\n"
    strange = source.format("type('Strange', (BaseException,), {})('no')")
    with pytest.warns(PluginWarning, match="fails with Strange: no"):
        load({"bad": strange}).hook.learnforge_stage_started(stage="s", kind="search")
    with pytest.raises(KeyboardInterrupt):
        load({"stop": source.format("KeyboardInterrupt")}).hook.learnforge_stage_started(stage="s", kind="k")


def test_listeners_cannot_change_the_plugins_of_a_run():
    """They look at a run's plugins, and at nothing by which these could be changed."""
    heard = []

    class Ear:
        @lf.hookimpl
        def learnforge_run_started(self, run):
            heard.append(run.plugins)

    made = lf.run(DISTILL, hooks=[Ear()])
    (seen,) = heard
    assert seen is not made.plugins
    assert seen.record()["loaded"] == made.plugins.record()["loaded"]
    for call in (lambda: seen.add(Ear()), lambda: seen.load_hooks("csv"), lambda: seen.manager):
        with pytest.raises(PluginError, match="who listens to a run cannot change its plugins"):
            call()


def test_a_module_that_answers_nothing_loads(load):
    """`__getattr__` of a module is asked for no hook."""
    plugins = load({"odd": GOOD + "def __getattr__(name): raise RuntimeError(name)\n"})
    plugins.hook.learnforge_stage_started(stage="search", kind="search")
    assert sys.modules["learnforge_plugin_odd"].heard == ["search"]


@pytest.mark.parametrize("figure", ["3", "Broken()"])
def test_a_figure_that_cannot_be_shown_is_its_plugins_fault(tmp_path, figure):
    """The report goes without that section."""
    file = tmp_path / "bad.py"
    file.write_text(
        textwrap.dedent(
            f"""
            from learnforge import Section, hookimpl

            class Broken:
                def to_html(self, **given): raise ValueError("no")

            @hookimpl
            def learnforge_report_sections(run): return [Section("mine", figures=[{figure}])]
            """
        )
    )
    run = lf.run(DISTILL, tmp_path / "run", plugins=PluginChoice(files=(file,)))
    with pytest.warns(PluginWarning, match=r"plugin file bad.py: `learnforge_report_sections` fails with"):
        assert report_sections(run) == []
