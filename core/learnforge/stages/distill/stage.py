"""The kind of stage `distill`: its settings, and the chain of lessons from teacher to student."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from attrs import evolve, field, fields, frozen
from attrs.validators import deep_iterable, deep_mapping, ge, gt, in_, instance_of, min_len, optional
from torch import Tensor, nn

from learnforge.artifact import Artifact, NetworkSpec, Provenance, copy_weights, from_model, trained_on
from learnforge.context import Context
from learnforge.errors import GapWarning, LearnforgeError, Problem, StageError
from learnforge.evaluation import Normaliser, evaluate, predict, score
from learnforge.heads import count_parameters
from learnforge.hookspecs import hookimpl
from learnforge.layers import Layers, read_layers
from learnforge.options import plugin_field
from learnforge.randomness import seeded
from learnforge.space import Design, Model, Space
from learnforge.stages.distill.cache import GIB, ViewCache
from learnforge.stages.distill.distiller import Criterion, Distiller
from learnforge.stages.distill.gap import (
    as_table,
    choose_assistants,
    count_assistants,
    describe_gap,
)
from learnforge.stages.distill.teacher import Desk, Manner, Teacher, describe_scores, require_placeless
from learnforge.stages.measures import judge, weigh
from learnforge.stages.ranges import Tune
from learnforge.stages.stage import Reference, Stage, check_fit
from learnforge.stages.tuning import check_settings, describe_search, search_stage
from learnforge.taps import Tapped
from learnforge.task import Task
from learnforge.training import Train, Trainee, cross_entropy, fit


@frozen
class StudentSearch:
    """How a searcher picks the student: each trial distils one, and is judged on validation data.

    Args:
        space: Where the student is from.
        searcher: Any searcher.
        trials: Distinct students to distil, from 1.
        objectives: `accuracy` of the distilled student on validation data, or a cost with a minus before it;
            the best by the first one is taken.
        limits: Largest allowed costs: `parameters`, `macs`, `peak_activation_bytes`, `latency_ms`.
        train: How trials are trained; by default as the student itself.
        batch: Trials asked at a time; with it the search is the same for any number of workers.
        threads: CPU threads of a trial.
        executor: Where trials run; by default `processes` for more than one worker.
    """

    space: Space = plugin_field("space")
    searcher: Any = plugin_field("searcher")
    trials: int = field(default=20, validator=ge(1))
    objectives: tuple[str, ...] = field(default=("accuracy",), validator=min_len(1))
    limits: Mapping[str, float] = field(factory=dict, validator=deep_mapping(instance_of(str), gt(0)))
    train: Train | None = None
    batch: int | None = field(default=None, validator=optional(ge(1)))
    threads: int = field(default=1, validator=ge(1))
    executor: Any = plugin_field("executor", default=None, placement=True)

    @property
    def tune(self) -> Tune:
        """How the search goes about it."""
        shared = [f.name for f in fields(Tune)]
        return Tune(**{name: getattr(self, name) for name in shared})


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
    cache_precision: Literal["32", "16"] = field(default="32", validator=in_(("32", "16")))
    cache_gib: float = field(default=4.0, validator=gt(0.0), metadata={"placement": True})
    baseline: bool = field(default=True)

    kind: ClassVar[str] = "distill"
    method_kind: ClassVar[str] = "distiller"
    method_base: ClassVar[type] = Distiller
    method_of_many: ClassVar[str] = "sum"

    @property
    def manner(self) -> Manner:
        """How the teacher is asked."""
        return Manner(
            self.ensemble,
            self.teacher_weights,
            self.teacher_precision,
            self.cache,
            self.cache_precision,
            self.cache_gib,
        )

    def check(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = [
            fault for role, artifact in inputs.items() for fault in check_fit(role, artifact.task, task.info)
        ]
        problems += self._check_teachers(task, inputs) + self._check_chain(inputs)
        if isinstance(self.student, StudentSearch):
            problems += check_settings(self.student.tune, "student.search", self.student.space)
        return problems or self._check_wiring(task, inputs)

    def _check_teachers(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = []
        roles = _teachers(inputs)
        if not roles:
            problems.append(Problem("teacher", "must name at least one teacher, the list is empty"))
        if self.teacher_weights and len(self.teacher_weights) != len(roles):
            words = f"must be one number for each of {len(roles)} teachers, got {list(self.teacher_weights)}"
            problems.append(Problem("teacher_weights", words))
        for role, reference in self.describe_inputs().items():
            knows_nothing = isinstance(reference, Model) and not _is_trained(reference, task)
            if role in roles and knows_nothing and self.teacher_train is None:
                words = (
                    "is a model without weights for the task's classes, which knows nothing yet; say how to "
                    "train it, `teacher_train = { epochs = … }`"
                )
                problems.append(Problem(role, words))
        return problems

    def _check_chain(self, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = []
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

    def _check_wiring(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        """Let the method name its layers, where teacher and student can be built already."""
        from learnforge.plugins import Plugins

        roles = [*_teachers(inputs), "student"]
        if any(role not in inputs or not _is_buildable(inputs[role]) for role in roles):
            return []
        try:
            found = []
            with torch.device("meta"):
                for role in roles:
                    network = inputs[role].spec.build(task.info, Plugins(), False).eval()
                    found.append(read_layers(network, torch.zeros(2, *task.info.input_shape)))
        except Exception:  # what cannot be built or run is reported where models are checked
            return []
        try:
            self._wire(found[-1], found[:-1])
        except StageError as error:
            return [Problem("options", str(error))]
        return []

    def _wire(self, student: Layers, teachers: Sequence[Layers]) -> tuple[Sequence[str], Sequence[str]]:
        """Return the layers that the method listens to in student and teacher."""
        own, known = self.method.taps(student, teachers[0])
        if known and len(teachers) > 1:
            raise StageError(
                f"{type(self.method).__name__} listens to layers of the teacher, {', '.join(known)}, and "
                f"there are {len(teachers)} teachers; give it one, or use a method that needs class scores "
                "alone"
            )
        if known and self.cache != "off":
            raise StageError(
                f"the teacher cache holds class scores alone, and {type(self.method).__name__} listens to "
                f'layers of the teacher, {", ".join(known)}; set `cache = "off"`'
            )
        for layers, names in ((student, own), (teachers[0], known)):
            for name in names:
                layers.find(name)
        return own, known

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        if isinstance(self.student, StudentSearch):
            return Artifact(NetworkSpec.of(self.student.space), task.info)
        return evolve(inputs["student"], weights=None)

    def for_trial(self) -> DistillStage:
        return evolve(self, baseline=False)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        with _cache_folder(context, self.cache) as folder:
            context = evolve(context, cache_folder=folder)
            if not isinstance(self.student, StudentSearch):
                return self._lessons(task, inputs, context).run()
            tune, space = self.student.tune, self.student.space
            design, told = search_stage(self, tune, space, _with_student, task, inputs, context, "student")
            chosen, known = _with_student(self, task, inputs, design)
            found = {"design": design, **describe_search(tune, told)}
            artifact = evolve(chosen, train=self.train)._lessons(task, known, context).run()
            return evolve(artifact, metrics={**artifact.metrics, "searched": found})

    def run_baseline(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Train the student on labels alone, from the same weights and on the same batches as in `run`."""
        return self._lessons(task, inputs, context).run_baseline()

    def train_teacher(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Return the teacher, trained first where it is a model without weights."""
        role = _teachers(inputs)[0]
        network = self._lessons(task, inputs, context).ready_teacher(role)
        return inputs[role].with_state(network, task=task.info)

    def listens_to_teacher(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> bool:
        """Tell whether the method needs layers of the teacher, so that no cache can serve it."""
        images = _example(task.load(context.device), context, 2)
        student, teacher = (
            read_layers(inputs[role].network(context.plugins).to(context.device).eval(), images)
            for role in ("student", _teachers(inputs)[0])
        )
        return bool(self.method.taps(student, teacher)[1])

    def _lessons(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> _Lessons:
        return _Lessons(self, task.load(context.device), inputs, context)


class _Lessons:
    """One run of the stage: teachers, assistants and students in a row."""

    def __init__(self, stage: DistillStage, task: Task, inputs: Mapping[str, Artifact], context: Context):
        self.stage, self.task, self.inputs, self.context = stage, task, inputs, context
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.forwards = {"asked": 0, "computed": 0}
        self.warnings: list[str] = []

    def run(self) -> Artifact:
        stage, student = self.stage, self.inputs["student"]
        if stage.cache != "off" and self.context.plugins.batch_transforms(self.context.stage):
            raise StageError(
                "the teacher cache knows an image by the number of its view, and a plugin changes batches "
                '(`learnforge_batch`), so that a number no longer says what is seen; set `cache = "off"`'
            )
        teachers = [self.ready_teacher(role) for role in _teachers(self.inputs)]
        first = self._build(student, "student", stage.fresh)
        initial = copy_weights(first)
        capacity = sum(map(count_parameters, teachers)), count_parameters(first)
        masters: list[nn.Module] = teachers
        assistants = self._assistants(*capacity)
        self._warn_of_gap(
            [capacity[0], *(count_parameters(network) for _, network in assistants), capacity[1]]
        )
        for number, (_, network) in enumerate(assistants, 1):
            self._distil(network, masters, f"assistant {number}")
            masters = [network]
        network = first
        for generation in range(1, stage.generations + 1):
            if generation > 1:
                network = self._build(student, f"generation {generation}", True)
            last = generation == stage.generations
            self._distil(network, masters, "student" if last else f"generation {generation}")
            masters = [network]
        return self._finish(network, teachers, initial, [as_table(model) for model, _ in assistants])

    def ready_teacher(self, role: str) -> nn.Module:
        """Build a teacher, and train it first where it is a model without weights."""
        name = "teacher" if role in ("teacher", "teacher[0]") else role
        artifact, context = self.inputs[role], self.context
        network = artifact.network(context.plugins, context.derive(name)).to(context.device)
        settings = self.stage.teacher_train
        if settings is not None and artifact.weights is None:
            with_labels = Trainee(network, cross_entropy(network, settings))
            self.history[role] = self._fit(with_labels, settings, name, context.derive(f"{name} training"))
        return network

    def _build(self, artifact: Artifact, purpose: str, is_fresh: bool) -> nn.Module:
        context = self.context
        task = artifact.task if is_fresh else None
        return artifact.network(context.plugins, context.derive(purpose), task).to(context.device)

    def _assistants(self, teacher: int, student: int) -> list[tuple[Model, nn.Module]]:
        stage, plugins, info = self.stage, self.context.plugins, self.task.info
        models = list(stage.assistant_models)
        count = count_assistants(stage.assistants, teacher / student)
        if count:
            roles = ("student", *_teachers(self.inputs))
            specs = [self.inputs[role].spec for role in roles]
            models = choose_assistants(count, teacher, student, specs, info, plugins)
        return [
            (model, self._build(from_model(model, info), f"assistant {number}", True))
            for number, model in enumerate(models, 1)
        ]

    def _warn_of_gap(self, parameters: Sequence[int]) -> None:
        widest = max(above / below for above, below in itertools.pairwise(parameters))
        words = describe_gap(widest)
        if words:
            self.warnings.append(words)
            warnings.warn(f"stage {self.context.stage!r}: {words}", GapWarning, stacklevel=2)

    def _distil(self, student: nn.Module, teachers: Sequence[nn.Module], part: str) -> None:
        """Train one network on what others know."""
        stage, task, context = self.stage, self.task, self.context
        images = _example(task, context, min(2, len(task.train)))
        for network in (student, *teachers):
            network.eval()
        read = [read_layers(network, images) for network in (student, *teachers)]
        own, known = stage._wire(read[0], read[1:])
        pupil, master = Tapped(read[0], own), Tapped(read[1], known) if known else None
        desk = self._open_desk(Teacher(teachers, stage.manner, stage.train.batch_size, master))
        try:
            criterion = self._criterion(pupil, desk.teacher)
            trainee = Trainee(
                student,
                lambda batch: criterion(pupil(batch.images), desk.answer(batch), batch),
                extra=criterion if isinstance(criterion, nn.Module) else None,
                prepare=desk.prepare if desk.cache is not None else None,
            )
            seed = context.derive("train") if part == "student" else context.derive("train", part)
            self.history[part] = self._fit(trainee, stage.train, part, seed)
        finally:
            pupil.close()
            desk.close()
        desk.teacher.require_unchanged(type(stage.method).__name__)
        for name in self.forwards:
            self.forwards[name] += getattr(desk.teacher, name)

    def _open_desk(self, teacher: Teacher) -> Desk:
        stage, task, context = self.stage, self.task, self.context
        cache = None
        if stage.cache == "views":
            assert context.cache_folder is not None
            if stage.cache_precision == "32":
                require_placeless(teacher, _example(task, context, stage.train.batch_size))
            teacher.computed = 0
            cache = ViewCache(
                context.cache_folder / "teachers",
                describe_scores(teacher, task, stage.train, context.device),
                len(task.train),
                stage.train.augmentation.views,
                task.info.outputs,
                stage.cache_precision,
                int(stage.cache_gib * GIB),
            )
        return Desk(teacher, task, stage.train, context.device, cache)

    def _criterion(self, pupil: Tapped, teacher: Teacher) -> Criterion:
        """Ask the method for its criterion, with the outputs for a few images to read shapes from."""
        context = self.context
        images = _example(self.task, context, min(4, len(self.task.train)))
        pupil.network.eval()
        with torch.no_grad(), seeded(context.derive("criterion")):
            criterion: Criterion = self.stage.method.criterion(
                pupil(images), teacher.answer(images), self.task
            )
        teacher.computed = 0
        if isinstance(criterion, nn.Module):
            criterion.to(context.device)
        return criterion

    def _fit(self, trainee: Trainee, settings: Train, part: str, seed: int) -> list[dict[str, Any]]:
        """Train; student and baseline see the same batches, since they have the same seed."""
        task = self.task
        return fit(
            trainee,
            task.train,
            task.info,
            settings,
            evolve(self.context, seed=seed),
            part,
            lambda: evaluate(trainee.network, task.validation, task.info).accuracy,
        )

    def run_baseline(self) -> Artifact:
        """Train the student alone and return it."""
        student = self._build(self.inputs["student"], "student", self.stage.fresh)
        self._train_alone(student)
        metrics = {**judge(student, self.task), **weigh(student, self.task), "history": self.history}
        return self.inputs["student"].with_state(student, task=self.task.info, metrics=metrics)

    def _train_alone(self, student: nn.Module) -> None:
        alone = Trainee(student, cross_entropy(student, self.stage.train))
        seed = self.context.derive("train")  # that of the student
        self.history["baseline"] = self._fit(alone, self.stage.train, "baseline", seed)

    def _finish(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        initial: Mapping[str, Tensor],
        assistants: Sequence[Mapping[str, Any]],
    ) -> Artifact:
        """Judge, train the baseline, and hand on the student."""
        stage, task = self.stage, self.task
        teacher = Teacher(teachers, stage.manner, stage.train.batch_size)
        metrics: dict[str, Any] = (
            judge(student, task) | weigh(student, task) | judge(teacher, task, "teacher_")
        )
        metrics["teacher_parameters"] = sum(map(count_parameters, teachers))
        metrics["capacity_ratio"] = metrics["teacher_parameters"] / metrics["parameters"]
        metrics["accuracy_gap"] = metrics["teacher_validation_accuracy"] - metrics["validation_accuracy"]
        metrics["agreement"] = _agreement(student, teacher, task)
        weights = copy_weights(student)
        if stage.baseline:
            student.load_state_dict(initial)
            self._train_alone(student)
            metrics |= judge(student, task, "baseline_")
            student.load_state_dict(weights)
        saved = 1 - self.forwards["computed"] / self.forwards["asked"] if self.forwards["asked"] else 0.0
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        return evolve(
            self.inputs["student"],
            weights=weights,
            adapter={},
            adapter_options={},
            task=task.info,
            metrics=metrics
            | {
                "assistants": list(assistants),
                "teacher_forwards": {**self.forwards, "saved": saved},
                "warnings": self.warnings,
                "history": self.history,
            },
            provenance=Provenance(trained_on=(learnt,)),
        )


def _teachers(inputs: Mapping[str, Artifact]) -> list[str]:
    """List the roles of the teachers, in order."""
    return [role for role in inputs if role.partition("[")[0] == "teacher"]


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
    student = Artifact(NetworkSpec.of(stage.student.space, design), task.info)
    made = evolve(stage, student=student, train=stage.student.train or stage.train)
    return made, {**inputs, "student": student}


def _is_buildable(artifact: Artifact) -> bool:
    """Tell whether a stand-in says which network it stands for."""
    spec = artifact.spec
    return artifact.module is None and (spec.kind == "model" or spec.design is not None)


def _example(task: Task, context: Context, count: int) -> Tensor:
    """Return the first training images, normalised."""
    images, _, _ = next(iter(task.train.batches(torch.arange(min(count, len(task.train))), count)))
    return Normaliser(task.info, context.device)(images)


@contextlib.contextmanager
def _cache_folder(context: Context, cache: str) -> Iterator[Path | None]:
    """Yield where caches are kept: the context's folder, or one that goes with the stage."""
    if cache == "off" or context.cache_folder is not None:
        yield context.cache_folder
        return
    with tempfile.TemporaryDirectory(prefix="learnforge-cache-") as folder:
        yield Path(folder)


def _agreement(student: nn.Module, teacher: nn.Module, task: Task) -> float:
    """Return the share of test images for which student and teacher name the same class."""
    labels = predict(teacher, task.test, task.info).argmax(1)
    return score(predict(student, task.test, task.info), labels).accuracy


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `distill`."""
    return {"distill": DistillStage}
