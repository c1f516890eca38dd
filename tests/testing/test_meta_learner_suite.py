"""Each fault of a meta-learner turns the check red that is meant for it, and no other.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve, frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import (
    Change,
    Engine,
    Episodes,
    FastWeights,
    Labelled,
    MetaGradient,
    MetaLearner,
    TaskInfo,
    apply_change,
)
from learnforge.kinds.seen.engine import Parameters
from learnforge_kit.engines.loop import LoopEngine
from learnforge_testing.suites.meta_learner import MetaLearnerSuite

RATE = 0.4


@frozen
class Descent(MetaLearner):
    """One step of gradient descent on the support set, followed by the query gradient there."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support = episodes.support
        adapted = self.adapt(engine, parameters, support)[-1]
        outcome = engine.judge(adapted, support, episodes.query(adapted.tensors))
        gradients = {name: g.mean(0) for name, g in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        start = FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)
        return [start, start.moved(engine.step(start, support).gradients, RATE)]


class _Nearest(nn.Module):
    def __init__(self, network: nn.Module, outputs: int):
        super().__init__()
        self.network = network
        self.register_buffer("means", torch.zeros(outputs, outputs, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return -(self.network(images)[:, None] - self.get_buffer("means")).square().sum(2)


@frozen
class Nearest(Change):
    """The class whose mean is nearest."""

    name: ClassVar[str] = "nearest"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        return _Nearest(network, task.outputs)


@frozen
class Comparing(MetaLearner):
    """The classes' mean outputs are compared with a query image's, and nothing is adapted."""

    takes_steps: ClassVar[bool] = False
    exact_gradient: ClassVar[Mapping[str, Any]] = {}

    def predict(self, engine: Engine, parameters: Parameters, support: Labelled, images: Tensor) -> Tensor:
        members = (support.labels == torch.arange(3)[:, None]).to(images.dtype)
        means = members @ engine.forward(parameters, support.images) / members.sum(1, keepdim=True)
        outputs = engine.query_outputs(parameters, support.images, images)
        return -(outputs[:, None] - means).square().sum(2)

    def deploy(
        self, engine: Engine, network: nn.Module, adapted: Parameters, support: Labelled, task: TaskInfo
    ) -> nn.Module:
        members = (support.labels == torch.arange(3)[:, None]).to(support.images.dtype)
        means = members @ network(support.images) / members.sum(1, keepdim=True)
        deployed = apply_change(network, Nearest(), task)
        deployed.get_buffer("means").copy_(means)
        return deployed

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, weights = episodes.support, FastWeights(parameters, is_shared=True)
        outcome = engine.judge(weights, support, episodes.query(parameters))
        gradients = {name: g.mean(0) for name, g in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        return [FastWeights(parameters, is_shared=True)]


@frozen
class OldHead(Descent):
    """Keeps the head of the old classes."""

    keeps_head: ClassVar[bool] = True


@frozen
class Forgetting(Comparing):
    """Has a rule of its own, and a network that does not follow it."""

    def deploy(
        self, engine: Engine, network: nn.Module, adapted: Parameters, support: Labelled, task: TaskInfo
    ) -> nn.Module:
        return network


@frozen
class Wrapping(Descent):
    """Puts a layer behind the network and does not write it down."""

    def prepare(self, network: nn.Module, episode: TaskInfo) -> nn.Module:
        outputs = episode.outputs
        return nn.Sequential(network, nn.Linear(outputs, outputs, dtype=torch.float64))


@frozen
class Namesake(Descent):
    """Names a learned rate as a weight."""

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        return {"0.weight": parameters["0.weight"].clone()}


@frozen
class Careless(Descent):
    """Nudges the meta-parameters in place."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        parameters["0.weight"].mul_(1 + 1e-15)
        return found


@frozen
class Measuring(Descent):
    """Leaves the support set's mean in a buffer."""

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        trajectory = super().adapt(engine, parameters, support)
        engine._buffers["1.running_mean"].add_(support.images.mean().detach())
        return trajectory


@frozen
class Headstart(Descent):
    """Forgets the point before the first step."""

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        start, after = super().adapt(engine, parameters, support)
        step = engine.step(after, support)
        return [
            FastWeights({n: t * (1 + 1e-12) for n, t in start.tensors.items()}, True),
            after.moved(step.gradients, RATE),
        ]


@frozen
class Uphill(Descent):
    """Adapts towards a higher support loss."""

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        start, _ = super().adapt(engine, parameters, support)
        return [start, start.moved(engine.step(start, support).gradients, -RATE)]


@frozen
class Reversed(Descent):
    """Gives the meta-gradient with the wrong sign."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        return evolve(found, gradients={name: -g for name, g in found.gradients.items()})


@frozen
class Incomplete(Descent):
    """Leaves the head's bias without a gradient."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        return evolve(found, gradients={n: g for n, g in found.gradients.items() if n != "4.bias"})


@frozen
class Summed(Descent):
    """Adds the gradients of tasks up."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        return evolve(found, gradients={n: g * len(found.losses) for n, g in found.gradients.items()})


@frozen
class Peeping(Descent):
    """Adapts to the query set as well while it is meta-trained."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support = episodes.support
        query = episodes.query(self.adapt(engine, parameters, support)[-1].tensors)
        both = Labelled(
            torch.cat([support.images, query.images], 1), torch.cat([support.labels, query.labels], 1)
        )
        adapted = self.adapt(engine, parameters, both)[-1]
        outcome = engine.judge(adapted, support, episodes.query(adapted.tensors))
        gradients = {name: g.mean(0) for name, g in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)


@frozen
class Hasty(Descent):
    """Asks for the query with the parameters before adaptation."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        query = episodes.query(parameters)
        found = super().gradient(engine, parameters, episodes)
        assert len(query.labels) == len(found.losses)
        return found


@frozen
class Flattering(Descent):
    """Reports the loss on the support set."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        adapted = self.adapt(engine, parameters, episodes.support)[-1]
        return evolve(found, losses=engine.judge(adapted, episodes.support, episodes.support).losses)


@frozen
class Sociable(Descent):
    """Moves every task by the mean of all tasks' gradients as well."""

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        start, after = super().adapt(engine, parameters, support)
        mean = {name: t.mean(0, keepdim=True) for name, t in after.tensors.items()}
        return [start, FastWeights({n: 0.9 * t + 0.1 * mean[n] for n, t in after.tensors.items()})]


@frozen
class Partial(Descent):
    """Halves the gradient of one of the engines."""

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        share = 1.0 if isinstance(engine, LoopEngine) else 0.5
        return evolve(found, gradients={n: share * g for n, g in found.gradients.items()})


@frozen
class Boasting(Descent):
    """Claims that a first-order gradient is exact."""

    exact_gradient: ClassVar[Mapping[str, Any]] = {}


@frozen
class Hoarding(Descent):
    """Keeps the losses of every step."""

    kept: ClassVar[list[Tensor]] = []

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        found = super().gradient(engine, parameters, episodes)
        self.kept.append(found.losses)
        return found


@frozen
class Sweeping(Descent):
    """Adapts all of the network, and says that it leaves all but the head alone."""

    adapts_head_alone: ClassVar[bool] = True


FAULTS: list[tuple[type[MetaLearner], list[str]]] = [
    (Descent, []),
    (Comparing, []),
    (OldHead, ["prepared_network_has_an_output_for_each_way"]),
    (Wrapping, ["what_it_adds_to_the_network_is_written_down"]),
    (Forgetting, ["network_in_use_predicts_as_the_method_does"]),
    (Namesake, ["extra_parameters_have_names_of_their_own"]),
    (Careless, ["inputs_are_left_alone"]),
    (Measuring, ["inputs_are_left_alone"]),
    (Sweeping, ["adaptation_leaves_the_network_below_the_head"]),
    (Headstart, ["adaptation_starts_at_the_meta_parameters"]),
    # who climbs on the support climbs on the query too
    (Uphill, ["adaptation_lowers_the_support_loss", "meta_training_lowers_the_query_loss"]),
    (Reversed, ["meta_training_lowers_the_query_loss"]),
    (Incomplete, ["gradient_covers_the_meta_parameters"]),
    (Summed, ["gradient_is_averaged_over_tasks"]),
    (Peeping, ["query_is_withheld_until_adaptation"]),
    (Hasty, ["query_is_withheld_until_adaptation"]),
    (Flattering, ["losses_are_those_after_adaptation"]),
    (Sociable, ["tasks_do_not_mix"]),
    (Partial, ["engines_agree"]),
    (Boasting, ["gradient_is_the_slope_of_the_query_loss"]),
    (Hoarding, ["memory_stays_flat"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[MetaLearner], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(MetaLearnerSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of meta-learners is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(MetaLearnerSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}


def test_what_a_method_does_not_claim_is_skipped() -> None:
    """Steps and exactness are checked where the method claims them, and skipped with the reason elsewhere."""
    skipped = {
        method: {check.name: check.skip for check in MetaLearnerSuite.of(method).checks() if check.skip}
        for method in (Descent, Comparing)
    }
    network = {
        "adaptation_leaves_the_network_below_the_head": "the method declares no network that it leaves alone"
    }
    assert skipped[Descent] == network | {
        "gradient_is_the_slope_of_the_query_loss": "the method does not claim that its gradient is exact"
    }
    assert skipped[Comparing] == network | {
        "adaptation_lowers_the_support_loss": "the method declares that it takes no steps"
    }


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Measuring, "inputs_are_left_alone", "engine's network alone, it changed 1.running_mean"),
        (Incomplete, "gradient_covers_the_meta_parameters", "shapes and types; wrong: ['4.bias']"),
        (OldHead, "prepared_network_has_an_output_for_each_way", "must give 3 outputs, got [12, 5]"),
    ],
)
def test_messages_say_what_came(method: type[MetaLearner], check: str, words: str) -> None:
    """A failure names the tensors, or tells the shapes."""
    with pytest.raises(AssertionError, match=re.escape(words)):
        getattr(MetaLearnerSuite.of(method)(), f"test_{check}")()
