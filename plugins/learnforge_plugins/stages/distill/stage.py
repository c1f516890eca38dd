"""The kind of stage `distill`: its settings, and the chain of trainings from teacher to student."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, gt, in_

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.errors import LearnforgeError, PluginError, Problem, StageError
from learnforge.hookspecs import hookimpl
from learnforge.kinds.distiller import Distiller
from learnforge.kinds.model import Model
from learnforge.kinds.seen.network import Layers
from learnforge.kinds.space import Design, Space
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task
from learnforge.options.ranges import Tune
from learnforge.options.structure import plugin_field
from learnforge.plugins.registry import Plugins
from learnforge.spec import NetworkSpec, TaskInfo
from learnforge_kit.networks.layers import count_parameters, device_of, read_layers
from learnforge_kit.networks.modules import build_failure, check_fit, check_modules, skeleton
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.distill.gap import count_assistants
from learnforge_plugins.stages.distill.teacher import TeacherSettings
from learnforge_plugins.stages.distill.training import Distillation, example_images, teacher_roles
from learnforge_plugins.stages.examples import faults_of_all


@frozen(kw_only=True)
class StudentSearch(Tune):
    """How a searcher picks the student: each trial distils one, and is judged on validation data.

    Args:
        searcher: Any searcher.
        trials: Distinct students to distil, from 1.
        objectives: `accuracy` of the distilled student on validation data, or what else the task's form
            measures, or a cost with a minus before it; the best by the first one is taken. By default what
            the form measures first.
        limits: Largest allowed costs: `parameters`, `macs`, `peak_activation_bytes`, `latency_ms`.
        batch: Trials asked at a time; with it the search is the same for any number of workers.
        threads: CPU threads of a trial.
        executor: Where trials run; by default `processes` for more than one worker.
        space: Where the student is from.
        train: How trials are trained; by default as the student itself.
    """

    space: Space = plugin_field("space")
    train: Train | None = None


@frozen(kw_only=True)
class DistillStage(Stage):
    """Teach a student network what a teacher knows.

    `use` is a distiller, or a list of several whose losses are added, with `options = { weights = […] }`.

    Args:
        teacher: A stage, an artifact's folder, or a model, or a list of several that teach as one; the stage
            above by default.
        teacher_weights: Share of each of several teachers, above 0; equal by default.
        ensemble: Average the teachers' `logits`, or their `probabilities`.
        teacher_precision: Precision of the teacher's arithmetic: `32`, or `bf16` for autocast to bfloat16.
        teacher_train: How a teacher that is a model without weights is trained first, on labels.
        student: A model, a stage or artifact to go on from, or `{ search = { … } }`.
        fresh: Start from fresh weights of the student's network, not those it comes with.
        train: How the student is trained, assistants and generations as well.
        generations: Students in a row, each with fresh weights and taught by the one before (born-again
            networks: Furlanello et al. 2018, arXiv:1805.04770); the last one is handed on.
        assistants: Networks between teacher and student, each taught by the one above: 0, 1, 2, or `auto`
            for as few as leave no gap above 20 times the parameters. Taken from the family of the student's
            model, or of the teacher's.
        assistant_models: Assistants of your own, largest first.
        cache: `views` keeps the teacher's scores by image and augmented view on the disk, for all epochs,
            seeds, trials and students that share the teacher; the student stays the same, bit for bit.
        cache_precision: `32` is exact; `16` halves the place and is approximate.
        cache_gib: What all teacher caches in the cache folder may take, in GiB.
        baseline: Train the same student, from the same initial weights, with the same budget and without the
            teacher, and report both.
    """

    teacher: Reference | tuple[Reference, ...] = plugin_field(
        "model", default=None, reference=True, many="or one"
    )
    teacher_weights: tuple[float, ...] = field(default=(), validator=deep_iterable(gt(0.0)))
    ensemble: Literal["logits", "probabilities"] = field(
        default="logits", validator=in_(("logits", "probabilities"))
    )
    teacher_precision: Literal["32", "bf16"] = field(default="32", validator=in_(("32", "bf16")))
    teacher_train: Train | None = None
    student: Reference | StudentSearch = plugin_field(
        "model", reference=True, tables={"search": StudentSearch}
    )
    fresh: bool = False
    train: Train = Train()
    generations: int = field(default=1, validator=ge(1))
    assistants: Literal[0, 1, 2, "auto"] = field(default=0, validator=in_((0, 1, 2, "auto")))
    assistant_models: tuple[Model, ...] = plugin_field("model", default=(), many=True)
    cache: Literal["off", "views"] = field(
        default="off", validator=in_(("off", "views")), metadata={"placement": True}
    )
    cache_precision: Literal["32", "16"] = field(
        default="32", validator=in_(("32", "16")), metadata={"placement": True}
    )
    cache_gib: float = field(default=4.0, validator=gt(0.0), metadata={"placement": True})
    baseline: bool = field(default=True)

    kind: ClassVar[str] = "distill"
    forms: ClassVar[frozenset[str] | None] = None
    method_kind: ClassVar[str] = "distiller"
    method_base: ClassVar[type] = Distiller
    method_of_many: ClassVar[str] = "sum"

    @property
    def teacher_settings(self) -> TeacherSettings:
        """How the teacher is asked."""
        return TeacherSettings(self.ensemble, self.teacher_weights, self.teacher_precision)

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        problems = [
            fault for role, artifact in inputs.items() for fault in check_fit(role, artifact.task, task.info)
        ] or check_modules(self, inputs)
        trains = {"train": self.train, "teacher_train": self.teacher_train or Train()}
        problems += [Problem(key, words) for key, own in trains.items() if (words := own.fault(task.info))]
        problems += self._check_teachers(task, inputs) + self._check_chain(inputs)
        if self.cache != "off" and (self.train.mixes_images or self.train.masks_images):
            words = (
                "must be off where `train` mixes images (mixup, cutmix) or hides parts of them (time_mask, "
                "frequency_mask): what is shown is shown only once"
            )
            problems.append(Problem("cache", words))
        if self.train.mixes_images and self.method.needs_single_labels():
            words = (
                f"must not mix images (mixup, cutmix): {type(self.method).__name__} needs one class for each"
            )
            problems.append(Problem("train", words))
        if isinstance(self.student, StudentSearch):
            problems += self._check_search(self.student, task.info, plugins)
        return problems or self._check_wiring(task, inputs, plugins)

    def _check_search(self, search: StudentSearch, task: TaskInfo, plugins: Plugins) -> list[Problem]:
        from learnforge.kinds.tuner import load_tuner  # most stages are given their student

        try:
            return load_tuner(plugins).check_settings(
                search, "student.search", search.space, self.judged_by(task)
            )
        except PluginError as error:
            return [Problem("student.search", str(error))]

    def _check_teachers(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = []
        roles = teacher_roles(inputs)
        if not roles:
            problems.append(Problem("teacher", "must name at least one teacher, the list is empty"))
        if self.teacher_weights and len(self.teacher_weights) != len(roles):
            words = f"must be one number for each of {len(roles)} teachers, got {list(self.teacher_weights)}"
            problems.append(Problem("teacher_weights", words))
        for role, reference in self.describe_inputs().items():
            knows_nothing = isinstance(reference, Model) and not _is_trained(reference, task)
            is_untaught = self.teacher_train is None and not self.method.trains_teacher
            if role in roles and knows_nothing and is_untaught:
                words = (
                    "is a model without weights for the task's classes, which knows nothing yet; say how to "
                    "train it, `teacher_train = { epochs = … }`"
                )
                problems.append(Problem(role, words))
        return problems

    def _check_chain(self, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = []
        if self.method.trains_teacher or not self.method.shows_images:
            from learnforge_plugins.stages.distill.learning import check_learning  # few methods do

            problems += check_learning(self, len(teacher_roles(inputs)))
        student = inputs.get("student")
        if self.assistants and self.assistant_models:
            problems.append(Problem("assistants", "must be 0 where `assistant_models` names them"))
        if student is not None and student.module is not None:
            words = "a module of the caller's has no fresh weights"
            problems += [
                Problem(key, f"must be {want}: {words}")
                for key, want, is_wrong in (
                    ("fresh", "false", self.fresh),
                    ("generations", "1", self.generations > 1),
                )
                if is_wrong
            ]
        return problems

    def _check_wiring(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        """Let the method name its layers."""
        known = {"student": self.output(task, inputs), **inputs}
        roles = [*teacher_roles(inputs), "student"]

        stand_ins = [known[role] for role in roles]
        has_sizes = all(artifact.is_buildable for artifact in stand_ins)  # else they are of the design found

        def check(networks: Sequence[Artifact]) -> list[Problem]:
            return self._wiring_faults(task, dict(zip(roles, networks, strict=True)), plugins, has_sizes)

        return faults_of_all(stand_ins, plugins, check)

    def _wiring_faults(
        self, task: Task, networks: Mapping[str, Artifact], plugins: Plugins, has_sizes: bool
    ) -> list[Problem]:
        found = []
        for role, artifact in networks.items():
            try:
                network = skeleton(artifact, plugins, task.info).eval()
                with device_of(network):
                    found.append(read_layers(network, torch.zeros(2, *task.info.input_shape)))
            except Exception as error:  # whatever the network's own code raises
                return build_failure(self, role, error)
        try:
            self.wire(found[-1], found[:-1])
        except StageError as error:
            return [Problem("options", str(error))]
        if not has_sizes:
            return []
        try:
            student, *teachers = (count_parameters(layers.network) for layers in reversed(found))
            count = count_assistants(self.assistants, sum(teachers) / student)
            if not count:
                return []
            from learnforge_plugins.stages.distill.assistants import choose_assistants  # most need none

            specs = [artifact.spec for artifact in reversed(list(networks.values()))]
            choose_assistants(count, sum(teachers), student, specs, task.info, plugins)
        except StageError as error:
            return [Problem("assistants", str(error))]
        return []

    def wire(self, student: Layers, teachers: Sequence[Layers]) -> tuple[Sequence[str], Sequence[str]]:
        """Return the layers that the method listens to in student and teacher."""
        student_names, teacher_names = self.method.taps(student, teachers[0])
        if teacher_names and len(teachers) > 1:
            raise StageError(
                f"{type(self.method).__name__} listens to layers of the teacher, "
                f"{', '.join(teacher_names)}, and there are "
                f"{len(teachers)} teachers; give it one, or use a method that needs class scores "
                "alone"
            )
        if teacher_names and self.cache != "off":
            raise StageError(
                f"the teacher cache holds class scores alone, and {type(self.method).__name__} listens to "
                f'layers of the teacher, {", ".join(teacher_names)}; set `cache = "off"`'
            )
        for layers, names in ((student, student_names), (teachers[0], teacher_names)):
            for name in names:
                layers.find(name)
        return student_names, teacher_names

    def fingerprint_data(self) -> dict[str, Any]:
        """Leave out where scores are kept, unless it changes the result."""
        is_rounded = self.cache == "views" and self.cache_precision == "16"
        rounded = [self.cache_precision, self.cache_gib] if is_rounded else None
        return {**super().fingerprint_data(), "rounded cache": rounded}

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        if isinstance(self.student, StudentSearch):
            return Artifact(NetworkSpec.of_space(self.student.space), task.info)
        return evolve(inputs["student"], weights=None)

    def for_trial(self) -> DistillStage:
        return evolve(self, baseline=False)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        with _cache_folder(context, self.cache) as folder:
            context = evolve(context, cache_folder=folder)
            if not isinstance(self.student, StudentSearch):
                return self._distillation(task, inputs, context).run()
            from learnforge.kinds.tuner import OpenStage, load_tuner

            ready, inputs = self.prepare(task, inputs, context)
            work = OpenStage(ready, task, inputs, self.student.space, _with_student, "student")
            design, found = load_tuner(context.plugins).search(work, self.student, context)
            chosen, chosen_inputs = _with_student(ready, task, inputs, design)
            artifact = evolve(chosen, train=self.train)._distillation(task, chosen_inputs, context).run()
            return evolve(artifact, metrics={**artifact.metrics, "searched": {"design": design, **found}})

    def prepare(
        self, task: Task, inputs: Mapping[str, Artifact], context: Context
    ) -> tuple[DistillStage, Mapping[str, Artifact]]:
        """Train teachers once for all trials, unless their training is itself searched."""
        if self.teacher_train is None or any(path.startswith("teacher_train") for path in self.ranges):
            return self, inputs
        distillation = self._distillation(task, inputs, context)
        teachers = {
            role: inputs[role].with_state(distillation.ready_teacher(role)) for role in teacher_roles(inputs)
        }
        references = tuple(teachers.values()) if "teacher[0]" in teachers else teachers["teacher"]
        return evolve(self, teacher=references, teacher_train=None), {**inputs, **teachers}

    def run_baseline(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Train the student on labels alone, from the same weights and on the same batches as in `run`."""
        return self._distillation(task, inputs, context).run_baseline()

    def train_teacher(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Return the teacher, trained first where it is a model without weights."""
        role = teacher_roles(inputs)[0]
        network = self._distillation(task, inputs, context).ready_teacher(role)
        return inputs[role].with_state(network, task=task.info)

    def listens_to_teacher(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> bool:
        """Tell whether the method needs layers of the teacher, so that no cache can serve it."""
        images = example_images(task.load(context.device), context, 2)
        student, teacher = (
            read_layers(inputs[role].network(context.plugins).to(context.device).eval(), images)
            for role in ("student", teacher_roles(inputs)[0])
        )
        return bool(self.method.taps(student, teacher)[1])

    def _distillation(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Distillation:
        return Distillation(self, task.load(context.device), inputs, context)


def _is_trained(model: Model, task: Task) -> bool:
    """Tell whether a model may teach as it is; what is wrong with it is reported where models are checked."""
    try:
        return model.is_trained_for(task.info)
    except LearnforgeError:
        return True


def _with_student(
    stage: Stage, task: Task, inputs: Mapping[str, Artifact], design: Design
) -> tuple[DistillStage, Mapping[str, Artifact]]:
    """Return a stage with a design for its student and trained as a trial is, and its inputs."""
    assert isinstance(stage, DistillStage)
    assert isinstance(stage.student, StudentSearch)
    student = Artifact(NetworkSpec.of_space(stage.student.space, design), task.info)
    made = evolve(stage, student=student, train=stage.student.train or stage.train)
    return made, {**inputs, "student": student}


@contextlib.contextmanager
def _cache_folder(context: Context, cache: str) -> Iterator[Path | None]:
    """Yield where caches are kept: the context's folder, or one that goes with the stage."""
    if cache == "off" or context.cache_folder is not None:
        yield context.cache_folder
        return
    with tempfile.TemporaryDirectory(prefix="learnforge-cache-") as folder:
        yield Path(folder)


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `distill`."""
    return {"distill": DistillStage}
