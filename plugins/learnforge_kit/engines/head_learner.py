"""Meta-learners whose adaptation computes a linear head in closed form."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import ClassVar

from torch import Tensor

from learnforge.kinds.meta_learner import MetaGradient, MetaLearner
from learnforge.kinds.seen.engine import Engine, FastWeights, Parameters
from learnforge.kinds.seen.episodes import Episodes, Labelled


class HeadLearner(MetaLearner):
    """A meta-learner whose adaptation computes a linear head from the features of the support set.

    There are no inner steps: `adapt` gives the network as it is and the network with the head, and the
    meta-gradient goes through `head` to the features and to extra parameters. Nothing is carried along.
    """

    computes_head: ClassVar[bool] = True
    adapts_head_alone: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({"classification"})

    @abstractmethod
    def head(self, features: Tensor, members: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return one task's head: weights [way, feature] and biases [way]. It is differentiated and mapped
        over tasks, so it must not depend on values in Python.

        Args:
            features: What goes into the head for each support image, [image, feature].
            members: Their classes as one-hot rows, [image, way].
            parameters: Meta-parameters, for those of `extra_parameters`.
        """

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, shared = episodes.support, FastWeights(parameters, is_shared=True)
        compute = partial(self._with_head, ways=support.ways)
        query = episodes.query(engine.solve(shared, support, compute).tensors)
        outcome = engine.judge(shared, support, query, compute)
        gradients = {name: t.mean(0) for name, t in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        shared = FastWeights(parameters, is_shared=True)
        before = FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)
        return [before, engine.solve(shared, support, partial(self._with_head, ways=support.ways))]

    def _with_head(
        self, engine: Engine, parameters: Parameters, support: Labelled, ways: int
    ) -> dict[str, Tensor]:
        """Return one task's parameters with its own head."""
        features = engine.embed(parameters, support.images)
        weight, bias = self.head(features, support.one_hot(ways), parameters)
        own = {name: parameters[name] for name in engine.names}
        return own | {f"{engine.head}.weight": weight, f"{engine.head}.bias": bias}
