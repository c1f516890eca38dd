"""The kind of stage `meta`: episodes, the outer loop, evaluation on classes that nobody has seen,
and adaptation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, gt, in_, optional
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.context import Checkpoint, Context
from learnforge.errors import DivergedError, Problem, StageError
from learnforge.hookspecs import hookimpl
from learnforge.kinds.meta_learner import MetaGradient, MetaLearner
from learnforge.kinds.optimizer import Optimizer
from learnforge.kinds.seen.engine import Engine, FastWeights
from learnforge.kinds.seen.episodes import Episodes, EpisodeShape
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task
from learnforge.options.structure import plugin_field
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import preserved, seeded
from learnforge.spec import Provenance, TaskInfo, trained_on
from learnforge_kit.data.episodes import episode_fault
from learnforge_kit.engines.choice import ENGINES, time_engines
from learnforge_kit.engines.learner import LearnerOptions, begin, episode_source, prepare_network
from learnforge_kit.engines.normalisation import POLICIES, Policy
from learnforge_kit.networks.layers import device_of
from learnforge_kit.networks.modules import build_failure, check_modules, require_recorded, skeleton
from learnforge_kit.networks.normalisation import find_normalisations
from learnforge_kit.training.measures import measure_costs
from learnforge_kit.training.optimization import make_optimizer, take_step
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.examples import faults_of_all
from learnforge_plugins.stages.meta.measured import Adaptation, MetaLearnt

if TYPE_CHECKING:
    from learnforge_kit.data.environments import RolloutEpisodes

MEASURES = {"classification": "accuracy", "regression": "loss", "environment": "return"}
"""What adaptation is scored by, for each form of task."""

BLOCKS = 20
"""Meta-training is reported, and may be checkpointed, this many times."""


@frozen(kw_only=True)
class MetaStage(Stage):
    """Learn to learn new classes from a few examples.

    Args:
        source: TOML key `from`: the stage, artifact's folder or model to start from; the stage above by
            default. What the same method has learnt there with as many ways goes on, with its head and all
            that it carries; `iterations = 0` then judges it as it is. Others begin with a fresh head.
        fresh: Start from fresh weights of the source's network, not those it comes with. Weights that were
            trained to tell some classes apart can be a worse start for learning others.
        episodes: Ways, shots and queries of an episode; for environments, whose `ways` are 1, shots are the
            rollouts to adapt to, and queries those to be judged by.
        train_ways: Ways in meta-training; as in `episodes` by default. Only methods that compute their head
            can have others.
        train_shots: Shots in meta-training; as in `episodes` by default.
        train_queries: Queries of each class in meta-training; as in `episodes` by default. Fewer are faster.
        iterations: Batches of episodes, from 0.
        tasks: Episodes in a batch.
        outer_steps: Outer steps on each batch, from 1. More than one is for methods that correct for it, such
            as `promp`, where rollouts are expensive.
        optimizer: Outer optimizer: its name, or its table, `{ use = "sgd", momentum = 0.0 }`; Adam
            by default.
        learning_rate: Outer learning rate at the start.
        schedule: Its course: `cosine` or `linear` to 0, `constant`, or `step` by a tenth at half and three
            quarters of the iterations.
        clip_norm: Largest norm of the meta-gradient.
        normalisation: Whose batch statistics normalise the query: `support`, `transductive`, `per-query` or
            `running`. Networks without batch normalisation do not care.
        engine: `loop` (task by task), `vmap` (all tasks at once) or `chain` (all tasks at once, without
            autograd, for chains of convolutions, batch normalisations, rectifiers, pooling and linear
            layers); the same numbers up to rounding. `auto` tries them and takes the fastest, so another run
            may differ in the last bits; the report names it.
        validation_episodes: Episodes of the validation split to judge by at the end; 0 for none.
        test_episodes: Episodes of the test split to report on, at least 400.
        test_shots: Further numbers of shots to report on, each from 1, beside that of `episodes`.
        allow_seen: Go on when test classes were seen by an ancestor, or are trained on here; the score is
            then marked "seen upstream".
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    fresh: bool = False
    episodes: EpisodeShape = EpisodeShape()
    train_ways: int | None = field(default=None, validator=optional(ge(2)))
    train_shots: int | None = field(default=None, validator=optional(ge(1)))
    train_queries: int | None = field(default=None, validator=optional(ge(1)))
    iterations: int = field(default=300, validator=ge(0))
    tasks: int = field(default=8, validator=ge(1))
    outer_steps: int = field(default=1, validator=ge(1))
    optimizer: Optimizer | None = plugin_field("optimizer", default=None)
    learning_rate: float = field(default=2e-3, validator=gt(0.0))
    schedule: Literal["constant", "cosine", "linear", "step"] = field(
        default="cosine", validator=in_(("constant", "cosine", "linear", "step"))
    )
    clip_norm: float = field(default=10.0, validator=gt(0.0))
    normalisation: Policy = field(default="support", validator=in_(POLICIES))
    engine: Literal["auto", "loop", "vmap", "chain"] = field(
        default="auto", validator=in_(("auto", *ENGINES))
    )
    validation_episodes: int = field(default=200, validator=ge(0))
    test_episodes: int = field(default=600, validator=ge(400))
    test_shots: tuple[int, ...] = field(default=(), validator=deep_iterable(ge(1)))
    allow_seen: bool = False

    kind: ClassVar[str] = "meta"
    forms: ClassVar[frozenset[str]] = frozenset({"classification", "regression", "environment"})
    method_kind: ClassVar[str] = "meta-learner"
    method_base: ClassVar[type] = MetaLearner

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        problems = []
        shared = set(task.origins_of(task.train)) & set(task.origins_of(task.test))
        if shared and not self.allow_seen:
            problems.append(
                Problem(
                    "task",
                    f"the test classes must differ from the training classes, but {_list(shared)} are in "
                    "both. Give the task "
                    f"`test_classes`, or set `allow_seen = true`.",
                )
            )
        source = inputs["source"]
        if self.fresh and source.module is not None:
            problems.append(
                Problem("fresh", "cannot be true for a module of the caller's, which has no others")
            )
        if source.task.input_shape != task.info.input_shape:
            want, got = list(task.info.input_shape), list(source.task.input_shape)
            problems.append(
                Problem("from", f"must take images of shape {want} as the task has, it takes {got}")
            )
        seen = source.provenance.origins & set(task.origins_of(task.test))
        if seen and not self.allow_seen:
            problems.append(Problem("task", _seen_words(seen)))
        head = [] if problems else check_modules(self, inputs, may_differ=True)
        head = head if problems or head else self._check_head(source, task, plugins)
        return problems + head + self._check_episodes(task)

    def _check_head(self, source: Artifact, task: Task, plugins: Plugins) -> list[Problem]:
        """Find a network without a head that the method could adapt."""

        def check(sources: Sequence[Artifact]) -> list[Problem]:
            try:
                network = skeleton(sources[0], plugins)
                with preserved(), device_of(network):
                    network = prepare_network(self.method, network, self._info(task.info))
                    engine = ENGINES["loop"](network, self.normalisation, self.method)
                    engine.embed(dict(network.named_parameters()), torch.zeros(2, *task.info.input_shape))
            except StageError as error:
                return [Problem("from", str(error))]
            except Exception as error:  # whatever the network's own code raises
                return build_failure(self, "source", error)
            return []

        return faults_of_all([source], plugins, check) if self.method.adapts_head_alone else []

    def _check_episodes(self, task: Task) -> list[Problem]:
        """Find episodes that do not suit the method or the task, and splits that are too small for them."""
        if self.train_ways not in (None, self.episodes.ways) and not self.method.computes_head:
            words = (
                f"must be the episodes' {self.episodes.ways} for {spell(self.method)['use']}, whose head "
                f"has an output for each way, got {self.train_ways}"
            )
            return [Problem("train_ways", words)]
        method = type(self.method)
        if method.predict is not MetaLearner.predict and method.deploy is MetaLearner.deploy:
            words = (
                f"must be a method that a network can follow in use: {spell(self.method)['use']} predicts by "
                "a rule of its own (`predict`), and has no `deploy` that builds it into the network"
            )
            return [Problem("use", words)]
        if task.info.form == "environment":
            return self._check_rollouts()
        if task.episodes is not None:
            return []
        if task.info.form != "classification":
            words = (
                f"must bring episodes of its own, being a {task.info.form} task; {task.info.name} has none"
            )
            return [Problem("task", words)]
        if self.episodes.ways < 2:
            return [Problem("episodes.ways", "must be at least 2 to tell classes apart, got 1")]
        most = evolve(self.episodes, shots=max(self.episodes.shots, *self.test_shots, 1))
        wanted = {"train": self._train_shape, "test": most}
        if self.validation_episodes:
            wanted["validation"] = self.episodes
        faults = [episode_fault(getattr(task, name).labels, shape, name) for name, shape in wanted.items()]
        return [Problem("task", fault) for fault in faults if fault]

    def _check_rollouts(self) -> list[Problem]:
        problems = []
        if self.episodes.ways != 1:
            words = f"must be 1 for environments, which have no classes, got {self.episodes.ways}"
            problems.append(Problem("episodes.ways", words))
        if self.outer_steps > 1 and not self.method.reuses_rollouts:
            words = (
                f"must be 1 for {spell(self.method)['use']}, which does not correct for rollouts of an "
                f"earlier policy, got {self.outer_steps}"
            )
            problems.append(Problem("outer_steps", words))
        return problems

    @property
    def _train_shape(self) -> EpisodeShape:
        shape = self.episodes
        return EpisodeShape(
            self.train_ways or shape.ways,
            self.train_shots or shape.shots,
            self.train_queries or shape.queries,
        )

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        stand_in = evolve(inputs["source"], task=self._info(task.info), weights=None)
        options = LearnerOptions(spell(self.method), self.episodes, self.normalisation)
        return evolve(stand_in, adapter={}, adapter_options=options.as_options())

    @classmethod
    def adapt(
        cls,
        artifact: Artifact,
        images: Tensor,
        labels: Tensor,
        plugins: Plugins,
        classes: Sequence[str] | None = None,
    ) -> Artifact:
        from learnforge_kit.engines.adaptation import adapt_artifact  # no run needs it

        return adapt_artifact(artifact, images, labels, plugins, classes)

    def for_trial(self) -> MetaStage:
        # its episodes are of the validation split, which may have the classes that are trained on
        return evolve(self, validation_episodes=0, allow_seen=True)

    def measured(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        own = MetaLearnt.of(metrics)
        after = own.test.after
        name = "accuracy" if own.measure == "accuracy" else "score"
        return {**super().measured(metrics), name: -after if own.measure == "loss" else after}

    def judged_by(self, task: TaskInfo) -> Sequence[str]:
        """Name `accuracy`, or `score` for a return, or a loss with a minus before it."""
        return ("accuracy",) if task.form == "classification" else ("score",)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        source = inputs["source"]
        trained = source.provenance.origins | set(task.origins_of(task.train))
        seen = trained & set(task.origins_of(task.test))
        if seen and not self.allow_seen:
            raise StageError(_seen_words(seen))
        here = task.load(context.device)
        fresh_task = source.task if self.fresh else None
        network = source.network(context.plugins, context.derive("source"), fresh_task)
        episode = self._info(task.info)
        goes_on = self._goes_on(source, episode.outputs)
        if not goes_on:
            with seeded(context.derive("prepare")):
                network = prepare_network(self.method, network, episode)
            start = evolve(source, task=episode)
            require_recorded(start, network, context.plugins, f"{type(self.method).__name__}.prepare")
        network = network.to(context.device)
        if task.info.form == "environment" and find_normalisations(network):
            raise StageError(
                "a policy must not normalise by batches: what it does would depend on other rollouts. Take "
                "one without batch normalisation"
            )
        parameters, extra, carried = self._initial(network, source.adapter if goes_on else {}, context)
        engine_name = self._choose_engine(network, parameters | extra | carried, here, context)
        engine = ENGINES[engine_name](network, self.normalisation, self.method)
        history = self._train(engine, engine_name, parameters | extra, carried, here, context)
        for name, parameter in network.named_parameters():
            parameter.data.copy_(parameters[name])
        extra |= carried
        meta = {**parameters, **extra}
        validation, is_seen = None, None
        if self.validation_episodes:
            is_seen = bool(set(task.origins_of(task.train)) & set(task.origins_of(task.validation)))
            validation = self._evaluate(engine, meta, here, context, "validation", self.episodes)
        test = self._evaluate(engine, meta, here, context, "test", self.episodes)
        measured = MetaLearnt(
            ways=self.episodes.ways,
            shots=self.episodes.shots,
            normalisation=self.normalisation,
            seen_upstream=sorted(seen),
            engine=engine_name,
            measure=MEASURES[task.info.form],
            test=test,
            costs=measure_costs(network, here),
            history={"meta": history},
            validation=validation,
            validation_is_seen=is_seen,
            by_shots=self._by_shots(test, engine, meta, here, context) if self.test_shots else None,
        )
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        return evolve(
            source,
            task=episode,
            adapter={name: t.detach().cpu() for name, t in extra.items()},
            adapter_options=LearnerOptions(
                spell(self.method), self.episodes, self.normalisation, engine_name
            ).as_options(),
            metrics=measured.as_metrics(),
            provenance=Provenance(trained_on=(learnt,)),
        ).with_state(network)

    def _info(self, info: TaskInfo) -> TaskInfo:
        """Describe the task of an episode: as many nameless classes as there are ways, or the numbers."""
        if info.form != "classification":
            return info
        names = tuple(f"class {i + 1}" for i in range(self.episodes.ways))
        return evolve(info, classes=names, origins=names)

    def _goes_on(self, source: Artifact, outputs: int) -> bool:
        """Tell whether the source has learnt by the same method with as many outputs, and is to go on."""
        before = LearnerOptions.of(source)
        is_same = before is not None and before.meta_learner["use"] == spell(self.method)["use"]
        return is_same and source.task.outputs == outputs and not self.fresh

    def _initial(
        self, network: nn.Module, learnt: Mapping[str, Tensor], context: Context
    ) -> tuple[dict[str, Tensor], ...]:
        """Return the network's parameters, the method's own, and what it carries; the last two as the method
        has learnt them before, if it has.
        """
        parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
        with seeded(context.derive("extra")):
            extra = {n: t.detach().clone() for n, t in self.method.extra_parameters(parameters).items()}
            carried = {n: t.detach().clone() for n, t in self.method.carried_state(parameters).items()}
        clash = sorted(set(parameters) & (extra.keys() | carried.keys()) | set(extra) & set(carried))
        if clash:
            raise StageError(
                f"{type(self.method).__name__}: extra parameters must not be named as the network's, {clash} "
                "are"
            )
        own = extra | carried
        if learnt:
            wanted, given = ({n: list(t.shape) for n, t in part.items()} for part in (own, learnt))
            if wanted != given:
                name = next(n for n in {**wanted, **given} if wanted.get(n) != given.get(n))
                raise StageError(
                    f"what `from` has learnt must fit the method as it is set here, but {name!r} is "
                    f"{given.get(name, 'not there')} and should be {wanted.get(name, 'none')}. Give the "
                    "method the options that it learnt with, or set `fresh = true`"
                )
            own = {name: t.detach().clone().to(context.device) for name, t in learnt.items()}
        return parameters, {name: own[name] for name in extra}, {name: own[name] for name in carried}

    def _choose_engine(
        self, network: nn.Module, meta: Mapping[str, Tensor], task: Task, context: Context
    ) -> str:
        """Return the engine's name: the one asked for, the one that training began with, or the fastest."""
        if self.engine != "auto":
            return self.engine
        state = context.checkpoint("meta").load(context.device)
        if state is not None:
            return str(state["engine"])
        if not self.iterations:
            return "loop"  # a trial of each would take longer than what is left to do
        source = episode_source(task, "train", self._train_shape, context.device)
        drawn = source.draw(context.derive("train"), torch.arange(self.tasks))

        def work(engine: Engine) -> None:
            with seeded(context.derive("iteration", 0)):
                self.method.gradient(engine, meta, begin(drawn, engine, meta))

        found = time_engines(network, self.normalisation, self.method, work)
        return min(found, key=found.__getitem__)

    def _train(
        self,
        engine: Engine,
        engine_name: str,
        parameters: dict[str, Tensor],
        carried: dict[str, Tensor],
        task: Task,
        context: Context,
    ) -> list[dict[str, Any]]:
        """Run the outer loop on `parameters` and `carried`, in place, going on from a checkpoint."""
        source = episode_source(task, "train", self._train_shape, context.device)
        leaves = {name: t.requires_grad_() for name, t in parameters.items()}
        settings = Train(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            schedule=self.schedule,
        )
        optimizer = make_optimizer([{"params": list(leaves.values())}], settings)
        scales = [group["lr"] for group in optimizer.param_groups]
        history = _Progressing(leaves, carried, optimizer, context.checkpoint("meta"), context, engine_name)
        block = max(1, self.iterations // BLOCKS)
        with context.progress.track(f"{context.stage}: meta", self.iterations, history.iteration) as tracker:
            while history.iteration < self.iterations:
                factor = settings.rate(history.iteration, self.iterations, 1)
                for group, scale in zip(optimizer.param_groups, scales, strict=True):
                    group["lr"] = scale * factor
                numbers = torch.arange(self.tasks) + history.iteration * self.tasks
                drawn = source.draw(context.derive("train"), numbers)
                episodes = begin(drawn, engine, {n: p.detach().clone() for n, p in leaves.items()})
                engine.progress = history.iteration / self.iterations
                for outer_step in range(self.outer_steps):
                    seed = context.derive("iteration", history.iteration, outer_step)
                    found = self._step(optimizer, engine, leaves, carried, episodes, seed)
                tracker.advance(history.note(found, episodes, block, self.iterations))
        engine.progress = 1.0
        for leaf in leaves.values():
            leaf.requires_grad_(False)
        return history.entries

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        engine: Engine,
        leaves: Mapping[str, Tensor],
        carried: dict[str, Tensor],
        episodes: Episodes,
        seed: int,
    ) -> MetaGradient:
        """Take an outer step, and return what its first evaluation found."""
        found: list[MetaGradient] = []

        def evaluate(is_first: bool) -> Tensor:
            meta = {name: leaf.detach() for name, leaf in leaves.items()} | carried
            with seeded(seed):
                found.append(self.method.gradient(engine, meta, episodes))
            for name, leaf in leaves.items():
                leaf.grad = found[-1].gradients[name]
            nn.utils.clip_grad_norm_(list(leaves.values()), self.clip_norm)
            return found[-1].losses.mean()

        take_step(optimizer, evaluate)
        carried |= found[0].carried
        return found[0]

    def _by_shots(
        self,
        known: Adaptation,
        engine: Engine,
        meta: Mapping[str, Tensor],
        task: Task,
        context: Context,
    ) -> list[list[float]]:
        """Return [shots, score after adaptation, half of its 95 % confidence interval], by shots."""
        found = {self.episodes.shots: known}
        for shots in self.test_shots:
            if shots not in found:
                shape = evolve(self.episodes, shots=shots)
                found[shots] = self._evaluate(engine, meta, task, context, "test", shape)
        return [[shots, found[shots].after, found[shots].after_interval] for shots in sorted(found)]

    def _evaluate(
        self,
        engine: Engine,
        meta: Mapping[str, Tensor],
        task: Task,
        context: Context,
        name: str,
        shape: EpisodeShape,
    ) -> Adaptation:
        """Judge adaptation on many episodes: accuracy, the loss where targets are numbers, or the return of
        an environment, after 0, 1, … steps, each with its 95 % confidence interval.
        """
        source = episode_source(task, name, shape, context.device)
        count = self.test_episodes if name == "test" else self.validation_episodes
        if self.method.adapts_head_alone:
            from learnforge_kit.engines.embedded import embed_once  # most methods adapt all of the network

            engine, source = embed_once(engine, meta, source, count)
        rows: list[Tensor] = []
        chunks = torch.arange(count).split(self.tasks)  # as many at a time as in training
        with context.progress.track(f"{context.stage}: {name} episodes", len(chunks)) as tracker:
            for numbers in chunks:
                episodes = begin(source.draw(context.derive(name), numbers), engine, meta)
                steps = self.method.adapt(engine, meta, episodes.support)
                rows.append(self._score(engine, steps, episodes))
                tracker.advance()
        scores = torch.cat(rows, 1).cpu()  # [steps + 1, episode]
        mean = scores.mean(1)
        interval = 1.96 * scores.std(1) / count**0.5
        return Adaptation(
            episodes=count,
            before=float(mean[0]),
            before_interval=float(interval[0]),
            after=float(mean[-1]),
            after_interval=float(interval[-1]),
            by_step=[[float(m), float(i)] for m, i in zip(mean, interval, strict=True)],
        )

    def _score(self, engine: Engine, steps: list[FastWeights], episodes: Episodes) -> Tensor:
        """Return what each task is scored by after each step of adaptation: [steps + 1, task]."""
        if episodes.are_rollouts:
            episodes = cast("RolloutEpisodes", episodes)
            policies = [weights.expanded(len(episodes.indices)) for weights in steps]
            return torch.stack([episodes.rollout(policy, "query").returns for policy in policies])
        query = episodes.query(steps[-1].tensors)
        outputs = [engine.predict(weights, episodes.support, query) for weights in steps]
        return torch.stack([self._judge(engine, own, query.labels) for own in outputs])

    def _judge(self, engine: Engine, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the accuracy of each task, [task], or its loss where targets are numbers."""
        if labels.is_floating_point():
            return torch.stack([self.method.query_loss(*own) for own in zip(outputs, labels, strict=True)])
        return engine.accuracies(outputs, labels)


class _Progressing:
    """Where meta-training stands: its iteration, history and checkpoint."""

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        carried: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        checkpoint: Checkpoint,
        context: Context,
        engine: str,
    ):
        self.engine = engine
        self.leaves, self.optimizer, self.checkpoint, self.context = leaves, optimizer, checkpoint, context
        self.carried = carried
        self.iteration = 0
        self.entries: list[dict[str, Any]] = []
        self._values: dict[str, list[Tensor]] = {}
        state = checkpoint.load(context.device)
        if state is not None:
            self.iteration, self.entries = state["iteration"], state["history"]
            optimizer.load_state_dict(state["optimizer"])
            for name, leaf in leaves.items():
                leaf.data.copy_(state["parameters"][name])
            carried |= state["carried"]

    def note(self, found: MetaGradient, episodes: Episodes, block: int, iterations: int) -> str:
        """Count an iteration; report the end of a block and let it be checkpointed. Return a few words."""
        values = {"loss": found.losses, "accuracy": found.accuracies}
        if episodes.are_rollouts:
            episodes = cast("RolloutEpisodes", episodes)
            values |= {"return_before": episodes.support.returns, "return": episodes.adapted_returns}
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.mean())
        self.iteration += 1
        if self.iteration % block and self.iteration < iterations:
            return ""
        losses = torch.stack(self._values["loss"]).float()
        is_bad = ~losses.isfinite()
        if bool(is_bad.any()):
            raise DivergedError(self.iteration - len(losses) + int(is_bad.int().argmax()) + 1, 1, 1)
        means = {name: float(torch.stack(own).float().mean()) for name, own in self._values.items()}
        self._values.clear()
        # where targets are numbers there is no accuracy
        entry = {"epoch": self.iteration} | {n: mean for n, mean in means.items() if math.isfinite(mean)}
        words = f"loss {entry['loss']:.3f}"
        if "accuracy" in entry:
            words += f", accuracy after adaptation {entry['accuracy']:.1%}"
        if "return" in entry:
            words = f"return {entry['return_before']:.2f} before adaptation, {entry['return']:.2f} after"
        self.entries.append(entry)
        self.context.emit(
            "epoch_finished",
            stage=self.context.stage,
            metrics={"part": "meta", "epochs": iterations, **entry},
        )
        self.checkpoint.save(self._state, final=self.iteration == iterations)
        return words

    def _state(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "engine": self.engine,
            "parameters": {name: leaf.detach() for name, leaf in self.leaves.items()},
            "carried": dict(self.carried),
            "optimizer": self.optimizer.state_dict(),
            "history": self.entries,
        }


def _seen_words(seen: frozenset[str] | set[str]) -> str:
    return (
        f"the test classes must be unseen, but {_list(seen)} were trained on upstream. Choose other "
        "`test_classes`, leave them "
        "out of the earlier stages' `classes`, or set `allow_seen = true` to report the score as seen "
        "upstream."
    )


def _list(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names))


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `meta`."""
    return {"meta": MetaStage}
