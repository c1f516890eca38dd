"""Adapting a meta-learnt policy to one environment."""

from __future__ import annotations

from attrs import evolve

from learnforge.artifact import Artifact
from learnforge.errors import ArtifactError
from learnforge.kinds.seen.engine import FastWeights
from learnforge.plugins.registry import Plugins
from learnforge_kit.data.environments import RolloutEpisodes
from learnforge_kit.engines.adaptation import ready_learner
from learnforge_kit.engines.learner import begin


def adapt_policy(
    artifact: Artifact, episodes: RolloutEpisodes, plugins: Plugins | None = None
) -> tuple[Artifact, float]:
    """Adapt a meta-learnt policy to one environment, from rollouts in it.

    Args:
        artifact: What a meta stage made on a task of environments.
        episodes: One environment, such as `Point().goals(torch.tensor([[2.0, -1.5]]))`.
        plugins: Where the meta-learner is looked up; what is installed by default.

    Returns:
        An ordinary artifact with the adapted policy, and the mean return of the rollouts that it adapted to.

    Raises:
        ArtifactError: It is no meta-learnt policy, or there are several environments.
    """
    if artifact.task.form != "environment":
        raise ArtifactError(f"only a policy adapts to rollouts; this artifact's task is {artifact.task.form}")
    if len(episodes.indices) != 1:
        raise ArtifactError(
            f"a policy adapts to one environment at a time, there are {len(episodes.indices)} episodes"
        )
    learner, network, engine, meta = ready_learner(artifact, plugins or Plugins())
    begun = begin(episodes, engine, meta)
    assert isinstance(begun, RolloutEpisodes)
    adapted: FastWeights = learner.adapt(engine, meta, begun.support)[-1]
    network.load_state_dict(network.state_dict() | adapted.of(0))
    artifact = evolve(artifact, adapter={}, adapter_options={}).with_state(network.eval())
    return artifact, float(begun.support.returns)
