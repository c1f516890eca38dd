"""The trainings of a distill stage: teachers, assistants and students in a row."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact, from_model
from learnforge.context import Context
from learnforge.errors import RunError, StageError
from learnforge.files import refusal
from learnforge.kinds.distiller import Criterion, Distiller
from learnforge.kinds.form import form_of
from learnforge.kinds.model import Model
from learnforge.kinds.seen.network import Layers, Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.plugins.identity import spell
from learnforge.randomness import seeded
from learnforge.spec import Provenance, copy_weights, trained_on
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.errors import CacheWarning, GapWarning
from learnforge_kit.networks.layers import count_parameters, read_layers
from learnforge_kit.networks.modules import require_recorded
from learnforge_kit.networks.taps import Tapped
from learnforge_kit.training.evaluation import evaluate, predict, score
from learnforge_kit.training.loop import Trainee, fit, train_on_labels
from learnforge_kit.training.measures import judge, measure_costs
from learnforge_plugins.stages.distill.gap import count_assistants, describe_gap
from learnforge_plugins.stages.distill.teacher import CachedTeacher, Teacher, full_batch
from learnforge_plugins.stages.measured import Baseline, Distilled

if TYPE_CHECKING:
    from learnforge_plugins.stages.distill.learning import LearningTeacher
    from learnforge_plugins.stages.distill.stage import DistillStage


class Distillation:
    """One run of the stage: teachers, assistants and students in a row."""

    def __init__(self, stage: DistillStage, task: Task, inputs: Mapping[str, Artifact], context: Context):
        self.stage, self.task, self.inputs, self.context = stage, task, inputs, context
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.forwards = {"asked": 0, "computed": 0}
        self.warnings: list[str] = []

    def run(self) -> Artifact:
        stage, student = self.stage, self.inputs["student"]
        if stage.cache != "off" and self.context.plugins.implementing("learnforge_batch"):
            raise StageError(
                "the teacher cache knows an image by the number of its view, and a plugin changes batches "
                '(`learnforge_batch`), so that a number no longer says what is seen; set `cache = "off"`'
            )
        teachers = [self._build_teacher(role) for role in teacher_roles(self.inputs)]
        first = self._build(student, "student", stage.fresh)
        initial = copy_weights(first)
        capacity = sum(map(count_parameters, teachers)), count_parameters(first)
        current: list[nn.Module] = teachers
        assistants = self._assistants(*capacity)
        self._warn_of_gap(
            [capacity[0], *(count_parameters(network) for _, network in assistants), capacity[1]]
        )
        # after the warning: whoever reads it can stop before hours of training
        for role, teacher in zip(teacher_roles(self.inputs), teachers, strict=True):
            self._train_teacher(role, teacher)
        for number, (model, network) in enumerate(assistants, 1):
            current = [
                self._distil(network, current, f"assistant {number}", from_model(model, self.task.info))
            ]
        network = first
        for generation in range(1, stage.generations + 1):
            if generation > 1:
                network = self._build(student, f"generation {generation}", True)
            last = generation == stage.generations
            part = "student" if last else f"generation {generation}"
            current = [self._distil(network, current, part, student)]
        return self._finish(current[0], teachers, initial, [spell(model) for model, _ in assistants])

    def ready_teacher(self, role: str) -> nn.Module:
        """Build a teacher, and train it first where it is a model that knows nothing of the task."""
        network = self._build_teacher(role)
        self._train_teacher(role, network)
        return network

    def _build_teacher(self, role: str) -> nn.Module:
        return self._build(self.inputs[role], _part_of(role), False)

    def _train_teacher(self, role: str, network: nn.Module) -> None:
        settings, part = self.stage.teacher_train, _part_of(role)
        reference = self.stage.describe_inputs().get(role)
        is_ready = isinstance(reference, Model) and reference.is_trained_for(self.task.info)
        if settings is not None and self.inputs[role].weights is None and not is_ready:
            context = self.context.seeded_with(f"{part} training")
            self.history[part] = train_on_labels(network, self.task, settings, context, part)

    def _build(self, artifact: Artifact, purpose: str, is_fresh: bool) -> nn.Module:
        context = self.context
        task = artifact.task if is_fresh else None
        return artifact.network(context.plugins, context.derive(purpose), task).to(context.device)

    def _assistants(self, teacher: int, student: int) -> list[tuple[Model, nn.Module]]:
        stage, plugins, info = self.stage, self.context.plugins, self.task.info
        models = list(stage.assistant_models)
        count = count_assistants(stage.assistants, teacher / student)
        if count:
            from learnforge_plugins.stages.distill.assistants import choose_assistants  # most need none

            roles = ("student", *teacher_roles(self.inputs))
            specs = [self.inputs[role].spec for role in roles]
            models = choose_assistants(count, teacher, student, specs, info, plugins)
        return [
            (model, self._build(from_model(model, info), f"assistant {number}", True))
            for number, model in enumerate(models, 1)
        ]

    def _warn_of_gap(self, parameters: Sequence[int]) -> None:
        widest = max(above / below for above, below in itertools.pairwise(parameters))
        words = describe_gap(widest)
        if words and not self.stage.method.trains_teacher:
            self.warnings.append(words)
            warnings.warn(f"stage {self.context.stage!r}: {words}", GapWarning, stacklevel=2)

    def _distil(
        self, student: nn.Module, teachers: Sequence[nn.Module], part: str, origin: Artifact
    ) -> nn.Module:
        """Train one network, built from `origin`, on what others know; return it as it is handed on."""
        stage, task, context = self.stage, self.task, self.context
        images = example_images(task, context, min(2, len(task.train)))
        for network in (student, *teachers):
            network.eval()
        read = [read_layers(network, images) for network in (student, *teachers)]
        student_names, teacher_names = stage.wire(read[0], read[1:])
        tapped, method = Tapped(read[0], student_names), stage.method
        teacher = self._ready(teachers, read[1], teacher_names)
        form = form_of(task.info.form)
        blank = [Outputs(torch.zeros(0, *form.outputs(task.info)), run=run) for run in (tapped, teacher.run)]
        try:
            criterion = self._criterion(tapped, teacher)
            if self._hands_on_more:
                sketch = self._as_handed_on(copy.deepcopy(student), criterion)
                require_recorded(origin, sketch, context.plugins, f"{type(stage.method).__name__}.finish")

            size = stage.train.eval_batch_size

            def validate() -> float:
                copied = copy.deepcopy(student) if self._hands_on_more else student
                network = self._as_handed_on(copied, criterion)
                return evaluate(network, task.validation, task.info, size).value

            def loss(batch: Batch) -> Tensor:
                if not method.shows_images:
                    return criterion(blank[0], blank[1], batch)
                return criterion(tapped(batch.images), teacher.answer(batch), batch)

            parts = [part for part in (criterion, teacher.learns) if isinstance(part, nn.Module)]
            trainee = Trainee(
                student,
                loss,
                extra=nn.ModuleList(parts) if parts else None,
                counts=teacher.counts,
                prepare=teacher.preparation,
                turns=method.turns(criterion, blank[0], blank[1]),
            )
            seed = context.derive("train") if part == "student" else context.derive("train", part)
            self.history[part] = fit(
                trainee,
                task.train,
                task.info,
                stage.train,
                evolve(context, seed=seed),
                part,
                validate,
                measure=form.measured[0],
            )
        finally:
            tapped.close()
            teacher.close()
        teacher.finish(type(method).__name__)
        for name in self.forwards:
            self.forwards[name] += teacher.counts[name]
        return self._as_handed_on(student, criterion)

    @property
    def _hands_on_more(self) -> bool:
        """Whether the method hands on more than the student that it trains."""
        return type(self.stage.method).finish is not Distiller.finish

    def _as_handed_on(self, student: nn.Module, criterion: Criterion) -> nn.Module:
        if not self._hands_on_more:
            return student
        with torch.no_grad(), seeded(self.context.derive("finish")):
            finished: nn.Module = self.stage.method.finish(student.eval(), criterion, self.task.info)
        return finished.to(self.context.device)

    def _ready(
        self, networks: Sequence[nn.Module], first: Layers, names: Sequence[str]
    ) -> CachedTeacher | LearningTeacher:
        """Return the teachers as what the training asks, the layers of the first one listened to."""
        if self.stage.method.trains_teacher:
            from learnforge_plugins.stages.distill.learning import LearningTeacher  # few methods do

            return LearningTeacher(Tapped(first, names))
        tapped = Tapped(first, names) if names else None
        size = full_batch(self.stage.train, self.task)
        return self._cached_teacher(Teacher(networks, self.stage.teacher_settings, size, tapped))

    def _cached_teacher(self, teacher: Teacher) -> CachedTeacher:
        stage, task, context = self.stage, self.task, self.context
        cache = None
        if stage.cache == "views":
            # most stages need none of it
            from learnforge_plugins.stages.distill.cache import GIB, ViewCache
            from learnforge_plugins.stages.distill.cached_scores import describe_scores, probe_scores

            assert context.cache_folder is not None
            images = example_images(task, context, stage.train.batch_size)
            probe = probe_scores(teacher, images, stage.cache_precision == "32")
            teacher.counts.update(asked=0, computed=0)
            folder = context.cache_folder / "teachers"
            try:
                cache = ViewCache(
                    folder,
                    describe_scores(teacher, task, stage.train, probe),
                    len(task.train),
                    stage.train.augmentation.views,
                    task.info.outputs,
                    stage.cache_precision,
                    int(stage.cache_gib * GIB),
                )
            except (OSError, RunError) as error:
                told = refusal(folder, error) if isinstance(error, OSError) else error
                if stage.cache_precision == "16":  # whose scores are rounded, and others without it
                    raise told from error
                words = f"the teacher's scores are not kept: {told}"
                warnings.warn(f"stage {context.stage!r}: {words}", CacheWarning, stacklevel=2)
        return CachedTeacher(teacher, task, stage.train, context.device, cache)

    def _criterion(self, tapped: Tapped, teacher: CachedTeacher | LearningTeacher) -> Criterion:
        """Ask the method for its criterion, with the outputs for a few images to read shapes from."""
        context = self.context
        images = example_images(self.task, context, min(4, len(self.task.train)))
        tapped.network.eval()
        with torch.no_grad(), seeded(context.derive("criterion")):
            criterion: Criterion = self.stage.method.criterion(
                tapped(images), teacher.show(images), self.task
            )
        # what is asked to read shapes is no training
        teacher.counts.update(asked=0, computed=0)
        if isinstance(criterion, nn.Module):
            criterion.to(context.device)
        return criterion

    def run_baseline(self) -> Artifact:
        """Train the student alone and return it."""
        student = self._build(self.inputs["student"], "student", self.stage.fresh)
        self._train_alone(student)
        measured = Baseline(
            assessment=judge(student, self.task, batch_size=self.stage.train.eval_batch_size),
            costs=measure_costs(student, self.task),
            history=self.history,
        )
        return self.inputs["student"].with_state(student, task=self.task.info, metrics=measured.as_metrics())

    def _train_alone(self, student: nn.Module) -> None:
        # student and baseline see the same batches, since they have the same seed
        context = self.context.seeded_with("train")
        self.history["baseline"] = train_on_labels(student, self.task, self.stage.train, context, "baseline")

    def _finish(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        initial: Mapping[str, Tensor],
        assistants: Sequence[Mapping[str, Any]],
    ) -> Artifact:
        """Judge, train the baseline, and hand on the student."""
        stage, task = self.stage, self.task
        teacher = Teacher(teachers, stage.teacher_settings, full_batch(stage.train, task))
        size = self.stage.train.eval_batch_size
        assessment, costs = judge(student, task, batch_size=size), measure_costs(student, task)
        taught_by = judge(teacher.forward, task, False, size)
        theirs = [measure_costs(network, task) for network in teachers]
        agreement = _agreement(student, teacher, task, size)
        baseline = None
        if stage.baseline:
            alone = self._build(self.inputs["student"], "student", stage.fresh)
            alone.load_state_dict(initial)
            self._train_alone(alone)
            baseline = judge(alone, task, False, size)
        saved = 1 - self.forwards["computed"] / self.forwards["asked"] if self.forwards["asked"] else 0.0
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        measured = Distilled(
            assessment=assessment,
            costs=costs,
            teacher=taught_by,
            teacher_parameters=sum(own.parameters for own in theirs),
            teacher_macs=sum(own.macs for own in theirs),
            teacher_latency_ms=sum(own.latency_ms for own in theirs),
            capacity_ratio=sum(own.parameters for own in theirs) / costs.parameters,
            accuracy_gap=taught_by.validation - assessment.validation,
            agreement=agreement,
            assistants=list(assistants),
            teacher_forwards={**self.forwards, "saved": saved},
            warnings=self.warnings,
            history=self.history,
            baseline=baseline,
        )
        return evolve(
            self.inputs["student"],
            adapter={},
            adapter_options={},
            task=task.info,
            metrics=measured.as_metrics(),
            provenance=Provenance(trained_on=(learnt,)),
        ).with_state(student)


def _part_of(role: str) -> str:
    """Return the name of a teacher's training; the first one's does not depend on whether there
    are others.
    """
    return "teacher" if role == "teacher[0]" else role


def teacher_roles(inputs: Mapping[str, Artifact]) -> list[str]:
    """List the roles of the teachers, in order."""
    return [role for role in inputs if role.partition("[")[0] == "teacher"]


def example_images(task: Task, context: Context, count: int) -> Tensor:
    """Return the first training images, normalised."""
    images, _, _ = next(iter(task.train.batches(torch.arange(min(count, len(task.train))), count)))
    return Normaliser(task.info, context.device)(images)


def _agreement(student: nn.Module, teacher: nn.Module, task: Task, batch_size: int | None) -> float:
    """Return the share of test images for which student and teacher name the same class; for other forms how
    well the student does where the teacher's answers are the targets.
    """
    answers = form_of(task.info.form).answers(predict(teacher.forward, task.test, task.info, batch_size))
    return score(predict(student, task.test, task.info, batch_size), answers, task.info).value
